"""Changed block tracking as the server does it; the golden rule is at the end."""

import base64
import random
import threading
from typing import Any

import pytest
import XenAPI

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import JsonClient, Xen, control

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 64 * KIB
BOTH_PROTOCOLS = True


def refusal(function: Any, *arguments: Any) -> list[str]:
    with pytest.raises(XenAPI.Failure) as refused:
        function(*arguments)
    details: list[str] = refused.value.details
    return details


def changed(xen: Xen, since: str, until: str) -> set[int]:
    bitmap = base64.b64decode(xen.api.VDI.list_changed_blocks(since, until))
    return {i for i in range(len(bitmap) * 8) if bitmap[i // 8] & (0x80 >> (i % 8))}


def snapshot_disk(xen: Xen, name: str = "web", number: int = 0) -> str:
    snapshot = xen.api.VM.snapshot(xen.vm(name), "s")
    disk = xen.disks(snapshot)[number]
    xen.api.VM.destroy(snapshot)
    return disk


@pytest.fixture
def tracked(xen: Xen) -> str:
    """The first disk of `web`, 8 MiB, with tracking on."""
    disk = xen.disks(xen.vm("web"))[0]
    xen.api.VDI.enable_cbt(disk)
    return disk


def test_snapshots_of_a_tracked_disk_are_nodes_of_its_chain(xen: Xen, tracked: str) -> None:
    assert xen.api.VDI.get_cbt_enabled(tracked)
    assert xen.api.VDI.get_cbt_enabled(snapshot_disk(xen))
    xen.api.VDI.enable_cbt(tracked)
    clone = xen.api.VDI.clone(snapshot_disk(xen))
    assert not xen.api.VDI.get_cbt_enabled(clone)


def test_the_bitmap_names_the_blocks_written_between_two_snapshots(
    lab: LabServer, xen: Xen, tracked: str
) -> None:
    first = snapshot_disk(xen)
    lab.pool.write("web", 0, 0, b"a")
    lab.pool.write("web", 0, 9 * BLOCK + 5, b"b")
    second = snapshot_disk(xen)
    lab.pool.write("web", 0, 20 * BLOCK - 1, b"cd")
    third = snapshot_disk(xen)
    text = xen.api.VDI.list_changed_blocks(first, second)
    assert base64.b64decode(text) == b"\x80\x40" + bytes(14)
    assert changed(xen, second, third) == {19, 20}
    assert changed(xen, first, third) == {0, 9, 19, 20}


def test_an_import_is_seen_as_a_write(xen: Xen) -> None:
    disk = xen.new_disk(4 * MIB)
    xen.api.VDI.enable_cbt(disk)
    first = xen.api.VDI.snapshot(disk)
    xen.put(disk, bytes(3 * BLOCK) + b"0123456789")
    assert changed(xen, first, disk) == {0, 1, 2, 3}


def test_the_live_disk_is_a_target_only_while_no_vm_has_it(xen: Xen, tracked: str) -> None:
    first = snapshot_disk(xen)
    busy = refusal(xen.api.VDI.list_changed_blocks, first, tracked)
    assert busy == ["VDI_IN_USE", tracked, "list_changed_blocks"]
    xen.api.VM.hard_shutdown(xen.vm("web"))
    assert changed(xen, first, tracked) == set()


def test_unrelated_disks_have_no_difference(xen: Xen, tracked: str) -> None:
    first, second = snapshot_disk(xen), snapshot_disk(xen)
    for since, until in ((second, first), (first, first), (xen.new_disk(), second)):
        failure = refusal(xen.api.VDI.list_changed_blocks, since, until)
        assert failure[0] == "SR_BACKEND_FAILURE_460"
        assert failure[2].startswith("Failed to calculate changed blocks for given VDIs. [opterr=")
        assert (failure[1], failure[3]) == ("", "")


def test_dropping_the_data_keeps_the_log(lab: LabServer, xen: Xen, tracked: str) -> None:
    lab.pool.write("web", 0, 0, b"x" * MIB)
    first = snapshot_disk(xen)
    lab.pool.write("web", 0, 5 * BLOCK, b"y")
    before = xen.api.VDI.get_record(first)
    xen.api.VDI.data_destroy(first)
    after = xen.api.VDI.get_record(first)
    assert after["type"] == "cbt_metadata"
    assert after["physical_utilisation"] == "0"
    for field in ("uuid", "virtual_size", "snapshot_of", "cbt_enabled", "is_a_snapshot"):
        assert after[field] == before[field]
    assert changed(xen, first, snapshot_disk(xen)) == {5}
    xen.api.VDI.data_destroy(first)


def test_a_disk_without_data_allows_little(xen: Xen, tracked: str) -> None:
    node = snapshot_disk(xen)
    xen.api.VDI.data_destroy(node)
    refused = ["VDI_INCOMPATIBLE_TYPE", node, "cbt_metadata"]
    api = xen.api.VDI
    for function in (api.clone, api.snapshot, api.enable_cbt, api.disable_cbt, api.get_nbd_info):
        assert refusal(function, node) == refused
    assert refusal(api.resize, node, str(16 * MIB)) == refused
    with pytest.raises(XenAPI.Failure, match="VDI_INCOMPATIBLE_TYPE"):
        xen.new_vbd(xen.vm("db"), node)
    answer, body = xen.get(node)
    assert body.startswith(b"HTTP/1.1 500")
    assert xen.wait(answer.getheader("task-id") or "")["error_info"] == refused
    assert set(api.get_allowed_operations(node)) == {
        "destroy", "forget", "data_destroy", "list_changed_blocks", "update", "generate_config",
    }  # fmt: skip
    api.destroy(node)


def test_data_is_not_dropped_while_the_snapshot_vm_exists() -> None:
    with LabServer(Pool(Settings(data_destroy_seconds=0.3, coalesce_seconds=0.0))) as lab:
        lab.pool.add_vm("web", [4 * MIB])
        xen = Xen(lab)
        xen.api.VDI.enable_cbt(xen.disks(xen.vm("web"))[0])
        snapshot = xen.api.VM.snapshot(xen.vm("web"), "s")
        disk = xen.disks(snapshot)[0]
        assert refusal(xen.api.VDI.data_destroy, disk) == ["VDI_IN_USE", disk, "data_destroy"]
        lab.pool.settings.data_destroy_seconds = 60.0
        timer = threading.Timer(0.1, lab.pool.machines.drop_vm, [snapshot])
        timer.start()
        xen.api.VDI.data_destroy(disk)
        timer.join()


def test_the_wait_for_drives_to_vanish_is_four_seconds_by_default() -> None:
    assert Settings().data_destroy_seconds == 4.0


def test_only_tracked_snapshots_lose_their_data(xen: Xen) -> None:
    live = xen.disks(xen.vm("web"))[0]
    plain = snapshot_disk(xen)
    assert refusal(xen.api.VDI.data_destroy, plain) == ["VDI_NO_CBT_METADATA", plain]
    not_one = ["OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {live}"]
    assert refusal(xen.api.VDI.data_destroy, live) == not_one
    one = ["OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {plain}"]
    assert refusal(xen.api.VDI.enable_cbt, plain) == one


def test_storage_without_the_feature_refuses_tracking(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    sr = xen.api.VDI.get_SR(disk)
    driver = lab.pool.db.where("SM", type="ext")[0]
    lab.pool.db.drop_pair("SM", driver, "features", "VDI_CONFIG_CBT")
    assert refusal(xen.api.VDI.enable_cbt, disk) == ["SR_OPERATION_NOT_SUPPORTED", sr]


def test_destroying_a_node_hands_its_blocks_to_the_next(
    lab: LabServer, xen: Xen, tracked: str
) -> None:
    nodes = [snapshot_disk(xen)]
    for block in (1, 2, 3):
        lab.pool.write("web", 0, block * BLOCK, b"x")
        nodes.append(snapshot_disk(xen))
    xen.api.VDI.data_destroy(nodes[2])
    xen.api.VDI.destroy(nodes[2])
    xen.api.VDI.destroy(nodes[1])
    assert changed(xen, nodes[0], nodes[3]) == {1, 2, 3}
    xen.api.VDI.destroy(nodes[0])
    assert refusal(xen.api.VDI.list_changed_blocks, nodes[0], nodes[3])[0] == "HANDLE_INVALID"


def test_switching_off_and_on_begins_a_new_chain(xen: Xen, tracked: str) -> None:
    first = snapshot_disk(xen)
    xen.api.VDI.disable_cbt(tracked)
    assert not xen.api.VDI.get_cbt_enabled(tracked)
    assert not xen.api.VDI.get_cbt_enabled(snapshot_disk(xen))
    xen.api.VDI.enable_cbt(tracked)
    second = snapshot_disk(xen)
    assert refusal(xen.api.VDI.list_changed_blocks, first, second)[0] == "SR_BACKEND_FAILURE_460"


def test_a_grown_disk_has_a_longer_bitmap(lab: LabServer, xen: Xen, tracked: str) -> None:
    first = snapshot_disk(xen)
    xen.api.VM.hard_shutdown(xen.vm("web"))
    xen.api.VDI.resize(tracked, str(16 * MIB))
    lab.pool.write("web", 0, 16 * MIB - 1, b"x")
    assert changed(xen, first, tracked) == set(range(128, 256))


def test_a_damaged_log_is_found_out_at_once_or_later(
    lab: LabServer, xen: Xen, tracked: str
) -> None:
    first = snapshot_disk(xen)
    lab.pool.lose_change_log("web", 0, noticed=False)
    second = snapshot_disk(xen)
    assert refusal(xen.api.VDI.list_changed_blocks, first, second)[0] == "SR_BACKEND_FAILURE_459"
    control(lab, "POST", "/change-log?vm=web&disk=0&noticed=true")
    assert not xen.api.VDI.get_cbt_enabled(tracked)
    names = [record["name"] for record in xen.api.message.get_all_records().values()]
    assert names == ["VDI_CBT_METADATA_INCONSISTENT"]


def clear(bitmap: bytes) -> set[int]:
    return {i for i in range(len(bitmap) * 8) if not bitmap[i // 8] & (0x80 >> (i % 8))}


def differing(before: bytes, after: bytes) -> set[int]:
    blocks = range(0, len(after), BLOCK)
    return {at // BLOCK for at in blocks if before[at : at + BLOCK] != after[at : at + BLOCK]}


@pytest.mark.parametrize("seed", range(3))
def test_blocks_whose_bit_is_clear_are_identical(lab: LabServer, seed: int) -> None:
    """The golden rule, over a month of days with data destroyed, nodes destroyed and reboots."""
    chance = random.Random(seed)
    client = JsonClient(lab.url)
    client.log_in(lab.username, lab.password)
    size = 6 * MIB
    vm = client("VM.get_by_name_label", "db")[0]
    live = client("VBD.get_VDI", client("VM.get_VBDs", vm)[0])
    client("VDI.enable_cbt", live)
    kept: list[tuple[str, bytes]] = []
    for day in range(30):
        for _ in range(chance.randrange(12)):
            offset = chance.randrange(size)
            longest = min(size - offset, 200_000)
            lab.pool.write("db", 0, offset, chance.randbytes(chance.randrange(1, longest + 1)))
        if chance.random() < 0.2:
            client("VM.clean_reboot", vm)
        snapshot = client("VM.snapshot", vm, f"day {day}")
        disk = client("VBD.get_VDI", client("VM.get_VBDs", snapshot)[0])
        client("VM.destroy", snapshot)
        content = lab.pool.disk_of("db", 0).read(0, size)
        for base, before in kept:
            bitmap = base64.b64decode(client("VDI.list_changed_blocks", base, disk))
            assert len(bitmap) == -(-size // BLOCK // 8)
            assert not clear(bitmap) & differing(before, content), f"since {base}"
        kept.append((disk, content))
        if chance.random() < 0.5:
            client("VDI.data_destroy", disk)
        if len(kept) > 4:
            client("VDI.destroy", kept.pop(chance.randrange(len(kept)))[0])

"""VMs and disks on their way: to other storage, and to another pool over the network."""

from collections.abc import Iterator
from typing import Any

import pytest
import XenAPI

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import Xen

MIB = 1 << 20
LIVE, OFF = True, False


@pytest.fixture
def there() -> Iterator[LabServer]:
    settings = Settings(wrong_password_seconds=0.0, coalesce_seconds=0.0, detach_seconds=0.05)
    with LabServer(Pool(settings), tls=True) as server:
        yield server


def refusal(call: object, *arguments: object) -> list[str]:
    with pytest.raises(XenAPI.Failure) as refused:
        call(*arguments)  # type: ignore[operator]
    return list(refused.value.details)


def ticket(other: Xen) -> dict[str, str]:
    host, network = other.api.host.get_all()[0], other.api.network.get_all()[0]
    return dict(other.api.host.migrate_receive(host, network, {}))


def cards(xen: Xen, vm: str, other: Xen) -> dict[str, str]:
    network = other.api.network.get_all()[0]
    return dict.fromkeys(xen.api.VM.get_VIFs(vm), network)


def test_a_running_vm_moves_to_another_pool_with_all_its_bytes(
    lab: LabServer, there: LabServer, xen: Xen
) -> None:
    other, vm = Xen(there), xen.vm("web")
    lab.pool.write("web", 0, 3 * MIB, b"the guest wrote this")
    lab.pool.write("web", 1, 0, b"and this")
    uuid, disks = xen.api.VM.get_uuid(vm), xen.disks(vm)
    macs = [xen.api.VIF.get_MAC(vif) for vif in xen.api.VM.get_VIFs(vm)]
    contents = [xen.export(disk) for disk in disks]
    old = {xen.api.VDI.get_uuid(disk) for disk in disks}
    mapped = {disks[0]: other.api.pool.get_default_SR(other.api.pool.get_all()[0])}

    task = xen.api.Async.VM.migrate_send(
        vm,
        ticket(other),
        LIVE,
        mapped,
        cards(xen, vm, other),
        {},
    )
    record = xen.wait(task)
    assert record["status"] == "success", record["error_info"]

    arrived = other.vm("web")
    assert record["result"] == f"<value>{arrived}</value>"
    assert other.api.VM.get_uuid(arrived) == uuid
    assert other.api.VM.get_power_state(arrived) == "Running"
    assert [other.api.VIF.get_MAC(v) for v in other.api.VM.get_VIFs(arrived)] == macs
    assert [other.export(disk) for disk in other.disks(arrived)] == contents
    assert not old & {other.api.VDI.get_uuid(disk) for disk in other.disks(arrived)}
    assert xen.api.VM.get_by_name_label("web") == []
    assert all(refusal(xen.api.VDI.get_record, disk)[0] == "HANDLE_INVALID" for disk in disks)


def test_a_halted_vm_is_copied_under_another_uuid(
    lab: LabServer, there: LabServer, xen: Xen
) -> None:
    lab.pool.add_vm("still", [2 * MIB], power_state="Halted")
    other, vm = Xen(there), xen.vm("still")
    arrived = xen.api.VM.migrate_send(
        vm,
        ticket(other),
        OFF,
        {},
        cards(xen, vm, other),
        {"copy": "true"},
    )
    assert other.api.VM.get_power_state(arrived) == "Halted"
    assert other.api.VM.get_uuid(arrived) != xen.api.VM.get_uuid(vm)


def test_what_may_not_leave_is_refused_before_anything_is_sent(
    lab: LabServer, there: LabServer, xen: Xen
) -> None:
    other, vm = Xen(there), xen.vm("web")
    dest, vifs = ticket(other), cards(xen, vm, other)
    before = other.api.VDI.get_all()
    send = xen.api.VM.migrate_send
    missing = refusal(send, vm, dest, LIVE, {}, {}, {})
    assert missing == ["VIF_NOT_IN_MAP", xen.api.VM.get_VIFs(vm)[0]]
    disk = xen.disks(vm)[1]
    xen.api.VDI.enable_cbt(disk)
    assert refusal(send, vm, dest, LIVE, {}, vifs, {}) == ["VDI_CBT_ENABLED", disk]
    assert refusal(xen.api.VM.assert_can_migrate, vm, dest, LIVE, {}, vifs, {})[1] == disk
    xen.api.VDI.disable_cbt(disk)
    snapshot = xen.api.VM.snapshot(vm, "s")
    assert refusal(send, vm, dest, LIVE, {}, vifs, {}) == ["VM_HAS_TOO_MANY_SNAPSHOTS", vm]
    assert refusal(send, snapshot, dest, LIVE, {}, vifs, {})[0] == "VM_IS_SNAPSHOT"
    assert other.api.VDI.get_all() == before


def test_a_way_that_breaks_leaves_nothing_there_and_everything_here(
    lab: LabServer, there: LabServer, xen: Xen
) -> None:
    other, vm = Xen(there), xen.vm("web")
    there.pool.faults.fail("VDI.import", "VDI_IO_ERROR", "Device I/O errors", at=2)
    before = other.api.VDI.get_all()
    arguments: tuple[Any, ...]
    arguments = (vm, ticket(other), LIVE, {}, cards(xen, vm, other), {})
    assert refusal(xen.api.VM.migrate_send, *arguments)[0] == "VDI_IO_ERROR"
    assert other.api.VDI.get_all() == before
    assert other.api.VM.get_by_name_label("web") == []
    assert xen.api.VM.get_power_state(vm) == "Running"
    assert xen.api.VM.get_current_operations(vm) == {}
    there.close()
    assert refusal(xen.api.VM.migrate_send, *arguments) == [
        "VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED"
    ]


def another_sr(lab: LabServer) -> str:
    sr = lab.pool.add_sr(
        name_label="second", type="ext", content_type="user", physical_size=1 << 40
    )
    lab.pool.connect(sr, lab.pool.db.refs("host")[0])
    return sr


def test_a_disk_that_moves_becomes_another_and_loses_its_base(lab: LabServer, xen: Xen) -> None:
    vm, sr = xen.vm("web"), another_sr(lab)
    disk = xen.disks(vm)[0]
    lab.pool.write("web", 0, MIB, b"kept")
    content, uuid = xen.export(disk), xen.api.VDI.get_uuid(disk)
    assert xen.api.VDI.pool_migrate(disk, xen.api.VDI.get_SR(disk), {}) == disk
    moved = xen.api.VDI.pool_migrate(disk, sr, {})
    assert xen.disks(vm)[0] == moved
    assert (xen.api.VDI.get_SR(moved), xen.api.VDI.get_uuid(moved) != uuid) == (sr, True)
    assert xen.export(moved) == content
    lab.pool.write("web", 0, MIB, b"next")
    assert xen.export(moved)[MIB : MIB + 4] == b"next"


def test_a_disk_nobody_has_and_a_fourth_at_once_do_not_move(lab: LabServer, xen: Xen) -> None:
    sr, free = another_sr(lab), xen.new_disk()
    assert refusal(xen.api.VDI.pool_migrate, free, sr, {}) == ["VDI_NEEDS_VM_FOR_MIGRATE", free]
    for _ in range(3):
        assert lab.pool.storage_migrations.acquire(blocking=False)
    disk = xen.disks(xen.vm("web"))[0]
    assert refusal(xen.api.VDI.pool_migrate, disk, sr, {}) == ["TOO_MANY_STORAGE_MIGRATES", "3"]
    lab.pool.storage_migrations.release()
    assert xen.api.VDI.pool_migrate(disk, sr, {})


def test_an_archive_is_fetched_from_another_pool(
    lab: LabServer, there: LabServer, xen: Xen
) -> None:
    lab.pool.add_vm("still", [2 * MIB], power_state="Halted")
    lab.pool.write("still", 0, 5, b"far away")
    other = Xen(there)
    sr = other.api.pool.get_default_SR(other.api.pool.get_all()[0])
    url = f"{lab.url}/export?session_id={xen.token}&ref={xen.vm('still')}"
    getattr(other.api.VM, "import")(url, sr, OFF, OFF)
    assert other.export(other.disks(other.vm("still"))[0])[5:13] == b"far away"
    for bad in (f"{lab.url}/nowhere", "file:///etc/passwd", "http://127.0.0.1:1/"):
        failed = refusal(getattr(other.api.VM, "import"), bad, sr, OFF, OFF)
        assert failed[0] == "IMPORT_ERROR"

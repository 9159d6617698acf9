"""A VM comes back into the pool as it was, or not at all."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from likeness.errors import BadInput, HostRefused, Stopped, TransferBroken
from likeness.model.disk import Segment
from likeness.model.ids import DiskId
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.inventory import find_vm, list_vms
from likeness.xen.restoring import (
    RestoredVm,
    create_vm,
    destroy_disk,
    destroy_vm,
    release_vm,
    write_disk,
)
from likeness.xen.storages import find_storage
from likeness.xen.sweeping import sweep_snapshots
from tests.xen.conftest import MIB, Died, Stage, empty_disk, let_it_die, login, wait_for_the_pool

KIB = 1 << 10


def configuration(stage: Stage) -> tuple[str, dict[DiskId, int]]:
    snapshot = stage.snapshot()
    return snapshot.vm.configuration, {d.facts.disk: d.facts.size_bytes for d in snapshot.disks}


def restore(stage: Stage, **more: object) -> RestoredVm:
    text, sizes = configuration(stage)
    given: dict[str, object] = {
        "owner": stage.owner,
        "storage_ref": find_storage(stage.xen),
        "sizes": sizes,
    }
    return create_vm(stage.xen, text, **(given | more))  # type: ignore[arg-type]


def in_segments(content: bytes, size: int = 256 * KIB) -> Iterator[Segment]:
    for offset in range(0, len(content), size):
        data = content[offset : offset + size]
        if data.strip(b"\0"):
            yield Segment(offset, data)


def content_of(stage: Stage, ref: str, size: int) -> bytes:
    return stage.pool.disk(ref).read(0, size)


def test_a_vm_comes_back_under_a_new_name_with_the_same_disks(stage: Stage) -> None:
    vm = restore(stage, name="web-1 again")
    for disk, content in zip(vm.disks, (stage.web, stage.data), strict=True):
        assert write_disk(stage.xen, disk, in_segments(content)) == len(content)
    release_vm(stage.xen, vm)

    again, was = find_vm(stage.xen, "web-1 again"), find_vm(stage.xen, "web-1")
    assert [d.position for d in again.disks] == [d.position for d in was.disks]
    assert [d.name for d in again.disks] == [d.name for d in was.disks]
    assert again.tags == was.tags
    assert content_of(stage, again.disks[0].ref, len(stage.web)) == stage.web
    assert content_of(stage, again.disks[1].ref, len(stage.data)) == stage.data
    stage.xen.call("VM.start", again.ref, False, False)  # noqa: FBT003  # XenServer's own order
    assert find_vm(stage.xen, "web-1 again").power_state == "Running"


def test_a_vm_that_is_being_restored_cannot_be_started_and_says_what_it_is(stage: Stage) -> None:
    vm = restore(stage)

    record = stage.pool.db.record("VM", vm.ref)
    assert record["name_label"].startswith("web-1 (being restored) [likeness ")
    assert set(record["blocked_operations"]) >= {"start", "start_on"}
    assert marks.owner_in_marks(record, marks.RESTORED) == stage.owner


def test_after_release_nothing_of_ours_is_left_on_the_vm(stage: Stage) -> None:
    vm = restore(stage, name="free")
    release_vm(stage.xen, vm)

    objects = [("VM", vm.ref), *(("VDI", disk.ref) for disk in vm.disks)]
    for class_name, ref in objects:
        kept = stage.pool.db.get(class_name, ref, "other_config")
        assert not [key for key in kept if key.startswith("likeness:")]
    assert stage.pool.db.get("VM", vm.ref, "blocked_operations") == {}


def test_network_cards_get_new_addresses_unless_the_old_ones_are_asked_for(stage: Stage) -> None:
    old = stage.pool.db.get(
        "VIF", stage.pool.db.get("VM", stage.pool.vm("web-1"), "VIFs")[0], "MAC"
    )

    def address(vm: RestoredVm) -> str:
        return str(stage.pool.db.get("VIF", stage.pool.db.get("VM", vm.ref, "VIFs")[0], "MAC"))

    assert address(restore(stage)) != old
    assert address(restore(stage, keep_addresses=True)) == old


def test_a_network_that_is_not_here_is_asked_for_before_anything_is_made(stage: Stage) -> None:
    text, sizes = configuration(stage)
    facts = json.loads(text)
    for network in facts["networks"].values():
        network["uuid"], network["name_label"], network["vlans"] = "elsewhere", "Guests", [12]
    before = stage.objects()

    def make(**networks: str) -> RestoredVm:
        return create_vm(
            stage.xen,
            json.dumps(facts),
            owner=stage.owner,
            storage_ref=find_storage(stage.xen),
            sizes=sizes,
            networks=networks,
        )

    with pytest.raises(BadInput, match=r"'Guests' \(VLAN 12\), which is not here; say which"):
        make()
    with pytest.raises(BadInput, match="no network, or several, called 'nowhere'"):
        make(elsewhere="nowhere")
    assert stage.objects() == before

    chosen = stage.pool.db.get("network", stage.pool.db.refs("network")[0], "uuid")
    for by in ("elsewhere", "Guests"):
        mapped = make(**{by: chosen})
        assert len(stage.pool.db.get("VM", mapped.ref, "VIFs")) == 1
        assert mapped.notes == ()
    without = make(elsewhere="none")
    assert stage.pool.db.get("VM", without.ref, "VIFs") == []
    assert "left out, as asked for" in without.notes[0]


def test_a_network_of_the_same_name_is_taken_only_with_the_same_vlan(stage: Stage) -> None:
    text, sizes = configuration(stage)
    facts = json.loads(text)
    (network,) = facts["networks"].values()
    network["uuid"] = "elsewhere"

    def make() -> RestoredVm:
        return create_vm(
            stage.xen,
            json.dumps(facts),
            owner=stage.owner,
            storage_ref=find_storage(stage.xen),
            sizes=sizes,
        )

    assert "is on the network called" in make().notes[0]
    network["vlans"] = [12]
    with pytest.raises(BadInput, match="VLAN 12"):
        make()


def test_what_a_restore_is_filling_is_no_vm_for_a_job_yet(stage: Stage) -> None:
    before = {vm.uuid for vm in list_vms(stage.xen)}
    vm = restore(stage, name="again")
    assert {each.uuid for each in list_vms(stage.xen)} == before

    release_vm(stage.xen, vm)
    assert {each.uuid for each in list_vms(stage.xen)} == before | {vm.uuid}


def test_a_vm_that_was_released_is_not_taken_away_any_more(stage: Stage) -> None:
    vm = restore(stage, name="again")
    marks.drop_marks(stage.xen, "VM", vm.ref)  # as far as its release came

    destroy_vm(stage.xen, vm.ref)

    assert stage.pool.db.exists("VM", vm.ref)
    assert all(stage.pool.db.exists("VDI", disk.ref) for disk in vm.disks)


def test_a_sparse_disk_is_written_only_where_it_holds_something(stage: Stage) -> None:
    disk = empty_disk(stage.xen, 64 * MIB, stage.owner)

    written = write_disk(stage.xen, disk, [Segment(40 * MIB, b"x" * 100)])

    assert written == 100
    assert stage.pool.counters()["imported_bytes"][disk.uuid] == 100
    assert content_of(stage, disk.ref, 64 * MIB).strip(b"\0") == b"x" * 100


def test_a_transfer_the_storage_gives_up_on_is_broken(stage: Stage) -> None:
    vm = restore(stage)
    stage.pool.faults.fail("task.get_record", "VDI_IO_ERROR", "Device I/O errors", times=0)

    with pytest.raises(TransferBroken, match="writing disk 0"):
        write_disk(stage.xen, vm.disks[0], in_segments(stage.web))


def test_data_beyond_the_disks_end_is_refused(stage: Stage) -> None:
    vm = restore(stage)

    with pytest.raises(BadInput, match="does not fit"):
        write_disk(stage.xen, vm.disks[1], [Segment(vm.disks[1].size_bytes, b"x")])


def test_stopping_ends_a_write(stage: Stage) -> None:
    vm, stop = restore(stage), StopToken()

    def content() -> Iterator[Segment]:
        yield Segment(0, b"a" * KIB)
        stop.stop()
        yield Segment(MIB, b"b" * KIB)

    with pytest.raises(Stopped):
        write_disk(stage.xen, vm.disks[0], content(), stop=stop)


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("VM.set_other_config", 1),
        ("VDI.create", 1),
        ("VDI.create", 2),
        ("VDI.set_other_config", 1),
        ("VDI.set_other_config", 2),
        ("VBD.create", 1),
        ("VBD.create", 2),
        ("VIF.create", 1),
    ],
)
def test_what_fails_half_way_leaves_nothing(stage: Stage, method: str, at: int) -> None:
    text, sizes = configuration(stage)
    before = stage.objects()
    stage.pool.faults.fail(method, "INTERNAL_ERROR", "no", at=at)

    def make() -> None:
        create_vm(
            stage.xen,
            text,
            owner=stage.owner,
            storage_ref=find_storage(stage.xen),
            sizes=sizes,
            name="half",
        )

    with pytest.raises(HostRefused):
        make()

    assert stage.objects() == before


def test_an_unfinished_restore_is_swept_and_a_finished_one_is_not(stage: Stage) -> None:
    done = restore(stage, name="done")
    release_vm(stage.xen, done)
    unfinished = restore(stage, name="unfinished")

    swept = sweep_snapshots(
        stage.xen, {stage.owner.installation}, lambda run: False, pauses=Pauses(0.1, 0.1, tries=20)
    )

    assert [s.name.split(" (")[0] for s in swept if s.what == "unfinished VM"] == ["unfinished"]
    assert not stage.pool.db.exists("VM", unfinished.ref)
    assert not [d for d in unfinished.disks if stage.pool.db.exists("VDI", d.ref)]
    assert stage.pool.db.exists("VM", done.ref)
    assert all(stage.pool.db.exists("VDI", disk.ref) for disk in done.disks)


@pytest.mark.parametrize("calls_before", range(1, 60, 2))
def test_a_restore_that_dies_at_any_call_is_swept(stage: Stage, calls_before: int) -> None:
    text, sizes = configuration(stage)
    drop_everything_frozen(stage)
    before = stage.objects()
    doomed = login(stage.server)
    let_it_die(doomed, calls_before)

    with suppress(Died):
        create_vm(doomed, text, owner=stage.owner, storage_ref=find_storage(stage.xen), sizes=sizes)
    doomed.close()
    wait_for_the_pool(stage)
    drop_everything_frozen(stage)

    assert stage.objects() == before


def test_a_release_that_died_half_way_keeps_the_vm_and_its_disks(stage: Stage) -> None:
    vm = restore(stage)
    marks.drop_marks(stage.xen, "VM", vm.ref)  # as far as it came

    drop_everything_frozen(stage)

    assert stage.pool.db.exists("VM", vm.ref)
    assert all(stage.pool.db.exists("VDI", disk.ref) for disk in vm.disks)


def test_a_disk_that_was_just_written_is_taken_away_when_the_host_lets_go(stage: Stage) -> None:
    vm = restore(stage)
    write_disk(stage.xen, vm.disks[0], in_segments(stage.web))

    destroy_vm(stage.xen, vm.ref, pauses=Pauses(0.05, 0.05, tries=50))

    assert not [d for d in vm.disks if stage.pool.db.exists("VDI", d.ref)]


def drop_everything_frozen(stage: Stage) -> None:
    sweep_snapshots(
        stage.xen, {stage.owner.installation}, lambda run: False, pauses=Pauses(0.1, 0.1, tries=20)
    )


def test_taking_a_restore_away_spares_disks_that_are_not_its_own(stage: Stage) -> None:
    vm = restore(stage)
    theirs = find_vm(stage.xen, "web-1").disks[0].ref
    stage.pool.db.create("VBD", VM=vm.ref, VDI=theirs, userdevice="9", mode="RO", type="Disk")

    destroy_vm(stage.xen, vm.ref)
    destroy_vm(stage.xen, vm.ref)
    destroy_disk(stage.xen, theirs)

    assert stage.pool.db.exists("VDI", theirs)
    assert not [d for d in vm.disks if stage.pool.db.exists("VDI", d.ref)]


def test_firmware_texts_come_back_where_the_pool_takes_them(stage: Stage) -> None:
    stage.pool.db.put(
        "VM",
        stage.pool.vm("web-1"),
        bios_strings={"system-manufacturer": "Maker", "hp-rombios": "x", "bios-vendor": ""},
    )

    vm = restore(stage)

    assert vm.notes == ()
    assert stage.pool.db.get("VM", vm.ref, "bios_strings")["system-manufacturer"] == "Maker"

    stage.pool.faults.fail("VM.set_bios_strings", "VM_BIOS_STRINGS_ALREADY_SET")
    assert "firmware texts were not taken over" in restore(stage).notes[0]


def test_what_is_not_restored_is_told(stage: Stage) -> None:
    text, sizes = configuration(stage)
    facts = json.loads(text)
    facts["vm"]["VTPMs"] = ["OpaqueRef:x"]
    first, second = sizes

    vm = create_vm(
        stage.xen,
        json.dumps(facts),
        owner=stage.owner,
        storage_ref=find_storage(stage.xen),
        sizes={first: sizes[first], DiskId("0" * 32): MIB},
    )

    assert [disk.disk for disk in vm.disks] == [first]
    assert second != first
    told = " ".join(vm.notes)
    assert "virtual TPM" in told
    assert "'web-1 1' is not in the version" in told
    assert "memory is in the version" in told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}'])
def test_a_configuration_that_cannot_be_read_makes_nothing(stage: Stage, text: str) -> None:
    before = stage.objects()

    with pytest.raises(BadInput, match="configuration"):
        create_vm(stage.xen, text, owner=stage.owner, storage_ref="x", sizes={})

    assert stage.objects() == before


def test_a_configuration_of_a_later_format_says_so(stage: Stage) -> None:
    text, _ = configuration(stage)
    later = json.dumps({**json.loads(text), "format": 2})

    with pytest.raises(BadInput, match="format 2"):
        create_vm(stage.xen, later, owner=stage.owner, storage_ref="x", sizes={})


def test_a_storage_is_found_by_name_by_uuid_or_as_the_default(stage: Stage) -> None:
    default = find_storage(stage.xen)
    record = stage.pool.db.record("SR", default)

    assert find_storage(stage.xen, record["uuid"]) == default
    assert find_storage(stage.xen, record["name_label"]) == default
    with pytest.raises(BadInput, match="no storage 'nowhere'"):
        find_storage(stage.xen, "nowhere")

"""Freezing a VM: all of it, marked as ours, or nothing is left of it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab.wire.values import NULL
from likeness.errors import BadInput, HostBusy, HostRefused, Stopped
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.dropping import drop_snapshot
from likeness.xen.inventory import find_vm
from likeness.xen.snapshot_facts import MEMORY
from likeness.xen.snapshots import Consistency, XenSnapshot, take_snapshot
from likeness.xen.sweeping import sweep_snapshots
from likeness.xen.tasks import run_task
from tests.xen.conftest import MIB, Stage, read_disk


def take(stage: Stage, name: str = "web-1", **more: object) -> XenSnapshot:
    given: dict[str, object] = {"owner": stage.owner, "label": "nightly", "storage_pause": 0.01}
    return take_snapshot(stage.xen, find_vm(stage.xen, name), **(given | more))  # type: ignore[arg-type]


def test_a_snapshot_tells_what_it_froze(stage: Stage) -> None:
    snapshot = take(stage)

    vm = find_vm(stage.xen, "web-1")
    assert snapshot.vm.name == "web-1"
    assert [disk.facts.disk for disk in snapshot.disks] == [disk.disk for disk in vm.disks]
    assert [disk.facts.position for disk in snapshot.disks] == ["0", "1"]
    assert [disk.facts.size_bytes for disk in snapshot.disks] == [len(stage.web), len(stage.data)]
    assert (snapshot.requested, snapshot.obtained) == (Consistency.STANDARD, Consistency.STANDARD)
    assert snapshot.reason == ""
    assert snapshot.seconds >= 0


def test_the_configuration_holds_the_vm_its_drives_cards_and_disks(stage: Stage) -> None:
    facts = json.loads(take(stage).vm.configuration)

    assert facts["format"] == 1
    assert facts["vm"]["name_label"] == "web-1"
    assert [drive["userdevice"] for drive in facts["drives"]] == ["0", "1"]
    assert facts["cards"][0]["MAC"]
    assert facts["networks"][facts["cards"][0]["network"]]["bridge"] == "xenbr0"
    assert {disk["virtual_size"] for disk in facts["disks"].values()} == {
        str(len(stage.web)),
        str(len(stage.data)),
    }


def test_a_snapshot_and_its_disks_carry_marks_that_name_them(stage: Stage) -> None:
    snapshot = take(stage)

    objects = [("VM", snapshot.ref), *(("VDI", disk.ref) for disk in snapshot.disks)]
    for class_name, ref in objects:
        record = stage.pool.db.record(class_name, ref)
        assert marks.owner_in_marks(record, marks.SNAPSHOT) == stage.owner
        assert record["other_config"][marks.SELF] == record["uuid"]
    name = stage.pool.db.get("VM", snapshot.ref, "name_label")
    assert name.startswith("nightly [likeness ")
    assert marks.owner_in_label(name) == stage.owner


def test_a_disk_may_be_left_out_by_position_uuid_or_name(stage: Stage) -> None:
    disk = find_vm(stage.xen, "web-1").disks[1]

    for wanted in (disk.position, disk.uuid, disk.disk, disk.name):
        snapshot = take(stage, exclude_disks=[wanted])
        assert [d.facts.position for d in snapshot.disks] == ["0"]
        assert len(stage.pool.db.where("VDI", is_a_snapshot=True)) == 1
        drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))


def test_where_the_pool_cannot_leave_disks_out_all_are_frozen_and_one_is_not_read(
    stage: Stage,
) -> None:
    stage.pool.faults.fail("VM.snapshot", "MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.snapshot", "2")
    before = stage.objects()

    snapshot = take(stage, exclude_disks=["1"])

    assert [disk.facts.position for disk in snapshot.disks] == ["0"]
    assert "disk 1 was frozen with the others" in snapshot.reason
    drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))
    assert stage.objects() == before


@pytest.mark.parametrize("excluded", [["7"], ["0", "1"]])
def test_leaving_out_what_is_not_there_or_everything_is_refused(
    stage: Stage, excluded: list[str]
) -> None:
    with pytest.raises(BadInput, match="web-1"):
        take(stage, exclude_disks=excluded)

    assert stage.pool.db.where("VM", is_a_snapshot=True) == []


def test_a_snapshot_that_lacks_a_disk_is_none(stage: Stage) -> None:
    before = stage.objects()
    vm = find_vm(stage.xen, "web-1")
    gone = stage.pool.db.get("VM", vm.ref, "VBDs")[1]
    stage.pool.db.put("VBD", gone, VDI=NULL, empty=True)  # after the VM was looked at

    with pytest.raises(HostBusy, match=r"VM web-1: disk 1 \(web-1 1\) is not in it.*run the job"):
        take_snapshot(stage.xen, vm, owner=stage.owner, label="by test")

    assert stage.objects() == before


def test_storage_that_fills_up_at_the_second_disk_leaves_nothing(stage: Stage) -> None:
    before = stage.objects()
    stage.pool.faults.fail(
        "disk.snapshot", "SR_BACKEND_FAILURE_44", "", "There is insufficient space", "", at=2
    )

    with pytest.raises(HostRefused, match="VM web-1: the storage has no room") as refused:
        take(stage)

    assert refused.value.code == "SR_BACKEND_FAILURE_44"
    assert stage.objects() == before


def test_storage_trouble_that_passes_is_tried_once_more(stage: Stage) -> None:
    stage.pool.faults.fail("VM.snapshot", "SR_BACKEND_FAILURE_82", "", "failed to pause VDI", "")

    assert len(take(stage).disks) == 2


def test_storage_trouble_that_stays_is_busy(stage: Stage) -> None:
    stage.pool.faults.fail("VM.snapshot", "SR_BACKEND_FAILURE_82", "", "paused", "", times=0)

    with pytest.raises(HostBusy, match="could not freeze a disk"):
        take(stage)


@pytest.mark.parametrize(
    ("code", "parameters", "kind", "words"),
    [
        ("OTHER_OPERATION_IN_PROGRESS", ["VM", "ref", "clone", "t"], HostBusy, "clone"),
        ("OPERATION_BLOCKED", ["ref", "by hand"], HostRefused, "by hand"),
        ("VM_HAS_VUSBS", ["ref"], HostRefused, "USB"),
        ("VDI_IS_SHARABLE", ["ref"], HostRefused, "shared between VMs"),
        ("SR_BACKEND_FAILURE_109", ["", "chain too long", ""], HostRefused, "chain is too long"),
        ("RBAC_PERMISSION_DENIED", ["VM.snapshot", "no"], HostRefused, "lacks the right"),
    ],
)
def test_a_refusal_is_a_sentence_with_the_vm_the_cause_and_the_next_step(
    stage: Stage, code: str, parameters: list[str], kind: type[Exception], words: str
) -> None:
    stage.pool.faults.fail("VM.snapshot", code, *parameters)

    with pytest.raises(kind, match=f"VM web-1.*{words}") as refused:
        take(stage)

    assert ";" in str(refused.value)
    assert getattr(refused.value, "code", "") == code


def test_a_snapshot_that_hangs_is_cancelled_and_leaves_nothing(stage: Stage) -> None:
    before = stage.objects()
    stage.pool.faults.hang("VM.snapshot")

    with pytest.raises(HostBusy, match=r"not finished VM\.snapshot within"):
        take(stage, deadline_seconds=0.3)

    assert stage.objects() == before


def test_stopping_cancels_a_snapshot_that_is_being_taken(stage: Stage) -> None:
    before = stage.objects()
    stage.pool.faults.hang("disk.snapshot", at=2)
    stop = StopToken()
    timer = threading.Timer(0.3, stop.stop)
    timer.start()

    with pytest.raises(Stopped):
        take(stage, stop=stop)

    timer.join()
    assert stage.objects() == before


def test_a_snapshot_that_cannot_be_marked_is_removed_again(stage: Stage) -> None:
    before = stage.objects()
    stage.pool.faults.fail("VDI.set_other_config", "INTERNAL_ERROR", "no", at=2)

    with pytest.raises(HostRefused):
        take(stage)

    assert stage.objects() == before


def test_a_snapshot_that_outlives_its_cancellation_is_removed_by_its_name(stage: Stage) -> None:
    """The pool answers that the task failed although the snapshot was made."""
    before = stage.objects()
    stage.pool.faults.fail("task.get_record", "INTERNAL_ERROR", "lost")

    with pytest.raises(HostRefused):
        take(stage)

    assert stage.objects() == before


def test_a_running_vm_is_frozen_with_its_memory(stage: Stage) -> None:
    before = stage.objects()

    snapshot = take(stage, mode=Consistency.MEMORY)

    assert snapshot.obtained is Consistency.MEMORY
    assert [disk.facts.position for disk in snapshot.disks] == ["0", "1", MEMORY]
    assert read_disk(stage.xen, snapshot.disks[0]) == stage.web
    memory = snapshot.disks[2]
    assert len(read_disk(stage.xen, memory)) == memory.facts.size_bytes > 0
    drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))
    assert stage.objects() == before


def test_a_halted_vm_has_no_memory_so_a_standard_snapshot_is_taken_and_said_so(
    stage: Stage,
) -> None:
    snapshot = take(stage, "db-1", mode=Consistency.MEMORY)

    assert (snapshot.requested, snapshot.obtained) == (Consistency.MEMORY, Consistency.STANDARD)
    assert "halted" in snapshot.reason


def test_a_host_without_quiesce_gives_a_standard_snapshot_and_a_reason(stage: Stage) -> None:
    snapshot = take(stage, mode=Consistency.QUIESCED)

    assert snapshot.obtained is Consistency.STANDARD
    assert "quiesced snapshot is not possible" in snapshot.reason


def test_memory_left_by_a_killed_run_is_swept(stage: Stage) -> None:
    before = stage.objects()
    snapshot = take(stage, mode=Consistency.MEMORY)
    stage.xen.call("VM.destroy", snapshot.ref)

    swept = sweep_snapshots(
        stage.xen, {stage.owner.installation}, lambda run: False, pauses=Pauses(0.1, 0.1, tries=20)
    )

    assert len(swept) == 3
    assert stage.objects() == before


def test_a_host_that_offers_quiescing_and_fails_gives_a_standard_snapshot(stage: Stage) -> None:
    real = stage.xen.call

    def older(method: str, *params: Any, **more: Any) -> Any:
        if method == "VM.get_allowed_operations":
            return [*real(method, *params, **more), "snapshot_with_quiesce"]
        return real(method, *params, **more)

    stage.xen.call = older  # type: ignore[method-assign]
    snapshot = take(stage, mode=Consistency.QUIESCED)

    assert snapshot.obtained is Consistency.STANDARD
    assert "does not offer that any more" in snapshot.reason


@pytest.mark.parametrize("mode", [Consistency.QUIESCED, Consistency.MEMORY])
def test_a_strict_job_fails_rather_than_falling_back(stage: Stage, mode: Consistency) -> None:
    before = stage.objects()

    with pytest.raises(HostRefused, match="allows nothing less"):
        take(stage, "db-1", mode=mode, strict=True)

    assert stage.objects() == before


def test_offline_shuts_the_vm_down_and_starts_it_again(stage: Stage) -> None:
    snapshot = take(stage, mode=Consistency.OFFLINE)

    vm = stage.pool.vm("web-1")
    assert snapshot.obtained is Consistency.OFFLINE
    assert stage.pool.db.get("VM", snapshot.ref, "snapshot_info")["power-state-at-snapshot"] == (
        "Halted"
    )
    assert stage.pool.db.get("VM", vm, "power_state") == "Running"
    assert marks.START_AGAIN not in stage.pool.db.get("VM", vm, "other_config")


def test_offline_leaves_a_halted_vm_halted(stage: Stage) -> None:
    take(stage, "db-1", mode=Consistency.OFFLINE)

    assert stage.pool.db.get("VM", stage.pool.vm("db-1"), "power_state") == "Halted"


def test_a_vm_shut_down_for_its_snapshot_runs_again_when_the_snapshot_fails(stage: Stage) -> None:
    stage.pool.faults.fail("VM.snapshot", "SR_BACKEND_FAILURE_44", "", "full", "", times=0)

    with pytest.raises(HostRefused):
        take(stage, mode=Consistency.OFFLINE)

    assert stage.pool.db.get("VM", stage.pool.vm("web-1"), "power_state") == "Running"


@pytest.mark.parametrize("code", ["VM_SHUTDOWN_TIMEOUT", "VM_LACKS_FEATURE"])
def test_a_guest_that_does_not_shut_down_is_left_running(stage: Stage, code: str) -> None:
    before = stage.objects()
    stage.pool.faults.fail("VM.clean_shutdown", code, "ref", "1200")

    with pytest.raises(HostRefused, match="VM web-1: the guest"):
        take(stage, mode=Consistency.OFFLINE)

    assert stage.objects() == before
    assert stage.pool.db.get("VM", stage.pool.vm("web-1"), "power_state") == "Running"


def test_a_guest_that_shut_down_too_late_is_started_again(stage: Stage) -> None:
    """The pool gave up on the shutdown, and then the guest went down all the same."""
    real = stage.xen.call

    def late(method: str, *params: Any, **more: Any) -> Any:
        if method == "task.get_error_info":
            run_task(stage.xen, "VM.hard_shutdown", stage.pool.vm("web-1"))
        return real(method, *params, **more)

    stage.pool.faults.fail("VM.clean_shutdown", "VM_SHUTDOWN_TIMEOUT", "ref", "1200")
    stage.xen.call = late  # type: ignore[method-assign]
    with pytest.raises(HostRefused, match="did not shut down in time"):
        take(stage, mode=Consistency.OFFLINE)

    assert stage.pool.db.get("VM", stage.pool.vm("web-1"), "power_state") == "Running"


def test_a_suspended_vm_cannot_be_frozen_offline(stage: Stage) -> None:
    run_task(stage.xen, "VM.suspend", stage.pool.vm("web-1"))

    with pytest.raises(HostRefused, match="the VM is suspended"):
        take(stage, mode=Consistency.OFFLINE)

    assert marks.START_AGAIN not in stage.pool.db.get("VM", stage.pool.vm("web-1"), "other_config")


def test_many_vms_are_frozen_read_and_dropped_at_once_through_one_session(stage: Stage) -> None:
    names = [f"many-{number}" for number in range(6)]
    for number, name in enumerate(names):
        stage.pool.add_vm(name, [MIB])
        stage.pool.write(name, 0, 1000, bytes([number + 1]) * 100)
    before = stage.objects()

    def walk(name: str) -> bytes:
        snapshot = take(stage, name)
        try:
            return read_disk(stage.xen, snapshot.disks[0])[1000:1100]
        finally:
            drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.25, 0.5, tries=14))

    with ThreadPoolExecutor(6) as threads:
        contents = list(threads.map(walk, names))

    assert contents == [bytes([number + 1]) * 100 for number in range(6)]
    assert stage.objects() == before


def test_a_vm_without_disks_can_be_frozen(stage: Stage) -> None:
    stage.pool.add_vm("bare", [])

    snapshot = take(stage, "bare")

    assert snapshot.disks == ()
    drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=5))
    assert stage.pool.db.where("VM", is_a_snapshot=True) == []

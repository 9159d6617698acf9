"""Nothing of ours stays, and nothing else is touched."""

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from lab.storage.disk import Disk
from lab.wire.values import Value
from likeness.errors import HostBusy, LikenessError
from likeness.model.ids import RunId, random_name
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.dropping import drop_snapshot
from likeness.xen.failures import Refusal
from likeness.xen.inventory import find_vm
from likeness.xen.owner import Owner
from likeness.xen.preflight import require_ready
from likeness.xen.reading import open_reader
from likeness.xen.snapshots import Consistency, XenSnapshot, take_snapshot
from likeness.xen.sweeping import SweptObject, sweep_snapshots
from likeness.xen.tasks import MARK, own_task, run_task
from tests.xen.conftest import MIB, Died, Stage, let_it_die, login, read_all, wait_for_the_pool


def nobody(run: RunId) -> bool:
    """No run is live."""
    return False


def drop(stage: Stage, snapshot: XenSnapshot) -> None:
    drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))


def sweep(stage: Stage, is_live: Callable[[RunId], bool] = nobody) -> tuple[SweptObject, ...]:
    return sweep_snapshots(
        stage.xen, {stage.owner.installation}, is_live, pauses=Pauses(0.1, 0.1, tries=20)
    )


def plug_into_dom0(stage: Stage, disk: str) -> str:
    """What a transfer that ended badly leaves behind."""
    dom0 = stage.pool.db.where("VM", is_control_domain=True)[0]
    return stage.pool.db.create(
        "VBD",
        VM=dom0,
        VDI=disk,
        userdevice="77",
        mode="RO",
        type="Disk",
        currently_attached=True,
        unpluggable=True,
    )


def test_dropping_twice_is_as_good_as_once(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()

    drop(stage, snapshot)
    drop(stage, snapshot)

    assert stage.objects() == before


def test_dropping_goes_on_where_an_earlier_attempt_stopped(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()
    stage.xen.call("VM.destroy", snapshot.ref)

    drop(stage, snapshot)

    assert stage.objects() == before


def test_a_vm_protected_from_deletion_is_so_still_and_its_snapshot_is_not(stage: Stage) -> None:
    blocked = {"destroy": "precious", "hard_shutdown": "precious"}
    stage.pool.db.put("VM", stage.pool.vm("web-1"), blocked_operations=blocked)
    before = stage.objects()

    snapshot = stage.snapshot()
    stage.pool.db.put("VM", snapshot.ref, blocked_operations=blocked)  # as older hosts copy it
    drop(stage, snapshot)

    assert stage.objects() == before
    assert stage.pool.db.get("VM", stage.pool.vm("web-1"), "blocked_operations") == blocked


def test_a_disk_that_is_still_read_is_waited_for(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()
    vbd = plug_into_dom0(stage, snapshot.disks[0].ref)
    timer = threading.Timer(0.5, lambda: stage.pool.db.destroy("VBD", vbd))
    timer.start()

    drop(stage, snapshot)

    timer.join()
    assert stage.objects() == before


def test_a_disk_that_the_pool_forgot_to_unplug_is_pulled_out(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()
    plug_into_dom0(stage, snapshot.disks[0].ref)

    drop(stage, snapshot)

    assert stage.objects() == before


def test_a_frozen_disk_that_another_vm_uses_stays_and_is_said_so(stage: Stage) -> None:
    snapshot = stage.snapshot()
    other = stage.pool.vm("db-1")
    stage.pool.db.create(
        "VBD", VM=other, VDI=snapshot.disks[1].ref, userdevice="5", mode="RO", type="Disk"
    )

    with pytest.raises(HostBusy, match="still in use"):
        drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.05, 0.05, tries=2))

    assert stage.pool.db.exists("VDI", snapshot.disks[1].ref)
    assert not stage.pool.db.exists("VDI", snapshot.disks[0].ref)


@pytest.mark.parametrize("remove", [drop, lambda stage, _: sweep(stage)], ids=["drop", "sweep"])
def test_a_disk_somebody_plugged_into_our_snapshot_stays(
    stage: Stage, remove: Callable[[Stage, XenSnapshot], object]
) -> None:
    snapshot = stage.snapshot()
    spare = stage.pool.add_vdi(Disk.empty(MIB, stage.pool.folder), SR=stage.pool.default_sr())
    stage.pool.db.create("VBD", VM=snapshot.ref, VDI=spare, userdevice="9", type="Disk")

    remove(stage, snapshot)

    assert stage.pool.db.exists("VDI", spare)
    assert not stage.pool.db.exists("VM", snapshot.ref)
    assert not any(stage.pool.db.exists("VDI", disk.ref) for disk in snapshot.disks)


def test_the_sweep_removes_what_runs_that_are_over_left(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()

    swept = sweep(stage)

    assert [(s.what, s.uuid, s.run, s.problem) for s in swept] == [
        ("snapshot", snapshot.uuid, stage.owner.run, "")
    ]
    assert stage.objects() == before
    assert sweep(stage) == ()


def test_the_sweep_leaves_a_live_run_alone(stage: Stage) -> None:
    stage.snapshot()
    before = stage.objects()

    assert sweep(stage, lambda run: run == stage.owner.run) == ()
    assert stage.objects() == before


def test_the_sweep_ends_tasks_of_runs_that_are_over_and_of_nobody_else(stage: Stage) -> None:
    alive = RunId(random_name())
    owners = (
        stage.owner,
        Owner(stage.owner.installation, alive),
        Owner(random_name(), alive),
        None,
    )
    with ExitStack() as held:
        for owner in owners:
            xen = held.enter_context(login(stage.server, owner=owner))
            held.enter_context(own_task(xen, "reading a disk"))
        ours, *others = stage.pool.db.where("task", status="pending")

        (swept,) = sweep(stage, lambda run: run == alive)

        assert (swept.what, swept.name, swept.problem) == ("task", "Likeness: reading a disk", "")
        assert stage.pool.db.where("task", status="pending") == others
        assert not stage.pool.db.exists("task", ours)


def test_a_task_that_cannot_be_ended_is_said_so_and_its_record_stays(stage: Stage) -> None:
    mark = f"{stage.owner.installation} {stage.owner.run}"
    task = stage.pool.tasks.create("Async.VM.snapshot")
    stage.pool.db.put("task", task, other_config={MARK: mark}, status="cancelling")

    with login(stage.server, task_seconds=0.2) as xen:
        (swept,) = sweep_snapshots(xen, {stage.owner.installation}, nobody)

    assert "the pool has not ended it" in swept.problem
    assert stage.pool.db.exists("task", task)


def test_the_sweep_leaves_another_installation_alone(stage: Stage) -> None:
    stage.snapshot()

    assert sweep_snapshots(stage.xen, random_name(), nobody) == ()


def test_the_sweep_finds_a_snapshot_that_was_never_marked_by_its_name(stage: Stage) -> None:
    before = stage.objects()
    vm = find_vm(stage.xen, "web-1")
    run_task(stage.xen, "VM.snapshot", vm.ref, marks.label_of(stage.owner, "nightly"))

    swept = sweep(stage)

    assert [s.what for s in swept] == ["snapshot"]
    assert stage.objects() == before


def test_the_sweep_finds_frozen_disks_whose_snapshot_is_gone_already(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()
    stage.xen.call("VM.destroy", snapshot.ref)

    assert [s.what for s in sweep(stage)] == ["frozen disk", "frozen disk"]
    assert stage.objects() == before


def test_the_sweep_spares_a_persons_snapshot_that_inherited_our_marks(stage: Stage) -> None:
    """XenServer copies other_config: a VM put back to our snapshot carries our marks."""
    snapshot = stage.snapshot()
    inherited = stage.pool.db.get("VM", snapshot.ref, "other_config")
    vm = stage.pool.vm("web-1")
    stage.pool.db.put("VM", vm, other_config=inherited)
    for disk in find_vm(stage.xen, "web-1").disks:
        stage.pool.db.put("VDI", disk.ref, other_config=inherited)
    drop(stage, snapshot)
    theirs = run_task(stage.xen, "VM.snapshot", vm, "before the upgrade")
    before = stage.objects()

    assert sweep(stage) == ()
    assert stage.objects() == before
    assert stage.pool.db.exists("VM", theirs)


def test_the_sweep_spares_a_vm_that_somebody_made_from_our_snapshot(stage: Stage) -> None:
    snapshot = stage.snapshot()
    rescued = run_task(stage.xen, "VM.clone", snapshot.ref, "rescued")

    sweep(stage)

    assert stage.pool.db.exists("VM", rescued)
    assert not stage.pool.db.exists("VM", snapshot.ref)
    drives = stage.pool.db.get("VM", rescued, "VBDs")
    assert all(
        stage.pool.db.exists("VDI", stage.pool.db.get("VBD", drive, "VDI")) for drive in drives
    )


def test_the_sweep_spares_what_is_only_named_after_our_snapshot(stage: Stage) -> None:
    """People name copies after what they copied, and their tools name things after VMs."""
    snapshot = stage.snapshot()
    label = stage.pool.db.get("VM", snapshot.ref, "name_label")
    rescued = run_task(stage.xen, "VM.clone", snapshot.ref, label)
    stage.pool.db.put("VM", rescued, is_a_template=False)
    theirs = run_task(stage.xen, "VM.snapshot", rescued, f"weekly of {label}")
    task = stage.xen.call("task.create", f"weekly of {label}", "somebody's")

    assert [s.uuid for s in sweep(stage)] == [snapshot.uuid]
    assert stage.pool.db.exists("VM", theirs)
    assert stage.pool.db.exists("task", task)


def test_a_disk_is_not_taken_for_gone_because_the_task_that_destroys_it_is(stage: Stage) -> None:
    before = stage.objects()
    snapshot = stage.snapshot()
    answer = stage.pool.dispatcher.answer

    def lose_task(method: str, given: list[Value], host: str = "") -> Value:
        if method != "Async.VDI.destroy":
            return answer(method, given, host)
        stage.pool.faults.fail("VDI.destroy", "INTERNAL_ERROR", "the coordinator changed")
        task = answer(method, given, host)
        stage.pool.db.destroy("task", task)
        return task

    stage.pool.dispatcher.answer = lose_task  # type: ignore[method-assign]
    with pytest.raises(HostBusy, match="still in use"):
        drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.05, 0.05, tries=2))
    stage.pool.dispatcher.answer = answer  # type: ignore[method-assign]
    stage.pool.faults.clear()
    drop(stage, snapshot)

    assert stage.objects() == before


def test_a_restored_disk_is_its_owners_even_if_the_release_died_half_way(stage: Stage) -> None:
    vm = find_vm(stage.xen, "web-1")
    for disk in vm.disks:
        marks.put_marks(stage.xen, "VDI", disk.ref, owner=stage.owner, kind=marks.RESTORED)

    assert {s.what for s in sweep(stage)} == {"mark on restored disk"}
    for drive in stage.pool.db.get("VM", vm.ref, "VBDs"):  # its owner takes the disks out
        stage.pool.db.destroy("VBD", drive)

    assert sweep(stage) == ()
    assert all(stage.pool.db.exists("VDI", disk.ref) for disk in vm.disks)


def test_the_sweep_starts_a_vm_that_a_killed_run_left_halted(stage: Stage) -> None:
    vm = find_vm(stage.xen, "web-1")
    promise = f"{stage.owner.installation} {stage.owner.run} {vm.uuid}"
    marks.set_mark(stage.xen, "VM", vm.ref, marks.START_AGAIN, promise)
    run_task(stage.xen, "VM.clean_shutdown", vm.ref)

    swept = sweep(stage)

    assert [(s.what, s.name) for s in swept] == [("halted VM", "web-1")]
    assert stage.pool.db.get("VM", vm.ref, "power_state") == "Running"
    assert sweep(stage) == ()


def test_the_sweep_does_not_start_a_vm_that_its_owner_halted(stage: Stage) -> None:
    """A copy of a VM carries the promise that was made for the original."""
    promise = f"{stage.owner.installation} {stage.owner.run} {random_name()}"
    copy = stage.pool.vm("db-1")
    marks.set_mark(stage.xen, "VM", copy, marks.START_AGAIN, promise)

    assert sweep(stage) == ()
    assert stage.pool.db.get("VM", copy, "power_state") == "Halted"


def test_one_problem_does_not_stop_the_sweep(stage: Stage) -> None:
    first, second = stage.snapshot("web-1"), stage.snapshot("db-1")
    other = stage.pool.vm("db-1")
    stage.pool.db.create(
        "VBD", VM=other, VDI=first.disks[1].ref, userdevice="5", mode="RO", type="Disk"
    )

    swept = sweep_snapshots(
        stage.xen, {stage.owner.installation}, nobody, pauses=Pauses(0.05, 0.05, tries=2)
    )

    problems = {s.uuid: bool(s.problem) for s in swept}
    assert problems == {first.uuid: True, second.uuid: False}
    assert not stage.pool.db.exists("VDI", second.disks[0].ref)


@pytest.mark.parametrize("calls_before", range(3, 60, 3))
def test_a_sweep_that_dies_at_any_call_is_finished_by_the_next(
    stage: Stage, calls_before: int
) -> None:
    before = stage.objects()
    vm = find_vm(stage.xen, "web-1")
    run_task(stage.xen, "VM.snapshot", vm.ref, marks.label_of(stage.owner, "never marked"))
    doomed = login(stage.server)
    let_it_die(doomed, calls_before)

    with suppress(Died):
        sweep_snapshots(
            doomed, {stage.owner.installation}, nobody, pauses=Pauses(0.1, 0.1, tries=20)
        )
    doomed.close()
    wait_for_the_pool(stage)
    sweep(stage)

    assert stage.objects() == before


@pytest.mark.parametrize("calls_before", range(1, 60, 4))
def test_a_run_that_dies_at_any_call_leaves_nothing_the_sweep_does_not_find(
    stage: Stage, calls_before: int
) -> None:
    before = stage.objects()
    doomed = login(stage.server)
    let_it_die(doomed, calls_before)

    try:
        snapshot = take_snapshot(
            doomed,
            find_vm(doomed, "web-1"),
            owner=stage.owner,
            label="doomed",
            mode=Consistency.STANDARD,
            stop=StopToken(),
        )
        drop_snapshot(doomed, snapshot, pauses=Pauses(0.1, 0.1, tries=20))
    except Died:
        pass
    doomed.close()
    wait_for_the_pool(stage)
    sweep(stage)

    assert stage.objects() == before


def test_whichever_call_fails_the_vm_fails_with_a_sentence_and_the_sweep_leaves_nothing(
    stage: Stage,
) -> None:
    before = stage.objects()
    walk(stage)
    used = sorted({name.removeprefix("Async.") for name in stage.pool.journal.counts()})
    problems: list[LikenessError] = []
    for method in used:
        for at in (1, 2):
            stage.pool.faults.fail(method, "INTERNAL_ERROR", "on purpose", at=at)
            try:
                walk(stage)
            except LikenessError as problem:
                problems.append(problem)
            stage.pool.faults.clear()
            sweep(stage)
            assert stage.objects() == before, (method, at)

    assert len(problems) > len(used) * 3 // 4
    assert not [problem for problem in problems if isinstance(problem, Refusal)]
    assert not [problem for problem in problems if stage.xen.ref in str(problem)]


def walk(stage: Stage) -> None:
    """Everything a backup asks of a pool."""
    vm = find_vm(stage.xen, "web-1")
    require_ready(stage.xen, vm)
    snapshot = take_snapshot(stage.xen, vm, owner=stage.owner, label="nightly")
    try:
        for disk in snapshot.disks:
            read_all(open_reader(stage.xen, disk).reader)
    finally:
        drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))

"""A VM that is written over is whole in the end, or what it was; half it cannot be started."""

from contextlib import suppress

import pytest

from likeness.errors import BadInput, HostRefused
from likeness.model.disk import Segment
from likeness.retrying import Pauses
from likeness.xen.inventory import XenVm, find_vm
from likeness.xen.overwriting import begin_overwriting, finish_overwriting, go_back
from likeness.xen.restoring import DiskToFill, write_disk
from likeness.xen.session import XenSession
from likeness.xen.sweeping import sweep_snapshots
from tests.xen.conftest import Died, Stage, let_it_die, login, wait_for_the_pool

NEW = b"new" * 1000


def halted(stage: Stage) -> XenVm:
    vm = find_vm(stage.xen, "web-1")
    if vm.power_state != "Halted":
        stage.xen.call("VM.hard_shutdown", vm.ref)
    return find_vm(stage.xen, "web-1")


def write_over(xen: XenSession, stage: Stage, vm: XenVm) -> None:
    frozen = begin_overwriting(xen, vm, owner=stage.owner)
    for disk in vm.disks:
        target = DiskToFill(disk.disk, disk.position, disk.ref, disk.uuid, disk.size_bytes)
        write_disk(xen, target, [Segment(0, NEW)])
    finish_overwriting(xen, vm, frozen)


def content(stage: Stage) -> list[bytes]:
    disks = [stage.pool.disk_of("web-1", number) for number in (0, 1)]
    return [disk.read(0, disk.size) for disk in disks]


def blocked(stage: Stage) -> dict[str, str]:
    return dict(stage.pool.db.get("VM", stage.pool.vm("web-1"), "blocked_operations"))


def swept(stage: Stage) -> list[str]:
    found = sweep_snapshots(
        stage.xen, {stage.owner.installation}, lambda run: False, pauses=Pauses(0.1, 0.1, tries=20)
    )
    return [each.problem for each in found]


def after(was: list[bytes]) -> list[bytes]:
    return [NEW + each[len(NEW) :] for each in was]


@pytest.mark.parametrize("calls_before", range(1, 90, 4))
def test_one_that_dies_at_any_call_is_whole_or_as_before_after_the_sweep(
    stage: Stage, calls_before: int
) -> None:
    vm, was = halted(stage), content(stage)
    doomed = login(stage.server)
    let_it_die(doomed, calls_before)

    with suppress(Died):
        write_over(doomed, stage, vm)
    doomed.close()
    if content(stage) not in (was, after(was)):
        assert {"start", "start_on"} <= blocked(stage).keys()
    wait_for_the_pool(stage)
    assert not any(swept(stage))

    assert content(stage) in (was, after(was))
    assert blocked(stage) == {}
    own = stage.pool.db.get("VM", stage.pool.vm("web-1"), "other_config")
    assert not [key for key in own if key.startswith("likeness:")]
    assert not stage.pool.db.where("VM", is_a_snapshot=True)
    stage.xen.call("VM.start", stage.pool.vm("web-1"), False, False)  # noqa: FBT003


def test_its_owners_own_block_stays_and_a_second_one_is_refused(stage: Stage) -> None:
    vm, was = halted(stage), content(stage)
    stage.xen.call("VM.add_to_blocked_operations", vm.ref, "start", "not before Monday")
    begin_overwriting(stage.xen, vm, owner=stage.owner)
    with pytest.raises(BadInput, match="is being written over by another restore"):
        begin_overwriting(stage.xen, vm, owner=stage.owner)

    go_back(stage.xen, vm.ref)
    go_back(stage.xen, vm.ref)

    assert content(stage) == was
    assert blocked(stage) == {"start": "not before Monday"}
    assert not any(swept(stage))


def test_where_the_snapshot_of_before_is_gone_it_stays_blocked_and_that_is_said(
    stage: Stage,
) -> None:
    vm = halted(stage)
    frozen = begin_overwriting(stage.xen, vm, owner=stage.owner)
    stage.xen.call("VM.destroy", frozen.ref)

    with pytest.raises(HostRefused, match="its snapshot of before is gone"):
        go_back(stage.xen, vm.ref)
    assert "start" in blocked(stage)


def test_a_running_vm_is_not_touched(stage: Stage) -> None:
    vm, before = find_vm(stage.xen, "web-1"), stage.objects()
    assert vm.power_state == "Running"
    with pytest.raises(BadInput, match="is running and would be overwritten"):
        begin_overwriting(stage.xen, vm, owner=stage.owner)
    assert stage.objects() == before

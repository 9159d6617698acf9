"""The walk of a backup through the client: log in, find, freeze, read, drop."""

from likeness.retrying import Pauses
from likeness.xen.dropping import drop_snapshot
from likeness.xen.inventory import find_vm
from tests.xen.conftest import Stage, read_disk


def test_a_vm_is_frozen_read_and_nothing_is_left_behind(stage: Stage) -> None:
    before = stage.objects()

    snapshot = stage.snapshot()
    stage.pool.write("web-1", 0, 100, b"after the snapshot")
    contents = [read_disk(stage.xen, disk) for disk in snapshot.disks]
    drop_snapshot(stage.xen, snapshot, pauses=Pauses(0.1, 0.1, tries=20))

    assert contents == [stage.web, stage.data]
    assert stage.objects() == before


def test_a_vm_is_described_as_the_pool_has_it(stage: Stage) -> None:
    vm = find_vm(stage.xen, "web-1")

    assert (vm.name, vm.power_state, vm.tags) == ("web-1", "Running", ("gold",))
    assert [(d.position, d.size_bytes) for d in vm.disks] == [
        ("0", len(stage.web)),
        ("1", len(stage.data)),
    ]

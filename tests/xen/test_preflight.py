"""What would make a snapshot fail is found before it is taken."""

import pytest

from lab.wire.values import Value
from likeness.errors import BadInput, HostBusy, HostRefused
from likeness.xen.inventory import find_vm
from likeness.xen.preflight import Obstacle, preflight, require_ready
from likeness.xen.snapshots import Consistency
from tests.xen.conftest import MIB, Stage


def look(stage: Stage, name: str = "web-1", **more: object) -> dict[str, Obstacle]:
    found = preflight(stage.xen, find_vm(stage.xen, name), **more)  # type: ignore[arg-type]
    return {obstacle.code: obstacle for obstacle in found}


def put_vm(stage: Stage, **fields: Value) -> None:
    stage.pool.db.put("VM", stage.pool.vm("web-1"), **fields)


def put_disk(stage: Stage, number: int, **fields: Value) -> None:
    stage.pool.db.put("VDI", find_vm(stage.xen, "web-1").disks[number].ref, **fields)


def storage(stage: Stage, **fields: Value) -> None:
    stage.pool.db.put("SR", stage.pool.default_sr(), **fields)


def chain(stage: Stage, length: int, *, branching: bool) -> None:
    """Put a disk on a chain of hidden images, each with one child or with two."""
    disk = find_vm(stage.xen, "web-1").disks[0]
    child = disk.ref
    for _ in range(length):
        parent = stage.pool.db.create(
            "VDI", SR=disk.storage_ref, virtual_size=MIB, type="user", managed=False
        )
        uuid = stage.pool.db.get("VDI", parent, "uuid")
        stage.pool.db.put("VDI", child, sm_config={"vhd-parent": uuid})
        if branching:
            stage.pool.db.create(
                "VDI",
                SR=disk.storage_ref,
                virtual_size=MIB,
                type="user",
                managed=True,
                sm_config={"vhd-parent": uuid},
            )
        child = parent


def test_an_ordinary_vm_may_be_frozen_and_nothing_is_changed_by_looking(stage: Stage) -> None:
    before = stage.pool.db.generation

    assert look(stage) == {}
    require_ready(stage.xen, find_vm(stage.xen, "web-1"))
    assert stage.pool.db.generation == before


@pytest.mark.parametrize(
    ("operation", "words"),
    [("migrate_send", "moved to other storage"), ("snapshot", "another snapshot")],
)
def test_a_vm_that_something_else_works_on_is_left_for_later(
    stage: Stage, operation: str, words: str
) -> None:
    put_vm(stage, current_operations={"task": operation})

    assert words in look(stage)["BUSY"].reason
    with pytest.raises(HostBusy, match=f"VM web-1 is not backed up now.*{words}"):
        require_ready(stage.xen, find_vm(stage.xen, "web-1"))


def test_a_disk_in_two_drives_is_refused_with_both_positions(stage: Stage) -> None:
    db, vm = stage.pool.db, stage.pool.vm("web-1")
    drive = db.record("VBD", db.get("VM", vm, "VBDs")[0])
    db.create("VBD", **drive | {"uuid": "", "userdevice": "7"})

    for left_out in ([], ["7"]):
        found = look(stage, exclude_disks=left_out)["DISK_PLUGGED_IN_TWICE"]
        assert "as 0 and as 7" in found.reason
        assert not found.passing


def test_a_blocked_operation_is_refused_with_the_owners_words(stage: Stage) -> None:
    put_vm(stage, blocked_operations={"snapshot": "ask Maria"})

    with pytest.raises(HostRefused, match="ask Maria"):
        require_ready(stage.xen, find_vm(stage.xen, "web-1"))


def test_offline_needs_the_right_to_shut_down(stage: Stage) -> None:
    put_vm(stage, blocked_operations={"clean_shutdown": "never"})

    assert look(stage) == {}
    assert "OPERATION_BLOCKED" in look(stage, mode=Consistency.OFFLINE)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sharable": True}, "VDI_IS_SHARABLE"),
        ({"missing": True}, "VDI_MISSING"),
        ({"managed": False}, "VDI_NOT_MANAGED"),
        ({"on_boot": "reset"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"),
    ],
)
def test_a_disk_that_cannot_be_frozen_is_named(
    stage: Stage, fields: dict[str, Value], code: str
) -> None:
    put_disk(stage, 1, **fields)

    assert "disk 1 (web-1 1)" in look(stage)[code].reason


def test_a_disk_that_is_left_out_is_no_obstacle(stage: Stage) -> None:
    storage(stage, type="lvm", physical_size=13 * MIB, sm_config={})
    put_disk(stage, 1, sharable=True)

    assert set(look(stage)) == {"VDI_IS_SHARABLE", "SR_FULL"}
    assert look(stage, exclude_disks=["1"]) == {}
    with pytest.raises(BadInput, match="no disk '7'"):
        look(stage, exclude_disks=["7"])


def test_thick_storage_two_thirds_full_is_refused_and_thin_storage_is_not(stage: Stage) -> None:
    size = len(stage.web) + len(stage.data) + 4 * MIB
    storage(stage, type="lvm", physical_size=int(size / 0.66), sm_config={})

    refused = look(stage)["SR_FULL"]
    assert "reserves a snapshot's full size" in refused.reason
    assert not refused.passing

    storage(stage, sm_config={"allocation": "thin"})
    assert look(stage) == {}
    storage(stage, type="ext", sm_config={})
    assert look(stage) == {}


def test_thick_storage_with_room_for_every_disk_is_allowed(stage: Stage) -> None:
    storage(stage, type="lvmoiscsi", physical_size=1 << 40, sm_config={})

    assert look(stage) == {}


def test_storage_that_no_host_has_attached_is_refused(stage: Stage) -> None:
    for pbd in stage.pool.db.get("SR", stage.pool.default_sr(), "PBDs"):
        stage.pool.db.put("PBD", pbd, currently_attached=False)

    assert "not attached" in look(stage)["SR_NOT_ATTACHED"].reason


def test_a_chain_may_be_twenty_nine_long_and_no_longer(stage: Stage) -> None:
    chain(stage, 28, branching=True)
    assert look(stage) == {}

    chain(stage, 29, branching=True)
    refused = look(stage)["CHAIN_TOO_LONG"]
    assert "chain of 30 images" in refused.reason
    assert not refused.passing


def test_a_chain_that_waits_to_be_merged_is_left_for_later(stage: Stage) -> None:
    chain(stage, 5, branching=False)
    assert look(stage) == {}

    chain(stage, 6, branching=False)
    waiting = look(stage)["CHAIN_NOT_COALESCED"]
    assert "6 images that wait to be merged" in waiting.reason
    assert waiting.passing


def test_a_lasting_obstacle_outweighs_a_passing_one(stage: Stage) -> None:
    put_vm(stage, current_operations={"task": "pool_migrate"})
    put_disk(stage, 0, sharable=True)

    with pytest.raises(HostRefused, match=r"moved to another host.*shared between VMs") as refused:
        require_ready(stage.xen, find_vm(stage.xen, "web-1"))
    assert refused.value.code == "VDI_IS_SHARABLE"


def test_a_host_that_does_not_answer_its_pool_is_named(stage: Stage) -> None:
    host = stage.pool.db.get("VM", stage.pool.vm("web-1"), "resident_on")
    metrics = stage.pool.db.get("host", host, "metrics")
    stage.pool.db.put("host_metrics", metrics, live=False)

    assert find_vm(stage.xen, "web-1").host in look(stage)["HOST_OFFLINE"].reason

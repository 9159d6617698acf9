# ruff: noqa: FBT003 - the order and the booleans are those of the API
"""Power states, snapshots, clones, drives and cards, by the published library."""

import time
from typing import Any

import pytest
import XenAPI

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import Xen

BOTH_PROTOCOLS = True


def refusal(function: Any, *arguments: Any) -> list[str]:
    with pytest.raises(XenAPI.Failure) as refused:
        function(*arguments)
    details: list[str] = refused.value.details
    return details


# -- power -----------------------------------------------------------------------------------------


def test_power_operations_work_only_in_their_states(xen: Xen) -> None:
    vm, api = xen.vm("web"), xen.api.VM
    assert refusal(api.start, vm, False, False) == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    api.pause(vm)
    assert api.get_power_state(vm) == "Paused"
    assert refusal(api.clean_shutdown, vm)[2:] == ["running", "paused"]
    api.unpause(vm)
    api.suspend(vm)
    image = api.get_suspend_VDI(vm)
    assert xen.api.VDI.get_type(image) == "suspend"
    assert api.get_resident_on(vm) == "OpaqueRef:NULL"
    api.resume(vm, False, False)
    assert image not in xen.api.VDI.get_all()
    api.clean_reboot(vm)
    api.hard_shutdown(vm)
    assert refusal(api.hard_shutdown, vm)[2:] == ["paused, suspended, running", "halted"]
    assert api.get_domid(vm) == "-1"
    assert api.get_guest_metrics(vm) == "OpaqueRef:NULL"
    for vbd in api.get_VBDs(vm):
        assert not xen.api.VBD.get_currently_attached(vbd)
    api.start(vm, False, False)
    assert api.get_power_state(vm) == "Running"
    assert "snapshot" in api.get_allowed_operations(vm)
    assert "start" not in api.get_allowed_operations(vm)


# What the server allows in which state; the texts are those it names in a refusal.
STATES = ("Halted", "Paused", "Running", "Suspended")
IN_STATES = {
    "start": "halted",
    "start_on": "halted",
    "clone": "halted",
    "destroy": "halted, suspended",
    "checkpoint": "paused, suspended, running",
    "hard_shutdown": "paused, suspended, running",
    "clean_shutdown": "running",
    "suspend": "running",
    "pause": "running",
    "hard_reboot": "paused, running",
}
ANYWHERE = ("snapshot", "metadata_export")


@pytest.mark.parametrize("state", STATES)
def test_every_operation_is_allowed_or_refused_by_the_table(
    lab: LabServer, xen: Xen, state: str
) -> None:
    vm, host = xen.vm("web"), xen.api.host.get_all()[0]
    lab.pool.db.put("VM", vm, power_state=state)
    allowed = xen.api.VM.get_allowed_operations(vm)
    assert set(ANYWHERE) <= set(allowed)
    arguments: dict[str, tuple[Any, ...]] = {
        "start": (False, False),
        "start_on": (host, False, False),
        "clone": ("c",),
        "checkpoint": ("c",),
    }
    for operation, expected in IN_STATES.items():
        fits = state.lower() in expected.split(", ")
        assert (operation in allowed) == fits, operation
        if not fits:
            call = getattr(xen.api.VM, operation)
            told = refusal(call, vm, *arguments.get(operation, ()))
            assert told == ["VM_BAD_POWER_STATE", vm, expected, state.lower()], operation


def test_a_running_vm_reports_through_its_guest_tools(xen: Xen) -> None:
    metrics = xen.api.VM.get_guest_metrics(xen.vm("web"))
    assert xen.api.VM_guest_metrics.get_can_use_hotplug_vbd(metrics) == "yes"


def test_a_blocked_operation_gives_its_reason(xen: Xen) -> None:
    vm = xen.vm("web")
    xen.api.VM.add_to_blocked_operations(vm, "snapshot", "not now")
    assert refusal(xen.api.VM.snapshot, vm, "s") == ["OPERATION_BLOCKED", vm, "not now"]
    assert "snapshot" not in xen.api.VM.get_allowed_operations(vm)
    xen.api.VM.remove_from_blocked_operations(vm, "snapshot")
    xen.api.VM.snapshot(vm, "s")


# -- snapshots -------------------------------------------------------------------------------------


def test_a_snapshot_is_a_halted_template_that_points_to_its_vm(xen: Xen) -> None:
    vm = xen.vm("web")
    xen.api.VM.set_tags(vm, ["gold"])
    snapshot = xen.api.VM.snapshot(vm, "nightly")
    record = xen.api.VM.get_record(snapshot)
    assert record["name_label"] == "nightly"
    assert record["is_a_snapshot"]
    assert record["is_a_template"]
    assert record["snapshot_of"] == vm
    assert record["power_state"] == "Halted"
    assert record["tags"] == ["gold"]
    assert record["snapshot_info"] == {
        "power-state-at-snapshot": "Running",
        "disk-snapshot-type": "crash_consistent",
    }
    assert record["snapshot_metadata"] != ""
    assert str(record["snapshot_time"]) > "20200101T00:00:00Z"
    assert xen.api.VM.get_snapshots(vm) == [snapshot]
    assert xen.api.VM.get_parent(vm) == snapshot
    assert xen.api.VM.get_children(snapshot) == [vm]
    macs = [xen.api.VIF.get_MAC(vif) for vif in xen.api.VM.get_VIFs(vm)]
    assert [xen.api.VIF.get_MAC(vif) for vif in record["VIFs"]] == macs


def test_its_disks_are_snapshots_of_the_live_disks(xen: Xen) -> None:
    vm = xen.vm("web")
    live = xen.disks(vm)
    xen.api.VDI.add_to_other_config(live[0], "k", "v")
    snapshot = xen.api.VM.snapshot(vm, "s")
    frozen = xen.disks(snapshot)
    for disk, origin in zip(frozen, live, strict=True):
        record, source = xen.api.VDI.get_record(disk), xen.api.VDI.get_record(origin)
        assert record["is_a_snapshot"]
        assert record["snapshot_of"] == origin
        assert record["name_label"] == source["name_label"]
        assert record["other_config"] == source["other_config"]
        assert record["uuid"] == record["location"] != source["uuid"]
        assert record["sm_config"]["vhd-parent"] == source["sm_config"]["vhd-parent"]
        parent = xen.api.VDI.get_by_uuid(record["sm_config"]["vhd-parent"])
        assert not xen.api.VDI.get_managed(parent)
        assert xen.api.VDI.get_snapshots(origin) == [disk]
    for vbd in xen.api.VM.get_VBDs(snapshot):
        assert "owner" in xen.api.VBD.get_other_config(vbd)
        assert not xen.api.VBD.get_currently_attached(vbd)


def test_ignored_disks_are_left_out(xen: Xen) -> None:
    vm = xen.vm("web")
    first, second = xen.disks(vm)
    snapshot = xen.api.VM.snapshot(vm, "s", [first])
    assert [xen.api.VDI.get_snapshot_of(disk) for disk in xen.disks(snapshot)] == [second]
    assert xen.api.VDI.get_snapshots(first) == []


def test_the_first_disk_that_fails_undoes_the_others(lab: LabServer, xen: Xen) -> None:
    vm, before = xen.vm("web"), sorted(xen.api.VDI.get_all())
    no_space = ("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
    lab.pool.faults.fail("disk.snapshot", *no_space, at=2)
    assert refusal(xen.api.VM.snapshot, vm, "s") == list(no_space)
    assert sorted(d for d in xen.api.VDI.get_all() if xen.api.VDI.get_managed(d)) == before
    assert xen.api.VM.get_snapshots(vm) == []
    xen.api.VM.snapshot(vm, "s")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("sharable", True, "VDI_IS_SHARABLE"), ("on_boot", "reset", "VDI_ON_BOOT_MODE_INC")],
)
def test_disks_that_cannot_be_frozen_are_refused(
    lab: LabServer, xen: Xen, field: str, value: Any, code: str
) -> None:
    vm = xen.vm("web")
    lab.pool.db.put("VDI", xen.disks(vm)[1], **{field: value})
    assert refusal(xen.api.VM.snapshot, vm, "s")[0].startswith(code)
    assert xen.api.VM.snapshot(vm, "s", [xen.disks(vm)[1]])


def test_a_snapshot_of_a_snapshot_or_template_is_refused(xen: Xen) -> None:
    snapshot = xen.api.VM.snapshot(xen.vm("web"), "s")
    assert refusal(xen.api.VM.snapshot, snapshot, "t")[0] == "VM_IS_SNAPSHOT"
    template = xen.api.VM.get_by_name_label("Other install media")[0]
    assert refusal(xen.api.VM.snapshot, template, "t")[0] == "VM_IS_TEMPLATE"


def test_quiesced_snapshots_are_gone(xen: Xen) -> None:
    assert refusal(xen.api.VM.snapshot_with_quiesce, xen.vm("web"), "s") == ["MESSAGE_REMOVED"]


def test_a_checkpoint_keeps_the_memory(xen: Xen) -> None:
    vm = xen.vm("web")
    point = xen.api.VM.checkpoint(vm, "c")
    assert xen.api.VM.get_power_state(point) == "Suspended"
    assert xen.api.VDI.get_type(xen.api.VM.get_suspend_VDI(point)) == "suspend"
    assert xen.api.VM.get_power_state(vm) == "Running"
    xen.api.VM.hard_shutdown(point)
    xen.api.VM.destroy(point)
    xen.api.VM.hard_shutdown(vm)
    assert refusal(xen.api.VM.checkpoint, vm, "c")[0] == "VM_BAD_POWER_STATE"


def test_destroying_a_snapshot_leaves_its_disks_which_go_one_by_one(xen: Xen) -> None:
    vm = xen.vm("web")
    disks_before = sorted(xen.api.VDI.get_all())
    counts = [len(getattr(xen.api, name).get_all()) for name in ("VM", "VBD", "VIF")]
    snapshot = xen.api.VM.snapshot(vm, "s")
    frozen = xen.disks(snapshot)
    xen.api.VM.destroy(snapshot)
    assert [len(getattr(xen.api, name).get_all()) for name in ("VM", "VBD", "VIF")] == counts
    assert all(xen.api.VDI.get_record(disk)["VBDs"] == [] for disk in frozen)
    assert xen.api.VM.get_parent(vm) == "OpaqueRef:NULL"
    for disk in frozen:
        xen.api.VDI.destroy(disk)
    end = time.monotonic() + 30
    while sorted(xen.api.VDI.get_all()) != disks_before:
        assert time.monotonic() < end, "the storage does not coalesce"
        time.sleep(0.01)
    assert all("vhd-parent" not in xen.api.VDI.get_sm_config(d) for d in disks_before)


def test_a_vm_goes_back_to_its_snapshot(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    lab.pool.write("web", 0, 0, b"before")
    snapshot = xen.api.VM.snapshot(vm, "s")
    lab.pool.write("web", 0, 0, b"after!")
    later = xen.api.VM.snapshot(vm, "later")
    xen.api.VM.revert(snapshot)
    assert lab.pool.disk_of("web", 0).read(0, 6) == b"before"
    for frozen in (snapshot, later):
        sources = [xen.api.VDI.get_snapshot_of(disk) for disk in xen.disks(frozen)]
        assert sources == xen.disks(vm)
    assert xen.api.VM.get_power_state(vm) == "Halted"
    assert refusal(xen.api.VM.revert, vm)[0] == "REVERT_ONLY_ALLOWED_ON_SNAPSHOT"


def test_a_clone_gets_new_addresses_and_shares_its_disks(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("db")
    assert refusal(xen.api.VM.clone, vm, "copy")[0] == "VM_BAD_POWER_STATE"
    lab.pool.write("db", 0, 100, b"shared")
    xen.api.VM.hard_shutdown(vm)
    clone = xen.api.VM.clone(vm, "copy")
    record, source = xen.api.VM.get_record(clone), xen.api.VM.get_record(vm)
    assert not record["is_a_snapshot"]
    assert record["snapshot_of"] == "OpaqueRef:NULL"
    assert record["other_config"]["mac_seed"] != source["other_config"]["mac_seed"]
    assert record["other_config"]["base_template_name"] == "Other install media"
    macs = {xen.api.VIF.get_MAC(vif) for v in (vm, clone) for vif in xen.api.VM.get_VIFs(v)}
    assert len(macs) == 2
    assert lab.pool.disk_of("copy", 0).read(100, 6) == b"shared"
    lab.pool.write("copy", 0, 100, b"mine!!")
    assert lab.pool.disk_of("db", 0).read(100, 6) == b"shared"
    assert not xen.api.VDI.get_is_a_snapshot(xen.disks(clone)[0])


def test_the_clone_of_a_template_is_provisioned_into_a_vm(xen: Xen) -> None:
    vm = xen.vm("db")
    xen.api.VM.hard_shutdown(vm)
    xen.api.VM.set_is_a_template(vm, True)
    clone = xen.api.VM.clone(vm, "appliance")
    assert xen.api.VM.get_is_a_template(clone)
    xen.api.VM.provision(clone)
    assert not xen.api.VM.get_is_a_template(clone)
    assert refusal(xen.api.VM.provision, clone) == ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]
    xen.api.VM.start(clone, False, False)


# -- drives and cards ------------------------------------------------------------------------------


def test_a_snapshot_disk_is_attached_to_a_running_appliance(xen: Xen) -> None:
    snapshot = xen.api.VM.snapshot(xen.vm("web"), "s")
    disk, appliance = xen.disks(snapshot)[0], xen.vm("db")
    vbd = xen.new_vbd(appliance, disk)
    assert xen.api.VBD.get_userdevice(vbd) == "1"
    assert "plug" in xen.api.VBD.get_allowed_operations(vbd)
    xen.api.VBD.plug(vbd)
    assert xen.api.VBD.get_device(vbd) == "xvdb"
    assert refusal(xen.api.VBD.plug, vbd) == ["DEVICE_ALREADY_ATTACHED", vbd]
    uuid, owner = xen.api.VBD.get_uuid(vbd), xen.api.VM.get_uuid(appliance)
    still = ["OPERATION_NOT_ALLOWED", f"VBD '{uuid}' still attached to '{owner}'"]
    assert refusal(xen.api.VBD.destroy, vbd) == still
    xen.api.VM.destroy(snapshot)
    assert refusal(xen.api.VDI.destroy, disk) == ["VDI_IN_USE", disk, "destroy"]
    xen.api.VBD.unplug(vbd)
    assert refusal(xen.api.VBD.unplug, vbd) == ["DEVICE_ALREADY_DETACHED", vbd]
    xen.api.VBD.destroy(vbd)
    xen.api.VDI.destroy(disk)


def test_a_disk_in_use_for_writing_is_attached_nowhere_else(xen: Xen) -> None:
    disk, appliance = xen.disks(xen.vm("web"))[0], xen.vm("db")
    vbd = xen.new_vbd(appliance, disk)
    assert refusal(xen.api.VBD.plug, vbd)[:2] == ["VDI_IN_USE", disk]


def test_an_hvm_guest_takes_no_read_only_disk(xen: Xen) -> None:
    vbd = xen.new_vbd(xen.vm("web"), xen.new_disk(), mode="RO")
    assert refusal(xen.api.VBD.plug, vbd) == ["DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd]


def test_a_guest_without_tools_takes_no_disk_while_it_runs(xen: Xen) -> None:
    vm = xen.vm("web")
    xen.api.VM.hard_shutdown(vm)
    xen.api.VM.add_to_other_config(vm, "lab:no-tools", "true")
    xen.api.VM.start(vm, False, False)
    assert refusal(xen.api.VBD.plug, xen.new_vbd(vm, xen.new_disk())) == [
        "VM_MISSING_PV_DRIVERS",
        vm,
    ]


def test_a_taken_device_number_is_refused(xen: Xen) -> None:
    vm, disk = xen.vm("web"), xen.new_disk()
    with pytest.raises(XenAPI.Failure, match="DEVICE_ALREADY_EXISTS"):
        xen.new_vbd(vm, disk, userdevice="0")
    assert xen.api.VBD.get_userdevice(xen.new_vbd(vm, disk, userdevice="xvdd")) == "3"


def test_a_drive_that_is_held_lets_go_by_force(lab: LabServer, xen: Xen) -> None:
    vbd = xen.new_vbd(xen.vm("web"), xen.new_disk())
    xen.api.VBD.plug(vbd)
    lab.pool.faults.hold_vbd(vbd, times=2)
    for _ in range(2):
        assert refusal(xen.api.VBD.unplug, vbd)[:3] == ["DEVICE_DETACH_REJECTED", "VBD", vbd]
    xen.api.VBD.unplug_force(vbd)
    assert not xen.api.VBD.get_currently_attached(vbd)


def card(vm: str, network: str, **fields: Any) -> dict[str, Any]:
    record = {"VM": vm, "network": network, "device": "1", "MAC": "", "MTU": "1500"}
    rest = {"other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    return record | rest | fields


def test_a_card_gets_its_address_and_network(xen: Xen) -> None:
    vm, network = xen.vm("web"), xen.api.network.get_all()[0]
    vif = xen.api.VIF.create(card(vm, network))
    assert int(xen.api.VIF.get_MAC(vif)[:2], 16) & 3 == 2
    assert xen.api.VIF.get_MAC_autogenerated(vif)
    assert refusal(xen.api.VIF.create, card(vm, network)) == ["DEVICE_ALREADY_EXISTS", "1"]
    bad = card(vm, network, device="2", MAC="not a mac")
    assert refusal(xen.api.VIF.create, bad) == ["MAC_INVALID", "not a mac"]
    assert vif in xen.api.network.get_VIFs(network)
    xen.api.VIF.destroy(vif)


def test_guest_data_reaches_the_guest_as_the_server_lets_it(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    xen.api.VM.set_xenstore_data(vm, {"vm-data/ip": "192.0.2.9", "other": "dropped"})
    assert xen.api.VM.get_xenstore_data(vm) == {"vm-data/ip": "192.0.2.9"}
    assert lab.pool.guest_store[vm]["vm-data/ip"] == "192.0.2.9"
    assert lab.pool.guest_store[vm]["vm"] == xen.api.VM.get_uuid(vm)
    xen.api.VM.add_to_xenstore_data(vm, "vm-data/gw", "192.0.2.1")
    assert "vm-data/gw" not in lab.pool.guest_store[vm]
    xen.api.VM.clean_reboot(vm)
    assert lab.pool.guest_store[vm]["vm-data/gw"] == "192.0.2.1"
    lab.pool.guest_writes_store(vm, "vm-data/assigned-ip", "192.0.2.9")
    assert xen.api.VM.get_xenstore_data(vm)["vm-data/assigned-ip"] == "192.0.2.9"


def test_a_vm_is_created_from_a_record_without_disks(xen: Xen) -> None:
    record = xen.api.VM.get_record(xen.vm("web"))
    record |= {"name_label": "again", "blocked_operations": {"start": "importing"}}
    made = xen.api.VM.create(record)
    fresh = xen.api.VM.get_record(made)
    assert fresh["uuid"] != record["uuid"]
    assert fresh["power_state"] == "Halted"
    assert fresh["VBDs"] == fresh["VIFs"] == []
    assert refusal(xen.api.VM.start, made, False, False) == ["OPERATION_BLOCKED", made, "importing"]
    del record["memory_static_max"]
    assert refusal(xen.api.VM.create, record)[0] == "INTERNAL_ERROR"


def test_new_disks_are_rounded_up_and_grow(xen: Xen) -> None:
    disk = xen.new_disk(1)
    assert xen.api.VDI.get_virtual_size(disk) == str(2 << 20)
    xen.api.VDI.resize(disk, str((4 << 20) + 1))
    assert xen.api.VDI.get_virtual_size(disk) == str(6 << 20)
    assert refusal(xen.api.VDI.resize, disk, "1")[0] == "SR_BACKEND_FAILURE_79"


def test_writing_takes_up_space_on_the_storage(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    sr, disk = xen.api.VDI.get_SR(xen.disks(vm)[0]), xen.disks(vm)[0]
    before = int(xen.api.SR.get_physical_utilisation(sr))
    lab.pool.write("web", 0, 1, b"x" * (2 << 20))
    assert int(xen.api.VDI.get_physical_utilisation(disk)) == 4 << 20
    assert int(xen.api.SR.get_physical_utilisation(sr)) == before + (4 << 20)


def test_a_full_storage_refuses_snapshots(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    sr = xen.api.VDI.get_SR(xen.disks(vm)[0])
    lab.pool.write("web", 0, 0, b"x" * (2 << 20))
    lab.pool.db.put("SR", sr, physical_size=2 << 20)
    assert refusal(xen.api.VM.snapshot, vm, "s")[0] == "SR_BACKEND_FAILURE_44"


def test_detached_storage_refuses_everything(xen: Xen) -> None:
    vm = xen.vm("web")
    sr = xen.api.VDI.get_SR(xen.disks(vm)[0])
    pbd = xen.api.SR.get_PBDs(sr)[0]
    assert refusal(xen.api.PBD.unplug, pbd)[0] == "VDI_IN_USE"
    for name in ("web", "db"):
        xen.api.VM.hard_shutdown(xen.vm(name))
    xen.api.PBD.unplug(pbd)
    assert refusal(xen.api.VM.snapshot, vm, "s") == ["SR_NOT_ATTACHED", sr]
    assert refusal(xen.api.VM.start, vm, False, False) == ["NO_HOSTS_AVAILABLE"]


def test_a_chain_that_is_too_long_is_refused(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("db")
    for number in range(29):
        xen.api.VM.snapshot(vm, f"s{number}")
    assert refusal(xen.api.VM.snapshot, vm, "one more")[0] == "SR_BACKEND_FAILURE_109"
    for snapshot in xen.api.VM.get_snapshots(vm):
        (disk,) = xen.disks(snapshot)
        xen.api.VM.destroy(snapshot)
        xen.api.VDI.destroy(disk)
    lab.pool.coalesce(lab.pool.default_sr())
    xen.api.VM.snapshot(vm, "room again")


def test_an_old_host_quiesces_and_knows_no_ignored_disks() -> None:
    pool = Pool(Settings(old_host=True))
    pool.add_vm("web", [1 << 20])
    with LabServer(pool) as lab:
        xen = Xen(lab)
        vm = xen.vm("web")
        assert "snapshot_with_quiesce" in xen.api.VM.get_allowed_operations(vm)
        snapshot = xen.api.VM.snapshot_with_quiesce(vm, "q")
        assert xen.api.VM.get_snapshot_info(snapshot)["disk-snapshot-type"] == "quiesced"
        drive = xen.new_vbd(vm, "OpaqueRef:NULL", type="CD", mode="RO", empty=True)
        assert xen.api.VBD.get_VDI(drive) == xen.api.VBD.get_record(drive)["VDI"] == ""
        mismatch = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.snapshot", "2", "3"]
        assert refusal(xen.api.VM.snapshot, vm, "s", []) == mismatch
        xen.api.VM.hard_shutdown(vm)
        assert "snapshot_with_quiesce" not in xen.api.VM.get_allowed_operations(vm)
        assert refusal(xen.api.VM.snapshot_with_quiesce, vm, "q")[0] == "VM_BAD_POWER_STATE"


def test_a_guest_reports_its_addresses(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    lab.pool.guest_reports(vm, {"0/ip": "192.0.2.4"})
    metrics = xen.api.VM.get_guest_metrics(vm)
    assert xen.api.VM_guest_metrics.get_networks(metrics) == {"0/ip": "192.0.2.4"}

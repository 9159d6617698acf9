"""VBD.*: disks in VMs."""

from lab.behaviours.common import attached_elsewhere, device_name, device_number
from lab.calls import Call
from lab.failures import XapiFailure, not_allowed
from lab.registry import message
from lab.wire.values import NULL, Value, is_null

DEVICES = 255
ATTACHING_STATES = ("Running", "Paused")


def free_devices(call: Call, vm: str) -> list[str]:
    """Device numbers no VBD of the VM has, lowest first."""
    taken = {
        device_number(call.db.get("VBD", vbd, "userdevice"))
        for vbd in call.db.get("VM", vm, "VBDs")
    }
    return [str(number) for number in range(DEVICES) if number not in taken]


@message("VBD.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Give a VM a drive; nothing is attached yet."""
    vm, vdi = fields["VM"], fields["VDI"]
    with call.db.lock:
        call.db.row("VM", vm)
        if fields["empty"]:
            if fields["type"] != "CD":
                raise XapiFailure("VBD_NOT_REMOVABLE_MEDIA", "")
            fields["VDI"] = NULL
        else:
            _refuse_disk(call, vdi, fields)
        wanted = str(fields["userdevice"])
        free = free_devices(call, vm)
        if wanted == "autodetect":
            wanted = free[0]
        elif str(device_number(wanted)) not in free:
            known = 0 <= device_number(wanted) < DEVICES
            raise XapiFailure("DEVICE_ALREADY_EXISTS" if known else "INVALID_DEVICE", wanted)
        # Clients name a device as a number or as a guest sees it; the number is what is stored.
        fields["userdevice"] = str(device_number(wanted))
        fields["currently_attached"] = False
        fields["device"] = ""
        return call.db.create("VBD", **fields)


def _refuse_disk(call: Call, vdi: str, fields: dict[str, Value]) -> None:
    record = call.db.record("VDI", vdi)
    if record["type"] == "cbt_metadata":
        raise XapiFailure("VDI_INCOMPATIBLE_TYPE", vdi, record["type"])
    if not record["managed"]:
        raise XapiFailure("VDI_NOT_MANAGED", vdi)
    if record["read_only"] and fields["mode"] == "RW" and fields["type"] == "Disk":
        raise XapiFailure("VDI_READONLY", vdi)


@message("VBD.destroy")
def destroy(call: Call, vbd: str) -> None:
    """Take a drive out of a VM's record; it must not be attached."""
    with call.db.lock:
        record = call.db.record("VBD", vbd)
        if record["currently_attached"]:
            vm = call.db.get("VM", record["VM"], "uuid")
            raise not_allowed(f"VBD '{record['uuid']}' still attached to '{vm}'")
        call.db.destroy("VBD", vbd)
        call.db.touch("VDI", record["VDI"])


@message("VBD.assert_attachable")
def assert_attachable(call: Call, vbd: str) -> None:
    """Say whether plugging could work."""
    record = call.db.record("VBD", vbd)
    if record["empty"]:
        return
    vdi = record["VDI"]
    call.storage.require_storage(call.db.get("VDI", vdi, "SR"))
    if attached_elsewhere(call, vdi, writing=record["mode"] == "RW"):
        raise XapiFailure("VDI_IN_USE", vdi, "attach")


@message("VBD.plug")
def plug(call: Call, vbd: str) -> None:
    """Attach a drive to a running VM."""
    with call.operation("VBD", vbd, "plug"):
        with call.db.lock:
            _refuse_plug(call, vbd)
            attach(call, vbd)
        call.pool.guests.plugged(vbd)


def _refuse_plug(call: Call, vbd: str) -> None:
    record = call.db.record("VBD", vbd)
    vm = call.db.record("VM", record["VM"])
    if record["currently_attached"]:
        raise XapiFailure("DEVICE_ALREADY_ATTACHED", vbd)
    if vm["power_state"] not in ATTACHING_STATES:
        actual = vm["power_state"].lower()
        raise XapiFailure("VM_BAD_POWER_STATE", record["VM"], "running, paused", actual)
    read_only_disk = record["type"] == "Disk" and record["mode"] == "RO"
    if read_only_disk and vm["HVM_boot_policy"] and not vm["is_control_domain"]:
        raise XapiFailure("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd)
    if not vm["is_control_domain"]:
        _refuse_without_hotplug(call, record["VM"], vm)
        assert_attachable(call, vbd)


def _refuse_without_hotplug(call: Call, ref: str, vm: dict[str, Value]) -> None:
    metrics = vm["guest_metrics"]
    if is_null(metrics):
        raise XapiFailure("VM_MISSING_PV_DRIVERS", ref)
    if call.db.get("VM_guest_metrics", metrics, "can_use_hotplug_vbd") == "no":
        raise not_allowed("VM states it does not support VBD hotplug.")


def attach(call: Call, vbd: str) -> None:
    """Mark a drive as attached and give it the name the guest sees."""
    record = call.db.record("VBD", vbd)
    name = device_name(device_number(record["userdevice"]))
    call.db.put("VBD", vbd, currently_attached=True, device=name)
    call.db.touch("VDI", record["VDI"])


def detach(call: Call, vbd: str) -> None:
    """Mark a drive as not attached."""
    call.db.put("VBD", vbd, currently_attached=False)
    call.pool.guests.unplugged(vbd)
    call.db.touch("VDI", call.db.get("VBD", vbd, "VDI"))


@message("VBD.unplug", "VBD.unplug_force", "VBD.unplug_force_no_safety_check")
def unplug(call: Call, vbd: str) -> None:
    """Detach a drive; the polite form fails while the guest holds on to it."""
    force = call.name != "VBD.unplug"
    with call.operation("VBD", vbd, "unplug_force" if force else "unplug"), call.db.lock:
        record = call.db.record("VBD", vbd)
        if not record["currently_attached"]:
            if force:
                return
            raise XapiFailure("DEVICE_ALREADY_DETACHED", vbd)
        if not record["unpluggable"]:
            raise XapiFailure("VBD_NOT_UNPLUGGABLE", vbd)
        call.pool.faults.refuse_unplug(vbd, force=force)
        detach(call, vbd)

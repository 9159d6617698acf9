# ruff: noqa: FBT001 - the order and the booleans are those of the API
"""VM records: creation, destruction, provisioning."""

from xml.etree import ElementTree

from lab.behaviours.common import refuse_blocked, require_power
from lab.behaviours.vdi import ROUNDING_BYTES
from lab.calls import Call
from lab.failures import XapiFailure, not_allowed
from lab.registry import message
from lab.storage.disk import Disk
from lab.wire.values import NULL, Value, date_of, is_null

CREATABLE_STATES = ("Halted", "Suspended")


@message("VM.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Make a VM without disks; what runtime fields a caller sends is not taken over."""
    state = fields.pop("power_state", "Halted")
    suspended = state == "Suspended" and not is_null(fields.get("suspend_VDI", NULL))
    _check_memory(fields)
    return call.pool.add_vm_record(**fields, power_state="Suspended" if suspended else "Halted")


def _check_memory(fields: dict[str, Value]) -> None:
    steps = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    sizes = [int(fields[step]) for step in steps]
    if sizes != sorted(sizes):
        raise XapiFailure(
            "MEMORY_CONSTRAINT_VIOLATION",
            "static_min <= dynamic_min <= dynamic_max <= static_max",
        )


@message("VM.destroy")
def destroy(call: Call, vm: str) -> None:
    """Remove a VM with its VBDs and VIFs; its disks stay."""
    refuse_blocked(call, vm, "destroy")
    record = call.db.record("VM", vm)
    if record["is_control_domain"]:
        raise not_allowed("you cannot destroy a control domain")
    if record["is_default_template"]:
        raise XapiFailure("VM_CANNOT_DELETE_DEFAULT_TEMPLATE", vm)
    with call.operation("VM", vm, "destroy"), call.db.lock:
        require_power(call, vm, "Halted", "Suspended")
        call.pool.drop_vm(vm)


@message("VM.provision")
def provision(call: Call, vm: str) -> None:
    """Turn the clone of a template into a VM, with the disks its `other_config` asks for."""
    refuse_blocked(call, vm, "provision")
    if not call.db.get("VM", vm, "is_a_template"):
        raise XapiFailure("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    with call.operation("VM", vm, "provision"):
        require_power(call, vm, "Halted")
        _make_disks(call, vm, call.db.get("VM", vm, "other_config").get("disks", ""))
        call.db.put("VM", vm, is_a_template=False)
        call.db.drop_pair("VM", vm, "other_config", "disks")


def _make_disks(call: Call, vm: str, wanted: str) -> None:
    """Make what `<provision><disk device="0" size="1" sr="" bootable="true" .../>` describes."""
    if not wanted:
        return
    try:
        disks = [dict(disk.attrib) for disk in ElementTree.fromstring(wanted).iter("disk")]
    except ElementTree.ParseError as cause:
        raise XapiFailure("INTERNAL_ERROR", f"other_config disks: {cause}") from cause
    for disk in disks:
        sr = call.db.by_uuid("SR", disk["sr"]) if disk.get("sr") else call.pool.default_sr()
        call.pool.require_storage(sr)
        size = -(-int(disk["size"]) // ROUNDING_BYTES) * ROUNDING_BYTES
        label = f"{call.db.get('VM', vm, 'name_label')} {disk['device']}"
        vdi = call.pool.add_vdi(Disk.empty(size, call.pool.folder), SR=sr, name_label=label)
        call.db.create(
            "VBD",
            VM=vm,
            VDI=vdi,
            userdevice=disk["device"],
            bootable=disk.get("bootable") == "true",
            mode="RW",
            type="Disk",
            other_config={"owner": "true"},
        )


@message("VM.set_is_a_template")
def set_is_a_template(call: Call, vm: str, value: bool) -> None:
    """Turn a VM into a template or back; a template is no longer a default one."""
    refuse_blocked(call, vm, "make_into_template")
    require_power(call, vm, "Halted", "Suspended")
    if not value:
        call.db.put("VM", vm, is_default_template=False)
    call.db.put("VM", vm, is_a_template=value)


@message("VM.set_is_default_template")
def set_is_default_template(call: Call, vm: str, value: bool) -> None:
    """Turn a VM into a default template or back."""
    call.db.put("VM", vm, is_default_template=value, is_a_template=True)


@message("VM.update_snapshot_metadata")
def update_snapshot_metadata(
    call: Call, vm: str, snapshot_of: str, snapshot_time: str, transportable_snapshot_id: str
) -> None:
    """Declare a VM to be a snapshot of another."""
    call.db.put(
        "VM",
        vm,
        is_a_snapshot=True,
        is_a_template=True,
        snapshot_of=snapshot_of,
        snapshot_time=snapshot_time,
        transportable_snapshot_id=transportable_snapshot_id,
    )


@message("VM.get_SRs_required_for_recovery")
def get_required_srs(call: Call, vm: str, session_to: str) -> Value:
    """The SRs of the VM's disks."""
    del session_to
    with call.db.lock:
        disks = [call.db.get("VBD", vbd, "VDI") for vbd in call.db.get("VM", vm, "VBDs")]
        return sorted({call.db.get("VDI", d, "SR") for d in disks if not is_null(d)})


@message("VM.create_new_blob", "SR.create_new_blob", "network.create_new_blob")
@message("pool.create_new_blob", "host.create_new_blob")
def create_new_blob(call: Call, owner: str, name: str, mime_type: str, public: bool) -> str:
    """Make an empty blob that belongs to an object."""
    blob = create_blob(call, mime_type, public)
    call.db.set_pair(call.name.split(".")[0], owner, "blobs", name, blob)
    call.db.put("blob", blob, name_label=name)
    return blob


@message("blob.create")
def create_blob(call: Call, mime_type: str, public: bool) -> str:
    """Make an empty blob."""
    now = date_of(call.pool.settings.now())
    return call.db.create("blob", mime_type=mime_type, public=public, last_updated=now)

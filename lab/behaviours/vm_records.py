# ruff: noqa: FBT001 - the order and the booleans are those of the API
"""VM records: creation, destruction, provisioning."""

from lab.behaviours.common import refuse_blocked, require_power
from lab.calls import Call
from lab.failures import XapiFailure, not_allowed
from lab.registry import message
from lab.wire.values import NULL, Value, is_null


@message("VM.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Make a VM without disks; what runtime fields a caller sends is not taken over."""
    state = fields.pop("power_state", "Halted")
    suspended = state == "Suspended" and not is_null(fields.get("suspend_VDI", NULL))
    _check_memory(fields)
    return call.machines.add_vm_record(**fields, power_state="Suspended" if suspended else "Halted")


def _check_memory(fields: dict[str, Value]) -> None:
    steps = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    sizes = [int(fields[step]) for step in steps]
    if sizes != sorted(sizes):
        raise XapiFailure(
            "MEMORY_CONSTRAINT_VIOLATION", "static_min <= dynamic_min <= dynamic_max <= static_max"
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
        call.machines.drop_vm(vm)


@message("VM.provision")
def provision(call: Call, vm: str) -> None:
    """Turn the clone of a template into a VM; disks that `other_config` asks for are not made."""
    refuse_blocked(call, vm, "provision")
    if not call.db.get("VM", vm, "is_a_template"):
        raise XapiFailure("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    with call.operation("VM", vm, "provision"):
        require_power(call, vm, "Halted")
        call.db.put("VM", vm, is_a_template=False)
        call.db.drop_pair("VM", vm, "other_config", "disks")


@message("VM.set_is_a_template")
def set_is_a_template(call: Call, vm: str, value: bool) -> None:
    """Turn a VM into a template or back; a template is no longer a default one."""
    refuse_blocked(call, vm, "make_into_template")
    require_power(call, vm, "Halted", "Suspended")
    if not value:
        call.db.put("VM", vm, is_default_template=False)
    call.db.put("VM", vm, is_a_template=value)

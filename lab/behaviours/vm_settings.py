# ruff: noqa: FBT001 - the order and the booleans are those of the API
"""VM settings that are more than a field, and what concerns the guest."""

from lab.behaviours.common import require_power
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value, is_null

GUEST_PREFIXES = ("vm-data/", "FIST/")


@message("VM.set_xenstore_data")
def set_xenstore_data(call: Call, vm: str, value: dict[str, str]) -> None:
    """Replace the map; a running guest sees the keys that start with `vm-data/` at once."""
    kept = {k: v for k, v in value.items() if k.startswith(GUEST_PREFIXES)}
    call.db.put("VM", vm, xenstore_data=kept)
    if call.db.get("VM", vm, "power_state") == "Running":
        call.pool.publish_to_guest(vm)


@message("VM.set_memory_limits")
def set_memory_limits(
    call: Call, vm: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    """Set all four memory limits."""
    require_power(call, vm, "Halted")
    if not static_min <= dynamic_min <= dynamic_max <= static_max:
        raise XapiFailure(
            "MEMORY_CONSTRAINT_VIOLATION",
            "static_min <= dynamic_min <= dynamic_max <= static_max",
        )
    call.db.put(
        "VM",
        vm,
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=dynamic_min,
        memory_dynamic_max=dynamic_max,
        memory_target=dynamic_max,
    )


@message("VM.set_memory")
def set_memory(call: Call, vm: str, value: int) -> None:
    """Give the VM this much memory, no more and no less."""
    least = call.db.get("VM", vm, "memory_static_min")
    set_memory_limits(call, vm, min(least, value), value, value, value)


@message("VM.set_memory_dynamic_range", "VM.set_memory_static_range")
def set_memory_range(call: Call, vm: str, low: int, high: int) -> None:
    """Set two of the memory limits."""
    kind = call.name.split("_")[2]
    call.db.put("VM", vm, **{f"memory_{kind}_min": low, f"memory_{kind}_max": high})


@message("VM.set_VCPUs_number_live")
def set_vcpus_live(call: Call, vm: str, nvcpu: int) -> None:
    """Change the number of processors of a running VM."""
    require_power(call, vm, "Running")
    call.db.put("VM", vm, VCPUs_at_startup=nvcpu)


@message("VM.query_services")
def query_services(call: Call, vm: str) -> Value:
    """Ask the VM for services it offers: none."""
    call.db.row("VM", vm)
    return {}


@message("VM.call_plugin")
def call_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Run a plug-in in the guest: the guests here have none."""
    del plugin, fn, args
    require_power(call, vm, "Running")
    raise XapiFailure("XENAPI_MISSING_PLUGIN", "guest-agent-operation")


@message("VM.get_secureboot_readiness")
def get_secureboot_readiness(call: Call, vm: str) -> str:
    """Whether the VM could boot securely."""
    call.db.row("VM", vm)
    return "not_supported"


@message("VM.set_suspend_VDI")
def set_suspend_vdi(call: Call, vm: str, value: str) -> None:
    """Exchange the suspend image of a suspended VM."""
    require_power(call, vm, "Suspended")
    if is_null(value):
        raise XapiFailure("HANDLE_INVALID", "VDI", value)
    call.db.put("VM", vm, suspend_VDI=value)


@message("VTPM.create")
def create_vtpm(call: Call, vm: str, is_unique: bool) -> str:
    """Give a halted VM a virtual TPM; it can have one."""
    require_power(call, vm, "Halted")
    held = call.db.get("VM", vm, "VTPMs")
    if held:
        raise XapiFailure("VTPM_MAX_AMOUNT_REACHED", "1")
    return call.db.create("VTPM", VM=vm, is_unique=is_unique)


@message("VTPM.get_contents", "VTPM.set_contents")
def vtpm_contents(call: Call, vtpm: str, *contents: str) -> str:
    """Read or write what a virtual TPM holds."""
    if contents:
        call.pool.vtpm_contents[vtpm] = contents[0]
        return ""
    return call.pool.vtpm_contents.get(vtpm, "")

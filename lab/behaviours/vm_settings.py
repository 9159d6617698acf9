"""VM settings that are more than a field, and what concerns the guest."""

from lab.behaviours.common import require_power
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message

GUEST_PREFIXES = ("vm-data/", "FIST/")


@message("VM.set_xenstore_data")
def set_xenstore_data(call: Call, vm: str, value: dict[str, str]) -> None:
    """Replace the map; a running guest sees the keys that start with `vm-data/` at once."""
    kept = {k: v for k, v in value.items() if k.startswith(GUEST_PREFIXES)}
    call.db.put("VM", vm, xenstore_data=kept)
    if call.db.get("VM", vm, "power_state") == "Running":
        call.machines.publish_to_guest(vm)


@message("VM.set_memory_limits")
def set_memory_limits(
    call: Call, vm: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    """Set all four memory limits."""
    require_power(call, vm, "Halted")
    if not static_min <= dynamic_min <= dynamic_max <= static_max:
        raise XapiFailure(
            "MEMORY_CONSTRAINT_VIOLATION", "static_min <= dynamic_min <= dynamic_max <= static_max"
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


@message("VM.set_memory_dynamic_range", "VM.set_memory_static_range")
def set_memory_range(call: Call, vm: str, low: int, high: int) -> None:
    """Set two of the memory limits."""
    kind = call.name.split("_")[2]
    call.db.put("VM", vm, **{f"memory_{kind}_min": low, f"memory_{kind}_max": high})

"""VM settings that are more than a field, and what concerns the guest."""

from lab.calls import Call
from lab.registry import message

GUEST_PREFIXES = ("vm-data/", "FIST/")


@message("VM.set_xenstore_data")
def set_xenstore_data(call: Call, vm: str, value: dict[str, str]) -> None:
    """Replace the map; a running guest sees the keys that start with `vm-data/` at once."""
    kept = {k: v for k, v in value.items() if k.startswith(GUEST_PREFIXES)}
    call.db.put("VM", vm, xenstore_data=kept)
    if call.db.get("VM", vm, "power_state") == "Running":
        call.machines.publish_to_guest(vm)

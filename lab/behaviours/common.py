"""Checks and small steps that several families share."""

from lab.calls import Call
from lab.database import Database
from lab.failures import XapiFailure
from lab.wire.values import is_null


def the_pool(call: Call) -> str:
    """The one pool there is."""
    return call.db.refs("pool")[0]


def refuse_blocked(call: Call, vm: str, *operations: str) -> None:
    """Refuse an operation that the VM's `blocked_operations` name."""
    blocked = call.db.get("VM", vm, "blocked_operations")
    for operation in operations:
        if operation in blocked:
            raise XapiFailure("OPERATION_BLOCKED", vm, blocked[operation])


def require_power(call: Call, vm: str, *expected: str) -> str:
    """Refuse unless the VM is in one of these power states; returns the state."""
    actual = str(call.db.get("VM", vm, "power_state"))
    if actual not in expected:
        named = ", ".join(state.lower() for state in expected)
        raise XapiFailure("VM_BAD_POWER_STATE", vm, named, actual.lower())
    return actual


def disk_vbds(database: Database, vm: str) -> list[str]:
    """The VBDs of a VM that carry a disk, in the order of their device numbers."""
    found = [
        vbd
        for vbd in database.get("VM", vm, "VBDs")
        if database.get("VBD", vbd, "type") == "Disk"
        and not is_null(database.get("VBD", vbd, "VDI"))
    ]
    return sorted(found, key=lambda vbd: device_number(database.get("VBD", vbd, "userdevice")))


def device_number(userdevice: str) -> int:
    """Read `3`, `xvdd`, `hdd` or `sdd` as 3; -1 for anything else."""
    if userdevice.isdigit():
        return int(userdevice)
    if userdevice[:3] == "xvd" or userdevice[:2] in ("hd", "sd"):
        letters = userdevice.removeprefix("xvd").removeprefix("hd").removeprefix("sd")
        if letters.isalpha() and letters.islower():
            number = 0
            for letter in letters:
                number = number * 26 + ord(letter) - ord("a") + 1
            return number - 1
    return -1


def device_name(number: int) -> str:
    """Write 3 as `xvdd`, 26 as `xvdaa`."""
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"xvd{letters}"


def attached_elsewhere(call: Call, vdi: str, *, writing: bool) -> bool:
    """Say whether a guest's use of a disk rules out another one; control domains do not count."""
    for vbd in call.db.get("VDI", vdi, "VBDs"):
        record = call.db.record("VBD", vbd)
        if not record["currently_attached"] or call.db.get("VM", record["VM"], "is_control_domain"):
            continue
        if writing or record["mode"] == "RW":
            return True
    return False

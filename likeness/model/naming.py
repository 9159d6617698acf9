"""What the files of restored disks are called: by VM, date and disk, whoever restores."""

import re
from datetime import UTC, datetime

_UNFIT = re.compile(r"[^\w.-]+")
_MAX_BYTES = 100


def disk_file_name(vm_name: str, taken_at: datetime, position: str) -> str:
    """Such as ``web-2030-01-31-220000-disk0.raw``; fit for every file system.

    Args:
        vm_name: What its owner calls the VM; anything.
        taken_at: When its version was taken.
        position: Where the disk is plugged in, as XenServer numbers it, such as ``0``.
    """
    moment = taken_at.astimezone(UTC)
    return f"{fit_for_file(vm_name)}-{moment:%Y-%m-%d-%H%M%S}-disk{fit_for_file(position)}.raw"


def fit_for_file(name: str) -> str:
    """A name as part of a file's name: letters, digits, dots and dashes of any script."""
    kept = _UNFIT.sub("-", name).strip(".-")
    return kept.encode()[:_MAX_BYTES].decode(errors="ignore") or "unnamed"


def disk_label(position: str, name: str) -> str:
    """Such as ``disk 0 (system)``: how a disk is named to people, here and on the command line."""
    return f"disk {position} ({name})" if name else f"disk {position}"

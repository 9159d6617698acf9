"""What XenServer refuses, put in words, and whether another attempt can help.

This is the only place that knows XenServer's error codes by their meaning. Inside this package a
refusal travels as `Refusal`, so that callers can react to its code; on the way out `explained`
turns it into a sentence that names the VM, the cause and the next step.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from likeness.errors import (
    HostBusy,
    HostRefused,
    LikenessError,
    LoginRefused,
    PermanentError,
    TransferBroken,
)


class Refusal(PermanentError):
    """XenServer's answer was an error; inside `likeness.xen` only.

    Attributes:
        code: XenServer's error code, such as ``VDI_IN_USE``.
        details: What came with it; object references among them are shortened.
        method: The call that was refused.
    """

    def __init__(self, code: str, details: Sequence[str], *, method: str) -> None:
        self.code, self.method = code, method
        self.details = tuple(shortened(str(detail)) for detail in details)
        said = ", ".join(detail for detail in self.details if detail)
        super().__init__(f"{method}: {code}" + (f" ({said})" if said else ""))


class Overdue(HostBusy):
    """The pool had not done something when its time was up; inside `likeness.xen` only."""


def shortened(detail: str) -> str:
    """A parameter as it may be shown: no session, no long reference."""
    if detail.startswith("OpaqueRef:"):
        return detail[:18]
    return detail if len(detail) <= 300 else detail[:300] + "..."


GONE = frozenset({"HANDLE_INVALID", "UUID_INVALID", "VDI_MISSING"})
"""The object does not exist any more; whoever wanted it deleted has what they wanted."""

NOT_OFFERED = frozenset(
    {
        "SR_OPERATION_NOT_SUPPORTED",
        "LICENCE_RESTRICTION",
        "MESSAGE_METHOD_UNKNOWN",
        "MESSAGE_REMOVED",
        "MESSAGE_DEPRECATED",
        "FEATURE_RESTRICTED",
    }
)
"""This host, storage or licence does not have the feature: use the lesser method."""

NO_CHANGED_BLOCKS = frozenset(
    {
        "VDI_NO_CBT_METADATA",
        "VDI_INCOMPATIBLE_TYPE",
        "SR_BACKEND_FAILURE_457",
        "SR_BACKEND_FAILURE_458",
        "SR_BACKEND_FAILURE_459",
        "SR_BACKEND_FAILURE_460",
    }
)
"""The record of changed ranges cannot be used: read the whole disk and begin a new record."""

IN_USE = frozenset({"VDI_IN_USE", "OTHER_OPERATION_IN_PROGRESS", "DEVICE_ALREADY_ATTACHED"})
"""Something still holds the object; usually for seconds."""

# code -> (what is the matter, what to do next); {0} and so on are XenServer's own parameters.
_BUSY: dict[str, tuple[str, str]] = {
    "OTHER_OPERATION_IN_PROGRESS": (
        "another operation is under way on it ({2})",
        "run the job again when it is over",
    ),
    "HOST_STILL_BOOTING": ("the host is still starting", "try again in a few minutes"),
    "TOO_BUSY": ("the host has too much to do", "try again later"),
    "TOO_MANY_PENDING_TASKS": ("the pool has too many tasks waiting", "try again later"),
    "TOO_MANY_STORAGE_MIGRATES": ("too many storage migrations run", "wait for them to end"),
    "VDI_IN_USE": ("a disk is in use", "try again when nothing else reads it"),
    "HOST_OFFLINE": ("its host is offline", "bring the host back, or start the VM elsewhere"),
    "HOST_NOT_LIVE": ("its host does not answer the pool", "look at the host"),
    "CANNOT_CONTACT_HOST": ("the pool cannot reach its host", "look at the host's network"),
    "SR_BACKEND_FAILURE_46": ("the storage could not do it just now ({1})", "try again"),
    "SR_BACKEND_FAILURE_81": ("the storage could not do it just now ({1})", "try again"),
    "SR_BACKEND_FAILURE_82": ("the storage could not freeze a disk ({1})", "try again"),
    "SR_BACKEND_FAILURE_453": ("the storage could not do it just now ({1})", "try again"),
    "VDI_CBT_ENABLED": (
        "changed-block tracking is on and something needs it off",
        "a migration is probably under way; run the job again after it",
    ),
    "DEVICE_DETACH_REJECTED": ("the guest still uses a disk", "try again"),
    "DEVICE_DETACH_TIMEOUT": ("the guest did not let go of a disk", "try again"),
    "HOST_IS_SLAVE": ("the pool has a new coordinator", "try again"),
    "SESSION_INVALID": ("the session ended", "try again"),
}

_NO_SPACE = "free space on the storage, or use storage with room, then run it again"
_NO_SNAPSHOT = "change the disk, or leave it out of the job"

_REFUSED: dict[str, tuple[str, str]] = {
    "RBAC_PERMISSION_DENIED": (
        "the account lacks the right {0}",
        "give the account a role that has it, such as vm-power-admin",
    ),
    "OPERATION_NOT_ALLOWED": ("{0}", "clear that and run the job again"),
    "OPERATION_BLOCKED": (
        "the operation is blocked on purpose ({1})",
        "lift the block in the VM's settings, or leave the VM out of the job",
    ),
    "VM_BAD_POWER_STATE": (
        "the VM is {2}, and this needs it {1}",
        "bring it into that state or choose another snapshot mode",
    ),
    "SR_FULL": ("the storage is full", _NO_SPACE),
    "SR_BACKEND_FAILURE_44": ("the storage has no room ({1})", _NO_SPACE),
    "SR_BACKEND_FAILURE_180": ("the storage has no room ({1})", _NO_SPACE),
    "SR_BACKEND_FAILURE_109": (
        "a disk's snapshot chain is too long ({1})",
        "delete old snapshots, scan the storage and wait for it to coalesce",
    ),
    "SR_HAS_NO_PBDS": ("its storage is not attached to any host", "attach the storage"),
    "SR_NOT_ATTACHED": ("its storage is not attached", "attach the storage"),
    "VDI_NOT_MANAGED": ("a disk is not under XenServer's control", _NO_SNAPSHOT),
    "VDI_IS_SHARABLE": ("a disk is shared between VMs and cannot be frozen", _NO_SNAPSHOT),
    "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": (
        "a disk is thrown away at every start and cannot be frozen",
        _NO_SNAPSHOT,
    ),
    "VDI_IS_A_PHYSICAL_DEVICE": ("a disk is a physical device", _NO_SNAPSHOT),
    "VM_HAS_VUSBS": ("a USB device is plugged into the VM", "unplug it and run the job again"),
    "VM_IS_TEMPLATE": ("it is a template", "leave it out of the job"),
    "VM_IS_SNAPSHOT": ("it is a snapshot", "leave it out of the job"),
    "VM_SHUTDOWN_TIMEOUT": (
        "the guest did not shut down in time",
        "shut it down by hand, or choose another snapshot mode",
    ),
    "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT": (
        "the guest does not react to a shutdown",
        "look into the guest, or choose another snapshot mode",
    ),
    "VM_LACKS_FEATURE": (
        "the guest lacks the XenServer tools that this needs",
        "install them, or choose another snapshot mode",
    ),
    "VM_MISSING_PV_DRIVERS": ("the guest lacks the XenServer drivers", "install them"),
    "NO_HOSTS_AVAILABLE": ("no host of the pool can start it", "look at the pool's hosts"),
    "HOST_NOT_ENOUGH_FREE_MEMORY": ("no host has the memory for it", "free memory on a host"),
    "VM_REQUIRES_SR": ("no host sees both the VM and its storage", "attach the storage"),
    "VM_REQUIRES_NETWORK": ("no host sees the VM's network", "look at the pool's networks"),
    "SR_OPERATION_NOT_SUPPORTED": ("its storage cannot do that", "use another snapshot mode"),
    "LICENCE_RESTRICTION": ("the pool's licence does not include that ({0})", "change the licence"),
    "FEATURE_RESTRICTED": ("the pool's licence does not include that ({0})", "change the licence"),
    "MESSAGE_METHOD_UNKNOWN": ("this XenServer is too old for that ({0})", "update the pool"),
    "MESSAGE_REMOVED": ("this XenServer does not offer that any more", "use another snapshot mode"),
    "VDI_TOO_LARGE": ("a disk is larger than the format allows", "use the raw format"),
    "TASK_CANCELLED": ("somebody cancelled the task on the pool", "run the job again if need be"),
    "HANDLE_INVALID": ("the {0} it needs is gone", "look whether somebody deleted it"),
    "UUID_INVALID": ("the {0} it needs is gone", "look whether somebody deleted it"),
    "VDI_MISSING": ("a disk is missing from its storage", "scan the storage"),
    "DISK_VBD_MUST_BE_READWRITE_FOR_HVM": (
        "the guest takes no read-only disk",
        "attach it writable",
    ),
    "INTERNAL_ERROR": ("XenServer failed inside ({0})", "look at the host's xensource.log"),
}


def explain(refusal: Refusal, doing: str) -> LikenessError:
    """Put a refusal in words.

    Args:
        refusal: What XenServer said.
        doing: What was tried and on what, such as ``snapshot of VM web-1``.
    """
    code = refusal.code
    if code == "SESSION_AUTHENTICATION_FAILED":
        return LoginRefused(f"{doing}: XenServer does not accept the account; check its password")
    if code == "VDI_IO_ERROR":
        return TransferBroken(f"{doing}: the storage failed while moving data ({refusal})")
    if code in _BUSY:
        return HostBusy(_sentence(doing, refusal, *_BUSY[code]), code=code)
    if code in _REFUSED:
        return HostRefused(_sentence(doing, refusal, *_REFUSED[code]), code=code)
    return HostRefused(
        f"{doing}: XenServer refused with {refusal}; look at the host's xensource.log", code=code
    )


def _sentence(doing: str, refusal: Refusal, cause: str, then: str) -> str:
    return f"{doing}: {reason(refusal, cause)} [{refusal.code}]; {then}"


def reason(refusal: Refusal, cause: str = "") -> str:
    """Why XenServer refused, without what was tried and what to do next."""
    known = _BUSY.get(refusal.code) or _REFUSED.get(refusal.code)
    words = cause or (known[0] if known else str(refusal))
    for number in range(3):
        given = refusal.details[number] if number < len(refusal.details) else ""
        words = words.replace(f"{{{number}}}", given or "no details")
    return words


@contextmanager
def explained(doing: str) -> Generator[None, None, None]:
    """Turn a refusal inside the `with` into a sentence about what was tried.

    Raises:
        HostBusy: Trying again later may help.
        HostRefused: It will not.
        LoginRefused: The account lost its rights.
        TransferBroken: The storage failed while moving data.
    """
    try:
        yield
    except Refusal as refusal:
        raise explain(refusal, doing) from refusal
    except Overdue as late:
        raise HostBusy(
            f"{doing}: {late}; look at the pool's tasks for what holds it up, then run the job"
            " again"
        ) from late


@contextmanager
def suppress_gone() -> Generator[None, None, None]:
    """Leave the `with` quietly when the object it was about does not exist any more."""
    try:
        yield
    except Refusal as refusal:
        if refusal.code not in GONE:
            raise

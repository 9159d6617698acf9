"""Writing over the disks of a VM that is there: all of it, or it is again what it was.

Before anything is written the disks are frozen, the VM is marked, and blocked from starting.
Whatever goes wrong, `go_back` brings the frozen disks back, and what a run that was killed leaves
is brought back by the sweep, which finds the mark.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from likeness.errors import BadInput, HostRefused
from likeness.model.ids import RunId, is_name
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.dropping import drop_snapshot
from likeness.xen.failures import GONE, Refusal, explained
from likeness.xen.inventory import XenVm
from likeness.xen.marks import Owner
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import XenSnapshot
from likeness.xen.snapshots import take_snapshot
from likeness.xen.tasks import run_task

GO_BACK = "likeness:go-back"
"""On a VM that is being written over: installation, run, the VM itself, the snapshot of before."""

_WHOLE = "whole"
"""In place of the snapshot: nothing has to be brought back."""

_BLOCKED = "Likeness is restoring over this VM"
_STARTS = ("start", "start_on")
_REVERT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Promise:
    """That a VM will be what it was, unless its restore comes to its end.

    Attributes:
        owner: Whose.
        snapshot: Uuid of the snapshot of before, with dashes.
    """

    owner: Owner
    snapshot: str


def promised_return(record: Mapping[str, Any]) -> Promise | None:
    """What was promised of a VM by its record; nothing if no restore writes over this very VM."""
    words = (record.get("other_config") or {}).get(GO_BACK, "").split()
    if len(words) != 4 or words[2] != record.get("uuid"):
        return None
    if not (is_name(words[0]) and is_name(words[1])):
        return None
    return Promise(Owner(words[0], RunId(words[1])), words[3])


def begin_overwriting(
    xen: XenSession, vm: XenVm, *, owner: Owner, stop: StopToken | None = None
) -> XenSnapshot:
    """Freeze a halted VM's disks, mark it and keep it from starting.

    Raises:
        BadInput: It is not halted, or another restore writes over it.
        HostBusy, HostRefused, HostUnreachable: Not possible; the VM is as it was.
    """
    with explained(f"preparing VM {vm.name}"):
        _require_free(vm, xen.call("VM.get_record", vm.ref))
    frozen = take_snapshot(xen, vm, owner=owner, label=f"{vm.name} before a restore", stop=stop)
    with explained(f"preparing VM {vm.name}"):
        try:
            promise = f"{owner.installation} {owner.run} {vm.uuid} {frozen.uuid}"
            marks.set_mark(xen, "VM", vm.ref, GO_BACK, promise)
            blocked = xen.call("VM.get_blocked_operations", vm.ref)
            for operation in _STARTS:
                if operation not in blocked:
                    xen.call("VM.add_to_blocked_operations", vm.ref, operation, _BLOCKED)
            state = xen.call("VM.get_power_state", vm.ref)
            if state != "Halted":
                raise _not_halted(vm, state)
        except BaseException:
            release(xen, vm.ref)  # nothing is written yet
            drop_snapshot(xen, frozen)
            raise
    return frozen


def _require_free(vm: XenVm, record: Mapping[str, Any]) -> None:
    if record["power_state"] != "Halted":
        raise _not_halted(vm, record["power_state"])
    if promised_return(record) is not None:
        raise BadInput(
            f"VM {vm.name} is being written over by another restore; wait for it, or run the sweep"
            " if that one died"
        )


def _not_halted(vm: XenVm, state: str) -> BadInput:
    return BadInput(
        f"VM {vm.name} is {state.lower()} and would be overwritten; shut it down, then restore"
    )


def finish_overwriting(
    xen: XenSession, vm: XenVm, frozen: XenSnapshot, *, note: Mapping[str, str] | None = None
) -> None:
    """Everything is written: let the VM be started again, and drop what it was before.

    Args:
        xen: The session.
        vm: The VM.
        frozen: What `begin_overwriting` gave.
        note: Keys of its `other_config` to set with the same call that ends the promise.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now; what is left the sweep removes.
    """
    with explained(f"releasing VM {vm.name}"):
        release(xen, vm.ref, note)
    drop_snapshot(xen, frozen)


def go_back(xen: XenSession, ref: str) -> None:
    """Make a VM what it was before its overwriting began; safe to repeat.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now; it stays blocked from starting.
    """
    record = xen.call("VM.get_record", ref)
    promise = promised_return(record)
    if promise is None:
        return
    # whoever runs was running before anything was written
    if snapshot_promised(record) and record["power_state"] == "Halted":
        run_task(
            xen,
            "VM.revert",
            _snapshot_of(xen, record, promise),
            deadline_seconds=_REVERT_SECONDS,
        )
    release(xen, ref)


def _snapshot_of(xen: XenSession, record: Mapping[str, Any], promise: Promise) -> str:
    try:
        return str(xen.call("VM.get_by_uuid", promise.snapshot))
    except Refusal as refusal:
        if refusal.code not in GONE:
            raise
        raise HostRefused(
            f"VM {record['name_label']} was half overwritten, and its snapshot of before is gone;"
            " it stays blocked: restore over it again from a version, or make a new VM",
            code=refusal.code,
        ) from refusal


def release(xen: XenSession, ref: str, note: Mapping[str, str] | None = None) -> None:
    """Take promise and block off a VM; what is blocked in its owner's words stays blocked.

    The promise goes first, by one call that also sets `note`: a VM that may be started is never
    brought back any more.

    Raises:
        Refusal: The pool refused.
    """
    kept = dict(xen.call("VM.get_other_config", ref))
    promise = kept.get(GO_BACK, "").split()
    if note or promise:
        said = {GO_BACK: " ".join([*promise[:3], _WHOLE])} if promise else {}
        xen.call("VM.set_other_config", ref, {**kept, **(note or {}), **said})
    blocked = xen.call("VM.get_blocked_operations", ref)
    for operation in _STARTS:
        if blocked.get(operation) == _BLOCKED:
            xen.call("VM.remove_from_blocked_operations", ref, operation)
    if promise:
        xen.call("VM.remove_from_other_config", ref, GO_BACK)


def snapshot_promised(record: Mapping[str, Any]) -> str:
    """Uuid of the snapshot a VM is to go back to; empty if none is promised."""
    promise = promised_return(record)
    return promise.snapshot if promise and promise.snapshot != _WHOLE else ""

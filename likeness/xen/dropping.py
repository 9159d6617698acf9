"""Removing snapshots: what a run made, and what a crash left.

The order is always the same: hang up what holds the disks, the snapshot, then its disks, because
XenServer keeps the disks of a deleted snapshot. Every step may be repeated, and what is gone
already counts as removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from likeness.errors import HostBusy
from likeness.retrying import Attempts, Pauses
from likeness.xen import marks
from likeness.xen.failures import GONE, IN_USE, Refusal, explained, suppress_gone
from likeness.xen.holding import WHILE_HELD, is_held, is_time_to_pull, until_free
from likeness.xen.inventory import is_disk
from likeness.xen.owner import Owner, without_owner
from likeness.xen.references import become_reference, strip_reference
from likeness.xen.session import XenSession, is_null
from likeness.xen.snapshot_facts import XenSnapshot
from likeness.xen.tasks import run_task

_STEP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """A snapshot, or frozen disks without one, that shall go.

    Attributes:
        name: How messages call it.
        owner: Whose it is.
        ref: The snapshot; empty when only disks are left.
        uuid: The snapshot's uuid, or the first disk's.
        disks: References of its frozen disks, memory image included.
        blocked: Operations its owner has blocked; inherited from the VM.
        power_state: Of the snapshot.
    """

    name: str
    owner: Owner
    ref: str
    uuid: str
    disks: tuple[str, ...]
    blocked: frozenset[str] = frozenset()
    power_state: str = ""


def drop_snapshot(
    xen: XenSession,
    snapshot: XenSnapshot,
    *,
    keep_references: bool = False,
    pauses: Pauses = WHILE_HELD,
) -> None:
    """Remove a snapshot and its disks. Safe to repeat: gone counts as removed.

    Args:
        xen: The session.
        snapshot: As `take_snapshot` gave it.
        keep_references: Of disks whose changes are recorded keep the record, without any data,
            so that the next run can ask what was written since; see `references`.
        pauses: Between tries while something holds a disk.

    Raises:
        HostBusy: A disk is still in use; the sweep will try again.
        HostRefused: The pool does not allow it.
        HostUnreachable: The pool does not answer.
    """
    kept = [disk for disk in snapshot.disks if keep_references and disk.tracked]
    with explained(f"removing the snapshot of VM {snapshot.vm.name}"):
        for disk in kept:
            become_reference(
                xen,
                disk.ref,
                disk.uuid,
                owner=snapshot.owner,
                vm=snapshot.vm.vm,
                labels=disk.labels,
            )
        leftover = _all_of(xen, snapshot, {disk.ref for disk in kept})
        drop_leftover(xen, leftover, pauses=pauses)
        for disk in kept:
            strip_reference(xen, disk.ref, pauses=pauses)


def _all_of(xen: XenSession, snapshot: XenSnapshot, kept: set[str]) -> Leftover:
    """What of a snapshot shall go: also disks that were frozen but not asked for."""
    found = leftover_of(xen, snapshot.ref, owner=snapshot.owner, made=snapshot)
    disks = [*(found.disks if found else ()), *(disk.ref for disk in snapshot.disks)]
    return Leftover(
        name=found.name if found else f"snapshot of VM {snapshot.vm.name}",
        owner=snapshot.owner,
        ref=found.ref if found else "",
        uuid=snapshot.uuid,
        disks=tuple(disk for disk in dict.fromkeys(disks) if disk not in kept),
        blocked=found.blocked if found else frozenset(),
        power_state=found.power_state if found else "",
    )


def leftover_of(
    xen: XenSession, ref: str, *, owner: Owner, made: XenSnapshot | None = None
) -> Leftover | None:
    """A snapshot with all its disks; nothing when it is gone.

    Args:
        xen: The session.
        ref: The snapshot.
        owner: Whose it is.
        made: What was made then, if that is known: as long as it has the drives it had, it has the
            disks it had.

    Raises:
        Refusal: The pool refused.
    """
    try:
        record = xen.call("VM.get_record", ref)
    except Refusal as refusal:
        if refusal.code in GONE:
            return None
        raise
    if not record["is_a_snapshot"]:
        return None
    as_made = made is not None and set(made.drives) == set(record["VBDs"])
    disks = made.frozen if made is not None and as_made else _disks_in(xen, record["VBDs"])
    return _leftover(ref, record, owner, disks)


def leftovers_labelled(xen: XenSession, label: str) -> tuple[Leftover, ...]:
    """Snapshots with exactly this name, if it is one that `marks.label_of` made.

    Raises:
        Refusal: The pool refused.
    """
    owner = marks.owner_in_label(label)
    if owner is None:
        return ()
    found = [
        leftover_of(xen, str(ref), owner=owner) for ref in xen.call("VM.get_by_name_label", label)
    ]
    return tuple(leftover for leftover in found if leftover is not None)


def drop_leftover(xen: XenSession, leftover: Leftover, *, pauses: Pauses) -> None:
    """Remove one snapshot, then its disks.

    Raises:
        HostBusy: Something still holds a disk after all tries.
        Refusal: The pool refused for another reason.
    """
    left = _marked_disks(xen, leftover)
    if leftover.ref:
        until_free(lambda: _destroy_snapshot(xen, leftover), pauses=pauses)
    for attempt in Attempts(pauses):
        force = is_time_to_pull(attempt, pauses)
        left = [disk for disk in left if not _destroyed(xen, disk, force=force)]
        if not left:
            return
    raise HostBusy(
        f"removing {leftover.name}: {len(left)} of its disks are still in use after "
        f"{pauses.tries} tries; the next sweep tries again",
        code="VDI_IN_USE",
    )


def _disks_in(xen: XenSession, drives: Iterable[str]) -> list[str]:
    disks = []
    for vbd in drives:
        with suppress_gone():
            drive = xen.call("VBD.get_record", vbd)
            if is_disk(drive):
                disks.append(str(drive["VDI"]))
    return disks


def _leftover(ref: str, record: Mapping[str, Any], owner: Owner, disks: Sequence[str]) -> Leftover:
    memory = str(record.get("suspend_VDI", ""))
    return Leftover(
        name=without_owner(str(record["name_label"])),
        owner=owner,
        ref=ref,
        uuid=str(record["uuid"]),
        disks=(*disks, *([] if is_null(memory) else [memory])),
        blocked=frozenset(record["blocked_operations"]),
        power_state=str(record["power_state"]),
    )


def _marked_disks(xen: XenSession, leftover: Leftover) -> list[str]:
    """Without its snapshot a disk is known by its own mark alone, so that comes first.

    A disk that was never frozen is somebody's own, plugged into the snapshot later: it stays.
    """
    frozen = []
    for disk in leftover.disks:
        with suppress_gone():
            record = xen.call("VDI.get_record", disk)
            if not (record["is_a_snapshot"] or record["type"] == "suspend"):
                continue
            if marks.owner_in_marks(record, marks.SNAPSHOT) is None:
                marks.put_marks(xen, "VDI", disk, owner=leftover.owner, kind=marks.SNAPSHOT)
            frozen.append(disk)
    return frozen


def _destroy_snapshot(xen: XenSession, leftover: Leftover) -> None:
    ref = leftover.ref
    with suppress_gone():
        # A snapshot inherits what its VM's owner has blocked, such as deleting the VM.
        for operation in {"destroy", "hard_shutdown"} & leftover.blocked:
            xen.call("VM.remove_from_blocked_operations", ref, operation)
        if leftover.power_state == "Suspended":
            with suppress(Refusal):
                run_task(xen, "VM.hard_shutdown", ref, deadline_seconds=_STEP_SECONDS)
        run_task(xen, "VM.destroy", ref, deadline_seconds=_STEP_SECONDS)


def _destroyed(xen: XenSession, disk: str, *, force: bool) -> bool:
    """Destroy one frozen disk; False when something still holds it."""
    try:
        with suppress_gone():
            if is_held(xen, disk, pull=force):
                return False
            run_task(xen, "VDI.destroy", disk, deadline_seconds=_STEP_SECONDS)
    except Refusal as refusal:
        if refusal.code in IN_USE:
            return False
        raise
    except HostBusy:
        return False
    return True

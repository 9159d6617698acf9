"""Removing what crashed runs left in a pool, and nothing else."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from likeness.errors import LikenessError
from likeness.model.ids import RunId
from likeness.retrying import Pauses
from likeness.xen import marks
from likeness.xen.delegates import destroy_delegate, destroy_own_disk
from likeness.xen.drilling import end_drill, owner_of_drill
from likeness.xen.dropping import Leftover, drop_leftover, leftover_of
from likeness.xen.failures import explained
from likeness.xen.holding import WHILE_HELD
from likeness.xen.overwriting import go_back, promised_return, snapshot_promised
from likeness.xen.owner import Owner, without_owner
from likeness.xen.power import promised_start, start_promised_vm
from likeness.xen.references import WITHOUT_DATA, Reference, drop_reference, list_references
from likeness.xen.restoring import destroy_disk
from likeness.xen.session import LISTING_SECONDS, XenSession
from likeness.xen.sweeping_tasks import end_task, owned_tasks

_Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SweptObject:
    """One thing a crashed run had left.

    Attributes:
        what: Such as ``task``, ``snapshot``, ``frozen disk`` or ``halted VM``.
        name: What people see in the pool.
        uuid: With dashes.
        run: The run that left it.
        problem: Why it is still there; empty when it is gone.
    """

    what: str
    name: str
    uuid: str
    run: RunId
    problem: str = ""


def sweep_snapshots(
    xen: XenSession,
    installations: Collection[str],
    is_live: Callable[[RunId], bool],
    *,
    is_compared_with: Callable[[Reference], bool] = lambda _: True,
    pauses: Pauses = WHILE_HELD,
) -> tuple[SweptObject, ...]:
    """Remove what runs that are over left in the pool; start VMs they left halted.

    Only what carries this installation's own mark, put on that very object, is touched, and of
    that only tasks, delegates, snapshots, frozen disks, unfinished restores and records of changes
    that nothing is compared with any more. Safe to repeat, and to run beside live runs.

    Args:
        xen: The session.
        installations: This one and those it came in place of, 32 hex digits each; the objects of
            others are none of ours.
        is_live: Whether a run may still need what it made.
        is_compared_with: Whether the next run can make use of a record of changes.
        pauses: Between tries while something holds a disk.

    Returns:
        What was found, in the order it was dealt with; one problem does not stop the rest.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool could not even be listed.
    """
    over, sweeper = _Over(installations, is_live), _Sweeper(xen, pauses)
    with explained(f"looking for leftovers in {xen.url}"):
        swept = [sweeper.end_task(*found) for found in over.tasks(owned_tasks(xen))]
        vms = xen.call("VM.get_all_records", deadline_seconds=LISTING_SECONDS)
        disks = xen.call("VDI.get_all_records", deadline_seconds=LISTING_SECONDS)
    for ref, owner in over.delegates(vms):  # first of all: they hold others' frozen disks
        swept.append(sweeper.destroy_delegate(ref, owner, vms.pop(ref)))
    swept += [sweeper.start_vm(ref, owner, vms[ref]) for ref, owner in over.halted(vms)]
    brought_back = [sweeper.bring_back(ref, owner, vms[ref]) for ref, owner in over.half(vms)]
    swept += brought_back
    back = {each.uuid for each in brought_back if not each.problem}
    needed = {snapshot_promised(record) for record in vms.values() if record["uuid"] not in back}
    swept += [
        sweeper.drop_snapshot(ref, owner, vms[ref])
        for ref, owner in over.snapshots(vms)
        if vms[ref]["uuid"] not in needed
    ]
    swept += [
        sweeper.destroy_vm(ref, owner, vms[ref])
        for ref, owner in (*over.restored(vms), *over.drills(vms))
    ]
    held = {
        vbd
        for record in vms.values()
        if not record.get("is_control_domain")
        for vbd in record["VBDs"]
    }
    handed_over = {
        vbd
        for record in vms.values()
        if not (record["is_a_snapshot"] or marks.owner_of_restore(record) or owner_of_drill(record))
        for vbd in record["VBDs"]
        if vbd in held
    }
    swept += [
        sweeper.release_disk(ref, owner, disks[ref])
        for ref, owner in over.disks(disks)
        if marks.owner_of_restore(disks[ref]) and handed_over.intersection(disks[ref]["VBDs"])
    ]
    swept += [
        sweeper.destroy_disk(ref, owner, disks[ref])
        for ref, owner in over.disks(disks)
        if not held.intersection(disks[ref]["VBDs"])
    ]
    swept += [
        sweeper.drop_reference(reference)
        for reference in list_references(xen, installations)
        if not (is_live(reference.run) or (reference.usable and is_compared_with(reference)))
    ]
    return tuple(swept)


@dataclass(frozen=True, slots=True)
class _Over:
    """Finds what belongs to this installation's runs that are over."""

    installations: Collection[str]
    is_live: Callable[[RunId], bool]

    def tasks(self, tasks: dict[str, tuple[Owner, _Record]]) -> list[tuple[str, Owner, _Record]]:
        """Tasks that are marked; they are ended before anything is listed that they may make."""
        return [
            (ref, owner, record) for ref, (owner, record) in tasks.items() if self._is_over(owner)
        ]

    def snapshots(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """Snapshots by their marks; by their names those that were never marked."""
        found = []
        for ref, record in vms.items():
            if record["is_a_snapshot"]:
                owner = marks.owner_in_marks(record, marks.SNAPSHOT)
                owner = owner or _owner_in_name(record, vms.get(record["snapshot_of"]))
                if self._is_over(owner):
                    found.append((ref, owner))
        return [(ref, owner) for ref, owner in found if owner is not None]

    def disks(self, disks: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """Frozen disks, and disks of unfinished restores, that are marked themselves."""
        return [
            (ref, owner)
            for ref, record in disks.items()
            if (owner := _owner_of_disk(record)) is not None and self._is_over(owner)
        ]

    def halted(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """VMs that a run shut down for their snapshot and owes a start."""
        return [
            (ref, owner)
            for ref, record in vms.items()
            if not record["is_a_snapshot"]
            and (owner := promised_start(str(record["uuid"]), record["other_config"])) is not None
            and self._is_over(owner)
        ]

    def half(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """VMs that a restore was writing over."""
        return [
            (ref, promise.owner)
            for ref, record in vms.items()
            if not record["is_a_snapshot"]
            and (promise := promised_return(record)) is not None
            and self._is_over(promise.owner)
        ]

    def delegates(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """Delegates, running or not."""
        return [
            (ref, owner)
            for ref, record in vms.items()
            if (owner := marks.owner_of_delegate(record)) is not None and self._is_over(owner)
        ]

    def restored(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """VMs that a restore has made and not finished."""
        return [
            (ref, owner)
            for ref, record in vms.items()
            if not record["is_a_snapshot"]
            and record["power_state"] == "Halted"
            and (owner := marks.owner_of_restore(record)) is not None
            and self._is_over(owner)
        ]

    def drills(self, vms: dict[str, _Record]) -> list[tuple[str, Owner]]:
        """VMs that were started for a trial, running or not."""
        return [
            (ref, owner)
            for ref, record in vms.items()
            if not record["is_a_snapshot"]
            and (owner := owner_of_drill(record)) is not None
            and self._is_over(owner)
        ]

    def _is_over(self, owner: Owner | None) -> bool:
        return (
            owner is not None
            and owner.installation in self.installations
            and not self.is_live(owner.run)
        )


def _owner_in_name(record: _Record, source: _Record | None) -> Owner | None:
    """Whose a snapshot is by its name, unless it only took over its VM's name.

    A VM that somebody made from our snapshot may bear that one's name; theirs are its snapshots.
    """
    owner = marks.owner_in_label(str(record["name_label"]))
    taken_over = source and marks.owner_in_label(str(source["name_label"]))
    return None if owner == taken_over else owner


def _owner_of_disk(record: _Record) -> Owner | None:
    """Whose a disk is, if it is none to keep: a reference has lost its data already."""
    made = marks.owner_of_restore(record) or marks.owner_in_marks(record, marks.DELEGATE)
    if made is not None:
        return made
    if not record["is_a_snapshot"] and record["type"] != "suspend":
        return None
    owner = marks.owner_in_marks(record, marks.SNAPSHOT)
    if owner is None and record["type"] != WITHOUT_DATA:
        owner = marks.owner_in_marks(record, marks.REFERENCE)
    return owner


@dataclass(frozen=True, slots=True)
class _Sweeper:
    """Removes things one by one; what goes wrong with one is told with it, and stops no other."""

    xen: XenSession
    pauses: Pauses

    def end_task(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        return _swept("task", owner, record, lambda: end_task(self.xen, ref, record), "ending {}")

    def start_vm(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        def start() -> None:
            start_promised_vm(self.xen, ref)

        return _swept("halted VM", owner, record, start, "starting {} again")

    def bring_back(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        doing = "bringing {} back to what it was"
        return _swept("half overwritten VM", owner, record, lambda: go_back(self.xen, ref), doing)

    def drop_snapshot(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        def drop() -> None:
            leftover = leftover_of(self.xen, ref, owner=owner)
            if leftover is not None:
                drop_leftover(self.xen, leftover, pauses=self.pauses)

        return _swept("snapshot", owner, record, drop)

    def destroy_delegate(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        def destroy() -> None:
            destroy_delegate(self.xen, ref, pauses=self.pauses)

        return _swept("delegate", owner, record, destroy)

    def destroy_vm(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        def destroy() -> None:
            end_drill(self.xen, ref, pauses=self.pauses)

        return _swept("unfinished VM", owner, record, destroy)

    def release_disk(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        """A VM that is its owner's has the disk: without our mark it stays when it is unplugged."""

        def release() -> None:
            marks.drop_marks(self.xen, "VDI", ref)

        return _swept("mark on restored disk", owner, record, release)

    def destroy_disk(self, ref: str, owner: Owner, record: _Record) -> SweptObject:
        what = "frozen disk" if record["is_a_snapshot"] else "unfinished disk"

        def destroy() -> None:
            if marks.owner_in_marks(record, marks.DELEGATE):
                destroy_own_disk(self.xen, ref, pauses=self.pauses)
            elif what == "unfinished disk" and record["type"] != "suspend":
                destroy_disk(self.xen, ref, pauses=self.pauses)
            else:
                name, uuid = f"{what} {record['name_label']}", str(record["uuid"])
                leftover = Leftover(name=name, owner=owner, ref="", uuid=uuid, disks=(ref,))
                drop_leftover(self.xen, leftover, pauses=self.pauses)

        return _swept(what, owner, record, destroy)

    def drop_reference(self, reference: Reference) -> SweptObject:
        uuid, run = reference.uuid, reference.run
        problem = _problem(lambda: drop_reference(self.xen, reference), f"removing {uuid}")
        return SweptObject("record of changes", uuid, uuid, run, problem)


def _swept(
    what: str, owner: Owner, record: _Record, step: Callable[[], object], doing: str = "removing {}"
) -> SweptObject:
    name = without_owner(str(record["name_label"]))
    problem = _problem(step, doing.format(f"{what} {name}"))
    return SweptObject(what, name, str(record["uuid"]), owner.run, problem)


def _problem(step: Callable[[], object], doing: str) -> str:
    """Do it; say what went wrong, or nothing."""
    try:
        with explained(doing):
            step()
    except LikenessError as problem:
        return str(problem)
    return ""

"""Records of changes that a later run compares with: frozen disks without any data.

A reference costs next to nothing on the storage, but an unusable one left lying would make every
later run read everything, so what cannot be used is removed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from likeness.errors import HostBusy
from likeness.model.ids import DiskId, RunId, VmId, from_uuid, is_name
from likeness.retrying import Attempts, Pauses
from likeness.xen import marks
from likeness.xen.failures import (
    IN_USE,
    NO_CHANGED_BLOCKS,
    NOT_OFFERED,
    Refusal,
    explained,
    suppress_gone,
)
from likeness.xen.holding import is_held, is_time_to_pull
from likeness.xen.owner import Owner
from likeness.xen.session import LISTING_SECONDS, XenSession, is_null
from likeness.xen.tasks import run_task

WITHOUT_DATA = "cbt_metadata"
"""XenServer's type of a frozen disk whose data was dropped and whose record was kept."""

_STEP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What a later run can compare a disk with.

    Attributes:
        uuid: Of the frozen disk, with dashes; what `changed_extents` takes as its base.
        ref: XenServer's reference to it.
        disk: The live disk it was frozen from; empty when that is gone.
        vm: The VM it was frozen with: a disk may be plugged into several, and each has versions
            of its own; empty when it does not say.
        run: The run that froze it.
        usable: Whether the pool can compare with it.
        source: XenServer's reference to the live disk.
        size_bytes: Its virtual size when it was frozen.
    """

    uuid: str
    ref: str
    disk: DiskId | None
    vm: VmId | None
    run: RunId
    usable: bool
    source: str
    size_bytes: int


def list_images(xen: XenSession) -> Mapping[str, Mapping[str, Any]]:
    """Every VDI record of the pool by reference: live disks, frozen ones and records of changes.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained(f"listing the disks of {xen.url}"):
        records: Mapping[str, Mapping[str, Any]] = xen.call(
            "VDI.get_all_records", deadline_seconds=LISTING_SECONDS
        )
    return records


def list_references(
    xen: XenSession,
    installations: Collection[str],
    images: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Reference, ...]:
    """Every reference of these installations in the pool.

    Args:
        xen: The session.
        installations: 32 hex digits each.
        images: What `list_images` gave, if it was asked a moment ago.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    disks = list_images(xen) if images is None else images
    found = []
    for ref, record in disks.items():
        owner = marks.owner_in_marks(record, marks.REFERENCE)
        if owner is not None and owner.installation in installations:
            found.append(_reference(ref, record, owner, disks))
    return tuple(sorted(found, key=lambda reference: reference.uuid))


def drop_references(
    xen: XenSession,
    installations: Collection[str],
    *,
    vm: VmId,
    disks: Collection[DiskId],
    keep: Collection[str],
    known: Collection[Reference] | None = None,
) -> tuple[Reference, ...]:
    """Remove references of a VM's disks that no version needs any more.

    To be called after a commit, with the references of the version that was committed: from then
    on these are the ones the next run compares with.

    Args:
        xen: The session.
        installations: Whose, 32 hex digits each.
        vm: The VM; other VMs' references of the same disks stay.
        disks: The live disks; references whose live disk is gone are removed as well.
        keep: Uuids of the references to keep; unusable ones go all the same.
        known: The references there were before the run, if they were listed then.

    Returns:
        What was removed.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say, or did not allow it.
    """
    dropped = []
    for reference in list_references(xen, installations) if known is None else known:
        wanted = reference.uuid in keep and reference.usable
        mine = reference.disk in disks and reference.vm in (vm, None)
        concerned = reference.disk is None or mine
        if concerned and not wanted:
            drop_reference(xen, reference)
            dropped.append(reference)
    return tuple(dropped)


def drop_reference(xen: XenSession, reference: Reference) -> None:
    """Remove one reference; gone is no failure.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not allow it.
    """
    with explained("removing a record of changes"), suppress_gone():
        run_task(xen, "VDI.destroy", reference.ref, deadline_seconds=_STEP_SECONDS)


def become_reference(
    xen: XenSession,
    ref: str,
    uuid: str,
    *,
    owner: Owner,
    vm: VmId,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Mark a VM's frozen disk as one to keep without its data; gone is no failure.

    Args:
        xen: The session.
        ref: The frozen disk.
        uuid: Its uuid.
        owner: Whose it shall be.
        vm: The VM it was frozen with.
        labels: What its `other_config` holds, when known already.

    Raises:
        Refusal: The pool refused.
    """
    kind = marks.REFERENCE
    with suppress_gone():
        marks.put_marks(xen, "VDI", ref, owner=owner, kind=kind, uuid=uuid, vm=vm, there=labels)


def strip_reference(xen: XenSession, ref: str, *, pauses: Pauses) -> None:
    """Drop a reference's data; where the record cannot be kept, drop the disk with it.

    Raises:
        HostBusy: Something still reads it after all tries.
        Refusal: The pool refused.
    """
    for attempt in Attempts(pauses):
        if _stripped(xen, ref, look=attempt > 1, pull=is_time_to_pull(attempt, pauses)):
            return
    raise HostBusy(
        f"a frozen disk is still in use after {pauses.tries} tries; the next sweep tries again",
        code="VDI_IN_USE",
    )


def _stripped(xen: XenSession, ref: str, *, look: bool, pull: bool) -> bool:
    """Try to; the pool itself refuses what is in use, so the first try does not look before."""
    try:
        with suppress_gone():
            if look and is_held(xen, ref, pull=pull):
                return False
            _drop_data(xen, ref)
    except Refusal as refusal:
        if refusal.code in IN_USE:
            return False
        raise
    return True


def _drop_data(xen: XenSession, ref: str) -> None:
    """Drop a frozen disk's data; where the pool has no record of its changes, all of it."""
    try:
        run_task(xen, "VDI.data_destroy", ref, deadline_seconds=_STEP_SECONDS)
    except Refusal as refusal:
        if refusal.code not in NO_CHANGED_BLOCKS | NOT_OFFERED | {"OPERATION_NOT_ALLOWED"}:
            raise
        run_task(xen, "VDI.destroy", ref, deadline_seconds=_STEP_SECONDS)


def _reference(
    ref: str, record: Mapping[str, Any], owner: Owner, disks: Mapping[str, Mapping[str, Any]]
) -> Reference:
    source = disks.get(record["snapshot_of"])
    vm = str(record["other_config"].get(marks.VM, ""))
    return Reference(
        uuid=str(record["uuid"]),
        ref=ref,
        disk=None
        if is_null(record["snapshot_of"]) or source is None
        else DiskId(from_uuid(source["uuid"])),
        vm=VmId(vm) if is_name(vm) else None,
        run=owner.run,
        usable=record["type"] == WITHOUT_DATA and bool(record["cbt_enabled"]),
        source=str(record["snapshot_of"]),
        size_bytes=int(record["virtual_size"]),
    )

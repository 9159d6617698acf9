"""Changed blocks: which ranges of a disk need not be read, because the pool knows they are old."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocks import Site
from likeness.errors import HostBusy, HostRefused
from likeness.model.disk import Extent, Skips
from likeness.model.ids import DiskId
from likeness.stopping import StopToken
from likeness.store.read.versions import Version
from likeness.xen.changed_blocks import changed_extents, skips_from
from likeness.xen.references import Reference, drop_reference, drop_references, list_references
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk, XenSnapshot


@dataclass(frozen=True, slots=True)
class Unread:
    """What may be left unread of one disk.

    Attributes:
        skips: Ranges that have not changed since the last version; none: read it all.
        reason: Why all of it must be read; empty when it need not, or nothing is there to compare.
    """

    skips: Skips | None = None
    reason: str = ""


def unread_of(
    xen: XenSession,
    disk: SnapshotDisk,
    last: Version | None,
    *,
    site: Site,
    chunk_bytes: int,
    must_read: Mapping[DiskId, Sequence[Extent]],
    known: Sequence[Reference] | None,
    stop: StopToken,
) -> Unread:
    """Ask the pool what was written since the snapshot of the VM's last version.

    Reading everything is always right, so every doubt ends there, with the reason.

    Args:
        xen: The session.
        disk: As it is frozen now.
        last: The VM's last version, whose snapshot left a record of changes behind.
        site: The installation.
        chunk_bytes: Of the store.
        must_read: Ranges whose stored data blocks are damaged; read although nothing changed.
        known: What the pool had to compare with right before the snapshot; none: ask now.
        stop: Ends it early.
    """
    if last is None or all(record.disk != disk.facts.disk for record in last.record.disks):
        return Unread()
    try:
        references = list_references(xen, site.installations) if known is None else known
    except (HostBusy, HostRefused) as cause:
        return Unread(reason=_sentence(disk, str(cause)))
    base = [
        reference
        for reference in references
        if (reference.vm, reference.disk, reference.run)
        == (last.clear.vm, disk.facts.disk, last.record.run)
    ]
    if not base:
        return Unread(reason=_sentence(disk, "the pool kept no record since the last version"))
    changes = changed_extents(xen, base[0].uuid, disk, known=base[0], stop=stop)
    skips = skips_from(changes, disk.facts.size_bytes, chunk_bytes)
    if skips is None:
        return Unread(reason=_sentence(disk, changes.reason))
    return Unread(_without(skips, must_read.get(disk.facts.disk, ()), chunk_bytes))


def keep_only_newest(xen: XenSession, snapshot: XenSnapshot, site: Site) -> None:
    """Remove the records of changes that the version just committed has replaced."""
    drop_references(
        xen,
        site.installations,
        vm=snapshot.vm.vm,
        disks=[disk.facts.disk for disk in snapshot.disks],
        keep=[disk.uuid for disk in snapshot.disks],
        known=snapshot.references,
    )


def drop_own(xen: XenSession, snapshot: XenSnapshot, site: Site) -> None:
    """Remove the records of changes of a snapshot whose version was not committed."""
    own = {disk.uuid for disk in snapshot.disks}
    for reference in list_references(xen, site.installations):
        if reference.uuid in own:
            drop_reference(xen, reference)


def _sentence(disk: SnapshotDisk, reason: str) -> str:
    return f"disk {disk.facts.position} was read whole: {reason}"


def _without(skips: Skips, wanted: Sequence[Extent], chunk_bytes: int) -> Skips:
    """The same ranges, without any chunk that touches a wanted one."""
    left = list(skips.unchanged)
    for extent in wanted:
        start = extent.offset // chunk_bytes * chunk_bytes
        end = -(-extent.end // chunk_bytes) * chunk_bytes
        left = [piece for old in left for piece in _cut(old, start, end)]
    return Skips(tuple(left))


def _cut(extent: Extent, start: int, end: int) -> list[Extent]:
    if end <= extent.offset or extent.end <= start:
        return [extent]
    pieces = []
    if extent.offset < start:
        pieces.append(Extent(extent.offset, start - extent.offset))
    if end < extent.end:
        pieces.append(Extent(end, extent.end - end))
    return pieces

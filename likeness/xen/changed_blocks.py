"""Asking the pool which ranges of a disk were written since an earlier snapshot.

What it says may only save reading: whenever it cannot be had or is in any doubt, the disk is read
whole, the reason is stated, and what is sent stays the same.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from likeness.errors import HostBusy
from likeness.model.disk import Extent, Skips
from likeness.stopping import StopToken
from likeness.xen.failures import GONE, Refusal, reason
from likeness.xen.inventory import XenVm
from likeness.xen.references import Reference
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import SnapshotDisk
from likeness.xen.tasks import run_task

GRAIN_BYTES = 64 << 10
"""What one bit of XenServer's record stands for."""

_LIST_SECONDS = 300.0
_ENABLE_SECONDS = 120.0
_TOUCHED = re.compile(rb"[^\x00]+")


@dataclass(frozen=True, slots=True)
class Tracking:
    """Whether a disk's changes are recorded from now on.

    Attributes:
        position: Of the disk.
        name: Of the disk.
        on: Whether they are.
        reason: Why not; empty when they are.
    """

    position: str
    name: str
    on: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Changes:
    """Which ranges were written since an earlier snapshot.

    Attributes:
        extents: In order, not touching each other, within the disk; None: read it all.
        reason: Why it must be read whole; empty when it need not.
    """

    extents: tuple[Extent, ...] | None
    reason: str

    @property
    def changed_bytes(self) -> int:
        """How many bytes the ranges hold; 0 when they are not known."""
        return sum(extent.length for extent in self.extents or ())


def enable_tracking(xen: XenSession, vm: XenVm) -> tuple[Tracking, ...]:
    """Have the pool record what is written to a VM's disks from now on. Safe to repeat.

    To be called before the snapshot that shall be a base for later ones. A disk whose storage or
    licence cannot do it is no failure: it is read whole every time.

    Raises:
        HostUnreachable: The pool does not answer.
    """
    return tuple(
        _enabled(xen, disk.ref, disk.position, disk.name)
        if not disk.tracked
        else Tracking(disk.position, disk.name, on=True, reason="")
        for disk in vm.disks
    )


def changed_extents(
    xen: XenSession,
    base_uuid: str,
    disk: SnapshotDisk,
    *,
    known: Reference | None = None,
    stop: StopToken | None = None,
) -> Changes:
    """Which ranges of a frozen disk were written since an earlier one.

    Args:
        xen: The session.
        base_uuid: The frozen disk of the version to compare with; its data may be gone already.
        disk: The newly frozen disk.
        known: The earlier one as it was listed, if it was.
        stop: Ends it early.

    Returns:
        Ranges of whole 64 KiB, cut at the disk's end, or the reason to read everything. A range
        was written; it need not differ.

    Raises:
        HostUnreachable: The pool does not answer.
        Stopped: Somebody asked to stop.
    """
    if not disk.tracked:
        return Changes(None, "changes of this disk were not recorded")
    try:
        base, grown_from, source = _base(xen, base_uuid, known)
        doubt = _doubt(source, disk.source or xen.call("VDI.get_snapshot_of", disk.ref))
        if doubt:
            return Changes(None, doubt)
        text = run_task(
            xen,
            "VDI.list_changed_blocks",
            base,
            disk.ref,
            deadline_seconds=_LIST_SECONDS,
            stop=stop,
        )
        bitmap = base64.b64decode(str(text), validate=True)
        extents = extents_of(bitmap, disk.facts.size_bytes)
    except Refusal as refusal:
        if refusal.code in GONE:
            return Changes(None, "the snapshot to compare with is gone from the pool")
        return Changes(None, f"the pool has no record of changes: {reason(refusal)}")
    except HostBusy as late:
        return Changes(None, str(late))
    except (binascii.Error, ValueError) as cause:
        return Changes(None, f"the pool's record of changes cannot be read: {cause}")
    if grown_from > disk.facts.size_bytes:
        return Changes(None, "the disk is smaller than it was at the last version")
    return Changes(_with_growth(extents, grown_from, disk.facts.size_bytes), "")


def _base(xen: XenSession, uuid: str, known: Reference | None) -> tuple[str, int, str]:
    """Reference and size of the earlier frozen disk, and the live disk it was frozen from."""
    if known is not None:
        return known.ref, known.size_bytes, known.source
    ref = str(xen.call("VDI.get_by_uuid", uuid))
    record = xen.call("VDI.get_record", ref)
    return ref, int(record["virtual_size"]), str(record["snapshot_of"])


def extents_of(bitmap: bytes, size_bytes: int) -> tuple[Extent, ...]:
    """Decode XenServer's record: one bit per 64 KiB, the most significant bit of a byte first.

    Returns:
        In order, not touching each other, within the disk.

    Raises:
        ValueError: The record is shorter than the disk.
    """
    grains = -(-size_bytes // GRAIN_BYTES)
    if len(bitmap) * 8 < grains:
        raise ValueError(f"{len(bitmap)} bytes of it, {-(-grains // 8)} are needed")
    runs = _joined(_runs(bitmap))
    return tuple(
        Extent(first * GRAIN_BYTES, min(last * GRAIN_BYTES, size_bytes) - first * GRAIN_BYTES)
        for first, last in runs
        if first < grains
    )


def skips_from(changes: Changes, size_bytes: int, chunk_bytes: int) -> Skips | None:
    """What a reader may leave out: whole chunks in which nothing was written.

    Args:
        changes: As `changed_extents` gave them.
        size_bytes: Of the disk.
        chunk_bytes: Of the store; ranges start and end at multiples of it, or at the disk's end.

    Returns:
        Nothing when the disk must be read whole.
    """
    if changes.extents is None:
        return None
    unchanged = []
    free_from = 0
    for extent in changes.extents:
        first = extent.offset // chunk_bytes * chunk_bytes
        if first > free_from:
            unchanged.append(Extent(free_from, first - free_from))
        free_from = max(free_from, -(-extent.end // chunk_bytes) * chunk_bytes)
    if free_from < size_bytes:
        unchanged.append(Extent(free_from, size_bytes - free_from))
    return Skips(tuple(unchanged))


def _enabled(xen: XenSession, ref: str, position: str, name: str) -> Tracking:
    try:
        run_task(xen, "VDI.enable_cbt", ref, deadline_seconds=_ENABLE_SECONDS)
    except Refusal as refusal:
        return Tracking(position, name, on=False, reason=reason(refusal))
    except HostBusy as late:
        return Tracking(position, name, on=False, reason=str(late))
    return Tracking(position, name, on=True, reason="")


def _doubt(base_of: str, disk_of: str) -> str:
    if base_of == disk_of:
        return ""
    return "the disk was replaced or moved since the last version"


def _with_growth(extents: tuple[Extent, ...], old: int, new: int) -> tuple[Extent, ...]:
    """A disk that grew: its new end counts as written, whatever the record says."""
    if new <= old:
        return extents
    start = old // GRAIN_BYTES * GRAIN_BYTES
    kept = tuple(
        Extent(e.offset, min(e.end, start) - e.offset) for e in extents if e.offset < start
    )
    if kept and kept[-1].end == start:
        return (*kept[:-1], Extent(kept[-1].offset, new - kept[-1].offset))
    return (*kept, Extent(start, new - start))


def _runs(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """First and one-past-last grain of each run of set bits within a byte, in order."""
    for touched in _TOUCHED.finditer(bitmap):
        for number in range(touched.start(), touched.end()):
            for first, last in _RUNS_OF_BYTE[bitmap[number]]:
                yield number * 8 + first, number * 8 + last


def _joined(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    open_from = open_to = -1
    for first, last in runs:
        if first == open_to:
            open_to = last
            continue
        if open_to > 0:
            yield open_from, open_to
        open_from, open_to = first, last
    if open_to > 0:
        yield open_from, open_to


def _runs_of_byte(value: int) -> tuple[tuple[int, int], ...]:
    bits = [bool(value & (0x80 >> place)) for place in range(8)] + [False]
    runs, first = [], -1
    for place, bit in enumerate(bits):
        if bit and first < 0:
            first = place
        elif not bit and first >= 0:
            runs.append((first, place))
            first = -1
    return tuple(runs)


_RUNS_OF_BYTE = tuple(_runs_of_byte(value) for value in range(256))

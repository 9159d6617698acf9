"""In the reader's process: the logical volumes of LVM that a guest itself would see.

What the library reads as something else than the guest does is told of and not read. Volumes that
only serve others (origins of caches, images of RAID, what thin volumes lie in) are left out: what
is in them is old, or a part.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from dissect.volume.lvm.c_lvm2 import SECTOR_SIZE

_CONTAINERS = ("thin-pool", "cache-pool", "vdo-pool", "snapshot")
_HOW = "it cannot be read here; restore the disks and mount it"
_STRIPED = f"an LVM volume that is striped over several disks: {_HOW}"
_SNAPSHOT = f"a snapshot that LVM keeps of another volume: {_HOW}"
_GOES_BACK = f"an LVM volume that was going back to a snapshot: {_HOW}"
_MOVING = f"an LVM volume that was being moved from disk to disk: {_HOW}"
_ON_ANOTHER = f"a thin LVM volume on top of another volume: {_HOW}"
_NOT_WHOLE = "an LVM volume that is not whole here: a disk of its group may be missing"


@dataclass(frozen=True)
class Logical:
    """A volume of a group; `not_read` says why it cannot be, if so."""

    name: str
    size_bytes: int
    file: BinaryIO
    not_read: str = ""


def logical_volumes(group: Any) -> Iterator[Logical]:
    """What the guest sees of a group as the library knows it, whether it can be read or not."""
    for name, volume in group.logical_volumes.items():
        if not volume.is_visible or volume.type in _CONTAINERS:
            continue
        called = f"{group.name.replace('-', '--')}-{name.replace('-', '--')}"
        extents = sum(segment.extent_count for segment in volume.segments)
        size = extents * group.extent_size * SECTOR_SIZE
        why = _of_snapshots(name, group) or _why_not(volume, group)
        if not why:
            try:
                yield Logical(called, size, cast("BinaryIO", volume.open()))
                continue
            except Exception:  # noqa: BLE001 -- a guest's bytes may make the library fail anyhow
                why = _NOT_WHOLE
        yield Logical(called, size, io.BytesIO(), why)


def _of_snapshots(name: str, group: Any) -> str:
    for volume in group.logical_volumes.values():
        for segment in volume.segments:
            if segment.type == "snapshot":
                if name in (segment.cow_store, segment.merging_store):
                    return _SNAPSHOT
                if name == segment.origin and segment.merging_store:
                    return _GOES_BACK
    return ""


def _why_not(volume: Any, group: Any) -> str:
    """Why a volume, or one that it is made of, would not be read as the guest does."""
    for segment in volume.segments:
        if why := _why_not_this(segment, group):
            return why
    return ""


def _why_not_this(segment: Any, group: Any) -> str:
    every, parts = group.logical_volumes, list[str]()
    if segment.type in ("linear", "striped"):
        if (segment.stripe_count or 1) > 1:
            return _STRIPED
        if any(name not in group.physical_volumes for name, _ in segment.stripes):
            return _MOVING
    elif segment.type == "thin":
        if segment.external_origin:
            return _ON_ANOTHER
        pool = every[segment.thin_pool].segments[0]
        parts = [pool.metadata, pool.pool]
    elif segment.type == "mirror":
        parts = [name for name, _ in segment.mirrors or ()]
    else:
        return f"an LVM volume of the type {segment.type}: {_HOW}"[:200]
    return next(filter(None, (_why_not(every[name], group) for name in parts)), "")

"""What has to be written to make a disk with known content that of a version."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from likeness.model.disk import Extent
from likeness.model.ids import CHUNK_ID_BYTES
from likeness.store.format.maps import FlatMap

_WINDOW = 1 << 16


def unlike(
    wanted: FlatMap,
    known: FlatMap | None,
    *,
    size_bytes: int,
    chunk_bytes: int,
    touched: Sequence[Extent] = (),
) -> Iterator[Extent]:
    """Ranges that may differ from what is wanted, in order, in whole chunks.

    Args:
        wanted: The block map of what the disk shall be.
        known: The block map of what it was once; none: anything may be there.
        size_bytes: Length of the disk.
        chunk_bytes: Of both maps.
        touched: What was written to it since it was as `known` says.
    """
    changed = np.ones(wanted.positions, dtype=bool)
    if known is not None and known.positions == wanted.positions:
        changed = _positions_unlike(wanted, known)
        for extent in touched:
            changed[extent.offset // chunk_bytes : -(-extent.end // chunk_bytes)] = True
    return _extents(changed, size_bytes, chunk_bytes)


def _positions_unlike(wanted: FlatMap, known: FlatMap) -> npt.NDArray[np.bool_]:
    changed = np.zeros(wanted.positions, dtype=bool)
    for first in range(0, wanted.positions, _WINDOW):
        count = min(_WINDOW, wanted.positions - first)
        mine, theirs = (
            np.frombuffer(each.ids(first, count), dtype=np.uint8).reshape(count, CHUNK_ID_BYTES)
            for each in (wanted, known)
        )
        changed[first : first + count] = (mine != theirs).any(axis=1)
    return changed


def _extents(changed: npt.NDArray[np.bool_], size_bytes: int, chunk_bytes: int) -> Iterator[Extent]:
    edges = np.flatnonzero(np.diff(changed.astype(np.int8), prepend=0, append=0))
    for first, last in edges.reshape(-1, 2).tolist():
        offset = first * chunk_bytes
        yield Extent(offset, min(last * chunk_bytes, size_bytes) - offset)

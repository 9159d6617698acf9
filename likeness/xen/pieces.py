"""Which bytes of a disk a reader has to give."""

from collections.abc import Iterator

from likeness.model.disk import Extent, Skips


def pieces_to_read(size_bytes: int, segment_bytes: int, skip: Skips | None) -> Iterator[Extent]:
    """What is left of a disk without the ranges to skip, in order.

    Args:
        size_bytes: The disk's size.
        segment_bytes: No piece is longer, none crosses a multiple of it.
        skip: In order, not overlapping; they may reach beyond the disk's end.

    Yields:
        Pieces; without `skip` all are `segment_bytes` long but the last.
    """
    for needed in _needed(size_bytes, skip):
        offset = needed.offset
        while offset < needed.end:
            end = min(needed.end, (offset // segment_bytes + 1) * segment_bytes)
            yield Extent(offset, end - offset)
            offset = end


def _needed(size_bytes: int, skip: Skips | None) -> Iterator[Extent]:
    offset = 0
    for left_out in skip.unchanged if skip is not None else ():
        start = min(left_out.offset, size_bytes)
        if start > offset:
            yield Extent(offset, start - offset)
        offset = max(offset, min(left_out.end, size_bytes))
    if offset < size_bytes:
        yield Extent(offset, size_bytes - offset)

"""Which bytes of a disk lie in which file.

Extents are exact to the byte, never overlap and stay sorted, so memory grows with how scattered the
writes were and not with the size of the disk.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from lab.storage.files import DataFile


class Segment(NamedTuple):
    """Bytes `start` to `end` of a disk lie at the same offsets of `file`; None means zeros."""

    start: int
    end: int
    file: DataFile | None


class ExtentMap:
    """A sorted map from byte ranges to files."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._files: list[DataFile | None] = []

    def __iter__(self) -> Iterator[Segment]:
        return map(Segment, list(self._starts), list(self._ends), list(self._files))

    def __len__(self) -> int:
        return len(self._starts)

    def put(self, start: int, end: int, file: DataFile | None) -> None:
        """Let a range lie in `file` from now on, whatever was there before."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        new: list[Segment] = []
        for index in range(first, last):
            self._keep_outside(index, start, end, file, new)
        low = min([start, *(s.start for s in new if s.file is file and s.end == start)])
        high = max([end, *(s.end for s in new if s.file is file and s.start == end)])
        pieces = [s for s in new if s.end <= low]
        pieces.append(Segment(low, high, file))
        pieces.extend(s for s in new if s.start >= high)
        self._starts[first:last] = [s.start for s in pieces]
        self._ends[first:last] = [s.end for s in pieces]
        self._files[first:last] = [s.file for s in pieces]

    def _keep_outside(
        self, index: int, start: int, end: int, file: DataFile | None, new: list[Segment]
    ) -> None:
        low, high, held = self._starts[index], self._ends[index], self._files[index]
        if low < start:
            new.append(Segment(low, min(high, start), held))
        if high > end:
            new.append(Segment(max(low, end), high, held))

    def cut(self, start: int, end: int) -> list[Segment]:
        """What the map says about a range, clipped to it, in order."""
        found: list[Segment] = []
        if start >= end:
            return found
        index = bisect_right(self._ends, start)
        while index < len(self._starts) and self._starts[index] < end:
            low, high = max(self._starts[index], start), min(self._ends[index], end)
            found.append(Segment(low, high, self._files[index]))
            index += 1
        return found

    def overlay(self, upper: "ExtentMap") -> None:
        """Take every extent of `upper`; it wins where both have one."""
        for segment in upper:
            self.put(*segment)


def gaps_between(segments: list[Segment], start: int, end: int) -> list[tuple[int, int]]:
    """The parts of a range that sorted segments leave out."""
    gaps, position = [], start
    for segment in segments:
        if segment.start > position:
            gaps.append((position, segment.start))
        position = segment.end
    if position < end:
        gaps.append((position, end))
    return gaps

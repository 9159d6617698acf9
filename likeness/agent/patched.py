"""A disk of which parts are read from elsewhere: from snapshots, or as they were before."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from likeness.agent.reader import FileDiskReader
from likeness.errors import TransferBroken
from likeness.model.disk import Segment, Skips


@dataclass(slots=True)
class Patch:
    """A range of a disk that is read from elsewhere.

    Attributes:
        offset: Where on the disk.
        length: Of the range.
        data: What is there, if that is known already.
        handle: Else an open file that has it.
        at: Where in that.
    """

    offset: int
    length: int
    data: bytes = b""
    handle: int = -1
    at: int = 0

    @classmethod
    def of_device(cls, offset: int, length: int, path: str, at: int) -> "Patch":
        """What lies at `at` in a device or file."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(offset, length, handle=handle, at=at)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the disk that lie in this range.

        Raises:
            TransferBroken: They cannot be read.
        """
        start = offset - self.offset
        if self.handle < 0:
            return self.data[start : start + length]
        try:
            found = os.pread(self.handle, length, self.at + start)
        except OSError as cause:
            raise TransferBroken(f"the guest's snapshot stopped: {cause.strerror}") from cause
        if len(found) != length:
            raise TransferBroken("the guest's snapshot is shorter than what it is of")
        return found

    def close(self) -> None:
        """Let go of it; safe to repeat."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


class PatchedReader(FileDiskReader):
    """A disk read in order, some ranges of it from elsewhere."""

    def __init__(self, path: Path, patches: Sequence[Patch]) -> None:
        """Open it; the patches stay their owner's."""
        super().__init__(path)
        self._patches = sorted(patches, key=lambda patch: patch.offset)

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        """See `DiskReader.segments`; where there are patches no hole of the disk counts."""
        if not self._patches:
            yield from super().segments(segment_bytes, skip=skip)
            return
        for offset in range(0, self.size_bytes, segment_bytes):
            length = min(segment_bytes, self.size_bytes - offset)
            yield Segment(offset, b"".join(self._pieces(offset, offset + length)))

    def _pieces(self, offset: int, end: int) -> Iterator[bytes]:
        for patch in self._patches:
            first, last = max(patch.offset, offset), min(patch.offset + patch.length, end)
            if first >= last:
                continue
            if first > offset:
                yield self._read(offset, first - offset)
            yield patch.read(first, last - first)
            offset = last
        if offset < end:
            yield self._read(offset, end - offset)

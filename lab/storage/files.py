"""Files that hold disk data: overlays without a name, and images that are only ever read."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class DataFile:
    """A file whose bytes lie at the offsets of the disk they belong to.

    It stays open as long as anyone refers to it, and readers pass their own offsets, so any number
    of threads may read while one writes elsewhere in it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @classmethod
    def overlay(cls, folder: Path) -> "DataFile":
        """Make a sparse file that has no name and vanishes with the process."""
        descriptor, name = tempfile.mkstemp(prefix="overlay-", dir=folder)
        Path(name).unlink()
        return cls(descriptor)

    @classmethod
    def image(cls, path: Path) -> "DataFile":
        """Open an image for reading only."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    @property
    def size(self) -> int:
        """Bytes, to the end of the file."""
        return os.fstat(self.descriptor).st_size

    @property
    def allocated_bytes(self) -> int:
        """Bytes that take up space; holes do not."""
        return os.fstat(self.descriptor).st_blocks * 512

    def read(self, start: int, length: int) -> bytes:
        """Read exactly `length` bytes; what lies past the end reads as zeros."""
        parts, position, end = [], start, start + length
        while position < end and (part := os.pread(self.descriptor, end - position, position)):
            parts.append(part)
            position += len(part)
        return b"".join(parts) + bytes(end - position)

    def write(self, start: int, data: memoryview) -> None:
        """Write all of `data`."""
        while data:
            written = os.pwrite(self.descriptor, data, start)
            start, data = start + written, data[written:]

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are no holes, as far as the file system tells."""
        position = start
        while position < end:
            try:
                low = os.lseek(self.descriptor, position, os.SEEK_DATA)
            except OSError:
                return
            if low >= end:
                return
            high = min(os.lseek(self.descriptor, low, os.SEEK_HOLE), end)
            yield max(low, start), high
            position = high

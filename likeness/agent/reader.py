"""Reading a disk that this machine can open: a raw image, or a block device."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from likeness.errors import BadInput, DiskShrank, TransferBroken
from likeness.model.disk import Extent, Segment, Skips


class FileDiskReader:
    """A raw image file or a block device, read in order; holes are passed over."""

    def __init__(self, path: Path) -> None:
        """Open `path` for reading.

        Raises:
            BadInput: There is nothing to read there.
        """
        self._path = path
        try:
            self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as cause:
            raise BadInput(f"the disk {path} cannot be read: {cause.strerror}") from cause
        self._size = os.lseek(self._handle, 0, os.SEEK_END)
        os.posix_fadvise(self._handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    @property
    def size_bytes(self) -> int:
        """See `DiskReader.size_bytes`."""
        return self._size

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        """See `DiskReader.segments`."""
        passed = _Passed(skip.unchanged if skip else ())
        offset = 0
        while offset < self._size:
            start = self._next_data(offset) // segment_bytes * segment_bytes
            offset = max(offset, start)
            length = min(segment_bytes, self._size - offset)
            if length > 0 and not passed.covers(offset, length):
                yield Segment(offset, self._read(offset, length))
            offset += segment_bytes

    def close(self) -> None:
        """See `DiskReader.close`."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _next_data(self, offset: int) -> int:
        try:
            return os.lseek(self._handle, offset, os.SEEK_DATA)
        except OSError as cause:
            if cause.errno == errno.ENXIO:  # nothing but a hole until the end
                return self._size
            return offset  # a device that knows no holes

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._handle, length, offset)
        except OSError as cause:
            raise TransferBroken(
                f"{self._path} stopped at byte {offset}: {cause.strerror}"
            ) from cause
        if len(data) < length:
            raise DiskShrank(
                f"{self._path} ends at byte {offset + len(data)} although it had {self._size}"
                " bytes when its snapshot was opened"
            )
        return data


class _Passed:
    """Answers whether ranges asked for in ascending order lie in one of some extents."""

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self._extents = list(reversed(extents))

    def covers(self, offset: int, length: int) -> bool:
        while self._extents and self._extents[-1].end <= offset:
            self._extents.pop()
        if not self._extents:
            return False
        return self._extents[-1].offset <= offset and offset + length <= self._extents[-1].end

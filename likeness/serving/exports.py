"""What is served: a disk that reads by range, and an overlay that takes writes and forgets them."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from likeness.errors import BadInput

_BLOCK = 4096


class Export(Protocol):
    """A disk as whoever serves it sees it. Every method may be called from several threads."""

    @property
    def size_bytes(self) -> int:
        """Length of the disk."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range inside the disk."""


class WritableExport(Export, Protocol):
    """One that takes writes too."""

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`."""

    def write_zeros(self, offset: int, length: int) -> None:
        """Make a range read as zeros."""


class Overlay:
    """A disk that can be written to; the writes lie in a scratch file, and are thrown away.

    Only what was written is ever in the scratch file, so an instant copy of a large disk costs
    nothing until somebody changes it.
    """

    def __init__(self, below: Export, scratch: Path) -> None:
        """Lay an empty overlay over `below`; `scratch` is a new file, gone when it is closed."""
        self._below = below
        self._lock = threading.RLock()
        self._blocks = -(-below.size_bytes // _BLOCK)
        self._written = bytearray(-(-self._blocks // 8))
        try:
            self._handle = os.open(
                scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as cause:
            raise BadInput(
                f"no overlay can be made at {scratch}: {cause.strerror}; name another folder"
            ) from cause
        with suppress(OSError):  # nobody else need see it, and a crash leaves nothing
            scratch.unlink()
        os.ftruncate(self._handle, below.size_bytes)

    @property
    def size_bytes(self) -> int:
        """See `Export.size_bytes`."""
        return self._below.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """See `Export.read`."""
        parts, end = [], offset + length
        while offset < end:
            block = offset // _BLOCK
            written = self._is_written(block)
            stop = block + 1
            while stop * _BLOCK < end and self._is_written(stop) == written:
                stop += 1
            upto = min(stop * _BLOCK, end)
            source = self._own if written else self._below.read
            parts.append(source(offset, upto - offset))
            offset = upto
        return b"".join(parts)

    def is_zero(self, offset: int, length: int) -> bool:
        """Whether nobody wrote there, and what is below says that it is zeros."""
        below = getattr(self._below, "is_zero", None)
        blocks = range(offset // _BLOCK, -(-(offset + length) // _BLOCK))
        if below is None or any(map(self._is_written, blocks)):
            return False
        return bool(below(offset, length))

    def write(self, offset: int, data: bytes) -> None:
        """See `WritableExport.write`."""
        with self._lock:
            end = offset + len(data)
            for edge in {offset // _BLOCK, (end - 1) // _BLOCK} if data else set():
                self._fetch(edge, offset, end)
            self._put(offset, data)
            for block in range(offset // _BLOCK, -(-end // _BLOCK)):
                self._written[block >> 3] |= 1 << (block & 7)

    def write_zeros(self, offset: int, length: int) -> None:
        """See `WritableExport.write_zeros`."""
        step = 1 << 20
        for at in range(offset, offset + length, step):
            self.write(at, bytes(min(step, offset + length - at)))

    def close(self) -> None:
        """Throw everything that was written away; safe to repeat."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _is_written(self, block: int) -> bool:
        return bool(self._written[block >> 3] >> (block & 7) & 1)

    def _fetch(self, block: int, start: int, end: int) -> None:
        """Bring a block that is written only in part up from below."""
        first = block * _BLOCK
        last = min(first + _BLOCK, self.size_bytes)
        if not self._is_written(block) and (start > first or end < last):
            self._put(first, self._below.read(first, last - first))

    def _own(self, offset: int, length: int) -> bytes:
        return os.pread(self._handle, length, offset).ljust(length, b"\0")

    def _put(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._handle, view, offset)
            offset, view = offset + done, view[done:]

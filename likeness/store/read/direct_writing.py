"""Writing past the kernel's memory of files: what was written is on the disk, not yet to be copied.

Nobody reads a disk while it is restored. Through that memory every byte would be copied once more,
into pages that must be found first, and what has piled up there would be waited for at the end.
"""

import ctypes
import mmap
import os
import threading

BLOCK_BYTES = 4096
"""Offsets and lengths are multiples of it; no disk asks for more."""
MAX_BYTES = 4 << 20
"""As much as the longest data block has."""
_EXT, _XFS = 0xEF53, 0x58465342
_LIBC = ctypes.CDLL(None, use_errno=True)


def open_directly(handle: int) -> int | None:
    """The same file once more, to be written directly; nothing where that is no gain.

    (Of other file systems some copy all the same, and some would not compress what comes so.)
    """
    if _kind_of_place(handle) not in (_EXT, _XFS):
        return None
    try:
        return os.open(f"/proc/self/fd/{handle}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


def _kind_of_place(handle: int) -> int:
    """The number of the file system's kind; 0 if the C library cannot tell."""
    call = getattr(_LIBC, "fstatfs", None)
    facts = (ctypes.c_long * 64)()  # the kind comes first; no system's answer is longer
    return int(facts[0]) if call is not None and call(handle, facts) == 0 else 0


class DirectWriter:
    """Writes whole blocks of one file, from many threads."""

    def __init__(self, handle: int) -> None:
        """Write to `handle`, and close it in the end."""
        self._handle = handle
        self._own = threading.local()

    def takes(self, offset: int, data: bytes) -> bool:
        """Whether these are whole blocks, and not too many."""
        return offset % BLOCK_BYTES == len(data) % BLOCK_BYTES == 0 and len(data) <= MAX_BYTES

    def write(self, offset: int, data: bytes) -> None:
        """Write what it takes, from memory that the disk can take it from.

        Raises:
            OSError: As of any writing, and if the file system does not write so after all.
        """
        left = self._room(len(data))
        left[:] = data
        while left:
            written = os.pwrite(self._handle, left, offset)
            offset, left = offset + written, left[written:]

    def close(self) -> None:
        """Write no more."""
        os.close(self._handle)

    def _room(self, length: int) -> memoryview:
        """This thread's memory, at the beginning of a page."""
        found: memoryview | None = getattr(self._own, "room", None)
        if found is None or len(found) < length:
            pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            found = self._own.room = memoryview(pages)
        return found[:length]

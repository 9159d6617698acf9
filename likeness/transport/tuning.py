"""Large buffers on their way: kept by glibc, and written in pieces that the kernel likes.

By default glibc hands every buffer above 128 KiB back to the kernel as soon as it is freed, and
the kernel clears it again for the next one. A process that moves megabytes at a time spends more
time in that than in its own work.
"""

import ctypes
import sys
from collections.abc import Iterable, Iterator

_M_TRIM_THRESHOLD = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
MMAP_THRESHOLD_BYTES = 128 << 20
TRIM_THRESHOLD_BYTES = 512 << 20
WRITE_BYTES = 64 << 10
"""Written to a file at once. Given more, newer kernels look for as much memory in one piece, and
where memory is in use that costs up to eight times what the writing does."""
_MAX_PARTS = 512  # the kernel takes at most IOV_MAX (1024) buffers a call


def keep_large_buffers() -> bool:
    """Raise glibc's thresholds for this process; harmless to repeat and on other systems.

    Returns:
        Whether the C library has the setting and took it.

    Source:
        mallopt(3).
    """
    return _set(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) and _set(
        _M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES
    )


def share_buffers() -> bool:
    """Have all threads take their buffers from one heap; to be called before any is started.

    Otherwise each thread keeps those that it has had, and memory grows with their number.

    Returns:
        As `keep_large_buffers`.
    """
    return _set(_M_ARENA_MAX, 1)


def batches(parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[list[memoryview]]:
    """The same bytes as pieces to be written together, about `WRITE_BYTES` at once."""
    batch, size = list[memoryview](), 0
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), WRITE_BYTES):
            batch.append(view[at : at + WRITE_BYTES])
            size += len(batch[-1])
            if size >= WRITE_BYTES or len(batch) == _MAX_PARTS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _set(what: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    return bool(mallopt(what, value))

"""Known ids: which chunks the store has already, proved; asked from a file, without anybody else.

The file is two columns of 64-bit numbers in this machine's byte order, one after the other: the
first halves of the ids' first 16 bytes, ascending, and the second halves in the same order. It is
mapped, never read: what is looked at lies in the page cache, and memory does not grow with a store.
"""

import mmap
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path

KEY_BYTES = 16
_HALF = KEY_BYTES // 2


class KnownIds:
    """The ids in a file; for many threads."""

    def __init__(self, path: Path) -> None:
        """Map the file at `path`; it may be deleted meanwhile."""
        self._held: list[memoryview] = []
        self._map: mmap.mmap | None = None
        self._firsts = self._seconds = memoryview(b"").cast("Q")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if not size:
                return
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        column = size // 2
        whole = memoryview(self._map)
        columns = (whole[:column], whole[column : 2 * column])
        self._firsts, self._seconds = (each.cast("Q") for each in columns)
        self._held = [self._firsts, self._seconds, *columns, whole]

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, chunk: object) -> bool:
        """Whether an id, or one that begins with these 16 bytes, is in it."""
        if not isinstance(chunk, bytes):
            return False
        first = int.from_bytes(chunk[:_HALF], "big")
        second = int.from_bytes(chunk[_HALF:KEY_BYTES], "big")
        at = bisect_left(self._firsts, first)
        while at < len(self._firsts) and self._firsts[at] == first:
            if self._seconds[at] == second:
                return True
            at += 1
        return False

    def close(self) -> None:
        """Let go of the file; safe to repeat."""
        for view in self._held:
            with suppress(ValueError):
                view.release()
        if self._map is not None and not self._map.closed:
            self._map.close()

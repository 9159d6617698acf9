"""Known ids: which chunks the store has already, proved; asked from a file, without anybody else.

The file is two columns of 64-bit numbers in this machine's byte order, one after the other: the
first halves of the ids' first 16 bytes, ascending, and the second halves in the same order. One
page of it is read for each question, so memory does not grow with a store.
"""

import os
import shutil
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

KEY_BYTES = 16
_HALF = KEY_BYTES // 2
_PAGE = 512
"""Numbers read at once: 4 KiB."""


class KnownIds:
    """The ids in a file; for many threads."""

    def __init__(self, path: Path) -> None:
        """Open the file at `path`; it may be deleted meanwhile."""
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._count = os.fstat(self._handle).st_size // KEY_BYTES
        pages = range(0, self._count, _PAGE)
        self._pages = array("Q", (self._numbers(at, 1)[0] for at in pages))

    def __len__(self) -> int:
        return self._count

    def __contains__(self, chunk: object) -> bool:
        """Whether an id, or one that begins with these 16 bytes, is in it."""
        if not isinstance(chunk, bytes) or not self._count:
            return False
        first = int.from_bytes(chunk[:_HALF], "big")
        second = int.from_bytes(chunk[_HALF:KEY_BYTES], "big")
        page = max(bisect_left(self._pages, first) - 1, 0)
        while page < len(self._pages) and self._pages[page] <= first:
            if self._is_in(page * _PAGE, first, second):
                return True
            page += 1
        return False

    def _is_in(self, start: int, first: int, second: int) -> bool:
        firsts = self._numbers(start, min(_PAGE, self._count - start))
        at = bisect_left(firsts, first)
        while at < len(firsts) and firsts[at] == first:
            if self._numbers(self._count + start + at, 1)[0] == second:
                return True
            at += 1
        return False

    def _numbers(self, at: int, count: int) -> memoryview:
        return memoryview(os.pread(self._handle, count * _HALF, at * _HALF)).cast("Q")

    def close(self) -> None:
        """Let go of the file; safe to repeat."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle, self._count = -1, 0


class SeveralKnownIds:
    """The ids in several files; for many threads."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open the files at `paths`; they may be deleted meanwhile."""
        self._files: list[KnownIds] = []
        try:
            for path in paths:
                self._files.append(KnownIds(path))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return sum(map(len, self._files))

    def __contains__(self, chunk: object) -> bool:
        """Whether an id, or one that begins with these 16 bytes, is in one of them."""
        return any(chunk in each for each in self._files)

    def close(self) -> None:
        """Let go of the files; safe to repeat."""
        for each in self._files:
            each.close()


class UnsortedIds:
    """Ids in whatever order they come, however many: on disk until one file is made of them."""

    def __init__(self, folder: Path) -> None:
        """Begin with none, in a new folder."""
        folder.mkdir(mode=0o700)
        self._folder = folder

    def add(self, ids: Iterable[bytes]) -> None:
        """Take some more; their first 16 bytes count."""
        found: dict[int, bytearray] = defaultdict(bytearray)
        for each in ids:
            found[each[0]] += each[:KEY_BYTES]
        for first, keys in found.items():
            with self._part(first).open("ab") as file:
                file.write(keys)

    def sorted(self) -> KnownIds:
        """All of them, each once."""
        path = self._folder / "sorted"
        with path.open("wb") as firsts, (self._folder / "seconds").open("w+b") as seconds:
            for first in range(256):
                keys = self._part(first).read_bytes() if self._part(first).exists() else b""
                rows = sorted({keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)})
                for half, column in ((0, firsts), (_HALF, seconds)):
                    numbers = (int.from_bytes(row[half : half + _HALF], "big") for row in rows)
                    column.write(array("Q", numbers).tobytes())
            seconds.seek(0)
            shutil.copyfileobj(seconds, firsts)
        found = KnownIds(path)
        shutil.rmtree(self._folder)
        return found

    def _part(self, first: int) -> Path:
        return self._folder / f"{first:02x}"

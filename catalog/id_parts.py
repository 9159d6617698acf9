"""Files of chunk ids in order, each with the pack that holds it: a question reads one page an id.

A part covers the packs of a range of numbers and is never changed. Blocks of rows come first, then
the first id and the checksum of each block, then what the part says of itself. What is torn or
rotten says so when it is read; it is thrown away then, since it can be made again.
"""

import os
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.uint64]
Packs = npt.NDArray[np.uint32]
Rows = tuple[Halves, Halves, Packs]
"""First and second halves of ids of 16 bytes, and numbers of packs."""

ENDING = ".ids"
_ROWS = 256
_BLOCK = np.dtype([("first", "<u8", _ROWS), ("second", "<u8", _ROWS), ("pack", "<u4", _ROWS)])
_BLOCK_BYTES = _BLOCK.itemsize
_MAGIC = b"likeness ids 1\n"
_WORD = 4
_END_BYTES = 2 * _WORD + len(_MAGIC)
_SLICE_ROWS = 1 << 20


class TornPart(Exception):  # never leaves the catalog
    """A part is not what was written.

    Attributes:
        path: Which.
    """

    def __init__(self, path: Path) -> None:
        """Of the part at `path`."""
        super().__init__(f"{path} is not what was written")
        self.path = path


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a part says of itself.

    Attributes:
        made_by: Which release of DuckDB worked out `check`.
        first_pack: The first number of a pack that it covers.
        last_pack: The last one.
        check: Of the numbers and names of these packs.
        without: Those of them that had no places when it was made.
        count: How many rows it has.
    """

    made_by: str
    first_pack: int
    last_pack: int
    check: int
    without: list[int]
    count: int


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Part:
    """A part that is open until nobody has it any more; for many threads."""

    path: Path
    said: Said
    handle: int
    firsts: Halves
    checks: Packs

    @classmethod
    def opened(cls, path: Path) -> "Part":
        """Open the part at `path`.

        Raises:
            FileNotFoundError: It was merged into another one.
            TornPart: It is not whole.
        """
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            part = cls(path, *_described(path, handle))
        except BaseException:
            os.close(handle)
            raise
        weakref.finalize(part, os.close, handle)
        return part

    def packs_of(self, firsts: Halves, seconds: Halves) -> set[int]:
        """Numbers of the packs that hold any of these ids.

        Raises:
            TornPart: A block is not what was written.
        """
        begin = np.searchsorted(self.firsts, firsts, "left") - 1
        end = np.searchsorted(self.firsts, firsts, "right")
        order = np.argsort(firsts)  # of ids in one block the second one reads nothing
        asked = zip(*(c[order].tolist() for c in (begin, end, firsts, seconds)), strict=True)
        found: set[int] = set()
        number, data = -1, memoryview(b"")
        self._wanted(begin, end)
        for low, high, first, second in asked:
            for block in range(max(low, 0), high):
                if block != number:
                    number, data = block, memoryview(self._read(block, block + 1))
                found.update(self._packs_in(data, block, first, second))
        return found

    def _wanted(self, begin: npt.NDArray[np.intp], end: npt.NDArray[np.intp]) -> None:
        """Have a disk bring all these blocks at once, instead of one after the other."""
        for low, high in zip(begin.clip(0).tolist(), end.tolist(), strict=True):
            if high > low:  # no length at all would mean the whole file
                start, length = low * _BLOCK_BYTES, (high - low) * _BLOCK_BYTES
                os.posix_fadvise(self.handle, start, length, os.POSIX_FADV_WILLNEED)

    def _packs_in(self, data: memoryview, block: int, first: int, second: int) -> Iterator[int]:
        """Packs that hold an id, by one block."""
        used = min(_ROWS, self.said.count - block * _ROWS)
        firsts = data[: 8 * used].cast("Q")
        at = bisect_left(firsts, first)
        while at < used and firsts[at] == first:
            if data[8 * _ROWS : 16 * _ROWS].cast("Q")[at] == second:
                yield data[16 * _ROWS :].cast("I")[at]
            at += 1

    def rows(self, low: int, high: int) -> Rows:
        """All rows whose first half is from `low` to `high`, that not included.

        Raises:
            TornPart: A block is not what was written.
        """
        begin = max(int(np.searchsorted(self.firsts, np.uint64(low), "left")) - 1, 0)
        end = len(self.firsts)
        if high < 1 << 64:
            end = int(np.searchsorted(self.firsts, np.uint64(high), "left"))
        read = np.frombuffer(self._read(begin, end), _BLOCK)
        used = min(len(read) * _ROWS, self.said.count - begin * _ROWS)
        firsts, seconds, packs = (read[c].reshape(-1)[:used] for c in ("first", "second", "pack"))
        start = int(np.searchsorted(firsts, np.uint64(low), "left"))
        stop = len(firsts)
        if high < 1 << 64:
            stop = int(np.searchsorted(firsts, np.uint64(high), "left"))
        return firsts[start:stop], seconds[start:stop], packs[start:stop]

    def _read(self, begin: int, end: int) -> bytes:
        """Some blocks, side by side."""
        try:
            data = os.pread(self.handle, (end - begin) * _BLOCK_BYTES, begin * _BLOCK_BYTES)
        except OSError as cause:
            raise TornPart(self.path) from cause
        checks = self.checks[begin:end].tolist()
        if len(data) != len(checks) * _BLOCK_BYTES or checks != _checks_of(data):
            raise TornPart(self.path)
        return data


def _checks_of(blocks: bytes) -> list[int]:
    view = memoryview(blocks)
    return [zlib.crc32(view[at : at + _BLOCK_BYTES]) for at in range(0, len(view), _BLOCK_BYTES)]


_NO_ROWS: Rows = (np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))


def _described(path: Path, handle: int) -> tuple[Said, int, Halves, Packs]:
    size = os.fstat(handle).st_size
    end = os.pread(handle, _END_BYTES, max(size - _END_BYTES, 0))
    if len(end) != _END_BYTES or not end.endswith(_MAGIC):
        raise TornPart(path)
    length, check = (int.from_bytes(end[at : at + _WORD], "little") for at in (0, _WORD))
    tail = os.pread(handle, length, max(size - _END_BYTES - length, 0))
    if len(tail) != length or zlib.crc32(tail) != check:
        raise TornPart(path)
    blocks = (size - _END_BYTES - length) // _BLOCK_BYTES
    text = blocks * (8 + _WORD)
    try:
        said = msgspec.json.decode(tail[text:], type=Said)
    except msgspec.MsgspecError as cause:
        raise TornPart(path) from cause
    if blocks != -(-said.count // _ROWS):
        raise TornPart(path)
    firsts = np.frombuffer(tail, np.uint64, blocks)
    return said, handle, firsts, np.frombuffer(tail, np.uint32, blocks, 8 * blocks)


def write_part(path: Path, said: Said, rows: Iterable[Rows]) -> Said:
    """Write a part, durable when it returns; rows come by their first halves, ascending."""
    firsts: list[int] = []
    checks: list[int] = []
    count, left = 0, _NO_ROWS
    with path.open("wb") as file:
        for more in rows:
            joined = _joined([left, more])
            whole = len(joined[0]) // _ROWS * _ROWS
            left = _cut(joined, whole, len(joined[0]))
            count += whole
            file.write(
                _packed((joined[0][:whole], joined[1][:whole], joined[2][:whole]), firsts, checks)
            )
        file.write(_packed(left, firsts, checks))
        count += len(left[0])
        said = msgspec.structs.replace(said, count=count)
        tail = np.array(firsts, np.uint64).tobytes() + np.array(checks, np.uint32).tobytes()
        tail += msgspec.json.encode(said)
        words = (len(tail), zlib.crc32(tail))
        file.write(tail + b"".join(word.to_bytes(_WORD, "little") for word in words) + _MAGIC)
        file.flush()
        os.fsync(file.fileno())
    return said


def _packed(rows: Rows, firsts: list[int], checks: list[int]) -> bytes:
    """Rows as blocks, the last one filled up; their first ids and checksums go into the lists."""
    blocks = np.zeros(-(-len(rows[0]) // _ROWS), _BLOCK)
    for name, column in (
        ("first", rows[0]),
        ("second", rows[1]),
        ("pack", rows[2].astype(np.uint64)),
    ):
        padded = np.zeros(blocks.size * _ROWS, np.uint64)
        padded[: len(column)] = column
        blocks[name] = padded.reshape(-1, _ROWS)
    data = blocks.tobytes()
    firsts += rows[0][::_ROWS].tolist()
    checks += _checks_of(data)
    return data


def _joined(rows: list[Rows]) -> Rows:
    firsts, seconds, packs = (np.concatenate(column) for column in zip(*rows, strict=True))
    return firsts, seconds, packs


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    return rows[0][start:stop], rows[1][start:stop], rows[2][start:stop]


def in_order(rows: Rows) -> Rows:
    """The same rows, by their first halves."""
    order = np.argsort(rows[0], kind="stable")
    return rows[0][order], rows[1][order], rows[2][order]


def merged(parts: list[Part], without: Packs) -> Iterator[Rows]:
    """All rows of some parts in order, those of some packs left out, a slice of ids at a time."""
    slices = max(sum(part.said.count for part in parts) // _SLICE_ROWS, 1)
    edges = [(at << 64) // slices for at in range(slices + 1)]
    for low, high in pairwise(edges):
        rows = in_order(_joined([part.rows(low, high) for part in parts]))
        if len(without):
            stays = ~np.isin(rows[2], without)
            rows = (rows[0][stays], rows[1][stays], rows[2][stays])
        yield rows


def first_to_merge(counts: list[int]) -> int:
    """From where on files are merged, so that each stays twice as long as all after it."""
    start, total = len(counts) - 1, counts[-1] if counts else 0
    at = start
    while at > 0:
        at -= 1
        if counts[at] < 2 * total:
            start = at
        total += counts[at]
    return max(start, 0)


def thrown_away(path: Path) -> None:
    """Remove a part that is not needed, or is not what was written."""
    with suppress(OSError):
        path.unlink()

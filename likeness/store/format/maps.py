"""Block maps: which chunk lies at which position of a disk.

At work a map is a flat local file, 32 bytes a position, so its size never matters to memory. In
the store it is cut into *parts* of one stretch of positions each; a full part gives every position
that is not zero, a delta part only those that changed since the parts before it.

A part's plaintext, integers little-endian::

    runs u32 | runs x (first position, counted from the part's own, u32 | length u32)
    chunk ids of all runs, 32 bytes each; the zero id means "zero now"
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from operator import ne
from pathlib import Path

from likeness.codec.aead import Suite
from likeness.codec.blobs import BlobKind, read_blob, write_blob
from likeness.codec.hashing import digest
from likeness.codec.keys import StoreKeys
from likeness.errors import Damaged
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, DiskId, VersionId

STRETCH = 1 << 18
"""Positions one part may speak of: at most 8 MiB of chunk ids."""
_RUN = struct.Struct("<II")
_ID = f"{CHUNK_ID_BYTES}s"
_COUNT = struct.Struct("<I")
_WINDOW = 1 << 12
_ZERO_WINDOW = bytes(_WINDOW * CHUNK_ID_BYTES)


@dataclass(frozen=True, slots=True)
class Run:
    """Chunk ids of consecutive positions.

    Attributes:
        first: The first position.
        ids: 32 bytes for each position, joined.
    """

    first: int
    ids: bytes

    @property
    def count(self) -> int:
        """How many positions."""
        return len(self.ids) // CHUNK_ID_BYTES

    def each(self) -> Iterator[tuple[int, ChunkId]]:
        """Every position with its chunk id."""
        for at in range(self.count):
            start = at * CHUNK_ID_BYTES
            yield self.first + at, ChunkId(self.ids[start : start + CHUNK_ID_BYTES])


class FlatMap:
    """A disk's map as a local file; positions never written are zero.

    Several threads may read and write different positions at once.
    """

    def __init__(self, path: Path, positions: int) -> None:
        """Make an empty map of so many positions in a new file."""
        self._open(path, positions, os.O_CREAT | os.O_EXCL)
        os.ftruncate(self._handle, positions * CHUNK_ID_BYTES)

    @classmethod
    def reopened(cls, path: Path, positions: int) -> "FlatMap":
        """The map in a file that is there already."""
        found = cls.__new__(cls)
        found._open(path, positions, 0)
        return found

    def __reduce__(self) -> tuple[object, tuple[Path, int]]:
        """Handed to another process, a map is its file's name."""
        return FlatMap.reopened, (self.path, self.positions)

    def _open(self, path: Path, positions: int, flags: int) -> None:
        self.path, self.positions = path, positions
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)

    def __enter__(self) -> "FlatMap":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close and remove the file; safe to repeat."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self.path.unlink(missing_ok=True)

    def ids(self, first: int, count: int) -> bytes:
        """Chunk ids of positions that exist, joined; zeros beyond the end."""
        data = os.pread(self._handle, count * CHUNK_ID_BYTES, first * CHUNK_ID_BYTES)
        return data.ljust(count * CHUNK_ID_BYTES, b"\0")

    def write(self, first: int, ids: bytes) -> None:
        """Set the chunk ids of consecutive positions.

        Raises:
            OSError: No room; what was not written would read as chunks of zeros.
        """
        view, offset = memoryview(ids), first * CHUNK_ID_BYTES
        while view:
            written = os.pwrite(self._handle, view, offset)
            view, offset = view[written:], offset + written

    def root(self) -> str:
        """BLAKE3 over all chunk ids in order, as hex."""
        windows = range(0, self.positions, _WINDOW)
        return digest(
            self.ids(first, min(_WINDOW, self.positions - first)) for first in windows
        ).hex()

    def runs_unlike(self, base: "FlatMap | None", first: int, count: int) -> Iterator[Run]:
        """Runs of positions that differ from `base`, or from zero, in one stretch."""
        for start in range(first, first + count, _WINDOW):
            length = min(_WINDOW, first + count - start)
            mine = self.ids(start, length)
            theirs = base.ids(start, length) if base else _ZERO_WINDOW[: len(mine)]
            if mine != theirs:
                yield from _unlike(start, mine, theirs)


def _unlike(start: int, mine: bytes, theirs: bytes) -> Iterator[Run]:
    apart = _ID * (len(mine) // CHUNK_ID_BYTES)
    changed = bytes(map(ne, struct.unpack(apart, mine), struct.unpack(apart, theirs)))
    begin = changed.find(1)
    while begin >= 0:
        end = changed.find(0, begin)
        end = end if end >= 0 else len(changed)
        yield Run(start + begin, mine[begin * CHUNK_ID_BYTES : end * CHUNK_ID_BYTES])
        begin = changed.find(1, end)


def positions_of(size_bytes: int, chunk_bytes: int) -> int:
    """How many chunks a disk has; the last may be shorter than the others."""
    return -(-size_bytes // chunk_bytes)


def plain_part(runs: list[Run], first: int) -> bytes:
    """The plaintext of a part that begins at a position."""
    return b"".join(
        (
            _COUNT.pack(len(runs)),
            b"".join(_RUN.pack(run.first - first, run.count) for run in runs),
            b"".join(run.ids for run in runs),
        )
    )


def encode_part(
    plain: bytes,
    *,
    disk: DiskId,
    version: VersionId,
    first: int,
    delta: bool,
    keys: StoreKeys,
    suite: Suite,
) -> bytes:
    """Seal one part; two calls give two different objects of the same content."""
    place = _place(disk, version, first, delta=delta)
    return write_blob(BlobKind.MAP, place, plain, keys=keys, suite=suite)


def decode_part(
    data: bytes,
    *,
    disk: DiskId,
    version: VersionId,
    first: int,
    delta: bool,
    positions: int,
    keys: StoreKeys,
    name: str,
) -> list[Run]:
    """Open one part.

    Args:
        data: The object.
        disk: Whose map.
        version: In which version the part was made.
        first: The first position it may speak of.
        delta: Whether it is a delta.
        positions: How many the disk has; no part speaks of more.
        keys: The store's keys.
        name: The object's name, for errors.

    Raises:
        Damaged: Altered, made for another place, or saying what cannot be.
    """
    place = _place(disk, version, first, delta=delta)
    plain = read_blob(data, BlobKind.MAP, place, keys=keys, name=name)
    if len(plain) < _COUNT.size:
        raise Damaged(name, "it is too short for a map")
    (count,) = _COUNT.unpack_from(plain)
    at = _COUNT.size + count * _RUN.size
    if at > len(plain):
        raise Damaged(name, "it is too short for its runs")
    runs = []
    for start, length in _RUN.iter_unpack(plain[_COUNT.size : at]):
        ids = plain[at : at + length * CHUNK_ID_BYTES]
        inside = start + length <= STRETCH and first + start + length <= positions
        if not length or not inside or len(ids) != length * CHUNK_ID_BYTES:
            raise Damaged(name, "it speaks of positions the disk does not have")
        runs.append(Run(first + start, ids))
        at += len(ids)
    if at != len(plain):
        raise Damaged(name, "it is longer than its runs")
    return runs


def _place(disk: DiskId, version: VersionId, first: int, *, delta: bool) -> bytes:
    return bytes.fromhex(disk) + bytes.fromhex(version) + struct.pack("<QB", first, delta)

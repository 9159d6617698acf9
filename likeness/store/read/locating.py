"""Locating: where each data block of a disk is to be had, as arrays instead of objects.

A disk's block map names its chunks by position; index segments say which pack holds which chunk.
One pass over the index joins the two: 12 bytes a distinct chunk, whatever the size of the store.
"""

import mmap
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from likeness.codec.documents import Kind
from likeness.errors import Damaged, LikenessError
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, PackId
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import IndexClear
from likeness.store.format.locations import Location
from likeness.store.format.maps import FlatMap
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.read.index import segments

_WORDS = CHUNK_ID_BYTES // 8
_PLACE = np.dtype([("chunk", "<u8", (_WORDS,)), ("offset", "<u4"), ("length", "<u4")])
_WINDOW = 1 << 18
_ROWS = 1 << 13  # of a map, far from each other, each in pages of its own
_NOWHERE = np.uint32(0xFFFFFFFF)

Ids = npt.NDArray[np.uint64]
"""Chunk ids as rows of four little-endian words."""
Numbers = npt.NDArray[np.uint32]


def _mapped(chunk_map: FlatMap) -> mmap.mmap | None:
    """A map's file in memory; nothing if it is empty."""
    length = chunk_map.positions * CHUNK_ID_BYTES
    if not length:
        return None
    with chunk_map.path.open("rb") as file:
        return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)


class DiskChunks:
    """The distinct chunks of a disk, numbered; which position has which.

    Attributes:
        count: How many distinct chunks, zeros left out.
        at: For each position the number of its chunk; `ZERO` where the disk is zero.
    """

    ZERO = _NOWHERE

    def __init__(self, chunk_map: FlatMap) -> None:
        """Number the chunks of a map; its file must outlive this."""
        self._map, self._mapped = chunk_map, _mapped(chunk_map)
        rows = b"" if self._mapped is None else self._mapped
        self._ids: Ids = np.frombuffer(rows, dtype="<u8").reshape(-1, _WORDS)
        used = self._used()
        for word in range(_WORDS):
            if self._numbered_by(word, used):
                return
        raise Damaged(str(chunk_map.path), "it cannot be the map of a disk")

    def _used(self) -> npt.NDArray[np.int64]:
        found = []
        for first in range(0, len(self._ids), _WINDOW):
            found.append(first + np.flatnonzero(self._ids[first : first + _WINDOW].any(axis=1)))
            self._let_go()
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _let_go(self) -> None:
        """Have no page of the map count as memory of this process; it is read again at need."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _numbered_by(self, word: int, used: npt.NDArray[np.int64]) -> bool:
        """Tell chunks apart by one word of their ids; whether that word does tell them apart."""
        keys, first, number = np.unique(
            self._words(word, used), return_index=True, return_inverse=True
        )
        self._word, self._keys, self._where = word, keys, used[first]
        self.count = len(keys)
        self.at: Numbers = np.full(len(self._ids), self.ZERO, dtype=np.uint32)
        self.at[used] = number.astype(np.uint32)
        for at in range(0, len(used), _ROWS):
            part = used[at : at + _ROWS]
            if not np.array_equal(self._ids[part], self._ids[self._where[self.at[part]]]):
                return False
            self._let_go()
        return True

    def _words(self, word: int, used: npt.NDArray[np.int64]) -> Ids:
        """One word of the ids at some positions."""
        found = np.empty(len(used), dtype=np.uint64)
        for at in range(0, len(used), _ROWS):
            found[at : at + _ROWS] = self._ids[used[at : at + _ROWS], word]
            self._let_go()
        return found

    def chunk(self, number: int) -> ChunkId:
        """The id of a chunk."""
        return ChunkId(self._map.ids(int(self._where[number]), 1))

    def numbers_of(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Which rows of `ids` are chunks of this disk: their rows, and their numbers here."""
        if not self.count or not len(ids):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        keys = np.ascontiguousarray(ids[:, self._word])
        at = np.minimum(np.searchsorted(self._keys, keys), self.count - 1)
        rows = np.flatnonzero(self._keys[at] == keys)
        numbers = at[rows]
        same = (self._ids[self._where[numbers]] == ids[rows]).all(axis=1)
        self._let_go()
        return rows[same], numbers[same]

    def positions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All positions by chunk number, and where each number's begin; one more at the end."""
        used = np.flatnonzero(self.at != self.ZERO)
        order = used[np.argsort(self.at[used], kind="stable")]
        starts = np.searchsorted(self.at[order], np.arange(self.count + 1))
        return order, starts


@dataclass
class Locations:
    """Where chunks are to be had in one store: a first place each, and further ones.

    Attributes:
        packs: Names of the packs, by the numbers that `pack` gives.
        pack: For each chunk the number of the pack of its first place; `NOWHERE` if none.
        offset: Where in the pack.
        length: How long the record is.
        others: Further places of those few chunks that have several.
    """

    NOWHERE = _NOWHERE
    packs: list[PackId]
    pack: Numbers
    offset: Numbers
    length: Numbers
    others: dict[int, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def none(cls, count: int) -> "Locations":
        """For so many chunks, nowhere yet."""
        return cls(
            [],
            np.full(count, _NOWHERE, dtype=np.uint32),
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint32),
        )

    @classmethod
    def known(
        cls,
        chunks: DiskChunks,
        positions: Numbers,
        packs: list[PackId],
        pack: Numbers,
        offset: Numbers,
        length: Numbers,
    ) -> "Locations":
        """What is known of some positions of a disk; what is out of date is found out by reading.

        Args:
            chunks: The disk's.
            positions: Which.
            packs: Names of packs.
            pack: For each position, which of them.
            offset: Where in it.
            length: How long the record is.
        """
        found = cls.none(chunks.count)
        inside = positions < len(chunks.at)
        numbers = chunks.at[positions[inside]]
        some = numbers != DiskChunks.ZERO
        numbers = numbers[some]
        found.packs.extend(packs)
        found.pack[numbers] = pack[inside][some]
        found.offset[numbers] = offset[inside][some]
        found.length[numbers] = length[inside][some]
        return found

    def add(
        self,
        pack: PackId,
        numbers: npt.NDArray[np.int64],
        offsets: Numbers,
        lengths: Numbers,
    ) -> None:
        """Note that a pack holds some chunks."""
        if not len(numbers):
            return
        index = len(self.packs)
        self.packs.append(pack)
        fresh = self.pack[numbers] == _NOWHERE
        where = numbers[fresh]
        self.pack[where] = index
        self.offset[where], self.length[where] = offsets[fresh], lengths[fresh]
        for at in np.flatnonzero(~fresh):
            place = (index, int(offsets[at]), int(lengths[at]))
            self.others[int(numbers[at])].append(place)

    def add_locations(
        self, chunks: DiskChunks, pack: PackId, locations: Iterable[Location]
    ) -> None:
        """Note the places that a pack's own table gives."""
        rows = [(place.chunk, place.offset, place.length) for place in locations]
        if not rows:
            return
        ids = np.frombuffer(b"".join(row[0] for row in rows), dtype="<u8").reshape(-1, _WORDS)
        found, numbers = chunks.numbers_of(ids)
        offsets = np.array([row[1] for row in rows], dtype=np.uint32)[found]
        lengths = np.array([row[2] for row in rows], dtype=np.uint32)[found]
        self.add(pack, numbers, offsets, lengths)

    def first(self, number: int) -> tuple[PackId, int, int] | None:
        """The first place of a chunk: pack, offset, length."""
        pack = int(self.pack[number])
        if pack == int(_NOWHERE):
            return None
        return self.packs[pack], int(self.offset[number]), int(self.length[number])

    def all_of(self, number: int) -> Iterator[tuple[PackId, int, int]]:
        """Every place of a chunk, the first one first."""
        if (first := self.first(number)) is not None:
            yield first
        for pack, offset, length in self.others.get(number, ()):
            yield self.packs[pack], offset, length

    def missing(self) -> npt.NDArray[np.int64]:
        """Numbers of the chunks that are nowhere."""
        return np.flatnonzero(self.pack == _NOWHERE)


Locator = Callable[[DiskChunks], Locations | None]
"""Knows where chunks are to be had without asking the store's index; nothing if it does not."""


def locate(
    store: DataStore,
    chunks: DiskChunks,
    *,
    problem: Callable[[LikenessError], None],
) -> tuple[Locations, dict[PackId, int]]:
    """Ask every index segment of a store for the chunks of a disk.

    Args:
        store: Where.
        chunks: Which chunks.
        problem: Told of each segment that cannot be used; what it knew may be found in packs.

    Returns:
        Where they are, and every pack that any segment knows, with its length.
    """
    found, indexed = Locations.none(chunks.count), dict[PackId, int]()
    for name in segments(store, unread=problem):
        try:
            _look_into(store, name, chunks, found, indexed)
        except (*NOT_READ, *UNREADABLE) as cause:
            problem(cause)
    return found, indexed


def _look_into(
    store: DataStore,
    name: str,
    chunks: DiskChunks,
    found: Locations,
    indexed: dict[PackId, int],
) -> None:
    clear, frame = store.read(name, Kind.INDEX, IndexClear)
    sealed = frame.unseal(store.keys)
    if len(sealed) != sum(pack.chunks for pack in clear.packs) * _PLACE.itemsize:
        raise Damaged(name, "its two parts do not fit together")
    locations = np.frombuffer(sealed, dtype=_PLACE)
    rows, numbers = chunks.numbers_of(locations["chunk"])
    ends = np.cumsum([pack.chunks for pack in clear.packs])
    cuts = np.searchsorted(rows, ends)
    begin = 0
    for pack, end in zip(clear.packs, cuts, strict=True):
        indexed[PackId(pack.pack)] = pack.size_bytes
        part = slice(begin, int(end))
        at = rows[part]
        found.add(
            PackId(pack.pack), numbers[part], locations["offset"][at], locations["length"][at]
        )
        begin = int(end)

"""A disk's data blocks, each proved, from whichever place is whole.

The first place of every chunk is known from one pass over the index. A chunk that fails its proof
there is looked for in its other places, then in the tables of packs that no index segment knows,
then in further stores such as the vault, and at last record by record in every pack that is not
what it should be. What was taken from elsewhere is said. Nothing unproved is handed out.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from likeness.codec.records import Opener
from likeness.errors import ChunkCorrupt, Damaged, LikenessError, ObjectUnreadable
from likeness.model.disk import Extent
from likeness.model.ids import ChunkId, PackId
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import FlatMap
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.format.pack import MAX_PACK_BYTES, PackHeader
from likeness.store.read.locating import DiskChunks, Locations, Locator, locate
from likeness.store.read.salvaging import Salvager, tables, unindexed_packs

_GAP_BYTES = 1 << 20
"""Records closer than this are fetched with one read."""
_MAX_READ_BYTES = 4 << 20
_MAX_OPENERS = 512
_EDGES = 1 << 16  # of runs of data, made into objects at once

Numbers = npt.NDArray[np.int64]
Accept = Callable[[int, bytes], None]
"""Told of a chunk's number and its proved bytes, from several threads."""
Say = Callable[[str], None]


class DataLost(Damaged):
    """Parts of a disk are in no whole pack any more.

    Attributes:
        extents: Which bytes of the disk, in order.
    """

    def __init__(self, disk: DiskRecord, extents: tuple[Extent, ...], cause: str) -> None:
        self.extents, self.cause = extents, cause
        lost = sum(extent.length for extent in extents)
        first = extents[0].offset if extents else 0
        super().__init__(
            f"disk {disk.name or disk.disk}",
            f"{lost} bytes in {len(extents)} ranges, the first at byte {first}, are in no whole"
            f" pack ({cause}); validate the store, and restore another version or from the vault",
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Records of one pack that lie close enough together for one read."""

    pack: PackId
    numbers: list[int]
    offsets: list[int]
    lengths: list[int]


class _PackReader:
    """Reads and proves records of one store's packs."""

    def __init__(self, store: DataStore) -> None:
        self.store = store
        self._openers: OrderedDict[PackId, Opener] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, part: _Part, proved: Callable[[int, bytes, bytes], bool]) -> list[LikenessError]:
        """Read one part; `proved` takes number, chunk id, plaintext and says whether it fits."""
        name = layout.pack(part.pack)
        start, end = part.offsets[0], part.offsets[-1] + part.lengths[-1]
        problems: list[LikenessError] = []
        try:
            opener = self._opener(part.pack, name)
            data = self.store.transport.read(name, start, end - start)
        except (*NOT_READ, *UNREADABLE) as cause:
            return [cause] * len(part.numbers)
        view = memoryview(data)
        for number, offset, length in zip(part.numbers, part.offsets, part.lengths, strict=True):
            record = view[offset - start : offset - start + length]
            try:
                opened = opener.open(record, name=name, offset=offset)
                if not proved(number, opened.chunk, opened.plaintext):
                    raise ChunkCorrupt(
                        opened.chunk.hex(),
                        name=name,
                        offset=offset,
                        cause="another chunk is there",
                    )
            except ChunkCorrupt as cause:
                problems.append(cause)
        return problems

    def _opener(self, pack: PackId, name: str) -> Opener:
        with self._lock:
            known = self._openers.get(pack)
        if known is not None:
            return known
        opener = _read_opener(self.store, name)
        with self._lock:
            self._openers[pack] = opener
            if len(self._openers) > _MAX_OPENERS:
                self._openers.popitem(last=False)
        return opener


def _read_opener(store: DataStore, name: str) -> Opener:
    head = store.transport.read(name, 0, PackHeader.max_bytes(sessions=8))
    try:
        header = PackHeader.parse(head, name=name, store=store.store_id)
    except Damaged:  # or with more sessions than were read; the whole pack has a second copy
        whole = store.transport.read(name, 0, MAX_PACK_BYTES)
        header = PackHeader.parse_any(whole, name=name, store=store.store_id, suite=store.suite)
    return header.opener(store.keys, chunk_bytes=store.chunk_bytes)


class ChunkSource:
    """All chunks of one disk of a version, by number."""

    def __init__(
        self,
        stores: Sequence[DataStore],
        disk: DiskRecord,
        chunk_map: FlatMap,
        *,
        say: Say = lambda _: None,
        locator: Locator | None = None,
    ) -> None:
        """Find out where everything is.

        Args:
            stores: Where to look, the usual one first; the vault may follow.
            disk: Which disk.
            chunk_map: Its block map, proved; its file must outlive this.
            say: Told, once each, of what had to be taken from elsewhere and why.
            locator: Asked before the index of the first store, which is read in full otherwise.
        """
        self._locator = locator
        self.disk = disk
        self.chunks = DiskChunks(chunk_map)
        self.cause = "the index knows no pack with them"
        self._say, self._said = say, set[str]()
        self._readers = [_PackReader(store) for store in stores]
        self._unread: LikenessError | None = None
        self._locations: list[Locations | None] = [None] * len(stores)
        self._strays_found = [False] * len(stores)
        self._indexed: list[dict[PackId, int]] = [{} for _ in stores]
        self._failed: list[set[PackId]] = [set() for _ in stores]
        self._given_up: set[int] = set()
        self._searching = threading.RLock()
        self._positions_by_number = self.chunks.positions()

    @property
    def unread(self) -> LikenessError | None:
        """Something that could not be read at the moment, and may hold what is missing."""
        return self._unread

    def positions(self, number: int) -> Numbers:
        """Where on the disk a chunk belongs."""
        order, starts = self._positions_by_number
        return order[starts[number] : starts[number + 1]]

    @property
    def zero_bytes(self) -> int:
        """How much of the disk is zeros."""
        zeros = np.flatnonzero(self.chunks.at == self.chunks.ZERO)
        short = len(self.chunks.at) * self.disk.chunk_bytes - self.disk.size_bytes
        ends = bool(len(zeros)) and int(zeros[-1]) == len(self.chunks.at) - 1
        return len(zeros) * self.disk.chunk_bytes - (short if ends else 0)

    def data_extents(self) -> Iterator[Extent]:
        """Runs of the disk that are not zeros, in order."""
        at, size, count = self.chunks.at, self.disk.chunk_bytes, len(self.chunks.at)
        is_data = np.zeros(count + 2, dtype=bool)  # and zeros on both sides
        np.not_equal(at, self.chunks.ZERO, out=is_data[1:-1])
        edges = np.flatnonzero(is_data[1:] != is_data[:-1])
        for some in range(0, len(edges), _EDGES):
            for first, end in edges[some : some + _EDGES].reshape(-1, 2).tolist():
                yield Extent(first * size, (end - 1 - first) * size + self.length_at(end - 1))

    def length_at(self, position: int) -> int:
        """How many bytes the chunk at a position has."""
        size = self.disk.chunk_bytes
        return min(size, self.disk.size_bytes - position * size)

    def fetch(self, numbers: Numbers, accept: Accept, *, stop: StopToken, workers: int) -> Numbers:
        """Hand out chunks, each once, in the order in which they lie in packs.

        Args:
            numbers: Which, each once.
            accept: Takes them; from several threads, in any order.
            stop: Looked at between reads.
            workers: How many threads.

        Returns:
            Numbers of the chunks that are in no whole place.
        """
        done = np.zeros(self.chunks.count, dtype=bool)

        def proved(number: int, chunk: bytes, plaintext: bytes) -> bool:
            if not self._fits(number, chunk, plaintext):
                return False
            accept(number, plaintext)
            done[number] = True
            return True

        def read(part: _Part) -> tuple[PackId, list[LikenessError]]:
            stop.check()
            return part.pack, self._readers[0].read(part, proved)

        first = self._found(0)
        parts = _parts(first, numbers)
        for pack, problems in bounded_map(read, parts, workers=workers, name="read"):
            self._note(problems, 0, pack)
        left = numbers[~done[numbers]]
        if len(left) and self._by_index_now():
            return self.fetch(left, accept, stop=stop, workers=workers)
        lost = [number for number in left.tolist() if not self._rescued(number, proved, stop)]
        if not self._given_up.issuperset(lost):
            self._salvage({self.chunks.chunk(number): number for number in lost}, proved, stop)
            lost = [number for number in lost if not done[number]]
            self._given_up.update(lost)
        return np.array(lost, dtype=np.int64)

    def _salvage(
        self,
        lost: dict[ChunkId, int],
        proved: Callable[[int, bytes, bytes], bool],
        stop: StopToken,
    ) -> None:
        """Look for chunks record by record, wherever no index and no table leads."""
        for which, reader in enumerate(self._readers):
            indexed, failed = self._indexed[which], self._failed[which]
            salvager = Salvager(reader.store, stop, self._note_unread)
            for name in unindexed_packs(reader.store, indexed, failed, self._note_unread):
                for opened in salvager.records(name) if lost else ():
                    number = lost.get(opened.chunk)
                    if number is not None and proved(number, opened.chunk, opened.plaintext):
                        del lost[opened.chunk]
                        self._say_once(f"data blocks were salvaged from {name}, record by record")

    def lost(self, numbers: Numbers) -> DataLost:
        """What to say of chunks that are in no whole place: which bytes of the disk they are."""
        positions = np.sort(np.concatenate([self.positions(n) for n in numbers.tolist()]))
        cuts = np.flatnonzero(np.diff(positions) != 1) + 1
        size = self.disk.chunk_bytes
        extents = tuple(
            Extent(
                int(run[0]) * size,
                (int(run[-1]) - int(run[0])) * size + self.length_at(int(run[-1])),
            )
            for run in np.split(positions, cuts)
        )
        return DataLost(self.disk, extents, self.cause)

    def _fits(self, number: int, chunk: bytes, plaintext: bytes) -> bool:
        if chunk != self.chunks.chunk(number):
            return False
        ends = self.positions(number)[[0, -1]].tolist()  # only the disk's last chunk may be short
        return all(self.length_at(position) == len(plaintext) for position in ends)

    def _rescued(
        self, number: int, proved: Callable[[int, bytes, bytes], bool], stop: StopToken
    ) -> bool:
        """Try every place of a chunk but its first, one after the other."""
        before = self.cause
        for which, pack, offset, length in self._further_locations(number):
            stop.check()
            part = _Part(pack, [number], [offset], [length])
            problems = self._readers[which].read(part, proved)
            self._note(problems, which, pack)
            if not problems:
                where = "another pack" if which == 0 else str(self._readers[which].store)
                self._say_once(f"a data block was taken from {where}: {before}")
                return True
        return False

    def _further_locations(self, number: int) -> Iterator[tuple[int, PackId, int, int]]:
        for which in range(len(self._readers)):
            tried = set()
            for place in self._found(which).all_of(number):
                tried.add(place)
                if which or place != self._found(0).first(number):
                    yield which, *place
            self._find_strays(which)
            for place in self._found(which).all_of(number):
                if place not in tried:
                    yield which, *place

    def _found(self, which: int) -> Locations:
        with self._searching:
            found = self._locations[which]
            if found is None and which == 0 and self._locator is not None:
                found = self._locations[0] = self._locator(self.chunks)
                if found is None:
                    self._locator = None
            if found is None:
                store = self._readers[which].store
                found, self._indexed[which] = locate(store, self.chunks, problem=self._note_segment)
                self._locations[which] = found
                if len(found.missing()):
                    self._find_strays(which)
            return found

    def _by_index_now(self) -> bool:
        """Whether the index is still to be asked: what was known without it was out of date."""
        with self._searching:
            known, self._locator = self._locator, None
            if known is not None:
                self._locations[0] = None
            return known is not None

    def _find_strays(self, which: int) -> None:
        """Ask the tables of packs that no index segment knows; slow, and seldom needed."""
        with self._searching:
            if self._strays_found[which]:
                return
            self._strays_found[which] = True
            store, found = self._readers[which].store, self._found(which)
            packs = 0
            for pack, locations in tables(store, self._indexed[which], self._note_unread):
                packs += 1
                found.add_locations(self.chunks, pack, locations)
            if packs:
                self._say_once(
                    f"{packs} packs are in no whole index segment; what is in them was read from"
                    " their own tables"
                )

    def _note(self, problems: Iterable[LikenessError], which: int, pack: PackId) -> None:
        for problem in problems:
            self.cause = str(problem)
            self._failed[which].add(pack)
            self._note_not_read(problem)

    def _note_segment(self, problem: LikenessError) -> None:
        self.cause = str(problem)
        self._say_once(self.cause)
        self._note_not_read(problem)

    def _note_unread(self, _: str, problem: LikenessError) -> None:
        """What cannot be read may hold what nothing else does, and is not known to be lost."""
        self.cause = str(problem)
        self._note_not_read(problem)

    def _note_not_read(self, problem: LikenessError) -> None:
        """Of what could not be read, a whole place says more than one object in it."""
        if isinstance(problem, NOT_READ) and isinstance(self._unread, ObjectUnreadable | None):
            self._unread = problem

    def _say_once(self, text: str) -> None:
        with self._searching:
            if text not in self._said:
                self._said.add(text)
                self._say(text)


def _parts(found: Locations, numbers: Numbers) -> Iterator[_Part]:
    """What to read, pack by pack, near records together."""
    known = numbers[found.pack[numbers] != Locations.NOWHERE]
    order = known[np.lexsort((found.offset[known], found.pack[known]))]
    packs, offsets, lengths = found.pack[order], found.offset[order], found.length[order]
    ends = offsets.astype(np.int64) + lengths
    cuts = np.flatnonzero((packs[1:] != packs[:-1]) | (offsets[1:] - ends[:-1] > _GAP_BYTES)) + 1
    for block in np.split(np.arange(len(order)), cuts) if len(order) else ():
        begin = 0
        while begin < len(block):
            limit = int(offsets[block[begin]]) + _MAX_READ_BYTES
            end = begin + max(1, int(np.searchsorted(ends[block[begin:]], limit, side="right")))
            at = block[begin:end]
            yield _Part(
                found.packs[int(packs[at[0]])],
                order[at].tolist(),
                offsets[at].tolist(),
                lengths[at].tolist(),
            )
            begin = end

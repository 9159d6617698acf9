"""A disk of a version, to be read by position: any range, every byte proved, a bounded cache."""

import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from likeness.errors import BadInput, LikenessError
from likeness.model.disk import Extent, Segment
from likeness.model.ids import random_name
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import FlatMap
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.read.chunk_source import ChunkSource, Say
from likeness.store.read.locating import Locator
from likeness.store.read.versions import load_map

DEFAULT_CACHE_BYTES = 64 << 20
_READ_WORKERS = 4
_SEGMENT_BYTES = 4 << 20


class DiskView:
    """Random access to one disk of a version; for many threads."""

    def __init__(self, source: ChunkSource, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Read from `source`; see `open_disk`."""
        self._source = source
        self._chunk_bytes = source.disk.chunk_bytes
        self._room = max(cache_bytes // self._chunk_bytes, 4)
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._stop = StopToken()

    @property
    def size_bytes(self) -> int:
        """Length of the disk."""
        return self._source.disk.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """A range of the disk; shorter only where the disk ends before.

        Raises:
            DataLost: Some of it is in no whole pack.
            ShareUnreachable: Something could not be read at the moment.
        """
        end = min(offset + length, self.size_bytes)
        parts = []
        while offset < end:
            position = offset // self._chunk_bytes
            upto = min(end, (position + self._room // 2) * self._chunk_bytes)
            parts.append(self._read_some(offset, upto))
            offset = upto
        return b"".join(parts)

    def is_zero(self, offset: int, length: int) -> bool:
        """Whether a range is zeros for certain, as the block map says."""
        first, last = offset // self._chunk_bytes, -(-(offset + length) // self._chunk_bytes)
        return bool((self._source.chunks.at[first:last] == self._source.chunks.ZERO).all())

    def segments(
        self, *, stop: StopToken, within: Iterable[Extent] | None = None
    ) -> Iterator[Segment]:
        """Everything that is not zeros, in ascending order; some of it read ahead.

        Args:
            stop: Looked at for every segment.
            within: These ranges instead, zeros included; in order, none touching another.

        Raises:
            DataLost: Some of it is in no whole pack.
            ShareUnreachable: Something could not be read at the moment.
            Stopped: On request.
        """

        def read(extent: Extent) -> Segment:
            stop.check()
            return Segment(extent.offset, self.read(extent.offset, extent.length))

        ranges = self._filled() if within is None else _cut(within)
        return bounded_map(read, ranges, workers=_READ_WORKERS, name="view")

    def _filled(self) -> Iterator[Extent]:
        positions = np.flatnonzero(self._source.chunks.at != self._source.chunks.ZERO)
        longest = max(_SEGMENT_BYTES // self._chunk_bytes, 1)
        for run in np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1):
            for first in range(0, len(run), longest):
                offset = int(run[first]) * self._chunk_bytes
                end = (int(run[min(first + longest, len(run)) - 1]) + 1) * self._chunk_bytes
                yield Extent(offset, min(end, self.size_bytes) - offset)

    def close(self) -> None:
        """Give up reads under way; safe to repeat."""
        self._stop.stop()

    def _read_some(self, offset: int, end: int) -> bytes:
        size = self._chunk_bytes
        first, last = offset // size, -(-end // size)
        at = self._source.chunks.at[first:last]
        chunks = self._chunks(np.unique(at[at != self._source.chunks.ZERO]).astype(np.int64))
        parts = []
        for position, number in zip(range(first, last), at.tolist(), strict=True):
            begin = max(offset - position * size, 0)
            stop = min(end - position * size, size)
            whole = chunks.get(number)
            parts.append(bytes(stop - begin) if whole is None else whole[begin:stop])
        return b"".join(parts)

    def _chunks(self, numbers: npt.NDArray[np.int64]) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with self._lock:
            for number in numbers.tolist():
                if (known := self._cache.get(number)) is not None:
                    self._cache.move_to_end(number)
                    found[number] = known
        wanted = np.array([n for n in numbers.tolist() if n not in found], dtype=np.int64)
        if len(wanted):
            fresh: dict[int, bytes] = {}
            lost = self._source.fetch(
                wanted,
                fresh.__setitem__,
                stop=self._stop,
                workers=min(_READ_WORKERS, len(wanted)),
            )
            if len(lost):
                raise self._source.unread or self._source.lost(lost)
            self._keep(fresh)
            found.update(fresh)
        return found

    def _keep(self, fresh: dict[int, bytes]) -> None:
        with self._lock:
            self._cache.update(fresh)
            while len(self._cache) > self._room:
                self._cache.popitem(last=False)


def _cut(extents: Iterable[Extent]) -> Iterator[Extent]:
    for extent in extents:
        for offset in range(extent.offset, extent.end, _SEGMENT_BYTES):
            yield Extent(offset, min(_SEGMENT_BYTES, extent.end - offset))


@contextmanager
def open_disk(
    stores: Sequence[DataStore],
    disk: DiskRecord,
    scratch: Path,
    *,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    say: Say = lambda _: None,
    locator: Locator | None = None,
) -> Generator[DiskView, None, None]:
    """Open one disk of a version for reading by position.

    Args:
        stores: Where to read, the usual one first; the vault may follow.
        disk: Which.
        scratch: A folder for its block map while it is open.
        cache_bytes: How much proved data to keep in memory.
        say: Told of what had to be taken from elsewhere.
        locator: Knows where the chunks are to be had in the first store, perhaps.

    Raises:
        Damaged: Its block map is whole in none of the stores.
    """
    with first_whole_map(stores, disk, scratch / f"{random_name()}.view-map") as chunk_map:
        source = ChunkSource(stores, disk, chunk_map, say=say, locator=locator)
        view = DiskView(source, cache_bytes=cache_bytes)
        try:
            yield view
        finally:
            view.close()


def first_whole_map(stores: Sequence[DataStore], disk: DiskRecord, path: Path) -> FlatMap:
    """A disk's block map from the first store that has it whole.

    Raises:
        Damaged, ShareUnreachable: None has; what the first one said.
    """
    problem: LikenessError | None = None
    for store in stores:
        try:
            return load_map(store, disk, path)
        except (*NOT_READ, *UNREADABLE) as cause:
            problem = problem or cause
    raise problem or BadInput("no data store was named to read from")

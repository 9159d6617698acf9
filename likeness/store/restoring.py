"""Restore: a version's disks, every chunk proved on its way.

Chunks are fetched pack by pack, whatever their order on the disk. A chunk that fails its proof is
looked for in every other pack that claims to have it; if there is none, the restore fails and says
which bytes of the disk are lost. It never writes a byte that was not proved.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from likeness.codec.records import Opener
from likeness.errors import (
    BadInput,
    ChunkCorrupt,
    Damaged,
    LikenessError,
    ObjectMissing,
    ObjectUnreadable,
    StoreTooNew,
)
from likeness.model.disk import Extent
from likeness.model.ids import ZERO_CHUNK, ChunkId, PackId, random_name
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.documents import DiskRecord
from likeness.store.index import read_segment, segments, unindexed_packs
from likeness.store.maps import FlatMap
from likeness.store.pack import MOST_PACK_BYTES, PackHeader, Place
from likeness.store.versions import load_map

_WINDOW = 1 << 18
"""Positions restored in one go: 64 GiB of disk at 256 KiB a chunk, about 100 MB of memory."""
_GAP_BYTES = 1 << 20
"""Records closer than this are fetched with one read."""
_MOST_READ_BYTES = 16 << 20

Progress = Callable[[int], None]
"""Told how many more bytes of the disk are done."""


class DiskWriter(Protocol):
    """Takes a disk's data in any order; what is never written is zero."""

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`; may be called from several threads."""

    def finish(self) -> None:
        """Everything is written: make it durable."""

    def abandon(self) -> None:
        """The restore failed: leave nothing that looks like a disk."""


class FileDiskWriter:
    """A sparse raw image; it has its final name only when it is whole."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Begin a new image of `size_bytes` at `path`.

        Raises:
            BadInput: There is a file already, it cannot be made, or another restore is making it.
        """
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        try:
            self._require_free()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _only_handle(self._partial)
        except BlockingIOError as cause:
            raise BadInput(
                f"another restore is writing {path} at this moment; wait for it, or restore to"
                " another name"
            ) from cause
        except OSError as cause:
            raise self._refused(cause) from cause
        try:
            self._require_free()  # the other restore may just have come to its end
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, size_bytes)
        except BadInput:
            self.abandon()
            raise
        except OSError as cause:
            self.abandon()
            raise self._refused(cause) from cause

    def _require_free(self) -> None:
        if self._path.exists():
            raise BadInput(
                f"{self._path} exists already; restore to another name or remove it first"
            )

    def write(self, offset: int, data: bytes) -> None:
        """See `DiskWriter.write`.

        Raises:
            BadInput: There is no room for the image.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._handle, view, offset)
                offset, view = offset + written, view[written:]
        except OSError as cause:
            raise self._refused(cause) from cause

    def finish(self) -> None:
        """See `DiskWriter.finish`.

        Raises:
            BadInput: There is no room for the image, or meanwhile there is a file of its name.
        """
        try:
            os.fsync(self._handle)
            self._require_free()
            self._partial.rename(self._path)
            _sync_folder(self._path.parent)
        except OSError as cause:
            raise self._refused(cause) from cause
        self._close()

    def abandon(self) -> None:
        """See `DiskWriter.abandon`; safe to repeat."""
        if self._handle >= 0:
            self._partial.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        os.close(self._handle)
        self._handle = -1

    def _refused(self, cause: OSError) -> BadInput:
        return BadInput(
            f"{self._partial} cannot be written: {cause.strerror}; make room or choose another"
            " place, then restore again"
        )


def _only_handle(path: Path) -> int:
    """A file of that name, new or left by a process that died, which nobody else writes.

    Raises:
        BlockingIOError: Somebody does.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            return handle  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # whoever had it gave it its final name, or gave up, meanwhile


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class DataLost(Damaged):
    """Parts of a disk are in no whole pack any more.

    Attributes:
        extents: Which bytes of the disk, in order.
    """

    def __init__(self, disk: DiskRecord, extents: tuple[Extent, ...], cause: str) -> None:
        self.extents = extents
        lost = sum(extent.length for extent in extents)
        first = extents[0].offset if extents else 0
        super().__init__(
            f"disk {disk.name or disk.disk}",
            f"{lost} bytes in {len(extents)} ranges, the first at byte {first}, are in no whole"
            f" pack ({cause}); validate the store, and restore another version or from the vault",
        )


def restore_disk(
    store: DataStore,
    disk: DiskRecord,
    target: DiskWriter,
    *,
    scratch: Path,
    stop: StopToken,
    progress: Progress = lambda _: None,
) -> None:
    """Write one disk of a version.

    Args:
        store: Where from; the vault will do.
        disk: Which.
        target: Where to; finished on success, abandoned on failure.
        scratch: A folder for the block map while it is needed.
        stop: Looked at between packs.
        progress: Told of bytes done.

    Raises:
        DataLost: Some bytes are not to be had; nothing is left at the target.
        Damaged: The map or the index is damaged.
        ShareUnreachable: The store went away, or something of it that cannot be done without
            cannot be read at the moment.
        Stopped: On request.
    """
    try:
        with load_map(store, disk, scratch / f"{random_name()}.restore-map") as chunk_map:
            for first in range(0, chunk_map.positions, _WINDOW):
                count = min(_WINDOW, chunk_map.positions - first)
                _Window(store, disk, chunk_map, first, count).restore(target, stop, progress)
        target.finish()
    except BaseException:
        target.abandon()
        raise


@dataclass(frozen=True, slots=True)
class _Wanted:
    chunk: ChunkId
    positions: list[int]
    sources: list[tuple[PackId, Place]]


class _Window:
    """One run of positions, and where their chunks are to be had."""

    def __init__(
        self, store: DataStore, disk: DiskRecord, chunk_map: FlatMap, first: int, count: int
    ) -> None:
        self._store, self._disk = store, disk
        self._indexed: set[PackId] = set()
        self._looked_at_strays = False
        self._unread: ObjectUnreadable | None = None
        self._wanted = _wanted(chunk_map, first, count)
        self._zero_bytes = self._length(first, count) - sum(
            self._length(position, 1)
            for want in self._wanted.values()
            for position in want.positions
        )

    def restore(self, target: DiskWriter, stop: StopToken, progress: Progress) -> None:
        """Fetch, prove and write every chunk; try other packs for those that fail."""
        progress(self._zero_bytes)
        if not self._wanted:
            return
        self._find_sources()
        todo = set(self._wanted)
        cause = "the index knows no pack with them"
        while todo:
            plan = self._plan(todo)
            if not plan and not self._looked_at_strays:
                self._find_strays()
                continue
            if not plan:
                raise self._unread or DataLost(self._disk, self._extents(todo), cause)
            for done, problem in self._fetch(plan, target, stop):
                cause = str(problem) if problem else cause
                todo.difference_update(done)
                progress(sum(self._length(p, 1) for c in done for p in self._wanted[c].positions))

    def _find_sources(self) -> None:
        """Ask the index; where it is damaged or lacks a chunk, the packs' own tables."""
        for name in segments(self._store):
            try:
                for pack in read_segment(self._store, name, chunks=self._wanted):
                    self._indexed.add(pack.pack)
                    self._offer(pack.pack, pack.places)
            except (Damaged, ObjectMissing):
                continue
            except ObjectUnreadable as cause:
                self._note(cause)
        if any(not want.sources for want in self._wanted.values()):
            self._find_strays()

    def _find_strays(self) -> None:
        """Ask the tables of packs that are in no index segment; slow, and seldom needed."""
        self._looked_at_strays = True
        for stray, places in unindexed_packs(self._store, self._indexed, unread=self._note):
            self._offer(stray, places)

    def _note(self, cause: ObjectUnreadable) -> None:
        """What cannot be read may hold what nothing else does, and is not known to be lost."""
        self._unread = cause

    def _offer(self, pack: PackId, places: Iterable[Place]) -> None:
        for place in places:
            want = self._wanted.get(place.chunk)
            if want is not None:
                want.sources.append((pack, place))

    def _plan(self, todo: Iterable[ChunkId]) -> dict[PackId, list[Place]]:
        """Which records to read from which pack; every attempt takes a source not yet tried."""
        plan: dict[PackId, list[Place]] = defaultdict(list)
        for chunk in todo:
            sources = self._wanted[chunk].sources
            if sources:
                pack, place = sources.pop(0)
                plan[pack].append(place)
        return plan

    def _fetch(
        self, plan: dict[PackId, list[Place]], target: DiskWriter, stop: StopToken
    ) -> Iterator[tuple[list[ChunkId], LikenessError | None]]:
        def fetch(pack: PackId) -> tuple[list[ChunkId], LikenessError | None]:
            stop.check()
            return self._fetch_pack(pack, plan[pack], target)

        yield from bounded_map(fetch, plan, workers=os.cpu_count() or 1, name="restore")

    def _fetch_pack(
        self, pack: PackId, places: list[Place], target: DiskWriter
    ) -> tuple[list[ChunkId], LikenessError | None]:
        name = layout.pack(pack)
        done: list[ChunkId] = []
        problem: LikenessError | None = None
        try:
            opener = _opener(self._store, name)
            for start, data, group in _reads(self._store, name, places):
                for place in group:
                    record = data[place.offset - start : place.offset - start + place.length]
                    try:
                        self._prove_and_write(place, record, opener, name, target)
                        done.append(place.chunk)
                    except ChunkCorrupt as cause:
                        problem = cause
        except (Damaged, ObjectMissing, StoreTooNew) as cause:
            problem = cause
        except ObjectUnreadable as cause:
            self._note(cause)
            problem = cause
        return done, problem

    def _prove_and_write(
        self, place: Place, record: bytes, opener: Opener, name: str, target: DiskWriter
    ) -> None:
        opened = opener.open(record, name=name, offset=place.offset)
        wrong = opened.chunk != place.chunk
        for position in self._wanted[place.chunk].positions:
            if wrong or len(opened.plaintext) != self._length(position, 1):
                raise ChunkCorrupt(
                    place.chunk.hex(),
                    name=name,
                    offset=place.offset,
                    cause="another chunk is there",
                )
            target.write(position * self._disk.chunk_bytes, opened.plaintext)

    def _length(self, first: int, count: int) -> int:
        size = self._disk.chunk_bytes
        return min((first + count) * size, self._disk.size_bytes) - first * size

    def _extents(self, chunks: Iterable[ChunkId]) -> tuple[Extent, ...]:
        positions = sorted(p for chunk in chunks for p in self._wanted[chunk].positions)
        extents: list[Extent] = []
        for position in positions:
            offset, length = position * self._disk.chunk_bytes, self._length(position, 1)
            if extents and extents[-1].end == offset:
                extents[-1] = Extent(extents[-1].offset, extents[-1].length + length)
            else:
                extents.append(Extent(offset, length))
        return tuple(extents)


def _wanted(chunk_map: FlatMap, first: int, count: int) -> dict[ChunkId, _Wanted]:
    wanted: dict[ChunkId, _Wanted] = {}
    for run in chunk_map.runs_unlike(None, first, count):
        for position, chunk in run.each():
            if chunk != ZERO_CHUNK:
                wanted.setdefault(chunk, _Wanted(chunk, [], [])).positions.append(position)
    return wanted


def _opener(store: DataStore, name: str) -> Opener:
    head = store.transport.read(name, 0, PackHeader.most_bytes(sessions=8))
    try:
        header = PackHeader.parse(head, name=name, store=store.store_id)
    except Damaged:  # or with more sessions than were read; the whole pack has a second copy
        whole = store.transport.read(name, 0, MOST_PACK_BYTES)
        header = PackHeader.parse_any(whole, name=name, store=store.store_id, suite=store.suite)
    return header.opener(store.keys, chunk_bytes=store.chunk_bytes, id_keys=store.id_keys)


def _reads(
    store: DataStore, name: str, places: list[Place]
) -> Iterator[tuple[int, bytes, list[Place]]]:
    """Read a pack's wanted records, near ones together: start, bytes, records in them."""
    group: list[Place] = []
    for place in sorted(places, key=lambda place: place.offset):
        if group and not _near(group, place):
            yield _read(store, name, group)
            group = []
        group.append(place)
    if group:
        yield _read(store, name, group)


def _near(group: list[Place], place: Place) -> bool:
    end = group[-1].offset + group[-1].length
    whole = place.offset + place.length - group[0].offset
    return place.offset - end <= _GAP_BYTES and whole <= _MOST_READ_BYTES


def _read(store: DataStore, name: str, group: list[Place]) -> tuple[int, bytes, list[Place]]:
    start = group[0].offset
    length = group[-1].offset + group[-1].length - start
    return start, store.transport.read(name, start, length), group

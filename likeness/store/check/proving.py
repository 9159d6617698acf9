"""Proving: packs read back, every chunk opened, decompressed and hashed again.

Damaged is not unreachable. A pack is called damaged or missing only when two readings in a row say
so; whatever cannot be read for another reason *could not be checked*, and proves nothing.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

from likeness.clock import Clock
from likeness.codec.hashing import digest
from likeness.errors import (
    ChunkCorrupt,
    Damaged,
    LikenessError,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    Stopped,
    StoreTooNew,
    TransientError,
)
from likeness.model.ids import ChunkId, PackId, RunId, random_name
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.believing import LOST, differ, look_twice
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.locations import Location
from likeness.store.format.maps import positions_of
from likeness.store.format.observations import UNKNOWN
from likeness.store.format.pack import MAX_PACK_BYTES, Pack, PackHeader
from likeness.store.read.index import KnownPack, known_packs
from likeness.store.read.versions import Version, load_map, read_copy, read_version


class Finding(StrEnum):
    """What reading a pack back showed."""

    PROVED = "proved"
    DAMAGED = "damaged"
    MISSING = "missing"
    COULD_NOT_CHECK = "could not check"


@dataclass(frozen=True, slots=True)
class DamagedChunk:
    """A chunk whose record does not bear out its id."""

    chunk: ChunkId
    offset: int
    cause: str


@dataclass(frozen=True, slots=True)
class PackProof:
    """What is known of a pack after looking at it.

    Attributes:
        pack: Which.
        finding: The result.
        at: When it was read.
        read_bytes: How much was read for it.
        chunks: How many chunks were proved.
        damaged: Those that are not; all of them if the pack is missing.
        cause: What is wrong, in words; also for a pack that is proved although bytes outside its
            records are not as signed, or although no index segment says what it must hold: whoever
            knows counts `chunks`. Empty if nothing is.
    """

    pack: PackId
    finding: Finding
    at: datetime
    read_bytes: int
    chunks: int
    damaged: tuple[DamagedChunk, ...] = ()
    cause: str = ""


_UNVOUCHED = "no index segment vouches for it; what its own table names is whole"


def prove_packs(
    store: DataStore,
    packs: Collection[PackId],
    *,
    clock: Clock,
    stop: StopToken,
    segments: Collection[str] = (),
    workers: int | None = None,
) -> Iterator[PackProof]:
    """Prove packs, several at once, as they are met in the index.

    Args:
        store: Where.
        packs: Which.
        segments: Index segments likely to know them; looked into first, which spares reading the
            whole index of a big store for the few packs of one run.
        clock: The present.
        stop: Looked at before every pack.
        workers: Packs at once; as many as there are cores by default.

    Yields:
        One proof for each of `packs`; for one in no index segment, what its own table says.
    """

    def prove(pack: KnownPack) -> PackProof:
        stop.check()
        return prove_pack(store, pack, clock=clock)

    met: set[PackId] = set()
    found = known_packs(store, frozenset(packs), first=segments, damaged=lambda _: None)
    known = _noted(found, met)
    count = workers or os.cpu_count() or 1
    yield from bounded_map(prove, known, workers=count, name="prove")
    for pack in packs:
        if pack not in met:
            stop.check()
            look = partial(_prove_unindexed, pack=pack, clock=clock)
            yield _twice(look, store, pack, clock)


def _noted(packs: Iterable[KnownPack], met: set[PackId]) -> Iterator[KnownPack]:
    for pack in packs:
        if pack.pack not in met:
            met.add(pack.pack)
            yield pack


def prove_pack(store: DataStore, pack: KnownPack, *, clock: Clock) -> PackProof:
    """Prove one pack against what its index segment signed for; see `prove_packs`."""
    return _twice(lambda where: _look(where, pack, clock), store, pack.pack, clock)


def _twice(
    look: Callable[[DataStore], PackProof], store: DataStore, pack: PackId, clock: Clock
) -> PackProof:
    """What seems damaged or missing is believed only when it shows twice; see `believing`."""
    try:
        looks = look_twice(look, store, doubtful=_seems_lost)
    except Stopped:
        raise
    except LikenessError as cause:
        why = f"it seemed damaged or missing, and there was no second look: {cause}"
        return PackProof(pack, Finding.COULD_NOT_CHECK, clock(), 0, 0, cause=why)
    first, second = looks[0], looks[-1]
    if (second.finding, second.damaged) == (first.finding, first.damaged):
        return second
    if second.finding is Finding.PROVED:
        return second
    return PackProof(
        pack,
        Finding.COULD_NOT_CHECK,
        second.at,
        first.read_bytes + second.read_bytes,
        0,
        cause=differ(first.cause, second.cause or "whole"),
    )


def _seems_lost(proof: PackProof) -> bool:
    return proof.finding in (Finding.DAMAGED, Finding.MISSING)


def _look(store: DataStore, pack: KnownPack, clock: Clock) -> PackProof:
    name = layout.pack(pack.pack)
    try:
        data = store.transport.read(name, 0, min(pack.size_bytes, MAX_PACK_BYTES) + 1)
    except ObjectMissing as cause:
        lost = tuple(DamagedChunk(p.chunk, p.offset, "missing") for p in pack.locations)
        return PackProof(pack.pack, Finding.MISSING, clock(), 0, 0, lost, str(cause))
    except (TransientError, ShareRefused) as cause:
        return PackProof(pack.pack, Finding.COULD_NOT_CHECK, clock(), 0, 0, cause=str(cause))
    as_signed = digest([data]) == pack.digest
    try:
        damaged = tuple(_damaged_chunks(store, data, name, pack.locations))
    except StoreTooNew as cause:
        return PackProof(pack.pack, Finding.COULD_NOT_CHECK, clock(), 0, 0, cause=str(cause))
    wrong = "" if as_signed else "its bytes are not what its index segment signed for"
    finding = Finding.DAMAGED if damaged else Finding.PROVED
    proved = len(pack.locations) - len(damaged)
    wrong = damaged[0].cause if damaged and as_signed else wrong
    return PackProof(pack.pack, finding, clock(), len(data), proved, damaged, wrong)


def _damaged_chunks(
    store: DataStore, data: bytes, name: str, locations: Iterable[Location]
) -> Iterator[DamagedChunk]:
    try:
        header = PackHeader.parse_any(data, name=name, store=store.store_id, suite=store.suite)
        opener = header.opener(store.keys, chunk_bytes=store.chunk_bytes)
    except Damaged as cause:
        yield from (DamagedChunk(p.chunk, p.offset, str(cause)) for p in locations)
        return
    view = memoryview(data)
    for place in locations:
        try:
            record = view[place.offset : place.offset + place.length]
            opened = opener.open(record, name=name, offset=place.offset)
        except ChunkCorrupt as cause:
            yield DamagedChunk(place.chunk, place.offset, str(cause))
        else:
            if opened.chunk != place.chunk:
                yield DamagedChunk(place.chunk, place.offset, "another chunk is in its place")


def require_proved(store: DataStore, data: bytes, name: str) -> None:
    """Open and hash every data block of a pack whose bytes are as they were signed.

    Raises:
        Damaged: One is not what the pack's own table says.
        StoreTooNew: A later release wrote it.
    """
    locations = Pack(data, name=name, store=store.store_id).locations(store.keys)
    for bad in _damaged_chunks(store, data, name, locations):
        raise Damaged(name, f"as signed, and yet a data block is not what its id says: {bad.cause}")


def _prove_unindexed(store: DataStore, pack: PackId, clock: Clock) -> PackProof:
    """Prove a pack whose index segment is lost by what its own table promises."""
    name = layout.pack(pack)
    try:
        data = store.transport.read(name, 0, MAX_PACK_BYTES + 1)
        locations = Pack(data, name=name, store=store.store_id).locations(store.keys)
    except ObjectMissing as cause:
        return PackProof(pack, Finding.MISSING, clock(), 0, 0, cause=str(cause))
    except (TransientError, ShareRefused, StoreTooNew) as cause:
        return PackProof(pack, Finding.COULD_NOT_CHECK, clock(), 0, 0, cause=str(cause))
    except Damaged as cause:
        return PackProof(pack, Finding.DAMAGED, clock(), 0, 0, cause=str(cause))
    known = KnownPack(pack, len(data), digest([data]), RunId(""), locations)
    proof = _look(store, known, clock)
    return proof if proof.cause else replace(proof, cause=_UNVOUCHED)


@dataclass(frozen=True, slots=True)
class DocumentProof:
    """Whether a version's own documents are whole: its record and its block maps.

    Attributes:
        readable: Whether the version can be put together from them.
        problems: What is wrong, in words. One bad copy of a map is listed, and is no danger
            while the other is whole.
        unread: Copies that cannot be read at the moment, in words; the others stand in for them.
    """

    readable: bool
    problems: tuple[str, ...]
    unread: tuple[str, ...] = ()


def prove_documents(store: DataStore, name: str, scratch: Path) -> DocumentProof:
    """Prove what a version needs besides its packs; what seems broken, by two looks.

    Args:
        store: Where.
        name: The version's record.
        scratch: A folder for a block map while it is needed.

    Raises:
        ShareUnreachable: It could not be checked; or one of `UNKNOWN`, for the same reason.
    """
    looks = look_twice(
        lambda where: _document_look(where, name, scratch),
        store,
        doubtful=lambda proof: bool(proof.problems),
    )
    first, second = looks[0], looks[-1]
    if second.problems and second != first:
        raise ObjectUnreadable(f"{name}: {differ(first.problems[0], second.problems[0])}")
    return second


def _document_look(store: DataStore, name: str, scratch: Path) -> DocumentProof:
    try:
        version = read_version(store, name)
    except LOST as cause:
        return DocumentProof(readable=False, problems=(str(cause),))
    return documents_of(store, version, scratch)


def documents_of(store: DataStore, version: Version, scratch: Path) -> DocumentProof:
    """Prove the block maps of a version whose record was read; see `prove_documents`."""
    problems: list[str] = []
    unread: list[str] = []
    try:
        for disk in version.record.disks:
            _check_copies(store, disk, problems, unread)
            with load_map(store, disk, scratch / f"{random_name()}.proof-map"):
                pass
    except LOST as cause:
        return DocumentProof(readable=False, problems=(*problems, str(cause)))
    return DocumentProof(readable=True, problems=tuple(problems), unread=tuple(unread))


def _check_copies(
    store: DataStore, disk: DiskRecord, problems: list[str], unread: list[str]
) -> None:
    positions = positions_of(disk.size_bytes, disk.chunk_bytes)
    for part in disk.parts:
        for copy in range(len(part.copies)):
            try:
                read_copy(store, disk, part, copy, positions)
            except LOST as cause:
                problems.append(str(cause))
            except UNKNOWN as cause:
                unread.append(str(cause))

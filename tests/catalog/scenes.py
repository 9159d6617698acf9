"""Versions, packs and proofs to tell a catalog of, made from plain dictionaries."""

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path

from catalog.connection import CatalogLocation, make_room
from catalog.proofs import record_proofs
from catalog.schema import create
from catalog.values import DiskMap, DocumentCheck, Proved
from likeness.model.ids import ZERO_CHUNK, ChunkId, DiskId, PackId, RunId, VersionId, VmId
from likeness.store.check.proving import DamagedChunk, Finding, PackProof
from likeness.store.format import layout
from likeness.store.format.documents import Counts, DiskRecord, VersionClear, VersionRecord
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.maps import Run
from likeness.store.format.pack import PackReceipt
from likeness.store.read.versions import Version

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MONTH = timedelta(days=30)
CHUNK_BYTES = 1 << 16
Map = Mapping[int, ChunkId]


def name(*words: object) -> str:
    """32 hex digits that stand for some words."""
    return hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=16).hexdigest()


def chunk(*words: object) -> ChunkId:
    """A chunk id that stands for some words."""
    return ChunkId(hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=32).digest())


def vm(which: str) -> VmId:
    return VmId(name("vm", which))


def disk(which: str, position: int = 0) -> DiskId:
    return DiskId(name("disk", which, position))


def run(number: object) -> RunId:
    return RunId(name("run", number))


def new_catalog(folder: Path, **settings: object) -> CatalogLocation:
    """An empty catalog under `folder`."""
    catalog = CatalogLocation(folder / "catalog" / "catalog.duckdb", **settings)  # type: ignore[arg-type]
    put_empty(catalog)
    return catalog


def put_empty(catalog: CatalogLocation) -> None:
    """Put an empty catalog where there is none."""
    make_room(catalog)
    catalog.path.write_bytes(_empty_catalog())
    catalog.path.chmod(0o600)
    catalog.lock_path.touch(mode=0o600)


@cache
def _empty_catalog() -> bytes:
    """What `create` makes: made once, as it costs more than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        catalog = CatalogLocation(Path(folder) / "catalog" / "catalog.duckdb")
        create(catalog, NOW)
        return catalog.path.read_bytes()


_numbers = count()


def pack(chunks: Iterable[ChunkId], pack_name: str = "") -> PackReceipt:
    """A pack of these chunks, 1,000 sealed bytes each."""
    locations = PackLocations.of(Location(c, 100 + 1000 * at, 1000) for at, c in enumerate(chunks))
    pack_id = PackId(pack_name or name("pack", next(_numbers)))
    return PackReceipt(pack_id, 200 + 1000 * len(locations), b"\x11" * 32, b"\x22" * 16, locations)


def version(
    which: str,
    sequence: int,
    maps: Mapping[int, int],
    *,
    previous: Version | None = None,
    run_id: RunId | None = None,
    taken_at: datetime | None = None,
) -> Version:
    """A version record.

    Args:
        which: The VM.
        sequence: Its number.
        maps: Size in bytes of each disk, by position.
        previous: The version before.
        run_id: The run that made it.
        taken_at: When its snapshot was taken.
    """
    version_id = VersionId(name("version", which, sequence))
    taken = taken_at or NOW + sequence * DAY
    disks = tuple(
        DiskRecord(
            disk=disk(which, at),
            name=f"{which}-{at}",
            position=str(at),
            size_bytes=size,
            chunk_bytes=CHUNK_BYTES,
            parts=(),
            deltas=0,
            root="0" * 64,
        )
        for at, size in maps.items()
    )
    record = VersionRecord(
        vm_name=which,
        run=run_id or run((which, sequence)),
        job="nightly",
        consistency="standard",
        consistency_asked="quiesced",
        note='it said "no", twice\nand left',
        disks=disks,
        configuration="{}",
        counts=Counts(disk_bytes=sum(maps.values()), read_bytes=7, sent_bytes=5),
        release="1",
    )
    clear = VersionClear(
        vm=vm(which),
        sequence=sequence,
        version=version_id,
        taken_at=taken.isoformat(),
        committed_at=(taken + timedelta(hours=1)).isoformat(),
        previous=previous.digest if previous else "0" * 64,
        objects=(),
        digests=(),
    )
    record_name = layout.version_record(vm(which), sequence, version_id)
    digest = hashlib.blake2b(record_name.encode(), digest_size=32).hexdigest()
    return Version(record_name, clear, record, digest)


def whole_map(which: str, chunks: Map, position: int = 0) -> DiskMap:
    """A disk's whole map."""
    return DiskMap(disk(which, position), whole=True, runs=list(runs(chunks)))


def delta_map(which: str, before: Map, after: Map, position: int = 0) -> DiskMap:
    """What is unlike an earlier map."""
    changed = {
        at: after.get(at, ZERO_CHUNK)
        for at in {*before, *after}
        if before.get(at, ZERO_CHUNK) != after.get(at, ZERO_CHUNK)
    }
    return DiskMap(disk(which, position), whole=False, runs=list(runs(changed)))


def runs(chunks: Map) -> Iterator[Run]:
    """Neighbouring positions joined, as the store gives them."""
    first, ids, end = -1, b"", -2
    for at in sorted(chunks):
        if at != end:
            if ids:
                yield Run(first, ids)
            first, ids = at, b""
        ids += chunks[at]
        end = at + 1
    if ids:
        yield Run(first, ids)


def proved(*packs: PackReceipt, at: datetime = NOW) -> list[PackProof]:
    """Proofs of packs that are whole."""
    return [PackProof(p.pack, Finding.PROVED, at, p.size_bytes, len(p.locations)) for p in packs]


def validated(
    catalog: CatalogLocation,
    proofs: Iterable[PackProof],
    now: datetime,
    max_age: timedelta | None,
    *,
    versions: Collection[VersionId] = (),
    documents: Collection[DocumentCheck] = (),
) -> Proved:
    """Record proofs as a validation does: documents of the versions were read, and are whole."""
    told = {check.version for check in documents}
    whole = [DocumentCheck(each, now, readable=True) for each in versions if each not in told]
    return record_proofs(
        catalog, proofs, now, max_age, versions=versions, documents=[*documents, *whole]
    )


def damaged(pack: PackReceipt, *chunks: ChunkId, at: datetime = NOW) -> PackProof:
    """A pack in which these chunks are damaged."""
    hurt = tuple(
        DamagedChunk(p.chunk, p.offset, "its bytes were altered")
        for p in pack.locations
        if p.chunk in chunks
    )
    return PackProof(
        pack.pack,
        Finding.DAMAGED,
        at,
        pack.size_bytes,
        len(pack.locations) - len(hurt),
        hurt,
        "bits",
    )


def missing(pack: PackReceipt, at: datetime = NOW) -> PackProof:
    """A pack that is not there."""
    lost = tuple(DamagedChunk(p.chunk, p.offset, "missing") for p in pack.locations)
    return PackProof(pack.pack, Finding.MISSING, at, 0, 0, lost, "gone")


def unreachable(pack: PackReceipt, at: datetime = NOW) -> PackProof:
    """A pack that could not be read."""
    return PackProof(pack.pack, Finding.COULD_NOT_CHECK, at, 0, 0, cause="the share is away")

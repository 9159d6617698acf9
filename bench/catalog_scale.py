"""What one version, its deduplication and its proofs cost the catalog as the store grows.

Fills a catalog with a made-up store of so many data blocks (1,000 VMs of 30 versions each), and
does with it what a job does, with the calls a job makes; DuckDB has 2 GB and two threads::

    python -m bench.catalog_scale [--chunks 1000000 10000000] [--folder /var/tmp]

Each figure is the median of five in one session, as a job has it, the opening left out.
"""

import argparse
import hashlib
import resource
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from catalog.chunks import affected_versions, must_read
from catalog.connection import CatalogLocation, reading, writing
from catalog.dedup import drop_duplicates
from catalog.known_ids import write_known_ids
from catalog.proofs import record_proofs
from catalog.recording import record_version
from catalog.schema import create
from catalog.session import catalog_session
from catalog.space import served_by_proved, spare_packs
from catalog.values import DiskMap
from likeness.clock import stopwatch
from likeness.model.ids import ChunkId, DiskId, PackId, RunId, VersionId, VmId
from likeness.store.check.proving import Finding, PackProof
from likeness.store.format import layout
from likeness.store.format.documents import Counts, DiskRecord, VersionClear, VersionRecord
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.maps import Run
from likeness.store.format.pack import PackReceipt
from likeness.store.read.versions import Version

NOW = datetime(2030, 6, 1, tzinfo=UTC)
MONTH = timedelta(days=30)
VMS, VERSIONS, CHUNK_BYTES, ROUNDS = 1000, 30, 256 << 10, 5
CHANGED, PROOFS = 500, 8


def _name(*words: object) -> str:
    return hashlib.md5("/".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


def fill(catalog: CatalogLocation, chunks: int) -> None:
    """A store of which seven tenths came with first versions, the rest with 29 later ones."""
    create(catalog, NOW)
    base = chunks * 7 // 10 // VMS
    later = max(chunks * 3 // 10 // VMS // (VERSIONS - 1), 1)
    with writing(catalog) as connection:
        for statement in _FILL.split(";"):
            if statement.strip():
                text = statement.replace("$base", str(base)).replace("$later", str(later))
                connection.execute(text.replace("$vms", str(VMS)).replace("$turns", str(VERSIONS)))


_FILL = """
CREATE TEMP TABLE told AS
    SELECT vm::INTEGER AS vm, 1::UINTEGER AS turn, position::UINTEGER AS position,
        md5(concat(vm, '/', position))::UUID AS chunk
    FROM range(1, $vms + 1) AS v(vm), range($base) AS p(position)
    UNION ALL
    SELECT vm::INTEGER, turn::UINTEGER, ((turn * 7919 + nth * 31) % $base)::UINTEGER,
        md5(concat(vm, '/', turn, '/', nth))::UUID
    FROM range(2, $turns + 1) AS t(turn), range(1, $vms + 1) AS v(vm), range($later) AS n(nth)
    QUALIFY row_number() OVER (PARTITION BY vm, turn, (turn * 7919 + nth * 31) % $base) = 1;
INSERT INTO maps
    SELECT vm, position, chunk, turn, coalesce(lead(turn) OVER (
        PARTITION BY vm, position ORDER BY turn), 4294967295)
    FROM told ORDER BY turn, vm, position;
CREATE TEMP TABLE packed AS
    SELECT *, dense_rank() OVER (ORDER BY turn, vm, (nth // 64))::INTEGER AS pack_no
    FROM (SELECT *, row_number() OVER (PARTITION BY turn, vm ORDER BY position) - 1 AS nth
          FROM told);
INSERT INTO places
    SELECT chunk, pack_no, 164 + (nth % 64) * 100000, 100000, true FROM packed
    ORDER BY pack_no, nth;
INSERT INTO packs
    SELECT pack_no, md5(concat('pack', pack_no))::UUID, 100000 * count(*) + 500, ''::BLOB, count(*),
        md5(concat('run', any_value(turn)))::UUID, NULL, '2030-05-01', 'live', '2030-05-20',
        '2030-05-20', false, false, '', NULL
    FROM packed GROUP BY pack_no ORDER BY pack_no;
INSERT INTO pack_uses
    SELECT p.vm, p.pack_no, min(m.since), max(m.until) FROM packed AS p
    JOIN maps AS m ON m.disk_no = p.vm AND m.position = p.position AND m.since = p.turn
    GROUP BY p.vm, p.pack_no ORDER BY p.pack_no;
INSERT INTO vms SELECT vm, md5(concat('vm', vm))::UUID, concat('vm', vm)
    FROM range(1, $vms + 1) AS v(vm);
INSERT INTO disks SELECT vm, vm, md5(concat('disk', vm))::UUID, 262144
    FROM range(1, $vms + 1) AS v(vm);
INSERT INTO versions (version_no, version_id, vm_no, turn, vm_name, sequence, record, digest,
        taken_at, committed_at, recorded_at, run_id, job, consistency, consistency_asked, note,
        counts, state, packs, unproved_packs, unreachable_packs, damaged, verdict, judged_at,
        to_judge, keep, tags)
    SELECT (turn - 1) * $vms + vm, md5(concat('version', vm, '/', turn))::UUID, vm, turn,
        concat('vm', vm), turn, concat('record', vm, '/', turn), repeat('0', 64),
        '2030-05-01', '2030-05-01', '2030-05-01', md5(concat('run', turn))::UUID, 'nightly',
        'standard', 'standard', '', '{}', 'committed', 1, 0, 0, false, 'good', '2030-05-20',
        false, '', '[]'
    FROM range(1, $turns + 1) AS t(turn), range(1, $vms + 1) AS v(vm);
INSERT INTO version_disks SELECT version_no, vm_no, $base::UBIGINT * 262144, 'root', '0'
    FROM versions
"""


def tonight(vm: int, turn: int, base: int) -> tuple[Version, DiskMap, PackReceipt]:
    """A version in which some data blocks, scattered, are new."""
    keys = [ChunkId(bytes.fromhex(_name("new", vm, turn, at)) * 2) for at in range(CHANGED)]
    step = max(base // CHANGED, 1)
    spots = range(0, min(CHANGED * step, base), step)
    disk = DiskId(_name(f"disk{vm}"))
    locations = PackLocations.of(
        Location(c, 164 + 100_000 * at, 100_000) for at, c in enumerate(keys)
    )
    pack = PackReceipt(
        PackId(_name("new pack", vm, turn)), 50_000_664, bytes(32), bytes(16), locations
    )
    size = base * CHUNK_BYTES
    record = VersionRecord(
        vm_name=f"vm{vm}",
        run=RunId(_name("tonight", turn)),
        job="nightly",
        consistency="standard",
        consistency_asked="standard",
        note="",
        disks=(
            DiskRecord(
                disk=disk,
                name="root",
                position="0",
                size_bytes=size,
                chunk_bytes=CHUNK_BYTES,
                parts=(),
                deltas=1,
                root="0" * 64,
            ),
        ),
        configuration="{}",
        counts=Counts(),
        release="bench",
    )
    version = VersionId(_name("tonight's", vm, turn))
    clear = VersionClear(
        vm=VmId(_name(f"vm{vm}")),
        sequence=turn,
        version=version,
        taken_at=NOW.isoformat(),
        committed_at=NOW.isoformat(),
        previous="0" * 64,
        objects=(),
        digests=(),
    )
    record_name = layout.version_record(VmId(clear.vm), turn, version)
    runs = [Run(spot, key) for spot, key in zip(spots, keys, strict=False)]
    return (
        Version(record_name, clear, record, "0" * 64),
        DiskMap(disk, whole=False, runs=runs),
        pack,
    )


def held_by(catalog: CatalogLocation, chunks: list[ChunkId]) -> int:
    """How many versions need some data blocks."""
    keys = ", ".join(f"('{chunk[:16].hex()}'::UUID)" for chunk in chunks)
    with reading(catalog) as connection:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE asked AS SELECT * FROM (VALUES {keys}) AS v(chunk)"
        )
        return len(affected_versions(connection, "asked"))


def measured(catalog: CatalogLocation, chunks: int, folder: Path) -> dict[str, float]:
    """Seconds of each question, the median of a few."""
    base = chunks * 7 // 10 // VMS
    times: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], object]) -> None:
        begun = stopwatch()
        work()
        times.setdefault(what, []).append(stopwatch() - begun)

    for nth in range(ROUNDS):
        vm = 101 + 97 * nth
        version, changes, pack = tonight(vm, VERSIONS + 1, base)
        some = [ChunkId(each.chunk) for each in pack.locations[:100]]
        old = [PackId(_name(f"pack{1 + nth * PROOFS + at}")) for at in range(PROOFS)]
        proofs = [PackProof(each, Finding.PROVED, NOW, 6_400_500, 64) for each in old]
        newest = [pack.pack]
        work: dict[str, Callable[[], object]] = {
            "must read of a VM": partial(must_read, catalog, VmId(version.clear.vm)),
            f"record a version, {CHANGED} changed": partial(
                record_version, catalog, version, [changes], [pack], NOW
            ),
            "deduplicate its pack": partial(drop_duplicates, catalog, NOW, packs=newest),
            f"record {PROOFS} proofs": partial(record_proofs, catalog, proofs, NOW, MONTH),
            "who holds 100 data blocks": partial(held_by, catalog, some),
            "where are 100 data blocks": partial(served_by_proved, catalog, some, NOW, MONTH),
        }
        for what, each in work.items():
            timed(what, each)
    timed("known ids for a job", partial(write_known_ids, catalog, folder / "ids", NOW, MONTH))
    timed("what nothing needs", partial(spare_packs, catalog, NOW, MONTH))
    return {what: statistics.median(taken) for what, taken in times.items()}


def main() -> None:
    """Measure, and print a table."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--chunks", type=int, nargs="+", default=[1_000_000, 10_000_000])
    words.add_argument("--folder", default=None)
    asked = words.parse_args()
    found: dict[int, dict[str, float]] = {}
    for chunks in asked.chunks:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            catalog = CatalogLocation(
                Path(folder) / "catalog" / "catalog.duckdb", memory_bytes=2 << 30, threads=2
            )
            fill(catalog, chunks)
            with catalog_session(catalog):
                found[chunks] = measured(catalog, chunks, Path(folder))
            size = catalog.path.stat().st_size >> 20
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{chunks:,} chunks: file {size} MB, peak {peak} MB", flush=True)
    few, many = min(found), max(found)
    print("| seconds |", " | ".join(f"{each:,}" for each in found), "| ratio |")
    for what in found[few]:
        row = " | ".join(f"{each[what]:.3f}" for each in found.values())
        ratio = found[many][what] / found[few][what]
        print(f"| {what} | {row} | {ratio:.1f} |")


if __name__ == "__main__":
    main()

"""What one version, its deduplication and its proofs cost the catalog as the store grows.

Fills a catalog with a made-up store of so many data blocks (1,000 VMs of 30 versions each), and
does with it what a job does, with the calls a job makes; DuckDB has 2 GB and two threads::

    python -m bench.catalog_scale [--chunks 1000000 10000000] [--folder /var/tmp]

What was made in a folder stays there, and the next time only copies of it are used. The stores
take turns; each figure is the median of ten in sessions, as a job has them, the opening left out.
What is done once a validation or a reclaim is measured once, while another process reads a row and
writes one, again and again: how long that took at most is told, too.
"""

import argparse
import hashlib
import multiprocessing
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from string import Template

from catalog.all_blocks import sparse_packs
from catalog.audits import packs_expected
from catalog.chunks import affected_versions, must_read
from catalog.connection import CatalogLocation, Connection, reading, writing
from catalog.copies import export_copy
from catalog.dedup import drop_duplicates
from catalog.finding import folder_of
from catalog.forgotten import drop_forgotten
from catalog.keeping_parts import keep_parts
from catalog.known_ids import write_known_ids
from catalog.proofs import record_proofs
from catalog.recording import record_version
from catalog.schema import create
from catalog.session import catalog_session
from catalog.space import forget_versions, freed_by, served_by_proved, spare_packs
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

NOW, YEAR_LATER = datetime(2030, 6, 1, tzinfo=UTC), datetime(2031, 6, 1, tzinfo=UTC)
MONTH = timedelta(days=30)
VMS, VERSIONS, CHUNK_BYTES, ROUNDS = 1000, 30, 256 << 10, 5
CHANGED, PROOFS = 500, 8


def _name(*words: object) -> str:
    return hashlib.md5("/".join(map(str, words)).encode(), usedforsecurity=False).hexdigest()


def fill(catalog: CatalogLocation, chunks: int) -> None:
    """A store of which seven tenths came with first versions, the rest with 29 later ones.

    Each night's VMs end in another order, so rows lie by night, then by VM in no order.
    """
    create(catalog, NOW)
    base = chunks * 7 // 10 // VMS
    later = max(chunks * 3 // 10 // VMS // (VERSIONS - 1), 1)
    with catalog_session(catalog):
        for turn in range(1, VERSIONS + 1):
            batch = 50 if turn == 1 else VMS
            for first in range(0, VMS, batch):
                with writing(catalog) as connection:
                    last = first + batch
                    _execute(connection, _ONE_VM, base, later)
                    _execute(connection, _ONE_TURN, base, later, turn=turn, first=first, last=last)
        with writing(catalog) as connection:
            _execute(connection, _ONE_VM + ";" + _REST, base, later)


def _execute(connection: Connection, text: str, base: int, later: int, **words: int) -> None:
    told = {"base": base, "later": later, "vms": VMS, "turns": VERSIONS, **words}
    for statement in Template(text).substitute(told).split(";"):
        if statement.strip():
            connection.execute(statement)


_ONE_VM = """
CREATE OR REPLACE TEMP TABLE one_vm AS
    SELECT *, coalesce(lead(turn) OVER (PARTITION BY position ORDER BY turn), 4294967295) AS until
    FROM (
        SELECT 1::UINTEGER AS turn, position::UINTEGER AS position, position AS nth
        FROM range($base) AS p(position)
        UNION ALL
        SELECT turn::UINTEGER, ((turn * 7919 + nth * 31) % $base)::UINTEGER, nth
        FROM range(2, $turns + 1) AS t(turn), range($later) AS n(nth)
        QUALIFY row_number() OVER (PARTITION BY turn, (turn * 7919 + nth * 31) % $base) = 1);
CREATE OR REPLACE TEMP TABLE order_of_turn AS
    SELECT turn, vm::INTEGER AS vm, row_number() OVER (
        PARTITION BY turn ORDER BY hash(vm * 1000 + turn)) - 1 AS place
    FROM range(1, $turns + 1) AS t(turn), range(1, $vms + 1) AS v(vm)
"""
"""What one VM's map looks like, which all have; and in which order they end each night."""

_ONE_TURN = """
CREATE OR REPLACE TEMP TABLE told AS
    SELECT o.vm, v.position, v.until, v.nth, ($turn - 1) * $vms + o.place + 1 AS version_no,
        md5(concat(o.vm, '/', v.turn, '/', v.nth))::UUID AS chunk,
        (SELECT max(pack_no) FROM packs) + v.nth // 64 + 1 + (o.place - $first)
            * (SELECT (count(*) + 63) // 64 FROM one_vm WHERE turn = $turn) AS pack_no
    FROM order_of_turn AS o JOIN one_vm AS v USING (turn)
    WHERE turn = $turn AND place >= $first AND place < $last
    ORDER BY o.place, v.nth;
INSERT INTO maps SELECT vm, position, chunk, $turn, until, version_no FROM told;
INSERT INTO places SELECT chunk, pack_no, 164 + (nth % 64) * 100000, 100000, true FROM told;
INSERT INTO pack_uses SELECT vm, pack_no, $turn, max(until) FROM told
    GROUP BY vm, pack_no ORDER BY pack_no;
INSERT INTO packs
    SELECT pack_no, md5(concat('pack', pack_no))::UUID, 100000 * count(*) + 500, ''::BLOB, count(*),
        md5(concat('run', $turn))::UUID, any_value(version_no), '2030-05-01', 'live',
        '2030-05-20', '2030-05-20', false, false, '', NULL
    FROM told GROUP BY pack_no ORDER BY pack_no
"""

_REST = """
INSERT INTO vms SELECT vm, md5(concat('vm', vm))::UUID, concat('vm', vm)
    FROM range(1, $vms + 1) AS v(vm);
INSERT INTO disks SELECT vm, vm, md5(concat('disk', vm))::UUID, 262144
    FROM range(1, $vms + 1) AS v(vm);
INSERT INTO versions (version_no, version_id, vm_no, turn, vm_name, sequence, record, digest,
        taken_at, committed_at, recorded_at, run_id, job, consistency, consistency_asked, note,
        counts, state, packs, unproved_packs, unreachable_packs, damaged, verdict, judged_at,
        to_judge, keep, tags)
    SELECT (turn - 1) * $vms + place + 1, md5(concat('version', vm, '/', turn))::UUID, vm, turn,
        concat('vm', vm), turn, concat('record', vm, '/', turn), repeat('0', 64),
        '2030-05-01', '2030-05-01', '2030-05-01', md5(concat('run', turn))::UUID, 'nightly',
        'standard', 'standard', '', '{}', 'committed', 1, 0, 0, false, 'good', '2030-05-20',
        false, '', '[]'
    FROM order_of_turn ORDER BY turn, place;
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


def blast_radius(catalog: CatalogLocation, pack: PackId) -> int:
    """How many versions need a pack."""
    with reading(catalog) as connection:
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE asked AS SELECT DISTINCT chunk FROM places
            WHERE pack_no = (SELECT pack_no FROM packs WHERE pack_id = '{pack}'::UUID)"""
        )
        return len(affected_versions(connection, "asked"))


def oldest(catalog: CatalogLocation) -> list[VersionId]:
    """The first version of each VM: what a policy of 29 gives up."""
    with reading(catalog) as connection:
        rows = connection.execute("SELECT version_id FROM versions WHERE turn = 1").fetchall()
    return [VersionId(version.hex) for (version,) in rows]


class Timed:
    """How long each piece of work took, time after time, and how long others waited for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.waited: dict[str, list[float]] = {}

    def beside(self, catalog: CatalogLocation, what: str, work: Callable[[], object]) -> None:
        """The same while another process reads and writes."""
        with beside(catalog, self.waited.setdefault(what, [])):
            self(what, work)

    def __call__(self, what: str, work: Callable[[], object]) -> None:
        """Do it, and note how long it took."""
        begun = stopwatch()
        work()
        self.seconds.setdefault(what, []).append(stopwatch() - begun)


def for_each_vm(catalog: CatalogLocation, chunks: int, nth: int, timed: Timed) -> None:
    """What a job does for one VM, the `nth` that is backed up tonight."""
    base = chunks * 7 // 10 // VMS
    version, changes, pack = tonight(101 + 97 * nth % 800, VERSIONS + 1, base)
    some = [ChunkId(each.chunk) for each in pack.locations[:100]]
    one = PackId(_name(f"pack{2 + nth * 7 * base // 64}"))
    old = [PackId(_name(f"pack{1 + nth * PROOFS + at}")) for at in range(1, PROOFS)]
    proofs = [PackProof(each, Finding.PROVED, NOW, 6_400_500, 64) for each in old]
    proofs.append(PackProof(pack.pack, Finding.PROVED, NOW, pack.size_bytes, CHANGED))
    work: dict[str, Callable[[], object]] = {
        "what a VM must read again": partial(must_read, catalog, VmId(version.clear.vm)),
        f"record a version, {CHANGED} changed": partial(
            record_version, catalog, version, [changes], [pack], NOW
        ),
        "deduplicate its pack": partial(drop_duplicates, catalog, NOW, packs=[pack.pack]),
        f"record {PROOFS} proofs": partial(record_proofs, catalog, proofs, NOW, MONTH),
        "which versions hold 100 data blocks": partial(held_by, catalog, some),
        "where 100 data blocks are": partial(served_by_proved, catalog, some, NOW, MONTH),
        "blast radius of a pack": partial(blast_radius, catalog, one),
    }
    for what, each in work.items():
        timed(what, each)


def for_all(catalog: CatalogLocation, chunks: int, folder: Path, timed: Timed) -> None:
    """What a validation, a policy, a reclaim and a compaction ask once."""
    known = partial(write_known_ids, catalog, folder / "ids", NOW, MONTH)
    timed.beside(catalog, "known ids, the first time", known)
    version, changes, pack = tonight(7, VERSIONS + 1, chunks * 7 // 10 // VMS)
    record_version(catalog, version, [changes], [pack], NOW)
    proof = PackProof(pack.pack, Finding.PROVED, NOW, pack.size_bytes, CHANGED)
    record_proofs(catalog, [proof], NOW, MONTH)
    work: dict[str, Callable[[], object]] = {
        f"known ids, {CHANGED} more proved": known,
        "preview, a version of each VM": partial(freed_by, catalog, oldest(catalog), NOW, MONTH),
        "what nothing needs (the mark)": partial(spare_packs, catalog, NOW, MONTH),
        "what is worth compacting": partial(sparse_packs, catalog, NOW, MONTH, live_share=0.7),
        "which packs must be there (the audit)": lambda: list(packs_expected(catalog)),
        "a copy of the catalog": partial(export_copy, catalog, folder / "copy", NOW),
    }
    for what, each in work.items():
        timed.beside(catalog, what, each)
    forget_versions(catalog, oldest(catalog), NOW)
    timed.beside(catalog, "drop what was forgotten", partial(drop_forgotten, catalog, YEAR_LATER))


@contextmanager
def beside(catalog: CatalogLocation, waited: list[float]) -> Generator[None, None, None]:
    """While it lasts another process reads and writes; `waited` gets how long that took at most."""
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.Queue()
    other = context.Process(target=_read_and_write, args=(catalog, stop, told))
    other.start()
    told.get()  # it has begun
    try:
        yield
    finally:
        stop.set()
        waited.append(told.get())
        other.join()


def _read_and_write(catalog: CatalogLocation, stop: Event, told: "Queue[float]") -> None:
    longest, catalog = 0.0, replace(catalog, patience=timedelta(hours=1))
    told.put(longest)
    while not stop.wait(0.5):
        for turn in (reading, writing):
            begun = stopwatch()
            with turn(catalog) as connection:
                if turn is writing:
                    connection.execute("UPDATE vms SET vm_name = vm_name WHERE vm_no = 1")
                connection.execute("SELECT max(version_no) FROM versions").fetchone()
            longest = max(longest, stopwatch() - begun)
    told.put(longest)


def copied(kept: Path, folder: Path, chunks: int) -> CatalogLocation:
    """A catalog of so many data blocks in `folder`, of the one that is kept elsewhere."""
    if not (kept / str(chunks)).exists():
        with tempfile.TemporaryDirectory(dir=kept) as draft:
            made(Path(draft), chunks)
            (Path(draft) / str(chunks)).rename(kept / str(chunks))
    shutil.copytree(kept / str(chunks), folder / str(chunks))
    return located(folder, chunks)


def located(folder: Path, chunks: int) -> CatalogLocation:
    """Where the catalog of so many data blocks is."""
    path = folder / str(chunks) / "catalog.duckdb"
    return CatalogLocation(path, memory_bytes=2 << 30, threads=2)


def made(folder: Path, chunks: int) -> CatalogLocation:
    """A catalog of so many data blocks, with the files beside it."""
    catalog = located(folder, chunks)
    begun = stopwatch()
    fill(catalog, chunks)
    filled = stopwatch()
    keep_parts(catalog, merge=True)
    beside = sum(path.stat().st_size for path in folder_of(catalog.path).glob("*"))
    print(
        f"{chunks:,} data blocks: {catalog.path.stat().st_size >> 20} MB, made in"
        f" {filled - begun:.0f} s; ids beside it {beside >> 20} MB, made in"
        f" {stopwatch() - filled:.0f} s",
        flush=True,
    )
    return catalog


def main() -> None:
    """Measure, and print a table."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--chunks", type=int, nargs="+", default=[1_000_000, 10_000_000])
    words.add_argument("--folder", default=None)
    asked = words.parse_args()
    found = {chunks: Timed() for chunks in asked.chunks}
    if asked.folder:
        Path(asked.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        make = partial(copied, Path(asked.folder)) if asked.folder else made
        stores = {chunks: make(Path(folder), chunks) for chunks in asked.chunks}
        for turn in range(ROUNDS):
            for chunks, catalog in stores.items():
                with catalog_session(catalog):
                    for_each_vm(catalog, chunks, 3 * turn, Timed())  # opens the file
                    for nth in (1, 2):
                        for_each_vm(catalog, chunks, 3 * turn + nth, found[chunks])
        for chunks, catalog in stores.items():
            with catalog_session(catalog):
                for_all(catalog, chunks, catalog.path.parent, found[chunks])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{chunks:,} data blocks: {peak} MB at most", flush=True)
    medians = [
        {what: statistics.median(taken) for what, taken in each.seconds.items()}
        for each in found.values()
    ]
    print("| seconds |", " | ".join(f"{each:,}" for each in found), "| ratio | others wait |")
    last = found[asked.chunks[-1]]
    for what in medians[0]:
        row = " | ".join(f"{each[what]:.3f}" for each in medians)
        waited = f"{last.waited[what][-1]:.2f}" if what in last.waited else ""
        print(f"| {what} | {row} | {medians[-1][what] / medians[0][what]:.1f} | {waited} |")


if __name__ == "__main__":
    main()

"""A big disk is recorded in bounded memory, and wholly or not at all."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.connection import CatalogLocation, reading
from tests.catalog.scenes import version
from tests.support.catalog_rows import known_versions

ROOT = Path(__file__).parents[2]
POSITIONS = 1_000_000
PROGRAM = """
import json, os, resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from catalog.connection import CatalogLocation
from catalog.recording import record_version
from catalog.values import DiskMap
from likeness.model.ids import ChunkId, PackId
from likeness.store.format.maps import Run
from likeness.store.format.pack import PackReceipt
from likeness.store.format.locations import Location, PackLocations
from tests.catalog.scenes import CHUNK_BYTES, NOW, disk, name, version

positions = int(sys.argv[2])
catalog = CatalogLocation(Path(sys.argv[1]), memory_bytes=300 << 20)

def key(number):
    return number.to_bytes(8, "big") * 4

def ids(first, count):
    return b"".join(key(n + 1) for n in range(first, first + count))

def packs():
    for at in range(0, positions, 64):
        locations = PackLocations.of(
            Location(ChunkId(key(n + 1)), 100 + 1000 * (n - at), 1000)
            for n in range(at, min(at + 64, positions)))
        yield PackReceipt(PackId(name("pack", at)), 64200, bytes(32), bytes(16), locations)

runs = (Run(at, ids(at, min(4096, positions - at))) for at in range(0, positions, 4096))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
record = version("big", 1, {{0: positions * CHUNK_BYTES}})
done = record_version(catalog, record, [DiskMap(disk("big"), True, runs)], packs(), NOW)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([done.chunks, done.packs, done.lost_chunks, before, peak]), flush=True)
"""


def recorder(catalog: CatalogLocation, positions: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT)), str(catalog.path), str(positions)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_million_positions_take_bounded_memory(catalog: CatalogLocation) -> None:
    with recorder(catalog, POSITIONS) as process:
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    chunks, packs, lost, before, peak = json.loads(said.splitlines()[-1])
    assert (chunks, packs, lost) == (POSITIONS, POSITIONS // 64, 0)
    assert (peak - before) >> 10 < 450, "MiB more than at the start, with 300 for DuckDB"
    with reading(catalog) as connection:
        assert connection.execute("SELECT count(*) FROM maps").fetchone() == (POSITIONS,)


def inside(catalog: CatalogLocation) -> bool:
    """Whether somebody is in the middle of writing."""
    with catalog.lock_path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.25, 0.5])
def test_kill_9_while_a_version_is_recorded_leaves_all_or_nothing(
    catalog: CatalogLocation, moment: float
) -> None:
    positions = 60_000
    process = recorder(catalog, positions)
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while not inside(catalog):
            assert time.monotonic() < deadline
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
    wanted = version("big", 1, {0: 1}).version
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT (SELECT count(*) FROM maps), (SELECT count(*) FROM places),
                (SELECT count(*) FROM packs WHERE pack_no > 0), (SELECT count(*) FROM disks)"""
        ).fetchone()
    assert rows in ((0, 0, 0, 0), (positions, positions, -(-positions // 64), 1))
    assert (wanted in known_versions(catalog)) == (rows[0] > 0)

    with recorder(catalog, positions) as again:
        again.communicate(timeout=120)
    assert again.returncode == 0
    assert known_versions(catalog) == {wanted}
    with reading(catalog) as connection:
        twice = connection.execute(
            """SELECT (SELECT count(*) FROM maps), (SELECT count(DISTINCT position) FROM maps),
                (SELECT count(*) FROM places)"""
        ).fetchone()
    assert twice == (positions, positions, positions)

"""How long it takes to find out where a disk's chunks lie, in a store of 100 million chunks.

A catalog is made with so many places, and versions of two disks of 1 TiB; the question is the one a
restore asks, in a process of its own. One disk was backed up on thirty nights, others between; of
the other one every chunk is some other VM's, strewn over all packs there are.

    python -m bench.locating [MILLIONS]        exit 1 when it takes longer than 5 s
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.results import keep, peak_bytes
from catalog import schema
from catalog.connection import CatalogLocation, Connection, writing
from catalog.locations_of_disk import locations_of_disk
from likeness.model.ids import DiskId, VersionId

DISK_CHUNKS = 4 << 20
MAX_SECONDS = 5.0
NIGHTS = 30
_STREWN = "a" * 32
_GREW = "b" * 32
_DISKS = {"as thirty nights leave it": _GREW, "strewn over all packs": _STREWN}


def main() -> int:
    """Make the catalog, ask, print, and say by the exit code whether it was quick enough."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        _make(_catalog(folder), millions * 1_000_000)
        found = {how: _asked(folder, name) for how, name in _DISKS.items()}
    finally:
        shutil.rmtree(folder)
    lines = [f"Among {millions} million chunks, at most {MAX_SECONDS:g} s:", ""]
    lines += [
        f"- a disk of 1 TiB {how}: its {each['chunks']:,} in {each['seconds']:.2f} s,"
        f" peak {each['peak_mb']:.0f} MB"
        for how, each in found.items()
    ]
    text = "\n".join(lines)
    print(text)
    keep("locating", f"by the catalog, page cache warm, load {os.getloadavg()[0]:.1f}.", text)
    return 0 if max(each["seconds"] for each in found.values()) <= MAX_SECONDS else 1


def _asked(folder: Path, name: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "bench.locating", "ask", str(folder), name]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _catalog(folder: Path) -> CatalogLocation:
    return CatalogLocation(folder / "catalog.duckdb")


def _make(catalog: CatalogLocation, chunks: int) -> None:
    schema.create(catalog, datetime.now(UTC))
    step = 10_000_000
    for first in range(0, chunks, step):
        with writing(catalog) as connection:
            connection.execute(
                """INSERT INTO places
                SELECT md5(i::VARCHAR)::UUID, (i // 64)::INTEGER, ((i % 64) * 200000)::UINTEGER,
                    200000::UINTEGER, true
                FROM range(?, ?) AS t(i)""",
                [first, min(first + step, chunks)],
            )
    with writing(catalog) as connection:
        connection.execute(
            """INSERT INTO packs BY NAME
            SELECT i::INTEGER AS pack_no, md5('p' || i)::UUID AS pack_id,
                16000000::UINTEGER AS size_bytes, ''::BLOB AS digest, 64::UINTEGER AS chunks,
                now()::TIMESTAMP AS recorded_at, 'live' AS state, false AS bad,
                false AS unreachable, '' AS cause
            FROM range(?) AS t(i)""",
            [chunks // 64 + 1],
        )
        strewn = f"i * {max(chunks // DISK_CHUNKS, 1)}"
        # The first night brings most of it, each of the others an equal part of the rest.
        first, later = DISK_CHUNKS * 7 // 10, DISK_CHUNKS * 3 // 10 // (NIGHTS - 1)
        night = f"greatest(0, (i - {first}) // {later} + 1)"
        grew = f"i + ({night}) * {(chunks - DISK_CHUNKS) // NIGHTS}"
        for number, (name, place) in enumerate(((_STREWN, strewn), (_GREW, grew)), start=1):
            _add_disk(connection, number, name, place, min(DISK_CHUNKS, chunks))


def _add_disk(connection: Connection, number: int, name: str, place: str, count: int) -> None:
    """A VM with a disk and a version; its chunk at position `i` is the one at a place by number."""
    connection.execute(f"INSERT INTO disks VALUES ({number}, {number}, '{name}'::UUID, 262144)")
    connection.execute(
        f"""INSERT INTO versions BY NAME
        SELECT {number} AS version_no, ?::UUID AS version_id, {number} AS vm_no, 1 AS turn,
            'vm' AS vm_name, 1 AS sequence, '' AS record, '' AS digest,
            now()::TIMESTAMP AS taken_at, now()::TIMESTAMP AS committed_at,
            now()::TIMESTAMP AS recorded_at, ?::UUID AS run_id, '' AS job, '' AS consistency,
            '' AS consistency_asked, '' AS note, '{{}}' AS counts, 'committed' AS state, 0 AS packs,
            0 AS unproved_packs, 0 AS unreachable_packs, false AS damaged, 'good' AS verdict,
            false AS to_judge""",
        [name, name],
    )
    connection.execute(
        f"""INSERT INTO maps
        SELECT {number}, i::UINTEGER, md5(({place})::VARCHAR)::UUID, 1, 4294967295, {number}
        FROM range({count}) AS t(i)"""
    )
    connection.execute(
        f"""INSERT INTO pack_uses
        SELECT DISTINCT {number}, (({place}) // 64)::INTEGER, 1, 4294967295
        FROM range({count}) AS t(i)"""
    )


def _ask(folder: Path, name: str) -> None:
    begun = time.monotonic()
    found = locations_of_disk(_catalog(folder), VersionId(name), DiskId(name))
    result = {
        "seconds": time.monotonic() - begun,
        "chunks": len(found.positions),
        "peak_mb": peak_bytes() / 1e6,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _ask(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())

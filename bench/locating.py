"""How long it takes to find out where a disk's chunks lie, in a store of 100 million chunks.

A catalog is made with so many places, and a version of a disk of 1 TiB; the question is the one a
restore asks, in a process of its own.

    python -m bench.locating [MILLIONS]        exit 1 when it takes longer than 5 s
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.results import keep, peak_bytes
from catalog import schema
from catalog.connection import CatalogLocation, writing
from catalog.locations_of_disk import locations_of_disk
from likeness.model.ids import DiskId, VersionId

DISK_CHUNKS = 4 << 20
MAX_SECONDS = 5.0
_NAME = "a" * 32


def main() -> int:
    """Make the catalog, ask, print, and say by the exit code whether it was quick enough."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        _make(_catalog(folder), millions * 1_000_000)
        words = [sys.executable, "-m", "bench.locating", "ask", str(folder)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder)
    found = json.loads(done.stdout)
    text = (
        f"Among {millions} million chunks the {found['chunks']:,} of a disk of 1 TiB are located in"
        f" {found['seconds']:.2f} s (at most {MAX_SECONDS:g}), peak {found['peak_mb']:.0f} MB."
    )
    print(text)
    keep("locating", "by the catalog, page cache warm.", text)
    return 0 if found["seconds"] <= MAX_SECONDS else 1


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
        connection.execute(f"INSERT INTO disks VALUES (1, 1, '{_NAME}'::UUID, 262144)")
        connection.execute(
            """INSERT INTO versions BY NAME
            SELECT 1 AS version_no, ?::UUID AS version_id, 1 AS vm_no, 1 AS turn, 'vm' AS vm_name,
                1 AS sequence, '' AS record, '' AS digest, now()::TIMESTAMP AS taken_at,
                now()::TIMESTAMP AS committed_at, now()::TIMESTAMP AS recorded_at,
                ?::UUID AS run_id, '' AS job, '' AS consistency, '' AS consistency_asked,
                '' AS note, '{}' AS counts, 'committed' AS state, 0 AS packs, 0 AS unproved_packs,
                0 AS unreachable_packs, false AS damaged, 'good' AS verdict, false AS to_judge""",
            [_NAME, _NAME],
        )
        connection.execute(
            """INSERT INTO maps
            SELECT 1, i::UINTEGER, md5((i * ?)::VARCHAR)::UUID, 1, 4294967295, 1
            FROM range(?) AS t(i)""",
            [max(chunks // DISK_CHUNKS, 1), min(DISK_CHUNKS, chunks)],
        )
        connection.execute("INSERT INTO pack_uses SELECT 1, pack_no, 1, 4294967295 FROM packs")


def _ask(folder: Path) -> None:
    begun = time.monotonic()
    found = locations_of_disk(_catalog(folder), VersionId(_NAME), DiskId(_NAME))
    result = {
        "seconds": time.monotonic() - begun,
        "chunks": len(found.positions),
        "peak_mb": peak_bytes() / 1e6,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _ask(Path(sys.argv[2]))
    else:
        sys.exit(main())

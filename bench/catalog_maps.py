"""Which form of block maps answers the catalog's questions best?

Builds the same history three times, as interval rows, as rows that are only ever added, and as
one Parquet file per disk and version, and times what the catalog does with each::

    python -m bench.catalog_maps [--disks 20] [--versions 30] [--gib 100] [--changed 0.01]

Every form starts from the same tables of changes, so only the form differs; the answers of the
three are compared, so that a fast wrong one does not win.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

CHUNK_BYTES = 256 << 10
STILL = 4294967295


@dataclass
class Scale:
    """How much history to build."""

    disks: int
    versions: int
    positions: int
    changed: float


@dataclass
class Form:
    """One way to keep maps: how to add a version, and how to ask.

    Attributes:
        ask: Question to query; `$want` is a table of chunks, `live (disk_no, version)` the
            versions that are not expired.
    """

    name: str
    make: str
    add: list[str]
    ask: dict[str, str]
    files: bool = False
    times: dict[str, float] = field(default_factory=dict)
    answers: dict[str, object] = field(default_factory=dict)


INTERVALS = Form(
    "interval rows",
    """CREATE TABLE maps (disk_no INTEGER, position UINTEGER, chunk UUID,
        since UINTEGER, until UINTEGER)""",
    [
        """UPDATE maps SET until = $v FROM told AS t WHERE maps.disk_no = t.disk_no
           AND maps.position = t.position AND maps.until = 4294967295""",
        """INSERT INTO maps SELECT disk_no, position, chunk, $v, 4294967295 FROM told
           WHERE chunk IS NOT NULL ORDER BY disk_no, position""",
    ],
    {
        "who holds 100 chunks": """SELECT count(*) FROM maps AS m SEMI JOIN want USING (chunk)
            JOIN live AS l
                ON l.disk_no = m.disk_no AND m.since <= l.version AND l.version < m.until""",
        "what is referenced": """SELECT count(DISTINCT chunk) FROM maps AS m WHERE EXISTS (
            SELECT 1 FROM live AS l WHERE l.disk_no = m.disk_no
            AND m.since <= l.version AND l.version < m.until)""",
        "one version's map": """SELECT count(*), min(chunk) FROM maps
            WHERE disk_no = 7 AND since <= 20 AND 20 < until""",
    },
)
APPENDED = Form(
    "added rows",
    "CREATE TABLE maps (disk_no INTEGER, position UINTEGER, chunk UUID, version UINTEGER)",
    ["INSERT INTO maps SELECT disk_no, position, chunk, $v FROM told ORDER BY disk_no, position"],
    {
        "who holds 100 chunks": """WITH hit AS (SELECT * FROM maps SEMI JOIN want USING (chunk)),
            span AS (SELECT h.disk_no, h.position, h.version AS since,
                coalesce(min(m.version), 4294967295) AS until
                FROM hit AS h LEFT JOIN maps AS m ON m.disk_no = h.disk_no
                    AND m.position = h.position AND m.version > h.version
                GROUP BY ALL)
            SELECT count(*) FROM span AS s
            JOIN live AS l
                ON l.disk_no = s.disk_no AND s.since <= l.version AND l.version < s.until""",
        "what is referenced": """WITH span AS (SELECT disk_no, chunk, version AS since,
                lead(version, 1, 4294967295) OVER (
                    PARTITION BY disk_no, position ORDER BY version) AS until FROM maps)
            SELECT count(DISTINCT chunk) FROM span AS s WHERE chunk IS NOT NULL AND EXISTS (
                SELECT 1 FROM live AS l WHERE l.disk_no = s.disk_no
                AND s.since <= l.version AND l.version < s.until)""",
        "one version's map": """SELECT count(chunk), min(chunk) FROM (
            SELECT arg_max_null(chunk, version) AS chunk FROM (
                SELECT position, version, chunk FROM maps WHERE disk_no = 7 AND version <= 20)
            GROUP BY position)""",
    },
)
PARQUET = Form(
    "Parquet files",
    "SELECT 1",
    [],
    {
        question: query.replace("FROM maps", "FROM read_parquet('$files')").replace(
            "JOIN maps AS m", "JOIN read_parquet('$files') AS m"
        )
        for question, query in APPENDED.ask.items()
    },
    files=True,
)


def tell(scale: Scale, version: int) -> str:
    """The changes of one version of all disks, the same every time it is asked."""
    chosen = (
        "true"
        if version == 1
        else f"hash(disk_no, position, {version}) % 1_000_000 < {int(scale.changed * 1e6)}"
    )
    return f"""CREATE OR REPLACE TEMP TABLE told AS
        SELECT d.range::INTEGER AS disk_no, p.range::UINTEGER AS position,
            CASE WHEN hash(disk_no, position, {version}, 'zero') % 20 = 0 THEN NULL
                ELSE md5(concat_ws('/', disk_no, position, {version}))::UUID END AS chunk
        FROM range({scale.disks}) AS d, range({scale.positions}) AS p
        WHERE {chosen} ORDER BY disk_no, position"""


def build(form: Form, scale: Scale, folder: Path) -> None:
    """Record every version, disk by disk as jobs do, and time the incrementals."""
    connection = duckdb.connect(
        folder / "maps.duckdb", config={"threads": 2, "memory_limit": "1GB"}
    )
    (folder / "files").mkdir()
    connection.execute(form.make)
    spent = []
    for version in range(1, scale.versions + 1):
        connection.execute(tell(scale, version))
        connection.execute("ALTER TABLE told RENAME TO all_told")
        for disk in range(scale.disks):
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE told AS FROM all_told WHERE disk_no = {disk}"
            )
            began = time.perf_counter()
            add(connection, form, folder, version, disk)
            spent.append((version, time.perf_counter() - began))
        connection.execute("DROP TABLE told; DROP TABLE all_told")
    connection.close()
    later = [seconds for version, seconds in spent if version > 1]
    form.times["first version of a disk, ms"] = 1e3 * _mean([s for v, s in spent if v == 1])
    form.times["incremental of a disk, ms"] = 1e3 * _mean(later)
    form.times["size, MiB"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / (
        1 << 20
    )


def add(
    connection: duckdb.DuckDBPyConnection, form: Form, folder: Path, version: int, disk: int
) -> None:
    """Add one version of one disk and make it durable."""
    if form.files:
        connection.execute(
            f"""COPY (SELECT disk_no, position, chunk, {version}::UINTEGER AS version FROM told)
            TO '{folder}/files/{disk:04}-{version:04}.parquet' (COMPRESSION zstd)"""
        )
        return
    connection.begin()
    for statement in form.add:
        connection.execute(statement.replace("$v", str(version)))
    connection.commit()
    connection.execute("CHECKPOINT")


def ask(form: Form, scale: Scale, folder: Path) -> None:
    """Put every question three times; the best counts."""
    connection = duckdb.connect(
        folder / "maps.duckdb", read_only=True, config={"threads": 2, "memory_limit": "1GB"}
    )
    connection.execute(
        f"""CREATE TEMP TABLE live AS SELECT d.range AS disk_no, v.range AS version
        FROM range({scale.disks}) AS d, range({scale.versions // 3}, {scale.versions + 1}) AS v"""
    )
    connection.execute(
        f"""CREATE TEMP TABLE want AS
        SELECT md5(concat_ws('/', d.range, p.range * 97, 1))::UUID AS chunk
        FROM range({min(10, scale.disks)}) AS d, range(10) AS p"""
    )
    for question, query in form.ask.items():
        query = query.replace("$files", f"{folder}/files/*.parquet")
        spent = []
        for _ in range(3):
            began = time.perf_counter()
            form.answers[question] = connection.execute(query).fetchall()
            spent.append(time.perf_counter() - began)
        form.times[f"{question}, ms"] = 1e3 * min(spent)
    connection.close()


def measured(form: Form, scale: Scale, scratch: Path) -> Form:
    """Build and ask in a folder of its own."""
    folder = scratch / form.name.replace(" ", "-")
    folder.mkdir()
    build(form, scale, folder)
    ask(form, scale, folder)
    shutil.rmtree(folder)
    return form


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def main(say: Callable[[str], None] = print) -> None:
    """Measure all forms and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--versions", type=int, default=30)
    parser.add_argument("--gib", type=int, default=100)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--scratch", type=Path, help="where to build; a temporary folder if none")
    given = parser.parse_args()
    scale = Scale(given.disks, given.versions, (given.gib << 30) // CHUNK_BYTES, given.changed)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        forms = [measured(form, scale, Path(scratch)) for form in (INTERVALS, APPENDED, PARQUET)]
    say(
        f"DuckDB {duckdb.__version__}, {scale.disks} disks × {scale.versions} versions, "
        f"{given.gib} GiB each in chunks of 256 KiB, {given.changed:.0%} changed\n"
    )
    say("| | " + " | ".join(form.name for form in forms) + " |")
    say("|---|" + "---|" * len(forms))
    for question in forms[0].times:
        say(f"| {question} | " + " | ".join(f"{f.times[question]:.1f}" for f in forms) + " |")
    say(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    for form in forms[1:]:
        if form.answers != forms[0].answers:
            raise SystemExit(f"{form.name} and {forms[0].name} do not answer alike")
    say("all three give the same answers")


if __name__ == "__main__":
    main()

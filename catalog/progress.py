"""How far validations came, and what is known of every disk of a version."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from catalog.at_work import take_over_work
from catalog.connection import CatalogLocation, from_utc, reading, to_utc, writing
from catalog.finding import NONE
from catalog.serving import CLOCK_SLACK, few_rows, of_disks
from likeness.model.ids import RunId


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation, and how far it came.

    Attributes:
        run: The run that is at it.
        of_run: The backup run it looks after; none: everything.
        begun_at: When its first attempt began, if it went on after one that died.
        seen_at: When it last said how far it is.
        todo_bytes: All it has to read, what is done included.
        done_bytes: What is done.
    """

    run: RunId
    of_run: RunId | None
    begun_at: datetime
    seen_at: datetime
    finished_at: datetime | None
    todo_bytes: int
    done_bytes: int

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * min(self.done_bytes / self.todo_bytes, 1.0) if self.todo_bytes else 0.0


def list_validations(
    catalog: CatalogLocation, *, unfinished_only: bool = False
) -> list[Validation]:
    """Validations, newest first."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT run_id, of_run, begun_at, seen_at, finished_at, todo_bytes, done_bytes
            FROM validations WHERE NOT ? OR finished_at IS NULL
            ORDER BY seen_at DESC, begun_at DESC, rowid DESC""",
            [unfinished_only],
        ).fetchall()
    return [
        Validation(
            run=RunId(run.hex),
            of_run=RunId(of_run.hex) if of_run else None,
            begun_at=from_utc(begun_at) or begun_at,
            seen_at=from_utc(seen_at) or seen_at,
            finished_at=from_utc(finished_at),
            todo_bytes=int(todo),
            done_bytes=int(done),
        )
        for run, of_run, begun_at, seen_at, finished_at, todo, done in rows
    ]


def begin_validation(
    catalog: CatalogLocation,
    run: RunId,
    of_run: RunId | None,
    now: datetime,
    *,
    goes_on_after: RunId | None = None,
) -> Validation:
    """Write down that a validation begins; safe to repeat.

    Args:
        catalog: Which.
        run: The run that is at it.
        of_run: The backup run it looks after; none: everything.
        now: The present.
        goes_on_after: The run of one that died; its time and what it had done are taken over.
    """
    with writing(catalog) as connection:
        known = connection.execute("SELECT 1 FROM validations WHERE run_id = ?", [run]).fetchone()
        if not known and goes_on_after is not None:
            connection.execute(
                """UPDATE validations SET run_id = ?, seen_at = ?, begun_at = least(begun_at, ?)
                WHERE run_id = ? AND finished_at IS NULL""",
                [run, to_utc(now), to_utc(now), goes_on_after],
            )
            take_over_work(connection, goes_on_after, run)
        elif not known:
            connection.execute(
                """INSERT INTO validations (run_id, of_run, begun_at, seen_at, todo_bytes,
                    done_bytes) VALUES (?, ?, ?, ?, 0, 0)""",
                [run, of_run, to_utc(now), to_utc(now)],
            )
    return next(each for each in list_validations(catalog) if each.run == run)


def note_validation(
    catalog: CatalogLocation,
    run: RunId,
    now: datetime,
    *,
    todo_bytes: int,
    done_bytes: int,
    finished: bool = False,
) -> None:
    """Write down how far a validation is; what is done never becomes less."""
    with writing(catalog) as connection:
        connection.execute(
            """UPDATE validations SET seen_at = ?, todo_bytes = greatest(?, done_bytes),
                done_bytes = greatest(done_bytes, ?),
                finished_at = CASE WHEN ? THEN ?::TIMESTAMP ELSE finished_at END
            WHERE run_id = ?""",
            [to_utc(now), todo_bytes, done_bytes, finished, to_utc(now), run],
        )


def last_revalidation(catalog: CatalogLocation, now: datetime) -> datetime | None:
    """When the last finished validation of everything began; none that begins in the future."""
    with reading(catalog) as connection:
        row = connection.execute(
            """SELECT max(begun_at) FROM validations
            WHERE of_run IS NULL AND finished_at IS NOT NULL AND begun_at <= ?""",
            [to_utc(now + CLOCK_SLACK)],
        ).fetchone()
    return from_utc(row[0]) if row else None


@dataclass(frozen=True, slots=True)
class DiskProof:
    """What is known of one disk of a version.

    Attributes:
        packs: How many packs its data lies in.
        unproved: How many of them were never read back.
        unreachable: How many could not be read when last tried.
        damaged_chunks: How many of its data blocks are damaged or missing.
        oldest_proof_at: The oldest proof of its packs; none if there is one without.
    """

    version: str
    vm_name: str
    disk: str
    name: str
    size_bytes: int
    packs: int
    unproved: int
    unreachable: int
    damaged_chunks: int
    oldest_proof_at: datetime | None


def disk_proofs(catalog: CatalogLocation, versions: Iterable[str]) -> list[DiskProof]:
    """What is known of every disk of some versions, by VM and place."""
    wanted = list(versions)
    if not wanted:
        return []
    with reading(catalog) as connection:
        connection.execute("CREATE OR REPLACE TEMP TABLE asked (id UUID)")
        connection.executemany("INSERT INTO asked VALUES (?)", [[each] for each in wanted])
        its = "versions AS v SEMI JOIN asked AS a ON a.id = v.version_id"
        near = of_disks(connection, f"{its} JOIN disks AS d USING (vm_no)")
        in_packs = few_rows(
            "pack_no",
            connection,
            f"""{its} JOIN pack_uses AS u
                ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until""",
            none=NONE,
        )
        found = connection.execute(
            f"""WITH its_maps AS (SELECT * FROM maps WHERE {near}
            ), its_places AS (SELECT * FROM places WHERE serves AND {in_packs}
            ), needed AS (
                SELECT DISTINCT v.version_no, m.disk_no, p.pack_no
                FROM versions AS v SEMI JOIN asked AS a ON a.id = v.version_id
                JOIN disks AS d USING (vm_no) JOIN its_maps AS m USING (disk_no)
                JOIN its_places AS p ON p.chunk = m.chunk
                WHERE m.since <= v.turn AND v.turn < m.until
            ), damaged_disks AS (
                SELECT v.version_no, m.disk_no, count(*) AS chunks
                FROM versions AS v SEMI JOIN asked AS a ON a.id = v.version_id
                JOIN disks AS d USING (vm_no) JOIN its_maps AS m USING (disk_no)
                SEMI JOIN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL) AS b
                    ON b.chunk = m.chunk
                WHERE m.since <= v.turn AND v.turn < m.until GROUP BY ALL
            )
            SELECT v.version_id, v.vm_name, d.disk_id, w.disk_name, w.size_bytes,
                count(k.pack_no), count(k.pack_no) - count(k.proved_at),
                count(*) FILTER (k.unreachable), coalesce(any_value(h.chunks), 0),
                CASE WHEN count(k.pack_no) = count(k.proved_at) THEN min(k.proved_at) END
            FROM version_disks AS w JOIN versions AS v USING (version_no)
            SEMI JOIN asked AS a ON a.id = v.version_id
            JOIN disks AS d USING (disk_no)
            LEFT JOIN needed AS n USING (version_no, disk_no)
            LEFT JOIN packs AS k ON k.pack_no = n.pack_no
            LEFT JOIN damaged_disks AS h ON h.version_no = w.version_no AND h.disk_no = w.disk_no
            GROUP BY v.version_id, v.version_no, v.vm_name, d.disk_id, w.disk_name, w.size_bytes,
                w.plugged_at
            ORDER BY v.vm_name, v.version_no, w.plugged_at"""  # noqa: S608  # our own numbers
        ).fetchall()
    return [
        DiskProof(
            *(version.hex, vm, disk.hex, name, int(size)),
            *(packs, unproved, unreachable, int(damaged), from_utc(oldest)),
        )
        for version, vm, disk, name, size, packs, unproved, unreachable, damaged, oldest in found
    ]

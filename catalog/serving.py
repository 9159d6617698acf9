"""Which copy of a chunk versions rely on, and what follows from it for every version.

Exactly one copy of every chunk *serves*. The best does: proved and in a whole pack, the oldest
among several; else one that was not read yet; a damaged one only when there is no other; pack 0
("nowhere") when there is none at all. Everything here runs inside somebody's transaction and works
on sets: the caller puts chunks into a temporary table, and never sees a single one.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from catalog.connection import Connection, to_utc
from catalog.finding import ALL, NONE, among, in_packs_of, packs_holding

STILL = 4294967295
"""`until` of what has not ended."""
_FEW = 4000
"""Rows of which the numbers stand in a query."""
CLOCK_SLACK = timedelta(minutes=5)
"""By how much two clocks of ours may differ. A proof from further in the future counts as none."""


def choose_serving(connection: Connection, chunks: str, now: datetime) -> int:
    """Choose again which copy serves, for the chunks of a temporary table.

    Also marks as healed the damage of chunks that a proved copy serves now, notes it anew where the
    damaged copy is the best that is left after all, and brings `pack_uses` up to date for every VM
    that a move concerns.

    Args:
        connection: In a transaction.
        chunks: A temporary table with a column `chunk`, each once.
        now: The present.

    Returns:
        How many chunks are served from elsewhere now. The temporary table `moved (chunk, pack_no)`
        has their old and new packs.
    """
    if not _count(connection, f"SELECT count(*) FROM {chunks}"):  # noqa: S608
        connection.execute("CREATE OR REPLACE TEMP TABLE moved (chunk UUID, pack_no INTEGER)")
        return 0
    packs = packs_holding(connection, chunks)
    near = ALL if packs is None else among("p.pack_no", packs)
    _rank(connection, chunks, now, near)
    if _revive(connection, chunks, near):
        _rank(connection, chunks, now, near)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE moved AS
        SELECT chunk, pack_no FROM ranked WHERE serves <> best"""
    )
    connection.execute(
        f"""UPDATE places SET serves = r.best FROM ranked AS r
        WHERE places.chunk = r.chunk AND places.pack_no = r.pack_no AND places.start = r.start
          AND r.serves <> r.best
          AND {few_rows("places.pack_no", connection, "moved", none=NONE)}"""  # noqa: S608
    )
    connection.execute(
        """UPDATE damaged_chunks SET healed_at = ?
        FROM (SELECT chunk, tier FROM ranked WHERE best) AS r
        WHERE damaged_chunks.chunk = r.chunk AND damaged_chunks.healed_at IS NULL
          AND (r.tier <= 2 OR (damaged_chunks.pack_no = 0 AND r.tier <= 3))""",
        [to_utc(now)],
    )
    _note_damage_anew(connection, now)
    connection.execute(
        """DELETE FROM places USING (SELECT chunk FROM ranked WHERE best AND pack_no <> 0) AS r
        WHERE places.pack_no = 0 AND places.chunk = r.chunk"""
    )
    _note_uses_of_moved(connection, packs)
    return _count(connection, "SELECT count(DISTINCT chunk) FROM moved")


def _rank(connection: Connection, chunks: str, now: datetime, near: str) -> None:
    """Temporary table `ranked`: every usable copy, how good it is, and which is best."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE ranked AS
        WITH copies AS (
            SELECT p.chunk, p.pack_no, p.start, p.serves,
                CASE WHEN k.state = 'nowhere' THEN 5
                     WHEN d.chunk IS NOT NULL THEN 4
                     WHEN k.proved_at IS NULL OR k.proved_at > ? THEN 3
                     WHEN k.bad THEN 2
                     ELSE 1 END AS tier
            FROM places AS p
            SEMI JOIN {chunks} AS c ON c.chunk = p.chunk
            JOIN packs AS k ON k.pack_no = p.pack_no AND k.state IN ('live', 'nowhere')
            LEFT JOIN damaged_chunks AS d ON d.chunk = p.chunk AND d.pack_no = p.pack_no
                AND d.start = p.start AND d.cleared_at IS NULL
            WHERE {near}
        )
        SELECT *, row_number() OVER (
            PARTITION BY chunk ORDER BY tier, pack_no, start) = 1 AS best
        FROM copies""",  # noqa: S608  # our own words
        [to_utc(now + CLOCK_SLACK)],
    )


def _revive(connection: Connection, chunks: str, near: str) -> int:
    """Packs that wait to be given back are kept when a chunk of theirs has no good copy left."""
    revived = connection.execute(
        f"""UPDATE packs SET state = 'live' WHERE state = 'redundant' AND pack_no IN (
            SELECT p.pack_no FROM places AS p
            SEMI JOIN {chunks} AS c ON c.chunk = p.chunk
            ANTI JOIN (SELECT chunk FROM ranked WHERE tier <= 2) AS r ON r.chunk = p.chunk
            WHERE {near})"""  # noqa: S608
    ).fetchone()
    return int(revived[0]) if revived else 0


def _note_damage_anew(connection: Connection, now: datetime) -> None:
    """A damaged copy that serves is damage, although a better one had made up for it before."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE relapsed AS
        SELECT d.* FROM damaged_chunks AS d
        JOIN ranked AS r ON r.chunk = d.chunk AND r.pack_no = d.pack_no AND r.start = d.start
        WHERE r.best AND r.tier = 4 AND d.cleared_at IS NULL AND d.healed_at IS NOT NULL"""
    )
    connection.execute(
        """UPDATE damaged_chunks SET cleared_at = ? FROM relapsed AS r
        WHERE damaged_chunks.chunk = r.chunk AND damaged_chunks.pack_no = r.pack_no
          AND damaged_chunks.start = r.start AND damaged_chunks.cleared_at IS NULL""",
        [to_utc(now)],
    )
    connection.execute(
        """INSERT INTO damaged_chunks (chunk, pack_no, start, kind, cause, first_seen, last_seen)
        SELECT chunk, pack_no, start, kind, cause, ?, last_seen FROM relapsed""",
        [to_utc(now)],
    )


def note_lost(connection: Connection, chunks: str, now: datetime, places: str = "") -> int:
    """Give the chunks of a temporary table that are in no pack at all their place nowhere.

    Args:
        connection: In a transaction.
        chunks: The table.
        now: The present.
        places: All of theirs, if the caller has them in a table.
    """
    places = places or f"(SELECT chunk FROM places WHERE {in_packs_of(connection, chunks)})"  # noqa: S608
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE lost AS
        SELECT DISTINCT c.chunk FROM {chunks} AS c
        ANTI JOIN {places} AS p ON p.chunk = c.chunk"""  # noqa: S608
    )
    connection.execute(
        """INSERT INTO places (chunk, pack_no, start, length, serves)
        SELECT chunk, 0, 0, 0, true FROM lost"""
    )
    connection.execute(
        """INSERT INTO damaged_chunks (chunk, pack_no, start, kind, cause, first_seen, last_seen)
        SELECT chunk, 0, 0, 'lost', 'no pack that is known holds it', ?, ? FROM lost""",
        [to_utc(now), to_utc(now)],
    )
    return _count(connection, "SELECT count(*) FROM lost")


def _note_uses_of_moved(connection: Connection, packs: Sequence[int] | None) -> None:
    if not _count(connection, "SELECT count(*) FROM moved"):
        return
    near = of_disks_using(connection, packs)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE use_pairs AS
        SELECT DISTINCT d.vm_no, v.pack_no
        FROM moved AS v JOIN (SELECT * FROM maps WHERE {near}) AS m USING (chunk)
        JOIN disks AS d USING (disk_no)"""  # noqa: S608
    )
    refresh_uses(connection)


def of_disks_using(connection: Connection, packs: Sequence[int] | None) -> str:
    """A condition on `maps` that keeps every row of chunks that some packs serve, or did just now.

    Args:
        connection: In a transaction.
        packs: As `packs_holding` gives them for the chunks.
    """
    if packs is None:
        return ALL
    uses = f"SELECT vm_no FROM pack_uses WHERE {among('pack_no', packs)}"  # noqa: S608
    its = f"disks SEMI JOIN ({uses}) AS u USING (vm_no)"
    return of_disks(connection, its)


def of_disks(connection: Connection, table: str, *, prefix: str = "", exact: bool = False) -> str:
    """A condition on `maps` that only rows of the disks in a table are looked at.

    Rows lie in the order of the versions that brought them, so these are named too.

    Args:
        connection: In a transaction.
        table: What has the disks.
        prefix: What the columns are to be preceded by.
        exact: Leave out all others even where the disks are many.
    """
    rows = connection.execute(f"SELECT DISTINCT disk_no FROM {table}").fetchall()  # noqa: S608
    if len(rows) > _FEW and not exact:
        return ALL
    numbers = [int(number) for (number,) in rows]
    if not numbers:
        return NONE
    owners = f"SELECT vm_no FROM disks WHERE {among('disk_no', numbers)}"  # noqa: S608
    brought = few_rows(
        f"{prefix}version_no", connection, f"versions SEMI JOIN ({owners}) AS d USING (vm_no)"
    )
    return f"{among(f'{prefix}disk_no', numbers)} AND {brought}"


def refresh_uses(connection: Connection) -> None:
    """Work out `pack_uses` again for the pairs in the temporary table `use_pairs`.

    A VM relies on a pack in the turns in which one of its maps has a chunk that the pack serves.
    Chunks come and go at different turns, so their spans are joined where they touch.
    """
    connection.execute(
        """DELETE FROM pack_uses USING use_pairs AS u
        WHERE pack_uses.vm_no = u.vm_no AND pack_uses.pack_no = u.pack_no"""
    )
    its_maps = of_disks(connection, "disks SEMI JOIN use_pairs USING (vm_no)")
    in_packs = few_rows("pack_no", connection, "use_pairs", none=NONE)
    connection.execute(
        f"""INSERT INTO pack_uses (vm_no, pack_no, since, until)
        WITH served AS (
            SELECT chunk, pack_no FROM places
            SEMI JOIN use_pairs AS u ON u.pack_no = places.pack_no
            WHERE serves AND {in_packs}
        ), spans AS (
            SELECT DISTINCT d.vm_no, s.pack_no, m.since, m.until
            FROM (SELECT * FROM maps WHERE {its_maps}) AS m
            JOIN served AS s USING (chunk)
            JOIN disks AS d USING (disk_no)
            SEMI JOIN use_pairs AS u ON u.vm_no = d.vm_no AND u.pack_no = s.pack_no
        ), begun AS (
            SELECT *, since > coalesce(max(until) OVER (
                PARTITION BY vm_no, pack_no ORDER BY since, until
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS apart
            FROM spans
        ), joined AS (
            SELECT *, sum(apart::INTEGER) OVER (
                PARTITION BY vm_no, pack_no ORDER BY since, until
                ROWS UNBOUNDED PRECEDING) AS island
            FROM begun
        )
        SELECT vm_no, pack_no, min(since), max(until) FROM joined
        GROUP BY vm_no, pack_no, island"""  # noqa: S608
    )


def few_rows(column: str, connection: Connection, table: str, *, none: str = ALL) -> str:
    """A condition that only these rows are looked at, where they are few; else none.

    Args:
        column: Where the condition is to stand; `table` has a column of its last word.
        connection: In a transaction.
        table: What has the numbers.
        none: The condition where it has none.
    """
    name = column.rpartition(".")[2]
    found = connection.execute(f"SELECT DISTINCT {name} FROM {table} LIMIT {_FEW + 1}").fetchall()  # noqa: S608
    if not found:
        return none
    return ALL if len(found) > _FEW else among(column, [int(number) for (number,) in found])


def versions_using(connection: Connection, packs: str, table: str) -> None:
    """A temporary table `(version_no)` of the versions that rely on the packs of another."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE {table} AS
        SELECT DISTINCT v.version_no
        FROM pack_uses AS u
        SEMI JOIN {packs} AS k ON k.pack_no = u.pack_no
        JOIN versions AS v ON v.vm_no = u.vm_no AND u.since <= v.turn AND v.turn < u.until"""  # noqa: S608
    )


def refresh_facts(connection: Connection, versions: str) -> None:
    """Work out again what the verdicts of the versions in a temporary table follow from."""
    if not _count(connection, f"SELECT count(*) FROM {versions}"):  # noqa: S608
        return
    connection.execute(
        f"""UPDATE versions SET
            packs = f.packs, unproved_packs = f.unproved, unreachable_packs = f.unreachable,
            oldest_proof_at = f.oldest, newest_proof_at = f.newest, damaged = false,
            to_judge = true
        FROM (
            SELECT v.version_no, count(k.pack_no) AS packs,
                count(k.pack_no) - count(k.proved_at) AS unproved,
                count(*) FILTER (k.unreachable) AS unreachable,
                min(k.proved_at) AS oldest, max(k.proved_at) AS newest
            FROM versions AS v
            SEMI JOIN {versions} AS w ON w.version_no = v.version_no
            LEFT JOIN pack_uses AS u
                ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
            LEFT JOIN packs AS k ON k.pack_no = u.pack_no
            GROUP BY v.version_no
        ) AS f
        WHERE versions.version_no = f.version_no"""  # noqa: S608
    )
    if _count(connection, "SELECT count(*) FROM damaged_chunks WHERE healed_at IS NULL"):
        its = f"versions SEMI JOIN {versions} AS w USING (version_no)"
        its_maps = of_disks(connection, f"disks SEMI JOIN ({its}) USING (vm_no)")
        connection.execute(
            f"""UPDATE versions SET damaged = true
            FROM (
                SELECT DISTINCT v.version_no
                FROM (SELECT * FROM maps WHERE {its_maps}) AS m
                SEMI JOIN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL) AS b
                    ON b.chunk = m.chunk
                JOIN disks AS d USING (disk_no)
                JOIN versions AS v
                    ON v.vm_no = d.vm_no AND m.since <= v.turn AND v.turn < m.until
                SEMI JOIN {versions} AS w ON w.version_no = v.version_no
            ) AS f
            WHERE versions.version_no = f.version_no"""  # noqa: S608
        )


def refresh_facts_of_moved(connection: Connection) -> None:
    """The same for every version that relies on a pack in `moved`."""
    if not _count(connection, "SELECT count(*) FROM moved"):
        return
    versions_using(connection, "moved", "moved_versions")
    refresh_facts(connection, "moved_versions")


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0

"""What was read back at a vault, and when; so which versions are known to be whole there."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.serving import CLOCK_SLACK
from catalog.staging import staged
from catalog.values import VaultAges
from catalog.vaulting import PACK_NAME


def objects_to_read(
    catalog: CatalogLocation,
    vault: str,
    there: Iterable[tuple[str, int]],
    now: datetime,
    max_age: timedelta | None,
    *,
    prove: bool = False,
) -> list[tuple[str, int]]:
    """Objects of a vault to read back, those never read first, then the oldest.

    Args:
        catalog: Which.
        vault: Its place.
        there: Names and sizes of what lies there.
        now: The present.
        max_age: What was read longer ago is due; none: nothing is for its age.
        prove: Look at when they were opened with the key instead.
    """
    column = "proved_at" if prove else "read_at"
    with staged(catalog) as stage:
        stage.rows("told_objects", there)
        with reading(catalog) as connection:
            stage.load(connection, "told_objects", name="VARCHAR", size_bytes="UBIGINT")
            rows = connection.execute(
                f"""SELECT t.name, t.size_bytes FROM told_objects AS t
                LEFT JOIN (SELECT name, max({column}) AS looked_at FROM vault_objects
                           WHERE vault = $vault AND {column} <= $later GROUP BY name) AS o
                    ON o.name = t.name
                WHERE o.looked_at IS NULL OR o.looked_at <= $due
                ORDER BY o.looked_at NULLS FIRST, t.name""",  # noqa: S608  # our own words
                {
                    "vault": vault,
                    "later": to_utc(now + CLOCK_SLACK),
                    "due": to_utc(now - max_age) if max_age is not None else None,
                },
            ).fetchall()
    return [(name, int(size)) for name, size in rows]


def record_read_back(
    catalog: CatalogLocation,
    vault: str,
    whole: Iterable[tuple[str, int]],
    lost: Iterable[str],
    now: datetime,
    *,
    proved: bool = False,
) -> None:
    """Note objects that were read and are whole, and forget those that are not; safe to repeat.

    An earlier proof stays as old as it is, unless these were `proved` now.
    """
    with staged(catalog) as stage:
        stage.rows("told_objects", whole)
        stage.rows("told_lost", ((name, 0) for name in lost))
        with writing(catalog) as connection:
            for table in ("told_objects", "told_lost"):
                stage.load(connection, table, name="VARCHAR", size_bytes="UBIGINT")
            connection.execute(
                """CREATE OR REPLACE TEMP TABLE proved_before AS
                SELECT name, max(proved_at) AS proved_at FROM vault_objects
                WHERE vault = ? AND name IN (SELECT name FROM told_objects) GROUP BY name""",
                [vault],
            )
            connection.execute(
                """DELETE FROM vault_objects WHERE vault = ? AND (
                    name IN (SELECT name FROM told_objects)
                    OR name IN (SELECT name FROM told_lost))""",
                [vault],
            )
            connection.execute(
                """INSERT INTO vault_objects
                    (vault, name, size_bytes, copied_at, read_at, proved_at)
                SELECT $vault, t.name, any_value(t.size_bytes), $now, $now,
                    coalesce($proved, any_value(b.proved_at))
                FROM told_objects AS t LEFT JOIN proved_before AS b USING (name)
                GROUP BY t.name""",
                {"vault": vault, "now": to_utc(now), "proved": to_utc(now) if proved else None},
            )
            _judge(connection, vault)


def forget_vault_objects(
    catalog: CatalogLocation, vault: str, there: Iterable[tuple[str, int]]
) -> None:
    """Forget what does not lie in a vault any more, or in another length."""
    with staged(catalog) as stage:
        stage.rows("told_objects", there)
        with writing(catalog) as connection:
            stage.load(connection, "told_objects", name="VARCHAR", size_bytes="UBIGINT")
            connection.execute(
                """DELETE FROM vault_objects AS o WHERE o.vault = ? AND NOT EXISTS (
                    SELECT 1 FROM told_objects AS t
                    WHERE t.name = o.name AND t.size_bytes = o.size_bytes)""",
                [vault],
            )
            _judge(connection, vault)


def judge_vault(catalog: CatalogLocation, vault: str) -> None:
    """Note of each version that a vault has since when all it needs was read back there."""
    with writing(catalog) as connection:
        _judge(connection, vault)


def _judge(connection: Connection, vault: str) -> None:
    """A version is as old as what was not read for longest of its record and its packs."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE read_there AS {_wholly_looked_at('read_at')}", [vault]
    )
    connection.execute(
        """UPDATE vaulted_versions AS w SET read_back_at =
            (SELECT oldest FROM read_there AS t WHERE t.version_no = w.version_no)
        WHERE w.vault = ?""",
        [vault],
    )


def _wholly_looked_at(column: str) -> str:
    """A query for the versions in a vault of which nothing lacks a time, and the oldest of them."""
    return f"""SELECT v.version_no, least(any_value(r.{column}), min(o.{column})) AS oldest
        FROM vaulted_versions AS w
        JOIN versions AS v USING (version_no)
        JOIN vault_objects AS r ON r.vault = w.vault AND r.name = v.record
        LEFT JOIN pack_uses AS u ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
        LEFT JOIN packs AS k ON k.pack_no = u.pack_no
        LEFT JOIN vault_objects AS o ON o.vault = w.vault AND o.name = {PACK_NAME}
        WHERE w.vault = ?
        GROUP BY v.version_no
        HAVING count(k.pack_no) = count(o.{column}) AND any_value(r.{column}) IS NOT NULL"""  # noqa: S608  # our own words


def vault_ages(catalog: CatalogLocation, vault: str) -> VaultAges:
    """How many versions a vault has, how many were read back and proved there, and how long ago."""
    with reading(catalog) as connection:
        row = connection.execute(
            """SELECT count(*), count(w.read_back_at), min(w.read_back_at)
            FROM vaulted_versions AS w JOIN versions AS v USING (version_no)
            WHERE w.vault = ? AND v.state = 'committed'""",
            [vault],
        ).fetchone()
        proved = connection.execute(
            f"SELECT count(*), min(oldest) FROM ({_wholly_looked_at('proved_at')})",  # noqa: S608  # our own words
            [vault],
        ).fetchone()
    there, read, oldest = row or (0, 0, None)
    opened, since = proved or (0, None)
    return VaultAges(
        int(there),
        int(read),
        from_utc(oldest) if oldest else None,
        int(opened),
        from_utc(since) if since else None,
    )

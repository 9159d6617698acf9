"""What the catalog still knows of versions that were given up long ago leaves it.

Otherwise it would grow by what changes in a night for as long as the installation lives. Rows that
a version still needs stay as they are. The row of the version stays, too, since rows of maps tell
which version brought them, but without its id: should its record ever be in the store again, as in
one that was set back, it is a version that nobody knows, and is recorded anew. When it was
forgotten is noted until the last of its rows is gone, so whoever is killed is made up for.
"""

from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, reading, to_utc, writing
from catalog.serving import STILL
from catalog.slices import slices_of_maps

REMEMBERED = timedelta(days=90)
"""For how long a forgotten version can be taken back in the catalog, and counts in its history."""


def drop_forgotten(catalog: CatalogLocation, now: datetime) -> int:
    """Drop what only versions needed that were forgotten long ago; safe to stop and to repeat.

    A VM's newest version stays: the next one tells what changed since. So does one that a vault
    has.

    Args:
        catalog: Which; others get it in between.
        now: The present.

    Returns:
        How many rows of block maps went.
    """
    with writing(catalog) as connection:
        _lose_names(connection, now)
        if not connection.execute(f"SELECT 1 FROM versions WHERE {_LEAVING} LIMIT 1").fetchone():  # noqa: S608
            return 0
        _drop_uses(connection)
    with reading(catalog) as connection:
        slices = slices_of_maps(connection)
    dropped = 0
    for each in slices:
        with writing(catalog) as connection:
            dropped += _drop_maps(connection, each.within)
    with writing(catalog) as connection:
        connection.execute(f"UPDATE versions SET forgotten_at = NULL WHERE {_LEAVING}")  # noqa: S608
    return dropped


_LEAVING = "record = '' AND forgotten_at IS NOT NULL"
"""Versions without a name of which rows may be there."""


def _lose_names(connection: Connection, now: datetime) -> None:
    """Of versions that were forgotten so long ago; later versions of their VMs are known."""
    connection.execute(
        """UPDATE versions SET version_id = uuid(), record = '', to_judge = false
        WHERE state = 'forgotten' AND record <> '' AND forgotten_at < ?
          AND turn < (SELECT max(o.turn) FROM versions AS o WHERE o.vm_no = versions.vm_no)
          AND version_no NOT IN (SELECT version_no FROM vaulted_versions)""",
        [to_utc(now - REMEMBERED)],
    )


_NEXT = """ASOF LEFT JOIN (SELECT vm_no, turn FROM versions WHERE record <> '') AS v
    ON v.vm_no = r.vm_no AND v.turn >= r.since
    WHERE v.turn IS NULL OR v.turn >= r.until"""
"""Of rows `r` with a span of turns those in which no version is left."""


def _drop_uses(connection: Connection) -> None:
    connection.execute(
        f"""DELETE FROM pack_uses WHERE rowid IN (
            SELECT r.id FROM (SELECT rowid AS id, * FROM pack_uses WHERE until <> {STILL}) AS r
            {_NEXT})"""  # noqa: S608  # our own words
    )


def _drop_maps(connection: Connection, within: str) -> int:
    dropped = connection.execute(
        f"""DELETE FROM maps WHERE {within} AND rowid IN (
            SELECT r.id FROM (
                SELECT m.rowid AS id, d.vm_no, m.since, m.until
                FROM (SELECT rowid, * FROM maps WHERE {within}) AS m JOIN disks AS d USING (disk_no)
                WHERE m.until <> {STILL}
            ) AS r {_NEXT})"""  # noqa: S608  # our own words
    ).fetchone()
    return int(dropped[0]) if dropped else 0

"""What was copied to which vault, and when."""

from collections.abc import Iterable
from datetime import datetime

from catalog.connection import CatalogLocation, reading, to_utc, writing
from catalog.staging import name_list, staged
from likeness.model.ids import VersionId

PACK_NAME = """'packs/' || left(replace(k.pack_id::VARCHAR, '-', ''), 2) || '/'
    || replace(k.pack_id::VARCHAR, '-', '')"""
"""What the object of pack `k` is called."""


def record_version_vaulted(
    catalog: CatalogLocation, vault: str, versions: Iterable[VersionId], now: datetime
) -> None:
    """Note that a vault can restore these versions by itself; safe to repeat."""
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_versions", versions)
        connection.execute(
            """INSERT INTO vaulted_versions (version_no, vault, vaulted_at)
            SELECT v.version_no, ?, ? FROM versions AS v
            WHERE v.version_id IN (SELECT id FROM asked_versions) AND NOT EXISTS (
                SELECT 1 FROM vaulted_versions AS w
                WHERE w.version_no = v.version_no AND w.vault = ?)""",
            [vault, to_utc(now), vault],
        )


def record_vault_contents(
    catalog: CatalogLocation, vault: str, versions: Iterable[VersionId], now: datetime
) -> None:
    """Note that a vault can restore these versions, and no others; safe to repeat."""
    there = list(versions)
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_versions", there)
        connection.execute(
            """DELETE FROM vaulted_versions WHERE vault = ? AND version_no NOT IN (
                SELECT v.version_no FROM versions AS v
                WHERE v.version_id IN (SELECT id FROM asked_versions))""",
            [vault],
        )
    record_version_vaulted(catalog, vault, there, now)


def versions_not_whole(catalog: CatalogLocation, vault: str, names: Iterable[str]) -> None:
    """Forget that a vault has versions which need one of these objects, packs or records."""
    with staged(catalog) as stage:
        stage.rows("told_lost", ((name,) for name in names))
        with writing(catalog) as connection:
            stage.load(connection, "told_lost", name="VARCHAR")
            connection.execute(
                f"""DELETE FROM vaulted_versions WHERE vault = ? AND version_no IN (
                    SELECT v.version_no FROM versions AS v JOIN told_lost AS t ON t.name = v.record
                    UNION
                    SELECT v.version_no FROM versions AS v
                    JOIN pack_uses AS u
                        ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
                    JOIN packs AS k ON k.pack_no = u.pack_no
                    JOIN told_lost AS t ON t.name = {PACK_NAME})""",  # noqa: S608  # our own words
                [vault],
            )


def note_vaulting(catalog: CatalogLocation, vault: str, now: datetime, *, whole: bool) -> None:
    """Note how a vaulting ended; after one that left something out the next looks at everything."""
    with writing(catalog) as connection:
        connection.execute("DELETE FROM vaultings WHERE vault = ?", [vault])
        connection.execute("INSERT INTO vaultings VALUES (?, ?, ?)", [vault, to_utc(now), whole])


def last_was_whole(catalog: CatalogLocation, vault: str) -> bool:
    """Whether the last vaulting left nothing out, as far as is known."""
    with reading(catalog) as connection:
        row = connection.execute(
            "SELECT bool_and(whole) FROM vaultings WHERE vault = ?", [vault]
        ).fetchone()
    return bool(row and row[0])

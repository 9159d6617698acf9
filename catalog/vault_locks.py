"""Until when a vault's bucket keeps what undeletable."""

from collections.abc import Iterable
from datetime import datetime

from catalog.connection import CatalogLocation, reading, to_utc, writing
from catalog.staging import name_list, staged
from catalog.vaulting import PACK_NAME
from likeness.model.ids import VersionId


def packs_of_versions(catalog: CatalogLocation, versions: Iterable[VersionId]) -> list[str]:
    """Names of the packs that versions need."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_versions", versions)
        rows = connection.execute(
            f"""SELECT DISTINCT {PACK_NAME} AS name FROM versions AS v
            JOIN pack_uses AS u ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
            JOIN packs AS k ON k.pack_no = u.pack_no
            WHERE v.version_id IN (SELECT id FROM asked_versions) ORDER BY name"""  # noqa: S608  # our own words
        ).fetchall()
    return [row[0] for row in rows]


def not_locked_until(
    catalog: CatalogLocation, vault: str, names: Iterable[str], until: datetime
) -> list[str]:
    """Those of some objects that are not known to be locked for so long."""
    with staged(catalog) as stage:
        stage.rows("told_objects", ((name,) for name in dict.fromkeys(names)))
        with reading(catalog) as connection:
            stage.load(connection, "told_objects", name="VARCHAR")
            rows = connection.execute(
                """SELECT t.name FROM told_objects AS t
                ANTI JOIN (SELECT name FROM vault_locks WHERE vault = ? AND locked_until >= ?) AS l
                    ON l.name = t.name
                ORDER BY t.name""",
                [vault, to_utc(until)],
            ).fetchall()
    return [row[0] for row in rows]


def note_locks(catalog: CatalogLocation, vault: str, names: Iterable[str], until: datetime) -> None:
    """Note objects that are locked until then; safe to repeat."""
    with staged(catalog) as stage:
        stage.rows("told_objects", ((name,) for name in names))
        with writing(catalog) as connection:
            stage.load(connection, "told_objects", name="VARCHAR")
            connection.execute(
                """DELETE FROM vault_locks
                WHERE vault = ? AND name IN (SELECT name FROM told_objects)""",
                [vault],
            )
            connection.execute(
                "INSERT INTO vault_locks SELECT ?, name, ? FROM told_objects",
                [vault, to_utc(until)],
            )


def vault_has_locks(catalog: CatalogLocation, vault: str) -> bool:
    """Whether anything of a vault is known to be locked."""
    with reading(catalog) as connection:
        row = connection.execute(
            "SELECT count(*) FROM vault_locks WHERE vault = ?", [vault]
        ).fetchone()
    return bool(row and row[0])

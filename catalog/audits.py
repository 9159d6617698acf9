"""Audits of presence: when they were, and what is not as it should be and turns no version red."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.serving import CLOCK_SLACK
from catalog.slices import PACK_NAME, rows_of_packs
from likeness.model.ids import PackId, VersionId
from likeness.store.format.observations import Observation, Weight

OF_THE_CATALOG = "catalog: "
"""What begins so is about the catalog; no audit of the store says that it is over."""


@dataclass(frozen=True, slots=True)
class AuditTrouble:
    """Something an audit of the whole store found, and did not find to be over.

    Attributes:
        name: The object, as the store names it.
        weight: ``damage``, ``spare lost``, ``could not check`` or ``notice``.
        cause: What is the matter.
        meaning: What that means, and what to do.
        first_seen: When it was found first.
    """

    name: str
    weight: str
    cause: str
    meaning: str
    first_seen: datetime


def packs_expected(catalog: CatalogLocation) -> Iterator[tuple[PackId, int]]:
    """Every pack that must be in the store and is not known to be bad, with its size in bytes."""
    columns = f"{PACK_NAME}, size_bytes"
    for pack, size_bytes in rows_of_packs(catalog, columns, "state = 'live' AND NOT bad"):
        yield PackId(pack), size_bytes


def records_expected(catalog: CatalogLocation) -> dict[str, VersionId]:
    """The record of every version that must be in the store and is not known to be broken."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT record, version_id FROM versions
            WHERE state = 'committed' AND documents IS DISTINCT FROM 'broken'"""
        ).fetchall()
    return {record: VersionId(version.hex) for record, version in rows}


def record_audit(
    catalog: CatalogLocation, now: datetime, *, packs: int, doubtful: int, everything: bool = False
) -> None:
    """Write down that the presence of all packs was looked at, or of everything."""
    with writing(catalog) as connection:
        connection.execute(
            "INSERT INTO audits (audited_at, packs, doubtful, everything) VALUES (?, ?, ?, ?)",
            [to_utc(now), packs, doubtful, everything],
        )
        connection.execute(
            """DELETE FROM audits WHERE audited_at < (
                SELECT min(audited_at) FROM (
                    SELECT audited_at FROM audits ORDER BY audited_at DESC LIMIT 100))
              AND NOT (everything AND audited_at = (
                SELECT max(audited_at) FROM audits WHERE everything))"""
        )


def last_audits(catalog: CatalogLocation) -> tuple[datetime | None, datetime | None]:
    """When the presence of all packs was last looked at, and when that of everything."""
    with reading(catalog) as connection:
        row = connection.execute(
            "SELECT max(audited_at), max(audited_at) FILTER (everything) FROM audits"
        ).fetchone()
    return (from_utc(row[0]), from_utc(row[1])) if row else (None, None)


def audit_is_due(catalog: CatalogLocation, now: datetime, every: timedelta) -> bool:
    """Whether everything was not looked at for a while; a look in the future was none."""
    with reading(catalog) as connection:
        row = connection.execute(
            "SELECT 1 FROM audits WHERE everything AND audited_at BETWEEN ? AND ? LIMIT 1",
            [to_utc(now - every), to_utc(now + CLOCK_SLACK)],
        ).fetchone()
    return row is None


def record_troubles(
    catalog: CatalogLocation, found: Iterable[Observation], now: datetime
) -> tuple[AuditTrouble, ...]:
    """Write down all that an audit of the whole store found; what it did not find is over.

    Returns:
        What is new, or was over before.
    """
    seen = {each.name: each for each in found}
    new = []
    with writing(catalog) as connection:
        known = connection.execute(
            """SELECT name, cause FROM store_troubles
            WHERE over_at IS NULL AND NOT starts_with(name, ?)""",
            [OF_THE_CATALOG],
        ).fetchall()
        same = {name for name, cause in known if name in seen and seen[name].cause == cause}
        for name, _ in known:
            column = "last_seen" if name in same else "over_at"
            connection.execute(
                f"UPDATE store_troubles SET {column} = ? WHERE name = ? AND over_at IS NULL",  # noqa: S608  # one of two words of ours
                [to_utc(now), name],
            )
        for name in sorted(seen.keys() - same):
            each = seen[name]
            new.append(AuditTrouble(name, each.weight.value, each.cause, each.meaning, now))
            _add_trouble(connection, new[-1])
        connection.execute(
            "DELETE FROM store_troubles WHERE over_at IS NOT NULL AND weight = ?",
            [Weight.NOTICE.value],
        )
    return tuple(new)


def record_catalog_troubles(
    catalog: CatalogLocation, found: Iterable[AuditTrouble], now: datetime, *, keep: timedelta
) -> None:
    """Write down what the catalog could not take over from the store, or lost.

    What is not found any more is over: at once, or after `keep` where people were told of it.
    """
    seen = {each.name: each for each in found}
    with writing(catalog) as connection:
        rows = connection.execute(
            """SELECT name, cause, first_seen, told_at FROM store_troubles
            WHERE over_at IS NULL AND starts_with(name, ?)""",
            [OF_THE_CATALOG],
        ).fetchall()
        same = {name for name, cause, *_ in rows if name in seen and seen[name].cause == cause}
        for name, _, first_seen, told_at in rows:
            column = "last_seen" if name in same else "over_at"
            if name not in seen and told_at is not None and first_seen > to_utc(now - keep):
                continue
            connection.execute(
                f"UPDATE store_troubles SET {column} = ? WHERE name = ? AND over_at IS NULL",  # noqa: S608  # one of two words of ours
                [to_utc(now), name],
            )
        for name in sorted(seen.keys() - same):
            _add_trouble(connection, seen[name])


def note_told_trouble(catalog: CatalogLocation, trouble: AuditTrouble) -> None:
    """Show something on the page that has a message of its own."""
    with writing(catalog) as connection:
        _add_trouble(connection, trouble)
        connection.execute(
            "UPDATE store_troubles SET told_at = first_seen WHERE name = ? AND told_at IS NULL",
            [trouble.name],
        )


def _add_trouble(connection: Connection, t: AuditTrouble) -> None:
    seen_at = to_utc(t.first_seen)
    connection.execute(
        """INSERT INTO store_troubles (name, weight, cause, meaning, first_seen, last_seen)
        VALUES (?, ?, ?, ?, ?, ?)""",
        [t.name, t.weight, t.cause, t.meaning, seen_at, seen_at],
    )


def troubles_over(catalog: CatalogLocation, names: Iterable[str], now: datetime) -> None:
    """What was the matter with some objects is put right."""
    with writing(catalog) as connection:
        for name in names:
            connection.execute(
                "UPDATE store_troubles SET over_at = ? WHERE name = ? AND over_at IS NULL",
                [to_utc(now), name],
            )


def untold_troubles(catalog: CatalogLocation) -> list[AuditTrouble]:
    """Lost spares and worse that nobody was told of yet; notices are for the page alone."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT name, weight, cause, meaning, first_seen FROM store_troubles
            WHERE over_at IS NULL AND told_at IS NULL AND weight IN (?, ?)
            ORDER BY first_seen, name""",
            [Weight.DAMAGE.value, Weight.SPARE_LOST.value],
        ).fetchall()
    return [_trouble(*row) for row in rows]


def troubles_told(
    catalog: CatalogLocation, troubles: Iterable[AuditTrouble], now: datetime
) -> None:
    """A message about these is in the outbox."""
    with writing(catalog) as connection:
        for each in troubles:
            connection.execute(
                "UPDATE store_troubles SET told_at = ? WHERE name = ? AND first_seen = ?",
                [to_utc(now), each.name, to_utc(each.first_seen)],
            )


def open_troubles(catalog: CatalogLocation) -> list[AuditTrouble]:
    """What is the matter now, the worst first."""
    weights = [weight.value for weight in Weight]
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT name, weight, cause, meaning, first_seen FROM store_troubles
            WHERE over_at IS NULL ORDER BY list_position(?, weight), name""",
            [weights],
        ).fetchall()
    return [_trouble(*row) for row in rows]


def _trouble(name: str, weight: str, cause: str, meaning: str, seen: datetime) -> AuditTrouble:
    return AuditTrouble(name, weight, cause, meaning, from_utc(seen) or seen)

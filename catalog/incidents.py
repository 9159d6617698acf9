"""Incidents: what was found damaged, which versions turned red for it, and when it was well again.

An incident is everything that was found since the last one was opened. It is made of verdicts and
damage that are in the catalog already, so nothing found is ever missing in one, whatever crashes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.chunks import affected_versions
from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.values import AffectedDisk
from likeness.model.ids import PackId, VersionId, VmId, random_name

MAX_TOLD = 1000
"""Damaged data blocks that are told one by one; the rest is counted."""
LOST_SHOWN_FOR = timedelta(days=7)
"""An incident stays open so long for versions that the store does not have any more."""


@dataclass(frozen=True, slots=True)
class IncidentVersion:
    """A version that turned red.

    Attributes:
        reason: Why, in words.
        red_at: When.
        green_from: Since when it had been green; none if it never was.
        settled_at: When it was green again, or expired.
        disks: Where on its disks the damaged data blocks lie.
        vaults: Where it was copied to.
        lost: It expired, since the store does not have its record any more.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    taken_at: datetime
    reason: str
    red_at: datetime
    green_from: datetime | None
    settled_at: datetime | None
    disks: tuple[AffectedDisk, ...]
    vaults: tuple[str, ...]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class IncidentDamage:
    """A copy of a data block that was found damaged or missing.

    Attributes:
        chunk_key: First 16 bytes of the chunk id.
        pack: None if no pack is known to hold it.
        well_at: When this copy or another one that was proved served again.
    """

    chunk_key: bytes
    pack: PackId | None
    offset: int
    kind: str
    cause: str
    first_seen: datetime
    well_at: datetime | None


@dataclass(frozen=True, slots=True)
class Incident:
    """Everything that was found at one time.

    Attributes:
        number: Counted from 1.
        incident: 32 hex digits.
        closed_at: When all of it was well again.
        versions: Those that turned red, by VM and age.
        damage: The first `MAX_TOLD` of the damaged copies.
        damaged_copies: How many there are.
    """

    number: int
    incident: str
    opened_at: datetime
    closed_at: datetime | None
    versions: tuple[IncidentVersion, ...]
    damage: tuple[IncidentDamage, ...]
    damaged_copies: int


def note_incidents(catalog: CatalogLocation, now: datetime) -> int:
    """Open an incident for what is in none yet, and close those of which all is well again.

    Safe to repeat, and after any crash.

    Returns:
        The number of the new incident; 0 if there is nothing new.
    """
    with reading(catalog) as connection:
        if not _has_news(connection, now):
            return 0
    with writing(catalog) as connection:
        number = _open_incident(connection, now)
        _settle(connection, now)
        return number


_NEW_VERSIONS = """
    SELECT h.version_no, h.decided_at, h.reason FROM verdicts AS h
    JOIN versions AS v USING (version_no)
    ANTI JOIN incident_versions AS i ON i.version_no = h.version_no AND i.red_at = h.decided_at
    WHERE h.verdict = 'bad' AND (v.state = 'committed' OR h.decided_at = v.expired_at)"""
_NEW_DAMAGE = """
    SELECT d.chunk, d.pack_no, d.start, d.first_seen FROM damaged_chunks AS d
    ANTI JOIN incident_damage AS i ON i.chunk = d.chunk AND i.pack_no = d.pack_no
        AND i.start = d.start AND i.first_seen = d.first_seen
    WHERE d.pack_no <> 0 OR d.chunk IN (SELECT m.chunk FROM maps AS m
        SEMI JOIN (SELECT chunk FROM damaged_chunks WHERE pack_no = 0) AS x ON x.chunk = m.chunk)"""
_OVER = """
    SELECT n.incident_no FROM incidents AS n
    ANTI JOIN (SELECT incident_no FROM incident_versions WHERE settled_at IS NULL) AS v
        ON v.incident_no = n.incident_no
    ANTI JOIN (
        SELECT i.incident_no FROM incident_damage AS i JOIN damaged_chunks AS d
            ON d.chunk = i.chunk AND d.pack_no = i.pack_no AND d.start = i.start
            AND d.first_seen = i.first_seen
        WHERE d.healed_at IS NULL AND d.cleared_at IS NULL
          AND d.chunk IN (SELECT m.chunk FROM maps AS m
              SEMI JOIN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL) AS x
                  ON x.chunk = m.chunk)) AS d ON d.incident_no = n.incident_no
    WHERE n.closed_at IS NULL"""


_ANYTHING_EVER = """
    SELECT 1 FROM verdicts WHERE verdict = 'bad'
    UNION ALL SELECT 1 FROM damaged_chunks UNION ALL SELECT 1 FROM incidents LIMIT 1"""
"""One question in place of four, where nothing was ever damaged."""


def _settled(now: datetime) -> str:
    """Versions that are green again, or that expired a while ago."""
    since = to_utc(now - LOST_SHOWN_FOR).isoformat(sep=" ")
    return f"""
    SELECT i.version_no FROM incident_versions AS i JOIN versions AS v USING (version_no)
    WHERE i.settled_at IS NULL AND ((v.state = 'committed' AND v.verdict = 'good')
        OR v.state = 'forgotten'
        OR (v.state = 'expired' AND v.expired_at <= TIMESTAMP '{since}'))"""  # noqa: S608


def _has_news(connection: Connection, now: datetime) -> bool:
    if connection.execute(_ANYTHING_EVER).fetchone() is None:
        return False
    parts = (_NEW_VERSIONS, _NEW_DAMAGE, _settled(now), _OVER)
    return any(connection.execute(f"{part} LIMIT 1").fetchone() for part in parts)


def _open_incident(connection: Connection, now: datetime) -> int:
    connection.execute(f"CREATE OR REPLACE TEMP TABLE new_red AS {_NEW_VERSIONS}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE new_damage AS {_NEW_DAMAGE}")
    found = connection.execute(
        "SELECT (SELECT count(*) FROM new_red) + (SELECT count(*) FROM new_damage)"
    ).fetchone()
    if not found or not found[0]:
        return 0
    row = connection.execute("SELECT coalesce(max(incident_no), 0) + 1 FROM incidents").fetchone()
    number = int(row[0]) if row else 1
    connection.execute(
        "INSERT INTO incidents (incident_no, incident_id, opened_at) VALUES (?, ?, ?)",
        [number, random_name(), to_utc(now)],
    )
    connection.execute(
        """INSERT INTO incident_versions (incident_no, version_no, red_at, reason)
        SELECT ?, version_no, decided_at, reason FROM new_red""",
        [number],
    )
    connection.execute(
        """INSERT INTO incident_damage (incident_no, chunk, pack_no, start, first_seen)
        SELECT ?, chunk, pack_no, start, first_seen FROM new_damage""",
        [number],
    )
    return number


def _settle(connection: Connection, now: datetime) -> None:
    connection.execute(
        f"""UPDATE incident_versions SET settled_at = ?
        WHERE settled_at IS NULL AND version_no IN ({_settled(now)})""",  # noqa: S608  # our own words
        [to_utc(now)],
    )
    connection.execute(
        f"UPDATE incidents SET closed_at = ? WHERE incident_no IN ({_OVER})",  # noqa: S608
        [to_utc(now)],
    )


def untold_incidents(catalog: CatalogLocation) -> list[tuple[Incident, str]]:
    """Incidents of which there is no message yet, oldest first.

    Returns:
        Each with what the message is about: ``damage``, or ``healed`` when it is closed and had
        turned versions red.
    """
    with reading(catalog) as connection:
        rows = connection.execute(
            """WITH wanted AS (
                SELECT incident_no, 'damage' AS about FROM incidents
                UNION ALL
                SELECT incident_no, 'healed' FROM incidents WHERE closed_at IS NOT NULL
                    AND incident_no IN (SELECT i.incident_no FROM incident_versions AS i
                        JOIN versions AS v USING (version_no) WHERE v.state = 'committed'))
            SELECT w.incident_no, w.about FROM wanted AS w
            ANTI JOIN messages AS m ON m.incident_no = w.incident_no AND m.about = w.about
            ORDER BY w.incident_no, w.about"""
        ).fetchall()
        return [(_read(connection, number), about) for number, about in rows]


def list_incidents(catalog: CatalogLocation, *, open_only: bool = True) -> list[Incident]:
    """Incidents, newest first; those that are over too, if asked for."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT incident_no FROM incidents WHERE NOT ? OR closed_at IS NULL
            ORDER BY incident_no DESC""",
            [open_only],
        ).fetchall()
        return [_read(connection, number) for (number,) in rows]


def _read(connection: Connection, number: int) -> Incident:
    head = connection.execute(
        "SELECT incident_id, opened_at, closed_at FROM incidents WHERE incident_no = ?", [number]
    ).fetchone()
    if head is None:
        raise LookupError(f"there is no incident {number}")
    counted = connection.execute(
        "SELECT count(*) FROM incident_damage WHERE incident_no = ?", [number]
    ).fetchone()
    return Incident(
        number=number,
        incident=head[0].hex,
        opened_at=from_utc(head[1]) or head[1],
        closed_at=from_utc(head[2]),
        versions=_versions(connection, number),
        damage=tuple(_damage(connection, number)),
        damaged_copies=int(counted[0]) if counted else 0,
    )


def _versions(connection: Connection, number: int) -> tuple[IncidentVersion, ...]:
    for table, query in (
        ("damaged_chunks_of", "SELECT DISTINCT chunk FROM incident_damage WHERE incident_no = ?"),
        ("versions_of", "SELECT version_no FROM incident_versions WHERE incident_no = ?"),
    ):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {query}", [number])
    damaged_disks = affected_versions(connection, "damaged_chunks_of", "versions_of")
    disks = {each.version: each.disks for each in damaged_disks}
    rows = connection.execute(
        """SELECT v.version_id, x.vm_id, v.vm_name, v.taken_at, i.reason, i.red_at, i.settled_at,
            (SELECT max(h.decided_at) FROM verdicts AS h WHERE h.version_no = v.version_no
                AND h.verdict = 'good' AND h.decided_at <= i.red_at),
            (SELECT list(DISTINCT w.vault ORDER BY w.vault) FROM vaulted_versions AS w
                WHERE w.version_no = v.version_no),
            v.state = 'expired'
        FROM incident_versions AS i
        JOIN versions AS v USING (version_no) JOIN vms AS x USING (vm_no)
        WHERE i.incident_no = ? ORDER BY v.vm_name, x.vm_id, v.turn""",
        [number],
    ).fetchall()
    return tuple(
        IncidentVersion(
            version=VersionId(version.hex),
            vm=VmId(vm.hex),
            vm_name=name,
            taken_at=from_utc(taken_at) or taken_at,
            reason=reason,
            red_at=from_utc(red_at) or red_at,
            green_from=from_utc(green_from),
            settled_at=from_utc(settled_at),
            disks=disks.get(VersionId(version.hex), ()),
            vaults=tuple(vaults or ()),
            lost=lost,
        )
        for (
            version,
            vm,
            name,
            taken_at,
            reason,
            red_at,
            settled_at,
            green_from,
            vaults,
            lost,
        ) in rows
    )


def _damage(connection: Connection, number: int) -> Iterable[IncidentDamage]:
    rows = connection.execute(
        f"""SELECT d.chunk, d.pack_no, k.pack_id, d.start, d.kind, d.cause, d.first_seen,
            coalesce(d.healed_at, d.cleared_at)
        FROM incident_damage AS i
        JOIN damaged_chunks AS d ON d.chunk = i.chunk AND d.pack_no = i.pack_no
            AND d.start = i.start AND d.first_seen = i.first_seen
        JOIN packs AS k ON k.pack_no = d.pack_no
        WHERE i.incident_no = ? ORDER BY d.pack_no, d.start LIMIT {MAX_TOLD}""",  # noqa: S608
        [number],
    ).fetchall()
    for chunk, pack_no, pack, start, kind, cause, first_seen, well_at in rows:
        yield IncidentDamage(
            chunk_key=chunk.bytes,
            pack=PackId(pack.hex) if pack_no else None,
            offset=start,
            kind=kind,
            cause=cause,
            first_seen=from_utc(first_seen) or first_seen,
            well_at=from_utc(well_at),
        )

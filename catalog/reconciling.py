"""What a step back in time asks of the catalog: expire, bring back, never count a number twice.

The store is the truth. What the catalog knows and the store has no more expires; what is there
again is looked at like something new. Whoever calls has looked twice, over two connections.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, reading, to_utc, writing
from catalog.finding import in_packs_of
from catalog.recording_packs import load_packs, stage_packs
from catalog.serving import (
    choose_serving,
    note_lost,
    refresh_facts,
    refresh_facts_of_moved,
    refresh_uses,
)
from catalog.slices import PACK_NAME, rows_of_packs
from catalog.staging import name_list, staged
from likeness.model.ids import PackId, VersionId, VmId
from likeness.store.read.index import KnownPack

LOST = "the data store does not have its record any more"
_BACK = "its record is in the data store again"
_RECOVERED = "the installation was recovered, and nothing is proved again yet"


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A version the catalog was told of.

    Attributes:
        record: The record's name in the store.
        expired: The store did not have it when last looked, whether on purpose or not.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    record: str
    expired: bool


def known_records(catalog: CatalogLocation) -> list[KnownRecord]:
    """Every version the catalog was told of, expired or not, but for those forgotten long ago."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT v.version_id, x.vm_id, v.vm_name, v.record, v.state <> 'committed'
            FROM versions AS v JOIN vms AS x USING (vm_no) WHERE v.record <> ''
            ORDER BY v.version_no"""
        ).fetchall()
    return [
        KnownRecord(VersionId(version.hex), VmId(vm.hex), name, record, expired)
        for version, vm, name, record, expired in rows
    ]


def highest_sequence(catalog: CatalogLocation, vm: VmId) -> int:
    """The highest number that a version of a VM ever had here, expired or not; 0 for none."""
    with reading(catalog) as connection:
        row = connection.execute(
            """SELECT coalesce(max(v.sequence), 0) FROM versions AS v JOIN vms AS x USING (vm_no)
            WHERE x.vm_id = ?""",
            [vm],
        ).fetchone()
    return int(row[0]) if row else 0


def expire_versions(catalog: CatalogLocation, versions: Iterable[VersionId], now: datetime) -> int:
    """Versions whose record is gone from the store: red, told once, and in no list any more.

    Their rows and verdicts stay as history. What only they needed is needed by nobody. Safe to
    repeat.

    Returns:
        How many were committed before.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_versions", versions)
        connection.execute(
            """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
            SELECT version_no, 'bad', ?, ? FROM versions
            WHERE state = 'committed' AND verdict <> 'bad'
              AND version_id IN (SELECT id FROM asked_versions)""",
            [LOST, to_utc(now)],
        )
        changed = connection.execute(
            """UPDATE versions SET state = 'expired', expired_at = $now, verdict = 'bad',
                documents = 'broken', documents_at = $now, documents_problem = $lost,
                to_judge = false
            WHERE state = 'committed' AND version_id IN (SELECT id FROM asked_versions)""",
            {"now": to_utc(now), "lost": LOST},
        ).fetchone()
    return int(changed[0]) if changed else 0


def versions_are_back(
    catalog: CatalogLocation, versions: Iterable[VersionId], now: datetime
) -> int:
    """Versions whose record is in the store again: unchecked, until they are validated.

    Returns:
        How many had expired or were forgotten.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_versions", versions)
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE back AS SELECT version_no, vm_no, turn FROM versions
            WHERE state <> 'committed' AND version_id IN (SELECT id FROM asked_versions)"""
        )
        connection.execute(
            """UPDATE versions SET state = 'committed', expired_at = NULL, forgotten_at = NULL,
                verdict = 'unchecked',
                documents = NULL, documents_at = NULL, documents_problem = NULL,
                judged_at = NULL
            WHERE version_no IN (SELECT version_no FROM back)"""
        )
        connection.execute(
            """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
            SELECT version_no, 'unchecked', ?, ? FROM back""",
            [_BACK, to_utc(now)],
        )
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE back_chunks AS SELECT DISTINCT m.chunk FROM maps AS m
            JOIN disks AS d USING (disk_no)
            JOIN back AS b ON b.vm_no = d.vm_no AND m.since <= b.turn AND b.turn < m.until"""
        )
        note_lost(connection, "back_chunks", now)
        near = in_packs_of(connection, "back_chunks", "p.pack_no")
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE use_pairs AS
            SELECT DISTINCT d.vm_no, p.pack_no
            FROM (SELECT DISTINCT vm_no FROM back) AS b JOIN disks AS d USING (vm_no)
            JOIN maps AS m USING (disk_no) SEMI JOIN back_chunks AS c ON c.chunk = m.chunk
            JOIN places AS p ON p.chunk = m.chunk AND p.serves WHERE {near}"""  # noqa: S608
        )
        refresh_uses(connection)
        refresh_facts(connection, "back")
        return _count(connection, "SELECT count(*) FROM back")


def doubt_everything(catalog: CatalogLocation, now: datetime) -> None:
    """Take back every proof, since nobody knows what happened to the store meanwhile.

    Every version is unchecked until it is validated again, and vaulted once the vault is looked at.
    """
    with writing(catalog) as connection:
        connection.execute(
            "UPDATE packs SET proved_at = NULL, checked_at = NULL WHERE pack_no <> 0"
        )
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE doubted AS SELECT version_no, vm_no, turn FROM versions
            WHERE state = 'committed'"""
        )
        connection.execute(
            """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
            SELECT version_no, 'unchecked', ?, ? FROM versions
            WHERE state = 'committed' AND verdict <> 'unchecked'""",
            [_RECOVERED, to_utc(now)],
        )
        connection.execute(
            """UPDATE versions SET verdict = 'unchecked', documents = NULL, documents_at = NULL,
                documents_problem = NULL, judged_at = NULL WHERE state = 'committed'"""
        )
        refresh_facts(connection, "doubted")
        connection.execute("DELETE FROM vaulted_versions")
        connection.execute("DELETE FROM vault_objects")


def known_packs_by_state(catalog: CatalogLocation) -> dict[PackId, str]:
    """Every pack the catalog was told of: ``live``, ``redundant``, ``condemned`` or ``gone``."""
    rows = rows_of_packs(catalog, f"{PACK_NAME}, state", "pack_no <> 0")
    return {PackId(pack): state for pack, state in rows}


def unknown_packs(catalog: CatalogLocation, packs: Iterable[PackId]) -> list[PackId]:
    """Which of some packs the catalog was never told of."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_ids", packs)
        rows = connection.execute(
            """SELECT replace(id::VARCHAR, '-', '') FROM asked_ids
            ANTI JOIN packs ON packs.pack_id = asked_ids.id ORDER BY id"""
        ).fetchall()
    return [PackId(pack) for (pack,) in rows]


def packs_are_back(catalog: CatalogLocation, packs: Iterable[KnownPack], now: datetime) -> int:
    """Packs that were given back or condemned may serve again; proved they are not.

    Returns:
        How many were.
    """
    with staged(catalog) as stage:
        stage_packs(stage, packs, run=None)
        with writing(catalog) as connection:
            load_packs(connection, stage)
            connection.execute(
                """CREATE OR REPLACE TEMP TABLE back AS
                SELECT k.pack_no AS before, k.pack_id, (SELECT max(pack_no) FROM packs)
                    + row_number() OVER (ORDER BY k.pack_no) AS pack_no
                FROM packs AS k SEMI JOIN new_packs AS n ON n.pack = k.pack_id
                WHERE k.state IN ('gone', 'condemned')"""
            )
            # Under new numbers: places are told once for each number, and numbers only grow.
            connection.execute(
                """UPDATE packs SET pack_no = b.pack_no, state = 'live', gone_at = NULL,
                    proved_at = NULL, checked_at = NULL, bad = false, unreachable = false,
                    cause = ''
                FROM back AS b WHERE packs.pack_no = b.before"""
            )
            for table in ("damaged_chunks", "incident_damage"):
                connection.execute(
                    f"""UPDATE {table} SET pack_no = b.pack_no
                    FROM back AS b WHERE {table}.pack_no = b.before"""  # noqa: S608
                )
            connection.execute(
                """INSERT INTO places (chunk, pack_no, start, length, serves)
                SELECT DISTINCT n.chunk, b.pack_no, n.start, n.length, false
                FROM new_places AS n JOIN back AS b ON b.pack_id = n.pack"""
            )
            connection.execute(
                """CREATE OR REPLACE TEMP TABLE doubtful AS SELECT DISTINCT n.chunk
                FROM new_places AS n SEMI JOIN back AS b ON b.pack_id = n.pack"""
            )
            choose_serving(connection, "doubtful", now)
            refresh_facts_of_moved(connection)
            return _count(connection, "SELECT count(*) FROM back")


def store_of(catalog: CatalogLocation) -> str:
    """The id of the store that this is the catalog of; empty if it was not told yet."""
    with reading(catalog) as connection:
        row = connection.execute("SELECT store_id FROM of_store").fetchone()
    return str(row[0]) if row else ""


def note_store(catalog: CatalogLocation, store: str) -> None:
    """Say whose catalog this is."""
    with writing(catalog) as connection:
        connection.execute("DELETE FROM of_store")
        connection.execute("INSERT INTO of_store (store_id) VALUES (?)", [store])


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0

"""Many versions at once, of VMs that the catalog knows nothing of: a rebuild from the store.

The same rows as `catalog.recording` writes version by version, in as many statements for a thousand
versions as there for one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec

from catalog.connection import CatalogLocation, Connection, to_utc, writing
from catalog.keeping_parts import keep_parts
from catalog.recording import (
    TOLD_DISK,
    map_lines,
    require_positions,
    tags_of,
    told_disk,
)
from catalog.recording_packs import add_packs, stage_packs
from catalog.serving import STILL, note_lost, refresh_facts, refresh_facts_of_moved, refresh_uses
from catalog.staging import Stage, staged
from catalog.values import DiskMap
from likeness.errors import BadInput
from likeness.model.ids import RunId
from likeness.store.read.index import KnownPack
from likeness.store.read.versions import Version

_TOLD_VERSIONS = {
    "nth": "UBIGINT",
    "version_id": "UUID",
    "vm_id": "UUID",
    "vm_name": "VARCHAR",
    "sequence": "UBIGINT",
    "record": "VARCHAR",
    "digest": "VARCHAR",
    "taken_at": "TIMESTAMP",
    "committed_at": "TIMESTAMP",
    "run_id": "UUID",
    "job": "VARCHAR",
    "consistency": "VARCHAR",
    "consistency_asked": "VARCHAR",
    "note": "VARCHAR",
    "counts": "VARCHAR",
    "keep": "VARCHAR",
    "tags": "VARCHAR",
    "locked_until": "TIMESTAMP",
}
"""What is staged of each version, and how."""


@dataclass(frozen=True, slots=True)
class Told:
    """A version, and what the store has of it.

    Attributes:
        version: As its signed record says.
        maps: One for each of its disks; those that are not whole follow the version of the same VM
            that was told right before, which had the disk.
        packs: What it brought.
    """

    version: Version
    maps: tuple[DiskMap, ...]
    packs: Iterable[KnownPack]


def record_new_vms(catalog: CatalogLocation, told: Iterable[Told], now: datetime) -> int:
    """Tell the catalog of versions of VMs that it does not know; how many there were.

    Args:
        catalog: Which.
        told: Each VM's in their order; consumed once, before the lock is taken.
        now: The present.

    Raises:
        BadInput: The catalog has come to know one of the VMs, or a map tells what cannot be.
            Nothing was changed.
    """
    with staged(catalog) as stage:
        count = 0
        for count, each in enumerate(told, start=1):
            _stage(stage, count, each)
        if count:
            with writing(catalog) as connection:
                _record(connection, stage, now)
    if count:
        keep_parts(catalog)
    return count


def _stage(stage: Stage, nth: int, told: Told) -> None:
    version, record, clear = told.version, told.version.record, told.version.clear
    until = datetime.fromisoformat(record.locked_until) if record.locked_until else None
    stage.rows(
        "told_versions",
        [
            (
                *(nth, version.version, version.vm, record.vm_name, version.sequence, version.name),
                *(version.digest, _moment(version.taken_at)),
                *(_moment(datetime.fromisoformat(clear.committed_at)), record.run, record.job),
                *(record.consistency, record.consistency_asked, record.note),
                *(msgspec.json.encode(record.counts).decode(), record.keep, tags_of(record)),
                _moment(until) if until else None,
            )
        ],
    )
    whole: dict[str, bool] = {each.disk: each.whole for each in told.maps}
    stage.rows(
        "told_disks",
        (
            (nth, *told_disk(at, disk, whole=whole[disk.disk]))
            for at, disk in enumerate(record.disks)
        ),
    )
    ordinals: dict[str, int] = {disk.disk: at for at, disk in enumerate(record.disks)}
    stage.lines(
        "new_maps",
        (
            f"{nth},{line}"
            for each in told.maps
            for run in each.runs
            for line in map_lines(ordinals[each.disk], run)
        ),
    )
    stage_packs(stage, told.packs, run=RunId(record.run), version=nth)


def _moment(moment: datetime) -> str:
    return to_utc(moment).isoformat(" ")


def _record(connection: Connection, stage: Stage, now: datetime) -> None:
    _insert_versions(connection, stage, now)
    _insert_disks(connection, stage)
    add_packs(connection, stage, now)
    _insert_maps(connection, stage)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE new_chunks AS SELECT DISTINCT chunk FROM maps
        WHERE disk_no IN (SELECT disk_no FROM new_disks)"""
    )
    note_lost(connection, "new_chunks", now)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE use_pairs AS
        SELECT DISTINCT d.vm_no, p.pack_no
        FROM (SELECT DISTINCT vm_no, disk_no FROM new_disks) AS d
        JOIN maps AS m USING (disk_no) JOIN places AS p ON p.chunk = m.chunk AND p.serves"""
    )
    refresh_uses(connection)
    _note_who_brought(connection)
    refresh_facts_of_moved(connection)
    refresh_facts(connection, "new_versions")


def _insert_versions(connection: Connection, stage: Stage, now: datetime) -> None:
    """VMs and versions; temporary table `new_versions` says which is which."""
    stage.load(connection, "told_versions", **_TOLD_VERSIONS)
    if connection.execute("SELECT 1 FROM told_versions SEMI JOIN vms USING (vm_id)").fetchone():
        raise BadInput("the catalog came to know one of these VMs meanwhile; run again")
    connection.execute(
        """INSERT INTO vms (vm_no, vm_id, vm_name)
        SELECT (SELECT coalesce(max(vm_no), 0) FROM vms) + row_number() OVER (ORDER BY min(nth)),
            vm_id, arg_max(vm_name, nth)
        FROM told_versions GROUP BY vm_id"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE new_versions AS
        SELECT t.nth, v.vm_no,
            (SELECT coalesce(max(version_no), 0) FROM versions)
                + row_number() OVER (ORDER BY t.nth) AS version_no,
            row_number() OVER (PARTITION BY v.vm_no ORDER BY t.nth) AS turn
        FROM told_versions AS t JOIN vms AS v USING (vm_id)"""
    )
    connection.execute(
        """INSERT INTO versions (
            version_no, version_id, vm_no, turn, vm_name, sequence, record, digest,
            taken_at, committed_at, recorded_at, run_id, job, consistency, consistency_asked, note,
            counts, keep, tags, locked_until,
            state, packs, unproved_packs, unreachable_packs, damaged, verdict, to_judge)
        SELECT w.version_no, t.version_id, w.vm_no, w.turn, t.vm_name, t.sequence, t.record,
            t.digest, t.taken_at, t.committed_at, ?, t.run_id, t.job, t.consistency,
            t.consistency_asked, t.note, t.counts, t.keep, t.tags, t.locked_until,
            'committed', 0, 0, 0, false, 'unchecked', true
        FROM told_versions AS t JOIN new_versions AS w USING (nth) ORDER BY nth""",
        [to_utc(now)],
    )
    connection.execute(
        """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
        SELECT version_no, 'unchecked', 'just committed', ? FROM new_versions
        ORDER BY version_no""",
        [to_utc(now)],
    )


def _insert_disks(connection: Connection, stage: Stage) -> None:
    """Disks and version_disks; temporary table `new_disks` says how to read `new_maps`."""
    stage.load(connection, "told_disks", nth="UBIGINT", **TOLD_DISK)
    connection.execute(
        """INSERT INTO disks (disk_no, vm_no, disk_id, chunk_bytes)
        SELECT (SELECT coalesce(max(disk_no), 0) FROM disks)
                + row_number() OVER (ORDER BY min(nth), min(ordinal)),
            vm_no, disk_id, chunk_bytes
        FROM told_disks JOIN new_versions USING (nth) GROUP BY vm_no, disk_id, chunk_bytes"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE new_disks AS
        SELECT d.disk_no, w.vm_no, w.version_no, w.turn, t.*
        FROM told_disks AS t JOIN new_versions AS w USING (nth) JOIN disks AS d
            ON d.vm_no = w.vm_no AND d.disk_id = t.disk_id AND d.chunk_bytes = t.chunk_bytes"""
    )
    connection.execute(
        """INSERT INTO version_disks (version_no, disk_no, size_bytes, disk_name, plugged_at)
        SELECT version_no, disk_no, size_bytes, disk_name, plugged_at FROM new_disks
        ORDER BY nth, ordinal"""
    )


def _insert_maps(connection: Connection, stage: Stage) -> None:
    """Spans of every position: from the turn that told a chunk to the one that told another."""
    stage.load(
        connection,
        "new_maps",
        nth="UBIGINT",
        ordinal="INTEGER",
        position="UBIGINT",
        chunk="UUID",
    )
    require_positions(connection, "nth, ordinal")
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE changes AS
        SELECT n.disk_no, n.turn, m.position::UINTEGER AS position, m.chunk
        FROM new_maps AS m JOIN new_disks AS n USING (nth, ordinal)"""
    )
    _clear_what_is_not_told(connection)
    connection.execute(
        f"""INSERT INTO maps (disk_no, position, chunk, since, until, version_no)
        WITH one_by_one AS (
            SELECT *, lag(chunk) OVER (PARTITION BY disk_no, position ORDER BY turn) AS before
            FROM changes
        ), spans AS (
            SELECT *, lead(turn) OVER (PARTITION BY disk_no, position ORDER BY turn) AS after
            FROM one_by_one WHERE chunk IS DISTINCT FROM before
        )
        SELECT s.disk_no, s.position, s.chunk, s.turn, coalesce(s.after, {STILL}), v.version_no
        FROM spans AS s JOIN disks AS d USING (disk_no)
        JOIN new_versions AS v ON v.vm_no = d.vm_no AND v.turn = s.turn
        WHERE s.chunk IS NOT NULL ORDER BY v.version_no, s.disk_no, s.position"""  # noqa: S608
    )


def _clear_what_is_not_told(connection: Connection) -> None:
    """Make zero what a whole map leaves out, and what lies beyond a disk that shrank or went."""
    connection.execute(
        """INSERT INTO changes (disk_no, turn, position, chunk)
        WITH cleared AS (
            SELECT disk_no, turn, CASE WHEN entire THEN 0 ELSE positions END AS beyond
            FROM (SELECT *, lag(positions) OVER (PARTITION BY disk_no ORDER BY turn) AS before
                FROM new_disks)
            WHERE entire OR positions < before
            UNION ALL
            SELECT d.disk_no, w.turn, 0
            FROM new_disks AS d JOIN new_versions AS w ON w.vm_no = d.vm_no AND w.turn = d.turn + 1
            ANTI JOIN new_disks AS h ON h.disk_no = d.disk_no AND h.turn = w.turn
        ), begun AS (
            SELECT disk_no, position, min(turn) AS since FROM changes
            WHERE chunk IS NOT NULL GROUP BY disk_no, position
        )
        SELECT b.disk_no, c.turn, b.position, NULL
        FROM begun AS b JOIN cleared AS c
            ON c.disk_no = b.disk_no AND c.turn > b.since AND b.position >= c.beyond
        ANTI JOIN changes AS t
            ON t.disk_no = b.disk_no AND t.turn = c.turn AND t.position = b.position"""
    )


def _note_who_brought(connection: Connection) -> None:
    """Each pack's version: the one that told of it, or that uses it first and is of its run."""
    connection.execute(
        """UPDATE packs SET version_no = f.version_no
        FROM (SELECT pack, min(version_no) AS version_no
            FROM new_packs AS n JOIN new_versions AS w ON w.nth = n.version GROUP BY pack) AS f
        WHERE packs.pack_id = f.pack AND packs.version_no IS NULL"""
    )
    connection.execute(
        """UPDATE packs SET version_no = f.version_no
        FROM (SELECT u.pack_no, min(w.version_no) AS version_no
            FROM pack_uses AS u
            JOIN new_versions AS w ON w.vm_no = u.vm_no AND w.turn = u.since
            JOIN versions AS v ON v.version_no = w.version_no
            JOIN packs AS k ON k.pack_no = u.pack_no AND k.run_id = v.run_id
            GROUP BY u.pack_no) AS f
        WHERE packs.pack_no = f.pack_no AND packs.version_no IS NULL"""
    )

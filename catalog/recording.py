"""What a commit, or a rebuild from the store, tells the catalog: packs and versions.

Everything may be told twice. Rows are streamed to a scratch file first, so that neither memory nor
the lock depends on the size of a disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from catalog.connection import CatalogLocation, Connection, to_utc, writing
from catalog.finding import NONE
from catalog.keeping_parts import keep_parts
from catalog.recording_packs import AnyPack, add_packs, stage_packs
from catalog.recording_uses import note_uses
from catalog.serving import (
    STILL,
    of_disks,
    refresh_facts,
    refresh_facts_of_moved,
)
from catalog.staging import NOTHING, Stage, staged
from catalog.values import DiskMap, Recorded
from likeness.errors import BadInput
from likeness.model.ids import CHUNK_ID_BYTES, RunId
from likeness.store.format.documents import DiskRecord, VersionRecord
from likeness.store.format.maps import Run, positions_of
from likeness.store.read.versions import Version

_HEX = 2 * CHUNK_ID_BYTES
_ZERO = "0" * _HEX
_KEY = CHUNK_ID_BYTES  # hex digits of the first 16 bytes


def record_version(
    catalog: CatalogLocation,
    version: Version,
    maps: Iterable[DiskMap],
    packs: Iterable[AnyPack],
    now: datetime,
) -> Recorded:
    """Tell the catalog of a version that is committed in the store; safe to repeat.

    Args:
        catalog: Which.
        version: As its signed record says.
        maps: One for each of its disks.
        packs: What it brought: all that its transfer wrote, or those of its index segments.
        now: The present.

    Raises:
        BadInput: A map that only tells changes does not follow what the catalog has, a disk has
            no map, or positions are given that it does not have. Nothing was changed.
    """
    with staged(catalog) as stage:
        stage_packs(stage, packs, run=RunId(version.record.run))
        whole = _stage_maps(stage, version.record.disks, maps)
        with writing(catalog) as connection:
            recorded = _record(connection, stage, version, whole, now)
    if recorded.packs:
        keep_parts(catalog)
    return recorded


def _stage_maps(
    stage: Stage, disks: Sequence[DiskRecord], maps: Iterable[DiskMap]
) -> dict[str, bool]:
    """Write all changed positions down; gives back which disks came with their whole map."""
    ordinals = {disk.disk: at for at, disk in enumerate(disks)}
    whole: dict[str, bool] = {}
    for each in maps:
        if each.disk not in ordinals or each.disk in whole:
            raise BadInput(f"disk {each.disk} is not in the version, or has two maps")
        whole[each.disk] = each.whole
        at = ordinals[each.disk]
        for run in each.runs:
            stage.lines("new_maps", map_lines(at, run))
    missing = [disk.name or disk.disk for disk in disks if disk.disk not in whole]
    if missing:
        raise BadInput(f"no block map was given for disk {', '.join(missing)}")
    return whole


def map_lines(ordinal: int, run: Run) -> Iterator[str]:
    """Lines of `new_maps`, for one run of a disk."""
    ids = run.ids.hex()
    for at in range(run.count):
        start = at * _HEX
        key = ids[start : start + _KEY]
        if key == _ZERO[:_KEY] and ids[start : start + _HEX] == _ZERO:
            key = NOTHING
        yield f"{ordinal},{run.first + at},{key}\n"


def _record(
    connection: Connection, stage: Stage, version: Version, whole: dict[str, bool], now: datetime
) -> Recorded:
    if _one(connection, "SELECT 1 FROM versions WHERE version_id = ?", version.version):
        return Recorded(new=False)
    vm_no = _vm_no(connection, version)
    turn = _require_follows(connection, vm_no, version, whole)
    version_no = _insert_version(connection, vm_no, turn, version, now)
    _insert_disks(connection, stage, vm_no, version_no, version.record.disks, whole)
    packs = add_packs(connection, stage, now)
    lost_disks = f"disks ANTI JOIN new_disks USING (disk_no) WHERE vm_no = {int(vm_no)}"
    gone = of_disks(connection, lost_disks, exact=True)
    changed, chunks = _change_maps(connection, stage, gone, turn, version_no)
    lost = 0
    if changed or gone != NONE or stage.has("new_packs"):
        lost = note_uses(connection, vm_no, gone, turn, now)
        connection.execute(
            """UPDATE packs SET version_no = ? WHERE version_no IS NULL AND (
                pack_id IN (SELECT pack FROM new_packs)
                OR (run_id = ? AND pack_no IN (
                    SELECT pack_no FROM pack_uses WHERE vm_no = ? AND since = ?)))""",
            [version_no, version.record.run, vm_no, turn],
        )
    refresh_facts_of_moved(connection)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE this_version AS SELECT {version_no} AS version_no"
    )
    refresh_facts(connection, "this_version")
    return Recorded(new=True, chunks=chunks, packs=packs, lost_chunks=lost)


def _vm_no(connection: Connection, version: Version) -> int:
    known = connection.execute(
        "SELECT vm_no, vm_name FROM vms WHERE vm_id = ?", [version.vm]
    ).fetchone()
    if known:
        if known[1] != version.record.vm_name:
            connection.execute(
                "UPDATE vms SET vm_name = ? WHERE vm_no = ?", [version.record.vm_name, known[0]]
            )
        return int(known[0])
    number = _one(connection, "SELECT coalesce(max(vm_no), 0) + 1 FROM vms")
    connection.execute(
        "INSERT INTO vms (vm_no, vm_id, vm_name) VALUES (?, ?, ?)",
        [number, version.vm, version.record.vm_name],
    )
    return number


def _require_follows(
    connection: Connection, vm_no: int, version: Version, whole: dict[str, bool]
) -> int:
    """The version's turn; refuses what would give a wrong map.

    Turns count in the order of recording, whatever the versions' numbers are: a store that was set
    back, or healed, may bring an older one later.
    """
    who = f"version {version.sequence} of VM {version.record.vm_name}"
    last = connection.execute(
        """SELECT turn, digest, version_no FROM versions WHERE vm_no = ?
        ORDER BY turn DESC LIMIT 1""",
        [vm_no],
    ).fetchone()
    deltas = [disk for disk, entire in whole.items() if not entire]
    if deltas and (last is None or last[1] != version.clear.previous):
        raise BadInput(
            f"{who} tells only what changed, and the catalog does not have the version before it;"
            " record that one first, or give whole block maps"
        )
    known = {
        (str(row[0].hex), row[1])
        for row in connection.execute(
            """SELECT d.disk_id, d.chunk_bytes FROM version_disks AS w JOIN disks AS d
            USING (disk_no) WHERE w.version_no = ?""",
            [last[2] if last else 0],
        ).fetchall()
    }
    for disk in version.record.disks:
        if not whole[disk.disk] and (disk.disk, disk.chunk_bytes) not in known:
            raise BadInput(
                f"{who} tells only what changed on disk {disk.name or disk.disk}, which the version"
                " before did not have; give its whole block map"
            )
    return int(last[0]) + 1 if last else 1


def _insert_version(
    connection: Connection, vm_no: int, turn: int, version: Version, now: datetime
) -> int:
    number = _one(connection, "SELECT coalesce(max(version_no), 0) + 1 FROM versions")
    record, clear = version.record, version.clear
    connection.execute(
        """INSERT INTO versions (
            version_no, version_id, vm_no, turn, vm_name, sequence, record, digest,
            taken_at, committed_at, recorded_at, run_id, job, consistency, consistency_asked, note,
            counts, keep, tags, locked_until,
            state, packs, unproved_packs, unreachable_packs, damaged, verdict, to_judge)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'committed',
            0, 0, 0, false, 'unchecked', true)""",
        [
            *(number, version.version, vm_no, turn, record.vm_name, version.sequence),
            *(version.name, version.digest, to_utc(version.taken_at)),
            *(to_utc(datetime.fromisoformat(clear.committed_at)), to_utc(now)),
            *(record.run, record.job, record.consistency, record.consistency_asked, record.note),
            *(msgspec.json.encode(record.counts).decode(), record.keep, tags_of(record)),
            to_utc(datetime.fromisoformat(record.locked_until)) if record.locked_until else None,
        ],
    )
    connection.execute(
        """INSERT INTO verdicts (version_no, verdict, reason, decided_at)
        VALUES (?, 'unchecked', 'just committed', ?)""",
        [number, to_utc(now)],
    )
    return number


def tags_of(record: VersionRecord) -> str:
    """The VM's tags as its hypervisor had them, as JSON."""
    try:
        said = msgspec.json.decode(record.configuration, type=dict[str, Any])
        found = [str(tag) for tag in said["vm"]["tags"]]
    except (msgspec.DecodeError, KeyError, TypeError):
        found = []  # a source that tells of none
    return msgspec.json.encode(found).decode()


TOLD_DISK = {
    "ordinal": "INTEGER",
    "disk_id": "UUID",
    "chunk_bytes": "UINTEGER",
    "size_bytes": "UBIGINT",
    "disk_name": "VARCHAR",
    "plugged_at": "VARCHAR",
    "positions": "UBIGINT",
    "entire": "BOOLEAN",
}
"""What is staged of each disk, and how."""


def told_disk(at: int, disk: DiskRecord, *, whole: bool) -> tuple[str | int, ...]:
    """A disk as it is staged: the `at`th of its version, with all of its map or what changed."""
    facts = (at, disk.disk, disk.chunk_bytes, disk.size_bytes, disk.name, disk.position)
    return *facts, positions_of(disk.size_bytes, disk.chunk_bytes), str(whole).lower()


def _insert_disks(
    connection: Connection,
    stage: Stage,
    vm_no: int,
    version_no: int,
    disks: Sequence[DiskRecord],
    whole: dict[str, bool],
) -> None:
    """Disks and version_disks; temporary table `new_disks` says how to read `new_maps`."""
    rows = (told_disk(at, disk, whole=whole[disk.disk]) for at, disk in enumerate(disks))
    stage.rows("told_disks", rows)
    stage.load(connection, "told_disks", **TOLD_DISK)
    connection.execute(
        """INSERT INTO disks (disk_no, vm_no, disk_id, chunk_bytes)
        SELECT (SELECT coalesce(max(disk_no), 0) FROM disks) + row_number() OVER (ORDER BY ordinal),
            ?, disk_id, chunk_bytes
        FROM told_disks AS t
        WHERE NOT EXISTS (SELECT 1 FROM disks AS d WHERE d.vm_no = ? AND d.disk_id = t.disk_id
            AND d.chunk_bytes = t.chunk_bytes)""",
        [vm_no, vm_no],
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE new_disks AS
        SELECT d.disk_no, t.* FROM told_disks AS t JOIN disks AS d
            ON d.vm_no = ? AND d.disk_id = t.disk_id AND d.chunk_bytes = t.chunk_bytes""",
        [vm_no],
    )
    connection.execute(
        """INSERT INTO version_disks (version_no, disk_no, size_bytes, disk_name, plugged_at)
        SELECT ?, disk_no, size_bytes, disk_name, plugged_at FROM new_disks""",
        [version_no],
    )


def _change_maps(
    connection: Connection, stage: Stage, gone: str, turn: int, version_no: int
) -> tuple[int, int]:
    """End the spans of what is not there any more, and begin those of what is new.

    Args:
        connection: In a transaction.
        stage: Where `new_maps` waits.
        gone: The condition that a row is of a disk which the VM has no more.
        turn: The version's.
        version_no: Its number.

    Returns:
        At how many positions something changed, and at how many of them there is data now.
    """
    stage.load(connection, "new_maps", ordinal="INTEGER", position="UBIGINT", chunk="UUID")
    require_positions(connection, "ordinal")
    if gone != NONE:
        connection.execute(
            f"UPDATE maps SET until = ? WHERE until = {STILL} AND {gone}",  # noqa: S608
            [turn],
        )
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE still AS
        SELECT disk_no, position, chunk FROM maps
        WHERE until = {STILL} AND {of_disks(connection, "new_disks", exact=True)}"""  # noqa: S608
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE changes AS
        SELECT n.disk_no, m.position::UINTEGER AS position, m.chunk
        FROM new_maps AS m JOIN new_disks AS n USING (ordinal)"""
    )
    # What a whole map leaves out, and what lies beyond a disk that shrank, is told as zero.
    connection.execute(
        """INSERT INTO changes (disk_no, position, chunk)
        SELECT m.disk_no, m.position, NULL
        FROM still AS m JOIN new_disks AS n USING (disk_no)
        ANTI JOIN changes AS t ON t.disk_no = m.disk_no AND t.position = m.position
        WHERE n.entire OR m.position >= n.positions"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE changes AS
        SELECT t.disk_no, t.position, t.chunk AS after, m.chunk AS before
        FROM changes AS t LEFT JOIN still AS m
            ON m.disk_no = t.disk_no AND m.position = t.position
        WHERE t.chunk IS DISTINCT FROM m.chunk"""
    )
    row = connection.execute("SELECT count(*), count(after) FROM changes").fetchone()
    changed, chunks = row or (0, 0)
    if not changed:
        return 0, 0
    connection.execute(
        f"""UPDATE maps SET until = ? FROM changes AS c
        WHERE maps.disk_no = c.disk_no AND maps.position = c.position AND maps.until = {STILL}
          AND c.before IS NOT NULL
          AND {of_disks(connection, "new_disks", prefix="maps.")}""",  # noqa: S608
        [turn],
    )
    connection.execute(
        f"""INSERT INTO maps (disk_no, position, chunk, since, until, version_no)
        SELECT disk_no, position, after, ?, {STILL}, ? FROM changes WHERE after IS NOT NULL
        ORDER BY disk_no, position""",  # noqa: S608
        [turn, version_no],
    )
    return int(changed), int(chunks)


def require_positions(connection: Connection, of_disk: str) -> None:
    """See that `new_maps` tells no position twice, and none beyond its disk in `new_disks`.

    Args:
        connection: In a transaction.
        of_disk: The columns that say which disk of which version is meant, in both.

    Raises:
        BadInput: It does.
    """
    odd = connection.execute(
        f"""SELECT any_value(n.disk_name), count(*), count(DISTINCT m.position), max(m.position),
            any_value(n.positions)
        FROM new_maps AS m JOIN new_disks AS n USING ({of_disk}) GROUP BY {of_disk}
        HAVING count(*) <> count(DISTINCT m.position) OR max(m.position) >= any_value(n.positions)
        """  # noqa: S608  # our own words
    ).fetchone()
    if odd is not None:
        raise BadInput(
            f"the block map of disk {odd[0]} tells a position twice, or one beyond the disk's"
            f" {odd[4]} chunks ({odd[1]} told, {odd[2]} different, the last is {odd[3]})"
        )


def _one(connection: Connection, query: str, *arguments: object) -> int:
    """The one number a query gives; 0 for none."""
    row = connection.execute(query, list(arguments)).fetchone()
    return int(row[0] or 0) if row else 0

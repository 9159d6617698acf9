"""What a vault host without a key learns of versions: which there are, and which packs they need.

The names of VMs, their disks and their block maps are sealed, so nothing of those is recorded.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, reading, to_utc, writing
from catalog.staging import Stage, staged
from likeness.model.ids import PackId, VersionId, VmId, as_uuid


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version as everybody may read of it.

    Attributes:
        record: Its record's name.
        digest: BLAKE3 of the record, hex.
    """

    version: VersionId
    sequence: int
    record: str
    digest: str
    taken_at: datetime
    committed_at: datetime


def known_of_vm(catalog: CatalogLocation, vm: VmId) -> frozenset[VersionId]:
    """Versions of a VM that the catalog was told of."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT v.version_id FROM versions AS v JOIN vms AS x USING (vm_no)
            WHERE x.vm_id = ?""",
            [vm],
        ).fetchall()
    return frozenset(VersionId(row[0].hex) for row in rows)


def record_listed(
    catalog: CatalogLocation,
    vm: VmId,
    new: Collection[ListedVersion],
    packs: Mapping[VersionId, Iterable[PackId]],
    now: datetime,
) -> None:
    """Tell the catalog of a VM's versions that it does not know, and what each of them needs.

    Args:
        catalog: Which.
        vm: Whose.
        new: Versions the catalog may not know yet.
        packs: What each of the VM's versions needs; of others nothing is known any more.
        now: The present.
    """
    with staged(catalog) as stage:
        stage.rows("told_needs", ((v, p) for v, each in packs.items() for p in each))
        with writing(catalog) as connection:
            vm_no = _vm_no(connection, vm)
            for version in sorted(new, key=lambda each: (each.sequence, each.version)):
                _add_version(connection, vm, vm_no, version, now)
            _replace_uses(connection, stage, vm_no, now)


def _vm_no(connection: Connection, vm: VmId) -> int:
    row = connection.execute("SELECT vm_no FROM vms WHERE vm_id = ?", [vm]).fetchone()
    if row:
        return int(row[0])
    (number,) = connection.execute("SELECT coalesce(max(vm_no), 0) + 1 FROM vms").fetchone() or (1,)
    connection.execute(
        "INSERT INTO vms (vm_no, vm_id, vm_name) VALUES (?, ?, ?)", [number, vm, as_uuid(vm)]
    )
    return int(number)


def _add_version(
    connection: Connection, vm: VmId, vm_no: int, version: ListedVersion, now: datetime
) -> None:
    connection.execute(
        """INSERT INTO versions (
            version_no, version_id, vm_no, turn, vm_name, sequence, record, digest,
            taken_at, committed_at, recorded_at, run_id, job, consistency, consistency_asked, note,
            counts, state, packs, unproved_packs, unreachable_packs, damaged, verdict, to_judge)
        SELECT (SELECT coalesce(max(version_no), 0) + 1 FROM versions), $version, $vm_no,
            (SELECT coalesce(max(turn), 0) + 1 FROM versions WHERE vm_no = $vm_no), $name,
            $sequence, $record, $digest, $taken, $committed, $now,
            '00000000-0000-0000-0000-000000000000', '', '', '', '', '{}', 'committed',
            0, 0, 0, false, 'unchecked', false
        WHERE NOT EXISTS (SELECT 1 FROM versions WHERE version_id = $version)""",
        {
            "version": version.version,
            "vm_no": vm_no,
            "name": as_uuid(vm),
            "sequence": version.sequence,
            "record": version.record,
            "digest": version.digest,
            "taken": to_utc(version.taken_at),
            "committed": to_utc(version.committed_at),
            "now": to_utc(now),
        },
    )


def _replace_uses(connection: Connection, stage: Stage, vm_no: int, now: datetime) -> None:
    stage.load(connection, "told_needs", version="UUID", pack="UUID")
    connection.execute(
        """INSERT INTO packs (pack_no, pack_id, size_bytes, digest, chunks, recorded_at, state, bad,
            unreachable, cause)
        SELECT (SELECT max(pack_no) FROM packs) + row_number() OVER (ORDER BY pack), pack, 0,
            ''::BLOB, 0, ?, 'live', false, false, ''
        FROM (SELECT DISTINCT pack FROM told_needs) AS n
        ANTI JOIN packs AS k ON k.pack_id = n.pack""",
        [to_utc(now)],
    )
    connection.execute("DELETE FROM pack_uses WHERE vm_no = ?", [vm_no])
    connection.execute(
        """INSERT INTO pack_uses (vm_no, pack_no, since, until)
        WITH used AS (
            SELECT DISTINCT k.pack_no, v.turn FROM told_needs AS n
            JOIN versions AS v ON v.version_id = n.version AND v.vm_no = $vm_no
            JOIN packs AS k ON k.pack_id = n.pack
        ), islands AS (
            SELECT pack_no, turn,
                turn::BIGINT - row_number() OVER (PARTITION BY pack_no ORDER BY turn) AS island
            FROM used
        )
        SELECT $vm_no, pack_no, min(turn), max(turn) + 1 FROM islands GROUP BY pack_no, island""",
        {"vm_no": vm_no},
    )

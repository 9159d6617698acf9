"""Lists for people and for the next backup: VMs, their versions, and how good they are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter

import msgspec

from catalog.connection import CatalogLocation, Connection, from_utc, read_lately, reading
from catalog.values import DiskRow, VersionRow, VmRow
from catalog.verdicts import VerdictFacts, judge
from likeness.errors import UnknownVersion
from likeness.model.ids import DiskId, RunId, VersionId, VmId
from likeness.store.format.documents import Counts

Row = dict[str, object]
_FEW = 5000
"""So many versions are kept in memory, from one question to the next."""
_BY_AGE = " ORDER BY v.taken_at DESC, v.turn DESC"
_VERSIONS = """
SELECT v.*, x.vm_id FROM versions AS v JOIN vms AS x USING (vm_no) WHERE v.state = 'committed'
"""


def list_vms(catalog: CatalogLocation) -> list[VmRow]:
    """Every VM that has a version, by name."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT x.vm_id, x.vm_name, count(*), max(v.taken_at), max(v.sequence)
            FROM vms AS x JOIN versions AS v USING (vm_no)
            WHERE v.state = 'committed' GROUP BY x.vm_id, x.vm_name ORDER BY x.vm_name, x.vm_id"""
        ).fetchall()
    return [VmRow(VmId(vm.hex), name, n, from_utc(at), last) for vm, name, n, at, last in rows]


def list_versions(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    vm: VmId | None = None,
    run: RunId | None = None,
) -> list[VersionRow]:
    """Committed versions, newest first, each with what may be said of it at this moment.

    Args:
        catalog: Which.
        now: The present.
        max_age: For how long a proof counts; none: for ever.
        vm: Only this VM's.
        run: Only those that a run made.
    """
    if vm is None and run is None:
        found = read_lately(catalog, "versions", _all, few=lambda all_: len(all_.rows) <= _FEW)
    else:
        with reading(catalog) as connection:
            found = _found(
                connection,
                " AND (? IS NULL OR x.vm_id = ?::UUID) AND (? IS NULL OR v.run_id = ?::UUID)"
                + _BY_AGE,
                [vm, vm, run, run],
            )
    return [_version(row, found, now, max_age) for row in found.rows]


def find_version(
    catalog: CatalogLocation, version: str, now: datetime, max_age: timedelta | None
) -> VersionRow:
    """The committed version whose id begins with `version`, at least four hex digits.

    Raises:
        UnknownVersion: None, or several.
    """
    with reading(catalog) as connection:
        found = _found(
            connection,
            " AND starts_with(replace(v.version_id::VARCHAR, '-', ''), ?) LIMIT 2",
            [version.lower()],
        )
    if len(found.rows) != 1 or len(version) < 4:
        many = "several versions begin" if found.rows else "no version begins"
        raise UnknownVersion(f"{many} with {version!r}; list the versions and give more of the id")
    return _version(found.rows[0], found, now, max_age)


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows of versions, and what other tables say of them, by the version's number.

    Several plain questions cost a third of one that puts all of it together.
    """

    rows: list[Row]
    disks: Mapping[int, Sequence[DiskRow]]
    kept_bytes: Mapping[int, int]
    vaults: Mapping[int, Sequence[tuple[str, datetime | None]]]


def _all(connection: Connection) -> _Found:
    return _found(connection, _BY_AGE, [])


def _found(connection: Connection, which: str, arguments: list[object]) -> _Found:
    rows = _rows(connection, _VERSIONS + which, arguments)
    if not rows:
        return _Found([], {}, {}, {})
    kept = connection.execute(
        "SELECT version_no, sum(size_bytes) FROM packs WHERE state = 'live' GROUP BY version_no"
    ).fetchall()
    vaults: dict[int, list[tuple[str, datetime | None]]] = defaultdict(list)
    for number, vault, at in connection.execute(
        "SELECT version_no, vault, read_back_at FROM vaulted_versions"
    ).fetchall():
        vaults[number].append((vault, from_utc(at)))
    return _Found(rows, _disks(connection), {n: int(size) for n, size in kept}, vaults)


def _rows(connection: Connection, query: str, arguments: list[object]) -> list[Row]:
    cursor = connection.execute(query, arguments)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _disks(connection: Connection) -> dict[int, tuple[DiskRow, ...]]:
    found: dict[int, list[DiskRow]] = defaultdict(list)
    for number, disk, name, plugged_at, size, chunk in connection.execute(
        """SELECT w.version_no, d.disk_id, w.disk_name, w.plugged_at, w.size_bytes, d.chunk_bytes
        FROM version_disks AS w JOIN disks AS d USING (disk_no)
        ORDER BY w.version_no, w.plugged_at, d.disk_no"""
    ).fetchall():
        found[number].append(DiskRow(DiskId(disk.hex), name, plugged_at, size, chunk))
    return {number: tuple(disks) for number, disks in found.items()}


def _version(row: Row, found: _Found, now: datetime, max_age: timedelta | None) -> VersionRow:
    facts, number = facts_of(row), _int(row["version_no"])
    vaults = sorted(found.vaults.get(number, ()), key=itemgetter(0))
    verdict, reason = judge(facts, now, max_age)
    return VersionRow(
        version=VersionId(_name(row["version_id"])),
        vm=VmId(_name(row["vm_id"])),
        vm_name=str(row["vm_name"]),
        sequence=_int(row["sequence"]),
        record=str(row["record"]),
        digest=str(row["digest"]),
        taken_at=_time(row["taken_at"]),
        committed_at=_time(row["committed_at"]),
        run=RunId(_name(row["run_id"])),
        job=str(row["job"]),
        consistency=str(row["consistency"]),
        consistency_asked=str(row["consistency_asked"]),
        note=str(row["note"]),
        disks=tuple(found.disks.get(number, ())),
        counts=msgspec.json.decode(str(row["counts"]), type=Counts),
        kept_bytes=found.kept_bytes.get(number, 0),
        verdict=verdict,
        reason=reason,
        packs=facts.packs,
        unproved_packs=facts.unproved,
        oldest_proof_at=None if facts.unproved else facts.oldest,
        vaults=tuple(vault for vault, _ in vaults),
        read_back={vault: at for vault, at in vaults if at is not None},
    )


def facts_of(row: Row) -> VerdictFacts:
    """What a row of `versions` says about its verdict."""
    problem = row["documents_problem"]
    return VerdictFacts(
        judged=row["judged_at"] is not None,
        packs=_int(row["packs"]),
        unproved=_int(row["unproved_packs"]),
        unreachable=_int(row["unreachable_packs"]),
        damaged=bool(row["damaged"]),
        oldest=_maybe_time(row["oldest_proof_at"]),
        newest=_maybe_time(row["newest_proof_at"]),
        documents=str(row["documents"]) if row["documents"] is not None else None,
        documents_at=_maybe_time(row["documents_at"]),
        problem=str(problem) if problem is not None else "",
    )


def _name(value: object) -> str:
    return str(value).replace("-", "")


def _int(value: object) -> int:
    return int(str(value))


def _maybe_time(value: object) -> datetime | None:
    return from_utc(value) if isinstance(value, datetime) else None


def _time(value: object) -> datetime:
    found = _maybe_time(value)
    if found is None:
        raise TypeError(f"{value!r} is not a time")
    return found

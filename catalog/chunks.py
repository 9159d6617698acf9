"""Questions about chunks and packs: who refers to them, where they lie, what must be read again."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc
from catalog.finding import packs_holding
from catalog.serving import of_disks, of_disks_using
from catalog.staging import staged
from catalog.values import Affected, AffectedDisk, PackFact
from likeness.model.disk import Extent
from likeness.model.ids import ChunkId, DiskId, PackId, VersionId, VmId

MAX_RANGES = 200
"""Byte ranges told for one disk of one version; the rest is counted."""


def affected_versions(
    connection: Connection, chunks: str, versions: str | None = None
) -> list[Affected]:
    """Committed versions that refer to any of these chunks, and where on their disks.

    Args:
        connection: To the catalog.
        chunks: Name of a temporary table `(chunk)`.
        versions: Name of a temporary table of versions to look at alone.
    """
    only = f"SEMI JOIN {versions} AS w ON w.version_no = v.version_no" if versions else ""
    near = of_disks_using(connection, packs_holding(connection, chunks))
    rows = connection.execute(
        f"""WITH hits AS (
            SELECT v.version_no, d.disk_no, m.position, d.chunk_bytes,
                m.position - row_number() OVER (
                    PARTITION BY v.version_no, d.disk_no ORDER BY m.position) AS island
            FROM (SELECT * FROM maps WHERE {near}) AS m
            SEMI JOIN {chunks} AS c ON c.chunk = m.chunk
            JOIN disks AS d USING (disk_no)
            JOIN versions AS v ON v.vm_no = d.vm_no AND m.since <= v.turn AND v.turn < m.until
            {only}
            WHERE v.state = 'committed'
        ), ranges AS (
            SELECT version_no, disk_no, min(position) * any_value(chunk_bytes)::UBIGINT AS start,
                count(*) * any_value(chunk_bytes) AS length
            FROM hits GROUP BY version_no, disk_no, island
        ), counted AS (
            SELECT version_no, disk_no, start,
                least(length, greatest(w.size_bytes, start) - start) AS length, w.disk_name,
                row_number() OVER (PARTITION BY version_no, disk_no ORDER BY start) AS nth,
                count(*) OVER (PARTITION BY version_no, disk_no) AS many,
                sum(least(length, greatest(w.size_bytes, start) - start))
                    OVER (PARTITION BY version_no, disk_no) AS total
            FROM ranges JOIN version_disks AS w USING (version_no, disk_no)
        )
        SELECT v.version_id, x.vm_id, v.vm_name, v.sequence, v.taken_at,
            d.disk_id, c.disk_name, c.start, c.length, c.many, c.total
        FROM counted AS c
        JOIN versions AS v USING (version_no)
        JOIN vms AS x USING (vm_no)
        JOIN disks AS d USING (disk_no)
        WHERE c.nth <= {MAX_RANGES}
        ORDER BY v.vm_name, x.vm_id, v.turn, c.disk_no, c.start"""  # noqa: S608  # our own words
    ).fetchall()
    return _affected(rows)


def _affected(rows: Iterable[tuple[object, ...]]) -> list[Affected]:
    heads: dict[str, tuple[object, ...]] = {}
    disks: dict[str, dict[str, tuple[str, int, int]]] = defaultdict(dict)
    ranges: dict[tuple[str, str], list[Extent]] = defaultdict(list)
    for row in rows:
        version, disk = _hex(row[0]), _hex(row[5])
        heads[version] = row
        disks[version][disk] = (str(row[6]), _int(row[9]), _int(row[10]))
        ranges[version, disk].append(Extent(_int(row[7]), _int(row[8])))
    return [
        Affected(
            version=VersionId(version),
            vm=VmId(_hex(head[1])),
            vm_name=str(head[2]),
            sequence=_int(head[3]),
            taken_at=_time(head[4]),
            disks=tuple(
                AffectedDisk(
                    disk=DiskId(disk),
                    name=name,
                    affected_bytes=total,
                    ranges=tuple(ranges[version, disk]),
                    more_ranges=many - len(ranges[version, disk]),
                )
                for disk, (name, many, total) in disks[version].items()
            ),
        )
        for version, head in heads.items()
    ]


def closest_vm(catalog: CatalogLocation, chunks: Iterable[ChunkId], but: VmId) -> str:
    """Name of the VM that has most of some chunks, and had them first.

    Args:
        catalog: Which.
        chunks: Some of what a VM consists of.
        but: That VM.

    Returns:
        Nothing if no other VM has any.
    """
    with staged(catalog) as stage, reading(catalog) as connection:
        stage.lines("asked_chunks", (f"{chunk[:16].hex()}\n" for chunk in chunks))
        stage.load(connection, "asked_chunks", chunk="UUID")
        near = of_disks_using(connection, packs_holding(connection, "asked_chunks"))
        row = connection.execute(
            f"""WITH alike AS (
                SELECT d.vm_no, count(DISTINCT m.chunk) AS many
                FROM (SELECT * FROM maps WHERE {near}) AS m
                SEMI JOIN asked_chunks AS c ON c.chunk = m.chunk
                JOIN disks AS d USING (disk_no) JOIN vms AS x USING (vm_no)
                WHERE x.vm_id <> ?::UUID GROUP BY d.vm_no
            )
            SELECT v.vm_name FROM alike JOIN versions AS v USING (vm_no)
            WHERE v.state = 'committed' ORDER BY many DESC, v.taken_at LIMIT 1""",  # noqa: S608
            [but],
        ).fetchone()
    return str(row[0]) if row else ""


_ANY_DAMAGE = "SELECT 1 FROM damaged_chunks WHERE healed_at IS NULL LIMIT 1"


def must_read(catalog: CatalogLocation, vm: VmId) -> dict[DiskId, list[Extent]]:
    """Byte ranges of a VM's last version whose chunk is damaged, missing or lost.

    The next backup reads them whatever the hypervisor says has changed, and sends them again.
    """
    with reading(catalog) as connection:
        if not connection.execute(_ANY_DAMAGE).fetchone():
            return {}
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE last_of_vm AS
            SELECT version_no FROM versions AS v JOIN vms AS x USING (vm_no)
            WHERE x.vm_id = ? AND v.state = 'committed' ORDER BY v.turn DESC LIMIT 1""",
            [vm],
        )
        its = "version_disks SEMI JOIN last_of_vm USING (version_no)"
        rows = connection.execute(
            f"""SELECT d.disk_id, m.position * d.chunk_bytes::UBIGINT,
                least(d.chunk_bytes, w.size_bytes - m.position * d.chunk_bytes::UBIGINT)
            FROM last_of_vm AS l
            JOIN versions AS v USING (version_no)
            JOIN version_disks AS w USING (version_no)
            JOIN disks AS d USING (disk_no)
            JOIN (SELECT * FROM maps
                WHERE {of_disks(connection, its)}) AS m USING (disk_no)
            SEMI JOIN (SELECT chunk FROM damaged_chunks WHERE healed_at IS NULL) AS b
                ON b.chunk = m.chunk
            WHERE m.since <= v.turn AND v.turn < m.until
            ORDER BY d.disk_no, m.position"""  # noqa: S608
        ).fetchall()
    found: dict[DiskId, list[Extent]] = {}
    for disk, start, length in rows:
        extents = found.setdefault(DiskId(disk.hex), [])
        if extents and extents[-1].end == start:
            extents[-1] = Extent(extents[-1].offset, extents[-1].length + length)
        else:
            extents.append(Extent(start, length))
    return found


def damaged_ids(catalog: CatalogLocation) -> set[bytes]:
    """First 16 bytes of every chunk id that is damaged, missing or lost, and not healed.

    A source must not count such a chunk as stored, even where its disk has not changed.
    """
    with reading(catalog) as connection:
        rows = connection.execute(
            "SELECT DISTINCT chunk FROM damaged_chunks WHERE healed_at IS NULL"
        ).fetchall()
    return {row[0].bytes for row in rows}


def whole_in_damaged_packs(catalog: CatalogLocation) -> set[bytes]:
    """First 16 bytes of every chunk id that versions rely on, whole, in a damaged pack."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT DISTINCT p.chunk FROM places AS p
            JOIN packs AS k ON k.pack_no = p.pack_no AND k.bad AND k.state = 'live'
            SEMI JOIN pack_uses AS u ON u.pack_no = p.pack_no
            ANTI JOIN (SELECT * FROM damaged_chunks WHERE cleared_at IS NULL) AS d
                ON d.chunk = p.chunk AND d.pack_no = p.pack_no AND d.start = p.start
            WHERE p.serves"""
        ).fetchall()
    return {row[0].bytes for row in rows}


def unreferenced_packs(catalog: CatalogLocation, recorded_before: datetime) -> list[PackFact]:
    """Packs of which no chunk is referred to by a committed version.

    A pack all of whose chunks are served by others is not among them while a version refers to
    its chunks: it may be the only good copy. See `drop_duplicates` for those.
    """
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT k.pack_id, k.size_bytes, k.chunks, k.recorded_at, k.proved_at
            FROM packs AS k
            ANTI JOIN (
                SELECT p.pack_no FROM places AS p
                SEMI JOIN (
                    SELECT m.chunk FROM maps AS m
                    JOIN disks AS d USING (disk_no)
                    JOIN versions AS v
                        ON v.vm_no = d.vm_no AND m.since <= v.turn AND v.turn < m.until
                    WHERE v.state = 'committed'
                ) AS c ON c.chunk = p.chunk
            ) AS r ON r.pack_no = k.pack_no
            WHERE k.state = 'live' AND k.recorded_at < ? ORDER BY k.pack_no""",
            [to_utc(recorded_before)],
        ).fetchall()
    return [PackFact(PackId(r[0].hex), r[1], r[2], _time(r[3]), from_utc(r[4])) for r in rows]


def _hex(value: object) -> str:
    return str(value).replace("-", "")


def _int(value: object) -> int:
    return int(str(value))


def _time(value: object) -> datetime:
    found = from_utc(value) if isinstance(value, datetime) else None
    if found is None:
        raise TypeError(f"{value!r} is not a time")
    return found

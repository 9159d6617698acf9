"""What a catalog holds, asked row by row: slower and plainer than the questions it is made for."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

from catalog.chunks import affected_versions
from catalog.connection import CatalogLocation, Connection, from_utc, reading
from catalog.values import Affected, Verdict
from likeness.model.ids import ChunkId, DiskId, PackId, VersionId


class Copy(NamedTuple):
    """One copy of a chunk; versions rely on it when it `serves`."""

    pack: PackId
    proved_at: datetime | None
    damaged: bool
    serves: bool


class DamageRow(NamedTuple):
    """A copy of a chunk that was found damaged or missing; no pack: none is known to hold it."""

    chunk_key: bytes
    pack: PackId | None
    kind: str
    cause: str
    first_seen: datetime
    cleared_at: datetime | None
    healed_at: datetime | None


def affected_by(catalog: CatalogLocation, chunks: Collection[ChunkId]) -> list[Affected]:
    """Committed versions that refer to any of these chunks."""
    with reading(catalog) as connection:
        _asked(connection, "asked_chunks", "chunk", (chunk[:16].hex() for chunk in chunks))
        return affected_versions(connection, "asked_chunks")


def copies_of(
    catalog: CatalogLocation, chunks: Collection[ChunkId]
) -> dict[ChunkId, tuple[Copy, ...]]:
    """Every copy of these chunks, best first."""
    by_key = {chunk[:16]: chunk for chunk in chunks}
    found: dict[ChunkId, list[Copy]] = {chunk: [] for chunk in chunks}
    with reading(catalog) as connection:
        _asked(connection, "asked_chunks", "chunk", (key.hex() for key in by_key))
        rows = connection.execute(
            """SELECT p.chunk, k.pack_id, k.proved_at, d.chunk IS NOT NULL AS bad, p.serves
            FROM places AS p
            SEMI JOIN asked_chunks AS c ON c.chunk = p.chunk
            JOIN packs AS k USING (pack_no)
            LEFT JOIN damaged_chunks AS d ON d.chunk = p.chunk AND d.pack_no = p.pack_no
                AND d.start = p.start AND d.cleared_at IS NULL
            WHERE k.state IN ('live', 'redundant')
            ORDER BY p.serves DESC, bad, k.proved_at NULLS LAST, p.pack_no, p.start"""
        ).fetchall()
    for key, pack, proved_at, bad, serves in rows:
        copy = Copy(PackId(pack.hex), from_utc(proved_at), bad, serves)
        found[by_key[key.bytes]].append(copy)
    return {chunk: tuple(copies) for chunk, copies in found.items()}


def packs_of_version(catalog: CatalogLocation, version: VersionId) -> list[PackId]:
    """The packs that a version relies on, each once."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT DISTINCT k.pack_no, k.pack_id FROM versions AS v
            JOIN pack_uses AS u ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
            JOIN packs AS k USING (pack_no)
            WHERE v.version_id = ? AND k.pack_no <> 0 ORDER BY k.pack_no""",
            [version],
        ).fetchall()
    return [PackId(row[1].hex) for row in rows]


def map_of_version(catalog: CatalogLocation, version: VersionId, disk: DiskId) -> dict[int, bytes]:
    """A disk's block map by position, each with the first half of its chunk id; no zeros."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT m.position, m.chunk FROM versions AS v
            JOIN disks AS d USING (vm_no) JOIN maps AS m USING (disk_no)
            WHERE v.version_id = ? AND d.disk_id = ? AND m.since <= v.turn AND v.turn < m.until""",
            [version, disk],
        ).fetchall()
    return {position: chunk.bytes for position, chunk in rows}


def known_versions(catalog: CatalogLocation) -> set[VersionId]:
    """Every version the catalog was told of, expired or not."""
    with reading(catalog) as connection:
        rows = connection.execute("SELECT version_id FROM versions").fetchall()
    return {VersionId(row[0].hex) for row in rows}


def damage_rows(catalog: CatalogLocation, *, open_only: bool = True) -> list[DamageRow]:
    """Copies found damaged or missing, newest first; perhaps those that were healed, too."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT d.chunk, d.pack_no, k.pack_id, d.kind, d.cause, d.first_seen,
                d.cleared_at, d.healed_at
            FROM damaged_chunks AS d JOIN packs AS k USING (pack_no)
            WHERE NOT ? OR d.healed_at IS NULL
            ORDER BY d.first_seen DESC, d.pack_no, d.start""",
            [open_only],
        ).fetchall()
    return [
        DamageRow(
            *(chunk.bytes, PackId(pack.hex) if number else None, kind, cause),
            *(from_utc(seen) or seen, from_utc(cleared), from_utc(healed)),
        )
        for chunk, number, pack, kind, cause, seen, cleared, healed in rows
    ]


def verdict_history(
    catalog: CatalogLocation, version: VersionId
) -> list[tuple[datetime, Verdict, str]]:
    """Everything that was ever said of a version, oldest first."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT h.decided_at, h.verdict, h.reason
            FROM verdicts AS h JOIN versions AS v USING (version_no)
            WHERE v.version_id = ? ORDER BY h.decided_at, h.rowid""",
            [version],
        ).fetchall()
    return [(from_utc(at) or at, Verdict(verdict), reason) for at, verdict, reason in rows]


def _asked(connection: Connection, table: str, column: str, ids: Iterable[str]) -> None:
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT unnest(?::UUID[]) AS {column}",
        [list(ids)],
    )

"""Space: which versions may go, what that frees to the byte, and which packs nothing needs.

One rule tells whether a pack is needed: a version that stays needs one of its chunks, and no other
pack that was proved within the age limit serves that chunk. A map row spans the turns `since` to
`until` of its VM, and `since` is always the turn of some version; so it is enough to know, for each
turn, the next one that stays.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.serving import CLOCK_SLACK
from catalog.staging import name_list, staged
from likeness.model.ids import ChunkId, PackId, VersionId, VmId
from likeness.model.retention import Trust

_TRUST: Mapping[str, Trust] = {"good": "good", "bad": "damaged"}


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version, as far as keeping it goes.

    Attributes:
        keep: What its job said of how many to keep; empty: nothing.
        tags: The VM's, when it was taken.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    job: str
    record: str
    taken_at: datetime
    trust: Trust
    keep: str
    tags: tuple[str, ...]
    locked_until: datetime | None


def versions_to_judge(catalog: CatalogLocation) -> list[VersionFacts]:
    """Every version there is, by VM and job, oldest first."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT v.version_id, x.vm_id, x.vm_name, v.job, v.record, v.taken_at,
                CASE WHEN v.documents = 'broken' OR v.damaged THEN 'bad' ELSE v.verdict END,
                coalesce(v.keep, ''), coalesce(v.tags, '[]'), v.locked_until
            FROM versions AS v JOIN vms AS x USING (vm_no) WHERE v.state = 'committed'
            ORDER BY x.vm_name, x.vm_id, v.job, v.taken_at, v.turn"""
        ).fetchall()
    return [
        VersionFacts(
            version=VersionId(version.hex),
            vm=VmId(vm.hex),
            vm_name=vm_name,
            job=job,
            record=record,
            taken_at=from_utc(taken_at) or taken_at,
            trust=_TRUST.get(verdict, "unchecked"),
            keep=keep,
            tags=msgspec.json.decode(tags, type=tuple[str, ...]),
            locked_until=from_utc(locked),
        )
        for version, vm, vm_name, job, record, taken_at, verdict, keep, tags, locked in rows
    ]


@dataclass(frozen=True, slots=True)
class Freed:
    """What forgetting some versions frees.

    Attributes:
        packs: Packs that nothing needs then, and something needs now.
        packs_bytes: Their size: what a reclaim gives back.
        exclusive_bytes: Sealed bytes of data blocks that only these versions need; what lies in
            packs with other data stays until these are rewritten.
        waiting_packs: Packs that nothing needs now already.
        waiting_bytes: Their size.
    """

    packs: int = 0
    packs_bytes: int = 0
    exclusive_bytes: int = 0
    waiting_packs: int = 0
    waiting_bytes: int = 0


def freed_by(
    catalog: CatalogLocation, versions: Collection[VersionId], now: datetime, max_age: timedelta
) -> Freed:
    """What forgetting these versions together frees, exactly.

    Args:
        catalog: Which.
        versions: Those to forget.
        now: The present.
        max_age: How old the proof of a copy that is relied on may be.
    """
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", versions)
        _needs(connection, now, max_age)
        row = connection.execute(
            """SELECT count(*) FILTER (needed AND NOT stays),
                coalesce(sum(size_bytes) FILTER (needed AND NOT stays), 0),
                count(*) FILTER (NOT needed), coalesce(sum(size_bytes) FILTER (NOT needed), 0)
            FROM pack_needs"""
        ).fetchone()
        chunks = connection.execute(
            """SELECT coalesce(sum(p.length), 0) FROM places AS p
            JOIN chunk_needs AS n USING (chunk) WHERE p.serves AND n.needed AND NOT n.stays"""
        ).fetchone()
    packs, size, waiting, waiting_bytes = row or (0, 0, 0, 0)
    exclusive = int(chunks[0]) if chunks else 0
    return Freed(packs, int(size), exclusive, waiting, int(waiting_bytes))


def spare_packs(
    catalog: CatalogLocation, now: datetime, max_age: timedelta
) -> list[tuple[PackId, int]]:
    """Packs that nothing needs, with their sizes, oldest first."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", ())
        _needs(connection, now, max_age)
        rows = connection.execute(
            """SELECT k.pack_id, k.size_bytes FROM packs AS k JOIN pack_needs AS n USING (pack_no)
            WHERE NOT n.needed ORDER BY k.pack_no"""
        ).fetchall()
    return [(PackId(pack.hex), int(size)) for pack, size in rows]


def sparse_packs(
    catalog: CatalogLocation, now: datetime, max_age: timedelta, *, live_share: float
) -> list[PackId]:
    """Packs of which less than a share is needed and served by them, the emptiest first."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", ())
        _needs(connection, now, max_age)
        rows = connection.execute(
            """WITH shares AS (
                SELECT p.pack_no, coalesce(sum(p.length) FILTER (p.serves AND n.needed), 0)
                    / sum(p.length) AS live
                FROM places AS p LEFT JOIN chunk_needs AS n USING (chunk) GROUP BY p.pack_no
            )
            SELECT k.pack_id FROM packs AS k JOIN shares AS s USING (pack_no)
            WHERE k.state = 'live' AND NOT k.bad AND NOT k.unreachable AND k.proved_at <= ?
              AND s.live > 0 AND s.live < ? ORDER BY s.live, k.pack_no""",
            [to_utc(now + CLOCK_SLACK), live_share],
        ).fetchall()
    return [PackId(pack.hex) for (pack,) in rows]


def _needs(connection: Connection, now: datetime, max_age: timedelta) -> None:
    """`pack_needs (pack_no, size_bytes, needed, stays)`, now and without those in `going_ids`."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE next_turns AS
        SELECT vm_no, turn,
            min(CASE WHEN state = 'committed' THEN turn END) OVER later AS now,
            min(CASE WHEN state = 'committed' AND version_id NOT IN (SELECT id FROM going_ids)
                THEN turn END) OVER later AS stays
        FROM versions WINDOW later AS (
            PARTITION BY vm_no ORDER BY turn ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE chunk_needs AS
        SELECT m.chunk, bool_or(coalesce(t.now < m.until, false)) AS needed,
            bool_or(coalesce(t.stays < m.until, false)) AS stays
        FROM maps AS m JOIN disks AS d USING (disk_no)
        JOIN next_turns AS t ON t.vm_no = d.vm_no AND t.turn = m.since GROUP BY m.chunk"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE pack_needs AS
        WITH proved_copies AS (
            SELECT p.chunk FROM places AS p JOIN packs AS k USING (pack_no)
            WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
              AND k.proved_at BETWEEN ? AND ?
        ), held AS (
            SELECT pack_no, chunk, false AS elsewhere FROM places WHERE serves
            UNION ALL
            SELECT pack_no, chunk, chunk IN (SELECT chunk FROM proved_copies)
            FROM places WHERE NOT serves
        )
        SELECT k.pack_no, any_value(k.size_bytes) AS size_bytes,
            bool_or(coalesce(n.needed, false) AND NOT coalesce(h.elsewhere, false)) AS needed,
            bool_or(coalesce(n.stays, false) AND NOT coalesce(h.elsewhere, false)) AS stays
        FROM packs AS k LEFT JOIN held AS h USING (pack_no)
        LEFT JOIN chunk_needs AS n ON n.chunk = h.chunk
        WHERE k.state IN ('live', 'redundant') GROUP BY k.pack_no""",
        [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)],
    )


def served_by_proved(
    catalog: CatalogLocation, chunks: Collection[ChunkId], now: datetime, max_age: timedelta
) -> dict[ChunkId, tuple[PackId, int]]:
    """Which pack serves each of these chunks, proved within the age limit, with its size."""
    by_key = {chunk[:16]: chunk for chunk in chunks}
    with staged(catalog) as stage, reading(catalog) as connection:
        stage.lines("asked_chunks", (f"{key.hex()}\n" for key in by_key))
        stage.load(connection, "asked_chunks", chunk="UUID")
        rows = connection.execute(
            """SELECT p.chunk, k.pack_id, k.size_bytes FROM places AS p
            SEMI JOIN asked_chunks AS c ON c.chunk = p.chunk JOIN packs AS k USING (pack_no)
            WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
              AND k.proved_at BETWEEN ? AND ?""",
            [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)],
        ).fetchall()
    return {by_key[chunk.bytes]: (PackId(pack.hex), int(size)) for chunk, pack, size in rows}


def forget_versions(catalog: CatalogLocation, versions: Iterable[VersionId], now: datetime) -> int:
    """Versions that were given up on purpose: in no list any more, and no loss; safe to repeat.

    Returns:
        How many were committed before.
    """
    with staged(catalog) as stage, writing(catalog) as connection:
        name_list(connection, stage, "asked_versions", versions)
        changed = connection.execute(
            """UPDATE versions SET state = 'forgotten', forgotten_at = ?, expired_at = NULL,
                to_judge = false
            WHERE state <> 'forgotten' AND version_id IN (SELECT id FROM asked_versions)""",
            [to_utc(now)],
        ).fetchone()
    return int(changed[0]) if changed else 0

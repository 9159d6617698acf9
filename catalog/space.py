"""Space: which versions may go, what that frees to the byte, and which packs nothing needs.

One rule tells whether a pack is needed: a version that stays needs one of its chunks, and no other
pack that was proved within the age limit serves that chunk. A map row spans the turns `since` to
`until` of its VM, and `since` is always the turn of some version; so it is enough to know, for each
turn, the next one that stays.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.finding import in_packs_of
from catalog.serving import CLOCK_SLACK
from catalog.staging import name_list, staged
from likeness.model.ids import ChunkId, PackId, VersionId, VmId
from likeness.model.retention import Trust

_SLICE_ROWS = 4 << 20
"""Of the maps, looked at together: a few hundred MB."""
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
        exclusive = _exclusive_bytes(connection)
    packs, size, waiting, waiting_bytes = row or (0, 0, 0, 0)
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
    """Packs of which less than a share is needed and served by them, the emptiest first.

    A slice of ids at a time, so that neither memory nor anybody's patience has to grow with the
    store.
    """
    with reading(catalog) as connection:
        row = connection.execute("SELECT count(*) FROM maps").fetchone()
    slices = (int(row[0]) if row else 0) // _SLICE_ROWS + 1
    idle = [_idle_in(catalog, nth, slices) for nth in range(slices)]
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", ())
        stage.lines("idle", (line for lines in idle for line in lines))
        stage.load(connection, "idle", pack_no="INTEGER", length="UBIGINT")
        rows = connection.execute(
            """WITH unneeded AS (
                SELECT pack_no, sum(length) AS length FROM idle GROUP BY pack_no
            ), shares AS (
                SELECT p.pack_no, sum(p.length) AS total,
                    coalesce(sum(p.length) FILTER (p.serves), 0)
                        - coalesce(any_value(u.length), 0) AS live
                FROM places AS p LEFT JOIN unneeded AS u USING (pack_no) GROUP BY p.pack_no
            )
            SELECT k.pack_id FROM packs AS k JOIN shares AS s USING (pack_no)
            WHERE k.state = 'live' AND NOT k.bad AND NOT k.unreachable AND k.proved_at <= ?
              AND s.live > 0 AND s.live / s.total < ? ORDER BY s.live / s.total, k.pack_no""",
            [to_utc(now + CLOCK_SLACK), live_share],
        ).fetchall()
    return [PackId(pack.hex) for (pack,) in rows]


def _idle_in(catalog: CatalogLocation, nth: int, slices: int) -> list[str]:
    """By pack, the sealed bytes that it serves and nobody needs, of one slice of all ids."""
    within = f"chunk >= '{UUID(int=(nth << 128) // slices)}'::UUID"
    if nth + 1 < slices:
        within += f" AND chunk < '{UUID(int=((nth + 1) << 128) // slices)}'::UUID"
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "going_ids", ())
        _next_turns(connection)
        rows = connection.execute(
            f"""SELECT p.pack_no, sum(p.length)
            FROM (SELECT * FROM places WHERE serves AND {within}) AS p
            ANTI JOIN (
                SELECT m.chunk FROM (SELECT * FROM maps WHERE {within}) AS m
                JOIN row_needs AS r USING (disk_no, since) WHERE r.now < m.until
            ) AS n ON n.chunk = p.chunk
            GROUP BY p.pack_no"""  # noqa: S608  # our own numbers
        ).fetchall()
    return [f"{pack},{length}\n" for pack, length in rows]


def _next_turns(connection: Connection) -> None:
    """`next_turns` and `row_needs`: the next turn that is kept, now and without `going_ids`."""
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
        """CREATE OR REPLACE TEMP TABLE row_needs AS
        SELECT d.disk_no, t.turn AS since, t.now, t.stays
        FROM next_turns AS t JOIN disks AS d USING (vm_no)"""
    )


def _needs(connection: Connection, now: datetime, max_age: timedelta) -> None:
    """`pack_needs (pack_no, size_bytes, needed, stays)`, now and without those in `going_ids`.

    What a pack serves is told by `pack_uses`; only copies that do not serve, and that no proved one
    makes up for, are looked for in the maps.
    """
    _next_turns(connection)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE lone AS
        WITH spare AS (SELECT pack_no, chunk FROM places WHERE NOT serves)
        SELECT * FROM spare WHERE chunk NOT IN (
            SELECT p.chunk FROM places AS p SEMI JOIN spare AS s ON s.chunk = p.chunk
            JOIN packs AS k USING (pack_no)
            WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
              AND k.proved_at BETWEEN ? AND ?)""",
        [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)],
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE pack_needs AS
        WITH uses AS (
            SELECT pack_no, vm_no, since, until FROM pack_uses
            UNION ALL
            SELECT l.pack_no, d.vm_no, m.since, m.until
            FROM lone AS l JOIN maps AS m ON m.chunk = l.chunk JOIN disks AS d USING (disk_no)
        ), needs AS (
            SELECT u.pack_no, bool_or(coalesce(t.now < u.until, false)) AS needed,
                bool_or(coalesce(t.stays < u.until, false)) AS stays
            FROM uses AS u JOIN next_turns AS t ON t.vm_no = u.vm_no AND t.turn = u.since
            GROUP BY u.pack_no
        )
        SELECT k.pack_no, k.size_bytes, coalesce(n.needed, false) AS needed,
            coalesce(n.stays, false) AS stays
        FROM packs AS k LEFT JOIN needs AS n USING (pack_no)
        WHERE k.state IN ('live', 'redundant')"""
    )


def _exclusive_bytes(connection: Connection) -> int:
    """Sealed bytes of what only the versions in `going_ids` need; after `_needs`."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE left_alone AS
        SELECT DISTINCT m.chunk FROM maps AS m
        JOIN (SELECT * FROM row_needs WHERE now IS DISTINCT FROM stays) AS r USING (disk_no, since)
        WHERE r.now < m.until AND NOT coalesce(r.stays < m.until, false)"""
    )
    connection.execute(
        """DELETE FROM left_alone WHERE chunk IN (
            SELECT m.chunk FROM maps AS m SEMI JOIN left_alone AS a ON a.chunk = m.chunk
            JOIN row_needs AS r USING (disk_no, since) WHERE r.stays < m.until)"""
    )
    row = connection.execute(
        """SELECT coalesce(sum(p.length), 0) FROM places AS p
        SEMI JOIN left_alone AS a ON a.chunk = p.chunk WHERE p.serves"""
    ).fetchone()
    return int(row[0]) if row else 0


def served_by_proved(
    catalog: CatalogLocation, chunks: Collection[ChunkId], now: datetime, max_age: timedelta
) -> dict[ChunkId, tuple[PackId, int]]:
    """Which pack serves each of these chunks, proved within the age limit, with its size."""
    by_key = {chunk[:16]: chunk for chunk in chunks}
    with staged(catalog) as stage, reading(catalog) as connection:
        stage.lines("asked_chunks", (f"{key.hex()}\n" for key in by_key))
        stage.load(connection, "asked_chunks", chunk="UUID")
        rows = connection.execute(
            f"""SELECT p.chunk, k.pack_id, k.size_bytes FROM places AS p
            SEMI JOIN asked_chunks AS c ON c.chunk = p.chunk JOIN packs AS k USING (pack_no)
            WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
              AND k.proved_at BETWEEN ? AND ?
              AND {in_packs_of(connection, "asked_chunks", "p.pack_no")}""",  # noqa: S608
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

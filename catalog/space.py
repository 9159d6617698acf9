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

from catalog.all_blocks import exclusive_bytes, next_turns
from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc, writing
from catalog.finding import in_packs_of, packs_holding
from catalog.serving import CLOCK_SLACK, of_disks_using
from catalog.slices import ranges_of
from catalog.staging import name_list, staged
from likeness.model.ids import ChunkId, PackId, VersionId, VmId
from likeness.model.retention import Trust

_PACKS_AT_ONCE = 200_000
_A_SPARE_COPY = 25
"""A place that does not serve costs as much as so many packs."""
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
    """What forgetting these versions together frees, exactly, if nothing changes meanwhile.

    Args:
        catalog: Which.
        versions: Those to forget, or that were forgotten just now.
        now: The present.
        max_age: How old the proof of a copy that is relied on may be.
    """
    sums = [0, 0, 0, 0]
    for within in _ranges_of_packs(catalog):
        with staged(catalog) as stage, reading(catalog) as connection:
            name_list(connection, stage, "going_ids", versions)
            _needs(connection, now, max_age, within)
            row = connection.execute(
                """SELECT count(*) FILTER (needed AND NOT stays),
                    coalesce(sum(size_bytes) FILTER (needed AND NOT stays), 0),
                    count(*) FILTER (NOT needed), coalesce(sum(size_bytes) FILTER (NOT needed), 0)
                FROM pack_needs"""
            ).fetchone()
        sums = [total + int(more) for total, more in zip(sums, row or sums, strict=True)]
    packs, size, waiting, waiting_bytes = sums
    return Freed(packs, size, exclusive_bytes(catalog, versions), waiting, waiting_bytes)


def spare_packs(
    catalog: CatalogLocation, now: datetime, max_age: timedelta
) -> list[tuple[PackId, int]]:
    """Packs that nothing needs, with their sizes, oldest first."""
    found = []
    for within in _ranges_of_packs(catalog):
        with staged(catalog) as stage, reading(catalog) as connection:
            name_list(connection, stage, "going_ids", ())
            _needs(connection, now, max_age, within)
            found += connection.execute(
                """SELECT k.pack_id, k.size_bytes FROM packs AS k
                JOIN pack_needs AS n USING (pack_no) WHERE NOT n.needed ORDER BY k.pack_no"""
            ).fetchall()
    return [(PackId(pack.hex), int(size)) for pack, size in found]


def _ranges_of_packs(catalog: CatalogLocation) -> list[str]:
    """Conditions that each keep some packs, and few places of them that do not serve."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT k.pack_no, 1 + ? * coalesce(s.many, 0) AS many FROM packs AS k LEFT JOIN (
                SELECT pack_no, count(*) AS many FROM places WHERE NOT serves GROUP BY pack_no
            ) AS s USING (pack_no) WHERE k.state IN ('live', 'redundant') ORDER BY k.pack_no""",
            [_A_SPARE_COPY],
        ).fetchnumpy()
    found = ranges_of("pack_no", rows["pack_no"], rows["many"], _PACKS_AT_ONCE)
    return [each.within for each in found]


def _needs(connection: Connection, now: datetime, max_age: timedelta, within: str) -> None:
    """`pack_needs (pack_no, size_bytes, needed, stays)`, now and without those in `going_ids`.

    Of those packs that a condition keeps.

    What a pack serves is told by `pack_uses`; only copies that do not serve, and that no proved one
    makes up for, are looked for in the maps.
    """
    next_turns(connection)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE spare AS
        SELECT pack_no, chunk FROM places WHERE NOT serves AND {within}"""  # noqa: S608
    )
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE lone AS
        SELECT * FROM spare WHERE chunk NOT IN (
            SELECT p.chunk FROM places AS p SEMI JOIN spare AS s ON s.chunk = p.chunk
            JOIN packs AS k USING (pack_no)
            WHERE p.serves AND k.state = 'live' AND NOT k.bad AND NOT k.unreachable
              AND k.proved_at BETWEEN ? AND ? AND {in_packs_of(connection, "spare", "p.pack_no")})
        """,  # noqa: S608
        [to_utc(now - max_age), to_utc(now + CLOCK_SLACK)],
    )
    near = of_disks_using(connection, packs_holding(connection, "lone"))
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE pack_needs AS
        WITH uses AS (
            SELECT pack_no, vm_no, since, until FROM pack_uses WHERE {within}
            UNION ALL
            SELECT l.pack_no, d.vm_no, m.since, m.until
            FROM lone AS l JOIN (SELECT * FROM maps WHERE {near}) AS m ON m.chunk = l.chunk
            JOIN disks AS d USING (disk_no)
        ), needs AS (
            SELECT u.pack_no, bool_or(coalesce(t.now < u.until, false)) AS needed,
                bool_or(coalesce(t.stays < u.until, false)) AS stays
            FROM uses AS u JOIN next_turns AS t ON t.vm_no = u.vm_no AND t.turn = u.since
            GROUP BY u.pack_no
        )
        SELECT k.pack_no, k.size_bytes, coalesce(n.needed, false) AS needed,
            coalesce(n.stays, false) AS stays
        FROM packs AS k LEFT JOIN needs AS n USING (pack_no)
        WHERE k.state IN ('live', 'redundant') AND {within}"""  # noqa: S608
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

"""What should be read back next, how old the proofs are, and what was found wrong."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc
from catalog.serving import CLOCK_SLACK
from catalog.staging import name_list, staged
from catalog.values import PackToProve, ProofOutlook, Why
from likeness.model.ids import PackId, RunId, VersionId


def packs_to_prove(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    run: RunId | None = None,
    versions: Iterable[VersionId] | None = None,
    byte_budget: int | None = None,
    unseen_since: datetime | None = None,
) -> list[PackToProve]:
    """Packs to read back, in order: never proved, then those found bad or not found, then oldest.

    Args:
        catalog: Which.
        now: The present.
        max_age: Proofs older than this are due; none: they never are; zero: always.
        run: Only packs that this run brought, or that its versions rely on.
        versions: Only packs that these versions brought or rely on.
        byte_budget: How much to read at most; one pack is given in any case.
        unseen_since: Leave out packs that were looked at since; a run that goes on after it was
            interrupted gives the time it began.
    """
    wanted = list(versions or ())
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_versions", wanted)
        everything = run is None and versions is None
        _scope(connection, run, everything=everything)
        rows = connection.execute(
            """SELECT k.pack_id, k.size_bytes, k.digest, k.chunks, k.proved_at,
                CASE WHEN k.bad OR k.unreachable THEN 2
                     WHEN k.proved_at IS NULL OR k.proved_at > $later THEN 1
                     ELSE 3 END AS class
            FROM packs AS k
            WHERE k.state = 'live'
              AND (k.bad OR k.unreachable OR k.proved_at IS NULL OR k.proved_at > $later
                   OR k.proved_at <= $due)
              AND ($since IS NULL OR k.checked_at IS NULL OR k.checked_at > $later
                   OR k.checked_at < $since)
              AND ($everything OR k.pack_no IN (SELECT pack_no FROM scope))
            ORDER BY class, k.proved_at NULLS FIRST, k.pack_no""",
            {
                "later": to_utc(now + CLOCK_SLACK),
                "due": to_utc(now - max_age) if max_age is not None else None,
                "since": to_utc(unseen_since) if unseen_since is not None else None,
                "everything": everything,
            },
        ).fetchall()
    whys = {1: Why.NEW, 2: Why.RECHECK, 3: Why.DUE}
    found = [
        PackToProve(PackId(pack.hex), size, digest, chunks, from_utc(proved_at), whys[kind])
        for pack, size, digest, chunks, proved_at, kind in rows
    ]
    return _within(found, byte_budget)


def _scope(connection: Connection, run: RunId | None, *, everything: bool) -> None:
    """`scope (pack_no)`: packs of the run and of the versions asked for."""
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE scope_versions AS
        SELECT version_no, vm_no, turn FROM versions
        WHERE NOT ? AND state = 'committed'
          AND (run_id = ?::UUID OR version_id IN (SELECT id FROM asked_versions))""",
        [everything, run],
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE scope AS
        SELECT u.pack_no FROM scope_versions AS v JOIN pack_uses AS u
            ON u.vm_no = v.vm_no AND u.since <= v.turn AND v.turn < u.until
        UNION SELECT pack_no FROM packs
            WHERE run_id = ?::UUID OR version_no IN (SELECT version_no FROM scope_versions)""",
        [run],
    )


def _within(packs: list[PackToProve], byte_budget: int | None) -> list[PackToProve]:
    if byte_budget is None:
        return packs
    taken: list[PackToProve] = []
    left = byte_budget
    for pack in packs:
        if taken and pack.size_bytes > left:
            break
        taken.append(pack)
        left -= pack.size_bytes
    return taken


def proof_outlook(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    bytes_per_day: int | None = None,
) -> ProofOutlook:
    """How old the oldest proof is, and whether a budget keeps everything young enough.

    Args:
        catalog: Which.
        now: The present.
        max_age: The age to keep; none: no limit.
        bytes_per_day: How much may be read back in a day.
    """
    with reading(catalog) as connection:
        row = connection.execute(
            """SELECT count(*), coalesce(sum(size_bytes), 0),
                count(*) FILTER (fresh IS NULL AND NOT bad),
                coalesce(sum(size_bytes) FILTER (fresh IS NULL AND NOT bad), 0),
                coalesce(sum(size_bytes) FILTER (fresh IS NULL OR fresh <= ?), 0),
                min(fresh)
            FROM (
                SELECT size_bytes, bad, CASE WHEN proved_at <= ? THEN proved_at END AS fresh
                FROM packs WHERE state = 'live'
            )""",
            [
                to_utc(now - max_age) if max_age is not None else None,
                to_utc(now + CLOCK_SLACK),
            ],
        ).fetchone()
    packs, live, unproved, unproved_bytes, due, oldest = row or (0, 0, 0, 0, 0, None)
    oldest_at = from_utc(oldest)
    seen = ProofOutlook(
        packs=packs,
        live_bytes=int(live),
        unproved_packs=unproved,
        unproved_bytes=int(unproved_bytes),
        due_bytes=int(due),
        oldest_proof_at=oldest_at,
        oldest_age=max(now - oldest_at, timedelta()) if oldest_at else None,
        days_per_round=None,
        reachable=None,
        reachable_age=None,
    )
    return at_pace(seen, max_age, bytes_per_day)


def at_pace(
    seen: ProofOutlook, max_age: timedelta | None, bytes_per_day: int | None
) -> ProofOutlook:
    """The same outlook, and what reading so much a day comes to; see `proof_outlook`."""
    days = seen.live_bytes / bytes_per_day if bytes_per_day else None
    return replace(
        seen,
        days_per_round=days,
        reachable=None if days is None or max_age is None else timedelta(days=days) <= max_age,
        reachable_age=timedelta(days=days) if days is not None else None,
    )

"""Capacity: how full the data store was, now and then, and what of it versions need."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.all_blocks import sparse_packs
from catalog.connection import CatalogLocation, from_utc, reading, to_utc, writing
from catalog.space import spare_packs
from likeness.store.prune.compacting import LIVE_SHARE

KEPT = timedelta(days=400)
_TREND = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Fullness:
    """How full the store was at a moment, in bytes.

    Attributes:
        total: What its place holds.
        free: Of that.
        packs: What its packs take.
        live: Of that, what some version needs, and what else is in packs that are not rewritten.
        rewriting: Of the others, what only rewriting packs gives back; known only of what was
            measured just now.
    """

    seen_at: datetime
    total: int
    free: int
    packs: int
    live: int
    rewriting: int = 0

    @property
    def reclaimable(self) -> int:
        """What a reclaim gives back, now or once it has waited."""
        return self.packs - self.live

    @property
    def free_share(self) -> float:
        """How much of the place is free, 0 to 1."""
        return self.free / self.total if self.total else 1.0


def measure(
    catalog: CatalogLocation, now: datetime, max_age: timedelta, *, total: int, free: int
) -> Fullness:
    """Write down how full the store is.

    Args:
        catalog: Which.
        now: The present.
        max_age: How old the proof of a copy that is relied on may be.
        total: What the store's place holds.
        free: Of that.
    """
    spare = dict(spare_packs(catalog, now, max_age))
    sparse = sparse_packs(catalog, now, max_age, live_share=LIVE_SHARE)
    rewriting = sum(each.dead_bytes for each in sparse if each.pack not in spare)
    with writing(catalog) as connection:
        row = connection.execute(
            """SELECT coalesce(sum(size_bytes), 0),
                coalesce(sum(size_bytes) FILTER (state = 'condemned'), 0)
            FROM packs WHERE state IN ('live', 'redundant', 'condemned')"""
        ).fetchone()
        packs, condemned = (int(row[0]), int(row[1])) if row else (0, 0)
        live = packs - condemned - sum(spare.values()) - rewriting
        found = Fullness(now, total, free, packs, max(live, 0), rewriting)
        connection.execute(
            """INSERT INTO capacity (seen_at, total_bytes, free_bytes, packs_bytes, live_bytes)
            VALUES (?, ?, ?, ?, ?)""",
            [to_utc(now), total, free, found.packs, found.live],
        )
        connection.execute("DELETE FROM capacity WHERE seen_at < ?", [to_utc(now - KEPT)])
    return found


def history(catalog: CatalogLocation, since: datetime) -> list[Fullness]:
    """What was measured since then, oldest first."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT seen_at, total_bytes, free_bytes, packs_bytes, live_bytes FROM capacity
            WHERE seen_at >= ? ORDER BY seen_at""",
            [to_utc(since)],
        ).fetchall()
    return [Fullness(from_utc(at) or at, *map(int, rest)) for at, *rest in rows]


def days_until_full(measured: list[Fullness]) -> float | None:
    """By the trend of what is used; none if it does not grow, or is not known for a day yet.

    Args:
        measured: Oldest first; only the last thirty days count.
    """
    recent = [e for e in measured if e.seen_at > measured[-1].seen_at - _TREND]
    if len(recent) < 2 or recent[-1].seen_at - recent[0].seen_at < timedelta(days=1):
        return None
    days = [(each.seen_at - recent[0].seen_at) / timedelta(days=1) for each in recent]
    used = [each.total - each.free for each in recent]
    mean_day, mean_used = sum(days) / len(days), sum(used) / len(used)
    spread = sum((day - mean_day) ** 2 for day in days)
    slope = sum((d - mean_day) * (u - mean_used) for d, u in zip(days, used, strict=True)) / spread
    return recent[-1].free / slope if slope > 0 else None

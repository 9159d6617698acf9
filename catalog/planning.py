"""What a validation reads next, so that nothing is ever read too late or all at once.

Every pack has a deadline: its last proof and the age limit. The smallest even pace that keeps all
deadlines is the greatest of *bytes due until then / time left*, over all deadlines. A scheduled
validation reads at that pace, oldest first; so what was written in one night is not due in one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.connection import CatalogLocation, Connection, from_utc, reading, to_utc
from catalog.incidents import LOST_SHOWN_FOR
from catalog.serving import CLOCK_SLACK
from catalog.staging import name_list, staged
from catalog.validation import packs_to_prove
from catalog.values import PackToProve, Why
from likeness.model.ids import PackId, VersionId

_DAY = timedelta(days=1)
_WHOLE = "state = 'live' AND NOT bad AND NOT unreachable AND proved_at <= $later"
"""Packs that grow old: proved, and nothing the matter with them."""


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """What to read back now.

    Attributes:
        packs: In this order.
        pace_bytes: How much must be read back every day, at an even pace, to keep the age limit.
        late_bytes: Of the packs left out, those whose deadline has passed; not 0 only where a
            budget is too small.
    """

    packs: tuple[PackToProve, ...]
    pace_bytes: int = 0
    late_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """All of it together."""
        return sum(pack.size_bytes for pack in self.packs)


def plan_new(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    versions: Iterable[VersionId],
    unseen_since: datetime | None = None,
) -> ReadingPlan:
    """What these versions need: packs never read back, found bad, or too old; all of it.

    Args:
        catalog: Which.
        now: The present.
        max_age: See `packs_to_prove`.
        versions: Those to validate.
        unseen_since: See `packs_to_prove`.
    """
    packs = packs_to_prove(catalog, now, max_age, versions=versions, unseen_since=unseen_since)
    return ReadingPlan(tuple(packs))


def plan_revalidation(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    pause: timedelta,
    budget_bytes: int | None = None,
    with_new: bool = True,
    with_old: bool = True,
    unseen_since: datetime | None = None,
) -> ReadingPlan:
    """What is new, and as much of what is old as its turn has come for.

    What is new or was found bad is never held back by a budget.

    Args:
        catalog: Which.
        now: The present.
        max_age: The age limit; none: nothing ever grows too old.
        pause: How long ago the last revalidation began, and so how far off the next one may be.
        budget_bytes: Read at most so many bytes of what is old; as many as needed if none.
        with_new: Read what is new; not while another run is at it.
        with_old: Read what is old; not outside the hours given for it.
        unseen_since: See `packs_to_prove`.
    """
    fresh = packs_to_prove(catalog, now, None, unseen_since=unseen_since) if with_new else []
    if max_age is None or not with_old:
        return ReadingPlan(tuple(fresh))
    pause = min(max(pause, timedelta(minutes=1)), _DAY)
    with reading(catalog) as connection:
        _old_packs(connection, now, max_age, pause)
        pace = _pace(connection)
        allowed = pace * (pause / _DAY)
        if budget_bytes is not None:
            allowed = min(allowed, budget_bytes)
        chosen, late = _chosen(connection, allowed, budget_bytes, unseen_since)
    return ReadingPlan((*fresh, *chosen), round(pace), late)


def _old_packs(connection: Connection, now: datetime, max_age: timedelta, pause: timedelta) -> None:
    """`old`: whole packs by age, how much there is up to each, and the days that are left.

    What falls due before the next turn must be read now, so no pack has less than a pause left.
    """
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE old AS
        SELECT pack_id, pack_no, size_bytes, digest, chunks, proved_at, checked_at,
            proved_at <= $due AS late,
            sum(size_bytes) OVER (
                ORDER BY proved_at, pack_no ROWS UNBOUNDED PRECEDING)::DOUBLE AS upto,
            greatest(epoch(proved_at - $due), $pause) / 86400.0 AS days_left
        FROM packs WHERE {_WHOLE}""",  # noqa: S608  # our own words
        {
            "due": to_utc(now - max_age),
            "later": to_utc(now + CLOCK_SLACK),
            "pause": pause.total_seconds(),
        },
    )


def _pace(connection: Connection) -> float:
    """Bytes a day."""
    row = connection.execute("SELECT coalesce(max(upto / days_left), 0) FROM old").fetchone()
    return float(row[0]) if row else 0.0


def _chosen(
    connection: Connection,
    allowed: float,
    budget_bytes: int | None,
    unseen_since: datetime | None,
) -> tuple[Sequence[PackToProve], int]:
    """The oldest packs up to `allowed` bytes, and all that is late unless a budget forbids."""
    rows = connection.execute(
        """SELECT pack_id, size_bytes, digest, chunks, proved_at FROM old
        WHERE (upto <= $allowed + 0.5 OR (late AND ($budget IS NULL
            OR upto <= $budget OR upto = size_bytes)))
          AND ($since IS NULL OR checked_at < $since)
        ORDER BY proved_at, pack_no""",
        {
            "allowed": allowed,
            "budget": budget_bytes,
            "since": to_utc(unseen_since) if unseen_since is not None else None,
        },
    ).fetchall()
    late = connection.execute(
        """SELECT coalesce(sum(size_bytes), 0) FROM old
        WHERE late AND $budget IS NOT NULL AND upto > $budget AND upto <> size_bytes""",
        {"budget": budget_bytes},
    ).fetchone()
    packs = [
        PackToProve(PackId(pack.hex), size, digest, chunks, from_utc(proved_at), Why.DUE)
        for pack, size, digest, chunks, proved_at in rows
    ]
    return packs, int(late[0]) if late else 0


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What another age limit would cost.

    Attributes:
        max_age: The limit.
        pace_bytes: How much would have to be read back every day from now on.
        share: The same, as a part of what is there.
    """

    max_age: timedelta
    pace_bytes: int
    share: float


def what_if(
    catalog: CatalogLocation, now: datetime, ages: Iterable[timedelta]
) -> tuple[WhatIf, ...]:
    """The pace that each of some age limits would ask for, of one look at all packs."""
    asked = tuple(ages)
    paces = "".join(
        f", max(upto / (greatest(epoch(proved_at - $due_{at}), 86400) / 86400.0))"
        for at in range(len(asked))
    )
    with reading(catalog) as connection:
        row = connection.execute(
            f"""SELECT (SELECT sum(size_bytes) FROM packs WHERE state = 'live'){paces}
            FROM (SELECT proved_at, sum(size_bytes) OVER (
                    ORDER BY proved_at, pack_no ROWS UNBOUNDED PRECEDING)::DOUBLE AS upto
                FROM packs WHERE {_WHOLE})""",  # noqa: S608  # our own words
            {
                "later": to_utc(now + CLOCK_SLACK),
                **{f"due_{at}": to_utc(now - age) for at, age in enumerate(asked)},
            },
        ).fetchone()
    live, *found = row or (0, *(0 for _ in asked))
    return tuple(
        _what_if(age, pace or 0.0, int(live or 0)) for age, pace in zip(asked, found, strict=True)
    )


def _what_if(age: timedelta, pace: float, live: int) -> WhatIf:
    pace = max(pace, live / max(age / _DAY, 1.0))
    return WhatIf(age, round(pace), pace / live if live else 0.0)


@dataclass(frozen=True, slots=True)
class DocumentsDue:
    """A version whose own record and block maps are to be read back."""

    version: VersionId
    record: str
    known_broken: bool = False

    @property
    def vm(self) -> str:
        """Whose version it is; its block maps rest on those of earlier ones."""
        return self.record.split("/")[1]


def documents_to_prove(
    catalog: CatalogLocation,
    now: datetime,
    max_age: timedelta | None,
    *,
    versions: Iterable[VersionId] | None = None,
) -> list[DocumentsDue]:
    """Versions whose documents were never read back, were not whole, or whose age is up.

    Args:
        catalog: Which.
        now: The present.
        max_age: For how long a look at them counts; none: for ever; zero: not at all.
        versions: Only these.
    """
    wanted = list(versions or ())
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_versions", wanted)
        rows = connection.execute(
            """SELECT version_id, record, documents IS NOT DISTINCT FROM 'broken' FROM versions
            WHERE state = 'committed'
              AND (documents_at IS NULL OR documents <> 'whole' OR documents_at > $later
                   OR documents_at <= $due)
              AND ($everything OR version_id IN (SELECT id FROM asked_versions))
            ORDER BY documents_at NULLS FIRST, version_no""",
            {
                "later": to_utc(now + CLOCK_SLACK),
                "due": to_utc(now - max_age) if max_age is not None else None,
                "everything": versions is None,
            },
        ).fetchall()
    return [DocumentsDue(VersionId(v.hex), record, broken) for v, record, broken in rows]


def documents_to_heal(catalog: CatalogLocation, now: datetime) -> list[DocumentsDue]:
    """Versions whose documents are broken or lost of late, or of which a spare copy is lost."""
    with reading(catalog) as connection:
        rows = connection.execute(
            """SELECT version_id, record, documents = 'broken' FROM versions
            WHERE (state = 'committed' OR expired_at > ?) AND (documents = 'broken'
                OR (documents = 'whole' AND coalesce(documents_problem, '') <> ''))
            ORDER BY version_no""",
            [to_utc(now - LOST_SHOWN_FOR)],
        ).fetchall()
    return [DocumentsDue(VersionId(v.hex), record, broken) for v, record, broken in rows]


def records_that_brought(catalog: CatalogLocation, packs: Iterable[PackId]) -> list[str]:
    """The names of the version records that came with these packs, each once."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_packs", packs)
        rows = connection.execute(
            """SELECT DISTINCT v.version_no, v.record
            FROM packs AS k SEMI JOIN asked_packs AS a ON a.id = k.pack_id
            JOIN versions AS v USING (version_no) ORDER BY v.version_no"""
        ).fetchall()
    return [row[1] for row in rows]


def vms_of_packs(catalog: CatalogLocation, packs: Iterable[PackId]) -> dict[PackId, str]:
    """Whose data each pack holds, in words such as ``web`` or ``web and 2 more VMs``."""
    with staged(catalog) as stage, reading(catalog) as connection:
        name_list(connection, stage, "asked_packs", packs)
        rows = connection.execute(
            """SELECT k.pack_id, min(x.vm_name), count(DISTINCT x.vm_no)
            FROM packs AS k SEMI JOIN asked_packs AS a ON a.id = k.pack_id
            JOIN pack_uses AS u USING (pack_no) JOIN vms AS x ON x.vm_no = u.vm_no
            GROUP BY k.pack_id"""
        ).fetchall()
    return {
        PackId(pack.hex): name if count == 1 else f"{name} and {count - 1} more VMs"
        for pack, name, count in rows
    }

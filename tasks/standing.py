"""How well each VM is protected: its last good version against the objective, night by night."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from blocks import Site
from catalog import nights
from catalog.drills import last_good_drills
from catalog.values import Verdict, VersionRow
from likeness.model.ids import VmId
from likeness.model.outcome import VmState
from tasks.pool_view import PoolView, PoolVm, last_pool_view
from tasks.sentinel import suspicious_vms

NIGHTS = 30
"""So many nights are shown of each VM."""
NIGHT_MARKS = {
    Verdict.BAD: "🟥",
    Verdict.STALE: "🟧",
    Verdict.UNCHECKED: "🟨",
    Verdict.GOOD: "🟩",
}
FAILED_NIGHT, KEPT_NO_LONGER, NO_NIGHT = "⬛", "🟦", "⬜"
LEGEND = (
    "Nights: 🟩 proved · 🟥 damaged · 🟧 proved too long ago, or could not be checked ·"
    " 🟨 not validated yet · ⬛ the backup failed · 🟦 backed up, kept no longer · ⬜ none"
)
DAMAGED, UNPROTECTED, UNLIKE, LATE, STALE, UNCHECKED, WELL = range(7)
"""How a VM stands, the worst first."""
MARKS = ("❌", "❌", "❌", "🟠", "🟠", "⏳", "✅")
COLOURS = ("red", "red", "red", "yellow", "yellow", "cyan", "green")
WORDS = (
    "damaged",
    "unprotected",
    "unlike its other nights",
    "late",
    "not checked lately",
    "not validated yet",
    "protected",
)


@dataclass(frozen=True, slots=True)
class VmStanding:
    """How one VM stands, as a row of the page.

    Attributes:
        grade: One of `DAMAGED` to `WELL`.
        good_at: When its last good version was taken.
        vaulted: What the vault has of it, in words.
        drilled: When a restore of it was last rehearsed, in words.
        jobs: That mean it.
        strip: A mark for each of the last nights, the last one last.
        why: Why it is not well, in words; empty if it is.
    """

    vm: VmId
    name: str
    grade: int
    good_at: datetime | None
    vaulted: str
    drilled: str
    jobs: tuple[str, ...]
    strip: str
    why: str

    @property
    def mark(self) -> str:
        """At first glance."""
        return MARKS[self.grade]


@dataclass(frozen=True, slots=True)
class StandingFacts:
    """What the standing of all VMs follows from.

    Attributes:
        rows: All versions, newest first.
        pool: What the pool had when it was last asked; none if it never was.
        days: How the runs of each VM ended, day by day.
        now: The present.
        objective: How old a last good version may be; for ever if none.
        vault: The place of the vault; empty if there is none.
        drills: When a restore of each VM was last rehearsed.
        known: Whether the store can be opened; nothing is green if not.
        unlike: VMs with a night unlike the others, each with the reason.
    """

    rows: Sequence[VersionRow]
    pool: PoolView | None
    days: Mapping[VmId, Mapping[date, VmState]]
    now: datetime
    objective: timedelta | None
    vault: str = ""
    drills: Mapping[VmId, datetime] = field(default_factory=dict)
    known: bool = True
    unlike: Mapping[VmId, str] = field(default_factory=dict)


def standings(facts: StandingFacts) -> tuple[list[VmStanding], list[str]]:
    """How each VM stands, the worst first; and the names of those that the pool has no more."""
    mine: dict[VmId, list[VersionRow]] = {}
    for row in facts.rows:
        mine.setdefault(row.vm, []).append(row)
    seen = {each.vm: each for each in facts.pool.vms} if facts.pool else {}
    names = {vm: rows[0].vm_name for vm, rows in mine.items()}
    names |= {vm: each.name for vm, each in seen.items()}
    gone = [name for vm, name in names.items() if facts.pool and vm not in seen]
    found = [
        _standing(vm, name, mine.get(vm, []), seen.get(vm), facts)
        for vm, name in names.items()
        if not facts.pool or (vm in seen and not (seen[vm].kept_out and vm not in mine))
    ]
    return sorted(found, key=lambda each: (each.grade, each.name, each.vm)), sorted(gone)


def _standing(
    vm: VmId, name: str, rows: Sequence[VersionRow], seen: PoolVm | None, facts: StandingFacts
) -> VmStanding:
    good = next((row for row in rows if row.verdict is Verdict.GOOD), None) if facts.known else None
    last_good = next((row for row in rows if row.verdict is Verdict.GOOD), None)
    grade, why = _grade(rows, good, seen, facts)
    drilled = facts.drills.get(vm)
    return VmStanding(
        vm=vm,
        name=name,
        grade=grade,
        good_at=last_good.taken_at if last_good else None,
        vaulted=_vaulted(rows, facts.vault),
        drilled=f"{drilled:%Y-%m-%d}" if drilled else "never",
        jobs=seen.jobs if seen else tuple(dict.fromkeys(row.job for row in rows[:1])),
        strip=_strip(rows, facts.days.get(vm, {}), facts),
        why=why,
    )


def _grade(
    rows: Sequence[VersionRow], good: VersionRow | None, seen: PoolVm | None, facts: StandingFacts
) -> tuple[int, str]:
    bad = [row for row in rows if row.verdict is Verdict.BAD]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        return DAMAGED, f"version {bad[0].version[:8]} is damaged{more}: {bad[0].reason}"
    if seen is not None and not seen.starts_by_itself and not seen.kept_out:
        return UNPROTECTED, seen.reason
    if rows and rows[0].vm in facts.unlike:
        return UNLIKE, f"{facts.unlike[rows[0].vm]}; look at the VM before anything is forgotten"
    newest = rows[0].verdict if rows else None
    too_old = good is None or (facts.objective and facts.now - good.taken_at > facts.objective)
    if too_old and newest not in (Verdict.UNCHECKED, Verdict.STALE, Verdict.GOOD):
        return LATE, "it has no version yet; see that its job runs"
    if newest is Verdict.UNCHECKED and not _waited_too_long(rows, good, facts):
        return UNCHECKED, ""
    if not facts.known or newest is Verdict.STALE:
        return STALE, "" if not facts.known else "see that revalidate runs and the store answers"
    if too_old:
        return LATE, "see that its job and its validation run"
    return WELL, ""


def _waited_too_long(
    rows: Sequence[VersionRow], good: VersionRow | None, facts: StandingFacts
) -> bool:
    """Whether its last good version, or its first if none is good yet, is too old."""
    since = good.taken_at if good else rows[-1].taken_at
    return facts.objective is not None and facts.now - since > facts.objective


def _vaulted(rows: Sequence[VersionRow], vault: str) -> str:
    if not vault:
        return "–"
    there = next((row for row in rows if vault in row.vaults), None)
    if there is None:
        return "no"
    return "yes" if there is rows[0] else f"of {there.taken_at:%Y-%m-%d}"


_WORST_FIRST = (Verdict.BAD, Verdict.GOOD, Verdict.UNCHECKED, Verdict.STALE)


def _strip(rows: Sequence[VersionRow], ended: Mapping[date, VmState], facts: StandingFacts) -> str:
    """A mark for each night: damage if there is any, else the best of its versions."""
    today = facts.now.date()
    first = today - timedelta(days=NIGHTS - 1)
    verdicts: dict[date, set[Verdict]] = {}
    for row in rows:
        if (day := row.taken_at.date()) < first:
            break  # newest first
        verdicts.setdefault(day, set()).add(row.verdict)
    marks = []
    for back in range(NIGHTS):
        day = first + timedelta(days=back)
        found = next((each for each in _WORST_FIRST if each in verdicts.get(day, ())), None)
        if found is Verdict.GOOD and not facts.known:
            found = Verdict.STALE
        marks.append(NIGHT_MARKS[found] if found else _without_version(ended.get(day)))
    return "".join(marks)


def _without_version(ended: VmState | None) -> str:
    if ended is None:
        return NO_NIGHT
    return KEPT_NO_LONGER if ended is VmState.DONE else FAILED_NIGHT


def summary(found: Sequence[VmStanding]) -> list[str]:
    """How many stand how, the worst first; no mark that counts nothing."""
    counts = [sum(each.grade == grade for each in found) for grade in range(len(WORDS))]
    if found and counts[WELL] == len(found):
        return [f"✅ all {len(found)} protected" if len(found) > 1 else "✅ the only VM: protected"]
    return [f"{MARKS[grade]} {count} {WORDS[grade]}" for grade, count in enumerate(counts) if count]


def facts_of(
    site: Site, rows: Sequence[VersionRow], now: datetime, *, known: bool = True
) -> StandingFacts:
    """What the standing of a site's VMs follows from, out of its catalog.

    Args:
        site: The installation.
        rows: Its versions, newest first.
        now: The present.
        known: Whether the store can be opened.
    """
    return StandingFacts(
        rows=rows,
        pool=last_pool_view(site),
        days=nights.vm_days(site.catalog.file, now, NIGHTS),
        now=now,
        objective=site.alarm_after,
        vault=site.place_of("vault"),
        drills=last_good_drills(site.catalog.file),
        known=known,
        unlike=suspicious_vms(rows, now),
    )

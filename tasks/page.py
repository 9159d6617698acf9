"""What the page `dashboard` says, in Markdown; all of it from the catalog and one listing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks import Site
from catalog import at_work, audits, incidents, nights, planning, validation
from catalog import versions as catalog_versions
from catalog.at_work import COMMIT, VALIDATE, Work
from catalog.audits import AuditTrouble
from catalog.incidents import Incident
from catalog.values import ProofOutlook, Verdict, VersionRow
from catalog.vault_reading import vault_ages
from likeness.clock import system_clock, utc_and_local
from likeness.errors import LikenessError
from likeness.model.sizes import counted, readable_age, readable_size
from likeness.store.format import layout
from tasks.ages import AgeLimit, age_limit
from tasks.artifacts import newest_link
from tasks.claims import is_live
from tasks.last_results import LastResult, last_results, result_lines
from tasks.pictures import CHART_DAYS, charts, trend
from tasks.reports import cell, render
from tasks.standing import LEGEND, NIGHTS, WELL, facts_of, standings, summary

MARKS = {Verdict.GOOD: "✅", Verdict.BAD: "❌", Verdict.UNCHECKED: "⏳", Verdict.STALE: "🟠"}
_DAY = timedelta(days=1)
_WATCH_EVERY = timedelta(hours=3)
_WHAT_IF = tuple(timedelta(days=days) for days in (7, 14, 30, 60, 90))
_FEW_VMS = 12
_MAX_VMS = 400
_MAX_TROUBLES = 20
_MAX_NAMES = 8


@dataclass(frozen=True, slots=True)
class PageFacts:
    """All that changes slowly, as text: what comes above the queues, and what comes below."""

    above: str = ""
    below: str = ""


def page_text(site: Site, facts: PageFacts) -> str:
    """The whole page: protection, the queues as they are now, below them what changes slowly."""
    written = utc_and_local(system_clock())
    known = at_work.list_work(site.catalog.file)
    alive = {run for run in {work.run for work in known} if is_live(site, run)}
    live = [work for work in known if work.run in alive]
    dead = [work for work in known if work.run not in alive]
    stale = "🟠 If that is more than an hour ago, no run has ended since: look at the worker."
    head = f"# Backup and validation\n\nAs of {written}. {stale}\n"
    return "\n".join((head, facts.above, *queue_lines(live, dead), facts.below))


def queue_lines(live: Sequence[Work], dead: Sequence[Work]) -> Iterator[str]:
    """Both queues as one table.

    Args:
        live: What is under way.
        dead: What was when its process died.
    """
    yield from ("## Queues", "", "| queue | at | step | speed | done | time left |")
    yield "|---|---|---|---|---|---|"
    for queue in (COMMIT, VALIDATE):
        at = [work for work in live if work.queue == queue and work.step != "waiting"]
        waiting = [work for work in live if work.queue == queue and work.step == "waiting"]
        yield from map(_row, at)
        if waiting:
            names = ", ".join(work.label for work in waiting[:_MAX_NAMES])
            more = " …" if len(waiting) > _MAX_NAMES else ""
            yield f"| {queue} | {counted(len(waiting), 'VM')}: {cell(names)}{more} | waiting ||||"
        stopped = [work for work in dead if work.queue == queue == VALIDATE]
        for work in stopped:
            yield (
                f"| {queue} | interrupted; the next validation goes on there | – | – |"
                f" {work.percent:.1f} % | – |"
            )
        if not (at or waiting or stopped):
            yield f"| {queue} | nothing | – | – | – | – |"
    yield ""


def _row(work: Work) -> str:
    speed = f"{work.bytes_a_second / 1e6:.1f} MB/s" if work.bytes_a_second else "–"
    done = f"{work.percent:.1f} %"
    if work.todo_bytes:
        done += f" of {readable_size(work.todo_bytes)}"
    moving = work.step in ("transfer", "reading") and work.seconds_left is not None
    left = _left(work.seconds_left or 0.0) if moving else "–"
    return f"| {work.queue} | {cell(work.label)} | {work.step} | {speed} | {done} | {left} |"


def _left(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else readable_age(timedelta(seconds=seconds))


def page_facts(site: Site, arrived: str) -> PageFacts:
    """All that changes slowly, from the catalog.

    Args:
        site: The installation.
        arrived: What `arrived_line` said; the store is not asked again while others read from it.
    """
    limit, now, catalog = age_limit(site.revalidate_after), system_clock(), site.catalog.file
    rows = catalog_versions.list_versions(catalog, now, limit.green_for)
    seen = validation.proof_outlook(catalog, now, limit.due_after)
    away, results = store_problem(site), last_results(site.name)
    protection, protected = protection_texts(site, rows, now, known=not away)
    above = (*overdue_lines(results, now), *away_lines(site, away), protection)
    below = (
        f"{arrived} Committed and never read back: {counted(seen.unproved_packs, 'pack')},"
        f" {readable_size(seen.unproved_bytes)}.",
        "",
        "## Incidents",
        "",
        *incident_lines(incidents.list_incidents(catalog)),
        "",
        *result_lines(results, now),
        *vault_lines(site, rows),
        *_age_lines(site, seen, limit, now),
        *_store_lines(site),
        protected,
    )
    return PageFacts("\n".join(above), "\n".join(below))


def protection_texts(
    site: Site, rows: Sequence[VersionRow], now: datetime, *, known: bool = True
) -> tuple[str, str]:
    """How well each VM is protected, the worst on top, with pictures of the last nights.

    Args:
        site: The installation.
        rows: Its versions, newest first.
        now: The present.
        known: Whether the store could be opened; nothing is green if not.

    Returns:
        What stands above everything else, and, where there are many VMs, those that are well.
    """
    facts = facts_of(site, rows, now, known=known)
    store = nights.store_days(site.catalog.file, now, CHART_DAYS)
    found, gone = standings(facts)
    ill = [each for each in found if each.grade != WELL]
    well = [each for each in found if each.grade == WELL]
    few, key = len(found) <= _FEW_VMS, site.key_of("versions")
    shared = {
        "now": now,
        "objective": f", at most {site.alarm_after_hours} h" if site.alarm_after_hours else "",
        "nights": NIGHTS,
        "legend": f"{LEGEND}. One by one: [the artifact `{key}`]({newest_link(key)}).",
    }
    parts = [("Look at these", ill), ("Protected", well if few else [])]
    above = render(
        "protection.md.j2",
        vms=found,
        summary=summary(found),
        parts=[(title, part) for title, part in parts if part],
        elsewhere=0 if few else len(well),
        gone=gone,
        pool_seen_at=facts.pool.at if facts.pool else None,
        pool_stale_after=_WATCH_EVERY,
        charts=charts(rows, store, now),
        charts_said=trend(store),
        **shared,
    )
    if few or not well:
        return above, ""
    more = len(well[_MAX_VMS:])
    return above, render("protected.md.j2", well=well[:_MAX_VMS], more=more, **shared)


def overdue_lines(results: Sequence[LastResult], now: datetime) -> Iterator[str]:
    """What the last watch found; and whether anybody watches."""
    for watch in (each for each in results if each.what == "watch"):
        if not watch.well:
            yield from (f"❌ **{watch.state}**: {watch.message}", "")
        if now - watch.ended_at > _WATCH_EVERY:
            yield f"🟠 The last watch ended {age_of(watch.ended_at, now)}; see that it runs."
            yield ""


def store_problem(site: Site) -> str:
    """Why the data store cannot be opened at this moment; empty if it can."""
    if site.data_store.was_just_well():
        return ""
    try:
        with site.data_store.look():
            return ""
    except LikenessError as cause:
        return str(cause)


def away_lines(site: Site, away: str) -> Iterator[str]:
    """What is shown below is only what was known last, if the store cannot be opened."""
    if away:
        yield f"🟠 **The data store {site.place_of('data_store')} cannot be opened**: {away}."
        yield "What is said of versions below is what was known last; nothing of it is checked now."
        if vault := site.place_of("vault"):
            yield f"The vault {vault} restores by itself: `restore`, *From the vault*."
        yield ""


def vault_lines(site: Site, rows: Sequence[VersionRow]) -> Iterator[str]:
    """What the vault has of what there is."""
    yield from ("## The vault", "")
    place = site.place_of("vault")
    if not place:
        yield from ("🟠 This site has no vault: every version is in one place only.", "")
        return
    newest: dict[str, VersionRow] = {}
    for row in rows:
        newest.setdefault(row.vm, row)
    there = sum(place in row.vaults for row in rows)
    behind = sorted(row.vm_name for row in newest.values() if place not in row.vaults)
    mark = "✅" if rows and not behind else "🟠"
    yield f"{mark} {place}: {there} of {counted(len(rows), 'version')} there, as last looked at."
    yield ""
    ages, now = vault_ages(site.catalog.file, place), system_clock()
    whole = "✅" if ages.there and ages.read_back == ages.there else "🟠"
    since = f", the oldest {age_of(ages.oldest, now)}" if ages.oldest else ""
    said = f"{ages.read_back} of {counted(ages.there, 'version')} read back there{since}"
    yield f"{whole} {said}; the flow `check-vault` reads what is due."
    if ages.proved:
        since = age_of(ages.proved_oldest, now) if ages.proved_oldest else "never"
        yield ""
        yield f"{counted(ages.proved, 'version')} opened there with the key, the oldest {since}."
    if behind:
        more = f" and {len(behind) - _MAX_NAMES} more" if len(behind) > _MAX_NAMES else ""
        names = ", ".join(cell(name) for name in behind[:_MAX_NAMES])
        yield f"The newest version is not there of: {names}{more}."
    yield ""


def arrived_line(site: Site) -> str:
    """What lies in the store's inboxes."""
    try:
        with site.data_store.look() as store:
            sizes = [entry.size_bytes for entry in store.transport.entries(layout.INBOX)]
    except LikenessError as cause:
        return f"⚠ The data store does not answer: {cause}."
    size = readable_size(sum(sizes))
    return f"Arrived and not committed: {counted(len(sizes), 'pack')}, {size}."


def age_of(at: datetime, now: datetime) -> str:
    """How long ago, in words."""
    age = readable_age(max(now - at, timedelta(0)))
    return age if age == "now" else f"{age} ago"


def _age_lines(site: Site, seen: ProofOutlook, limit: AgeLimit, now: datetime) -> Iterator[str]:
    pace, due = 0, limit.due_after
    asked = (*_WHAT_IF, *([due] if due else []))
    cases = planning.what_if(site.catalog.file, now, asked)
    if due:
        pace = max(cases[-1].pace_bytes, int(seen.live_bytes * (_DAY / due)) + 1)
    budget = (site.revalidate_gib_a_day << 30) or pace
    outlook = validation.at_pace(seen, due, budget or None)
    yield from ("## How old the oldest check is", "", bound(outlook, budget, due), "")
    yield from ("## What another age would cost", "", "| age | to read every day | share |")
    yield "|---|---|---|"
    for case in cases[: len(_WHAT_IF)]:
        cost = readable_size(case.pace_bytes)
        yield f"| {case.max_age.days} days | {cost} | {case.share:.1%} |"
    yield ""


def bound(outlook: ProofOutlook, budget_bytes: int, max_age: timedelta | None) -> str:
    """What is proved of the age of all data blocks, and whether the setting can be kept."""
    if not outlook.packs:
        return "There are no data blocks yet."
    said = "**No data block was read back yet.**"
    if outlook.oldest_age is not None:
        days = outlook.oldest_age / _DAY
        oldest = f"{days:.1f} days" if days >= 1 else f"{max(days * 24, 0.1):.1f} hours"
        which = "that was read back " if outlook.unproved_packs else ""
        said = f"**No data block {which}is older than {oldest} unchecked.**"
    if outlook.unproved_packs:
        packs = counted(outlook.unproved_packs, "pack")
        said += f" Never read back yet: {packs}, {readable_size(outlook.unproved_bytes)}."
    if max_age is None:
        return (
            f"{said}\n\n⚠ Re-validation is switched off: what was proved once is never read again."
        )
    if not max_age:
        return f"{said} Everything is read back at every validation."
    pace = f"{readable_size(budget_bytes)} a day"
    if outlook.reachable is False and outlook.reachable_age is not None:
        reach = f"{outlook.reachable_age / _DAY:.1f} days"
        return f"{said}\n\n⚠ With {pace}, {max_age / _DAY:g} days cannot be kept; {reach} can."
    return f"{said} With this budget of {pace}, {max_age / _DAY:g} days is reachable."


def incident_lines(found: Sequence[Incident]) -> list[str]:
    """Incidents that are open, one line for each version that is still red."""
    if not found:
        return ["None: nothing is known to be damaged."]
    lines = []
    for incident in found:
        opened = utc_and_local(incident.opened_at)
        what = counted(incident.damaged_copies, "data block")
        if not incident.damaged_copies:
            what = "records or block maps"
        lines.append(f"- ❌ **incident {incident.number}** of {opened}: {what}")
        for version in incident.versions:
            if version.settled_at is None:
                size = sum(disk.affected_bytes for disk in version.disks)
                much = f"{readable_size(size)}; " if size else ""
                lines.append(
                    f"    - {version.vm_name}, version {version.version[:8]} of"
                    f" {version.taken_at:%Y-%m-%d %H:%M}: {much}{version.reason}"
                )
    return lines


def _store_lines(site: Site) -> Iterator[str]:
    """What the audits of presence found."""
    catalog = site.catalog.file
    packs, everything = audits.last_audits(catalog)
    yield from ("## The data store", "")
    if packs is not None:
        yield f"All packs were last seen to be there on {packs:%Y-%m-%d %H:%M} UTC;"
        full = f"on {everything:%Y-%m-%d %H:%M} UTC." if everything else "not yet."
        yield f"keys, heads, index, records and block maps {full}"
        yield ""
    yield from trouble_lines(audits.open_troubles(catalog))


def trouble_lines(troubles: Sequence[AuditTrouble]) -> Iterator[str]:
    """What is not as it should be, and turns no version red."""
    marks = {"damage": "❌", "spare lost": "🟠", "could not check": "🟠"}
    for each in troubles[:_MAX_TROUBLES]:
        mark = marks.get(each.weight, "ⓘ")  # that sign is meant
        yield f"- {mark} `{each.name}`: {each.cause}; {each.meaning}"
    if len(troubles) > _MAX_TROUBLES:
        yield f"- … and {len(troubles) - _MAX_TROUBLES} more"

"""The page `validation`: what waits, what is under way, how old the oldest check is, what is bad.

It is one artifact that is rewritten in place while a validation runs, at least every five seconds,
and once more at its end; a lost page never fails anything.
"""

import contextvars
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from blocks import Site
from catalog import incidents, planning, progress, runs, validation
from catalog.incidents import Incident
from catalog.values import ProofOutlook
from likeness.clock import stopwatch, system_clock
from likeness.model.ids import PackId
from likeness.model.sizes import readable_age, readable_size
from likeness.store import layout
from tasks.ages import age_limit
from tasks.progress import shown

KEY = "validation"
EVERY_SECONDS = 4.0
_FACTS_EVERY_SECONDS = 60.0
_DAY = timedelta(days=1)
_WHAT_IF = tuple(timedelta(days=days) for days in (7, 14, 30, 60, 90))


@dataclass
class Reading:
    """How far the reading of one validation is; looked at from another thread.

    Attributes:
        before_bytes: What an attempt that died had done already.
        todo_bytes: All of it, that included.
        packs: How many packs are left to read.
        vms: Whose data each pack holds.
        read: How many bytes of packs this attempt has read so far.
    """

    before_bytes: int
    todo_bytes: int
    packs: int
    vms: Mapping[PackId, str]
    read: Callable[[], int]
    done_packs: int = 0
    item: str = ""
    recorded_bytes: int = 0
    begun: float = field(default_factory=stopwatch)
    _highest: float = 0.0

    def note(self, packs: Sequence[PackId], recorded_bytes: int) -> None:
        """Some more packs are proved and recorded."""
        self.done_packs += len(packs)
        self.recorded_bytes = recorded_bytes
        if packs:
            self.item = f"pack {packs[-1][:8]} of {self.vms.get(packs[-1], 'no version')}"

    @property
    def done_bytes(self) -> int:
        """What is read, also of packs that are not proved yet; never all before all is proved."""
        most = self.todo_bytes if self.done_packs >= self.packs else self.todo_bytes * 99 // 100
        return max(min(self.before_bytes + self.read(), most), self.recorded_bytes)

    def percent(self) -> float:
        """0 to 100; never less than it was."""
        share = 100.0 * self.done_bytes / self.todo_bytes if self.todo_bytes else 100.0
        self._highest = max(self._highest, share)
        return self._highest

    @property
    def bytes_a_second(self) -> float:
        """Since this attempt began."""
        return (self.done_bytes - self.before_bytes) / max(stopwatch() - self.begun, 0.001)

    @property
    def time_left(self) -> timedelta | None:
        """At the speed so far; none if nothing was read yet."""
        speed = self.bytes_a_second
        left = self.todo_bytes - self.done_bytes
        return timedelta(seconds=left / speed) if speed > 0 else None


@contextmanager
def watched(site: Site, reading: Reading) -> Generator[None, None, None]:
    """Keep the page up to date while the `with` lasts."""
    page = _Page(site, reading)
    done = threading.Event()

    def keep() -> None:
        while not done.wait(EVERY_SECONDS):
            page.update()
        page.update()

    page.begin()
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(keep), name="dashboard", daemon=True)
    thread.start()
    try:
        with shown("validation-progress", "Validation", reading.percent):
            yield
    finally:
        done.set()
        thread.join(timeout=EVERY_SECONDS)


def show_dashboard(*, site: Site) -> None:
    """Write the page as it is when nothing is under way."""
    _Page(site, None).begin()


class _Page:
    """One artifact, rewritten in place."""

    def __init__(self, site: Site, reading: Reading | None) -> None:
        self._site, self._reading = site, reading
        self._artifact: UUID | None = None
        self._facts: tuple[str, ...] = ()
        self._facts_at: float | None = None
        self._commit_queue = ""

    def begin(self) -> None:
        with suppress(Exception):
            made = create_markdown_artifact(
                key=KEY, markdown=self._text(), description="Validation"
            )
            self._artifact = made if isinstance(made, UUID) else None

    def update(self) -> None:
        with suppress(Exception):
            if self._artifact is not None:
                change = ArtifactUpdate(data=self._text())
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._artifact, change)

    def _text(self) -> str:
        now = stopwatch()
        if self._facts_at is None or now - self._facts_at > _FACTS_EVERY_SECONDS:
            self._facts, self._commit_queue = _facts(self._site), commit_queue(self._site)
            self._facts_at = now
        queues = (
            "## Queues",
            "",
            "| queue | waiting | now at | speed | done | time left |",
            "|---|---|---|---|---|---|",
            self._commit_queue,
            validate_queue(self._site, self._reading),
        )
        written = f"{system_clock():%Y-%m-%d %H:%M:%S} UTC"
        return "\n".join((f"# Validation\n\nAs of {written}.\n", *queues, "", *self._facts))


def commit_queue(site: Site) -> str:
    """What was transferred and is not committed yet, as a row."""
    transport = site.data_store.connect()
    try:
        entries = list(transport.entries(layout.INBOX))
    finally:
        transport.close()
    size = sum(entry.size_bytes for entry in entries)
    live = runs.live_runs(site.catalog.file)
    at = ", ".join(sorted({f"job {run.job}" for run in live})) or "–"
    return f"| commit | {_plural(len(entries), 'pack')}, {readable_size(size)} | {at} | – | – | – |"


def validate_queue(site: Site, reading: Reading | None) -> str:
    """What waits to be read back, as a row."""
    if reading is not None:
        left = max(reading.todo_bytes - reading.done_bytes, 0)
        packs = reading.packs - reading.done_packs
        age = reading.time_left
        return (
            f"| validate | {_plural(packs, 'pack')}, {readable_size(left)} |"
            f" {reading.item or 'the first packs'} | {reading.bytes_a_second / 1e6:.1f} MB/s |"
            f" {reading.percent():.0f} % | {readable_age(age) if age is not None else '–'} |"
        )
    limit = age_limit(site.revalidate_after)
    seen = validation.proof_outlook(site.catalog.file, system_clock(), limit.due_after)
    waiting = f"{_plural(seen.unproved_packs, 'pack')}, {readable_size(seen.unproved_bytes)}"
    last = next(iter(progress.list_validations(site.catalog.file)), None)
    done = f"{last.percent:.0f} %" if last is not None and last.finished_at is None else "–"
    return f"| validate | {waiting} never read back | – | – | {done} | – |"


def _facts(site: Site) -> tuple[str, ...]:
    limit = age_limit(site.revalidate_after)
    now, catalog = system_clock(), site.catalog.file
    outlook = validation.proof_outlook(catalog, now, limit.due_after)
    pace = 0
    if limit.due_after:
        plan = planning.plan_revalidation(catalog, now, limit.due_after, pause=_DAY, with_new=False)
        pace = max(plan.pace_bytes, int(outlook.live_bytes * (_DAY / limit.due_after)) + 1)
    budget = (site.revalidate_gib_a_day << 30) or pace
    outlook = validation.proof_outlook(catalog, now, limit.due_after, bytes_per_day=budget or None)
    audited = progress.last_audit(catalog)
    lines = ["## How old the oldest check is", "", bound(outlook, budget, limit.due_after), ""]
    if audited is not None:
        lines += [f"All packs were last seen to be there on {audited:%Y-%m-%d %H:%M} UTC.", ""]
    lines += ["## What another age would cost", "", "| age | to read every day | share |"]
    lines += ["|---|---|---|"]
    for case in planning.what_if(catalog, now, _WHAT_IF):
        cost = readable_size(case.pace_bytes)
        lines.append(f"| {case.max_age.days} days | {cost} | {case.share:.1%} |")
    return (*lines, "", "## Incidents", "", *incident_lines(incidents.list_incidents(catalog)))


def bound(outlook: ProofOutlook, budget_bytes: int, max_age: timedelta | None) -> str:
    """What is proved of the age of all data blocks, and whether the setting can be kept."""
    if not outlook.packs:
        return "There are no data blocks yet."
    said = "**No data block was read back yet.**"
    if outlook.oldest_age is not None:
        oldest = f"{outlook.oldest_age / _DAY:.1f} days"
        said = f"**No data block that was read back is older than {oldest} unchecked.**"
    if outlook.unproved_packs:
        packs = _plural(outlook.unproved_packs, "pack")
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
        return f"{said}\n\n⚠ With {pace}, {max_age.days} days cannot be kept; {reach} can."
    return f"{said} With {pace}, {max_age / _DAY:g} days can be kept."


def incident_lines(found: Sequence[Incident]) -> list[str]:
    """Incidents that are open, one line for each version that is still red."""
    if not found:
        return ["None."]
    lines = []
    for incident in found:
        opened = f"{incident.opened_at:%Y-%m-%d %H:%M} UTC"
        blocks = _plural(incident.damaged_copies, "data block")
        lines.append(f"- ❌ **incident {incident.number}** of {opened}: {blocks}")
        for version in incident.versions:
            if version.settled_at is None:
                size = readable_size(sum(disk.affected_bytes for disk in version.disks))
                taken = f"{version.taken_at:%Y-%m-%d %H:%M}"
                lines.append(
                    f"    - {version.vm_name}, version {version.version[:8]} of {taken}:"
                    f" {size}; {version.reason}"
                )
    return lines


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

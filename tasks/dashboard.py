"""The page `dashboard`: what is under way, what is bad, how old the oldest check is.

Every job and every validation that lasts more than a moment makes one artifact of it, and rewrites
that and the newest there is at least every five seconds while it lasts; what is over at once is
drawn at its end alone. Each draws all of it from the catalog, so it says the same whoever draws it;
a lost page never fails anything.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

from blocks import Site
from catalog.at_work import COMMIT, VALIDATE, forget_work, list_work
from likeness.clock import stopwatch
from likeness.model.ids import PackId, RunId
from likeness.model.job import BackupJob
from likeness.model.outcome import NamedVm
from likeness.model.sizes import counted
from likeness.transport.metered import MeteredTransport
from tasks.artifacts import ends_alone, put_markdown, rewrite_newest
from tasks.claims import is_live
from tasks.page import PageFacts, arrived_line, page_facts, page_text
from tasks.progress import Board, Pace, board, every_few_seconds, shown

_FACTS_EVERY_SECONDS = 60.0
_MOMENT_SECONDS = 1.0


@dataclass
class Reading:
    """How far the reading of one validation is; looked at from another thread.

    Attributes:
        before_bytes: What an attempt that died had done already.
        todo_bytes: All of it, that included.
        packs: How many packs are left to read.
        vms: Whose data each pack holds.
        meter: Counts the bytes of packs that this attempt has read so far.
    """

    before_bytes: int
    todo_bytes: int
    packs: int
    vms: Mapping[PackId, str]
    meter: MeteredTransport
    done_packs: int = 0
    item: str = "the first packs"
    recorded_bytes: int = 0

    def note(self, packs: Sequence[PackId], recorded_bytes: int) -> None:
        """Some more packs are proved and recorded."""
        self.done_packs += len(packs)
        self.recorded_bytes = recorded_bytes
        if packs:
            self.item = f"pack {packs[-1][:8]} of {self.vms.get(packs[-1], 'no version')}"

    def done_bytes(self) -> int:
        """What is read, also of packs that are not proved yet; never all before all is proved."""
        most = self.todo_bytes if self.done_packs >= self.packs else self.todo_bytes * 99 // 100
        return max(min(self.before_bytes + self.meter.read_bytes, most), self.recorded_bytes)

    def label(self) -> str:
        """What it is at, in words."""
        left = self.packs - self.done_packs
        return f"{self.item}; {counted(left, 'pack')} left"


@contextmanager
def reading_shown(site: Site, run: RunId, reading: Reading) -> Generator[None, None, None]:
    """Show a validation while the `with` lasts; it begins at the percentage it had reached."""
    reached = max((w.percent for w in list_work(site.catalog.file) if w.run == run), default=0.0)
    pace = Pace(reading.todo_bytes, reading.done_bytes, reading.before_bytes, reached)
    with board(run, VALIDATE) as on:
        on.put("", reading.label, "reading", pace)
        with (
            _kept(site, on),
            shown("validation-progress", "Validation", pace.percent),
        ):
            yield


@contextmanager
def job_shown(
    vms: Sequence[NamedVm], job: BackupJob, run: RunId, *, site: Site
) -> Generator[None, None, None]:
    """Show the VMs of a job, waiting and in flight, while the `with` lasts.

    What comes then of the job is `redrawn`, so the page is not written at its end.
    """
    with board(run, COMMIT) as on:
        for vm in vms:
            on.put(vm.vm, f"{vm.name} (job {job.name})", "waiting")
        with _kept(site, on, drawn_last=False):
            yield


@contextmanager
def redrawn(*, site: Site) -> Generator[None, None, None]:
    """Keep the page up to date while the `with` lasts, by a run that is nearly over."""
    page = Page(site)

    def draw() -> None:
        with suppress(Exception):
            page.update()

    with every_few_seconds(draw, "dashboard", then=lambda: None):
        yield


@contextmanager
def _kept(site: Site, on: Board, *, drawn_last: bool = True) -> Generator[None, None, None]:
    """Save a board and keep the page up to date while the `with` lasts.

    Args:
        site: The installation.
        on: The board.
        drawn_last: Draw the page once more at the end; not if it is `redrawn` from then on, or
            if it was not drawn so far and the end of the run does.
    """
    page = Page(site)

    def draw() -> None:
        with suppress(Exception):
            on.save(site)
            page.show()

    with suppress(Exception):
        _forget_the_dead(site)
        on.save(site)
    well = threading.Event()
    with every_few_seconds(
        draw,
        "dashboard",
        then=lambda: None if well.is_set() else draw(),
        first_after=_MOMENT_SECONDS,
    ):
        yield  # where it fails the board is left as it was: whoever goes on there begins there
        well.set()
    on.clear()
    if drawn_last and (page.is_shown or not ends_alone()):
        draw()
    else:
        with suppress(Exception):
            on.save(site)


def _forget_the_dead(site: Site) -> None:
    """VMs of jobs that died are under way no more; a validation that died is taken up again."""
    known = {work.run for work in list_work(site.catalog.file) if work.queue == COMMIT}
    if dead := [run for run in known if not is_live(site, run)]:
        forget_work(site.catalog.file, dead)


def show_dashboard(*, site: Site) -> None:
    """Write the page as it is now that a run is over."""
    with suppress(Exception):
        page = Page(site)
        if not page.update():
            page.put()


class Page:
    """The artifact; what changes slowly is asked for once a minute."""

    def __init__(self, site: Site) -> None:
        """The page of a site."""
        self._site, self._key = site, site.key_of("dashboard")
        self._arrived = ""
        self._own: UUID | None = None
        self._facts = PageFacts()
        self._facts_at: float | None = None

    def put(self) -> None:
        """Write it anew, as an artifact of the run that does."""
        self._arrived = arrived_line(self._site)
        self._own = put_markdown(self._key, self.text(), "What is under way, and what is damaged")

    @property
    def is_shown(self) -> bool:
        """Whether this run has written it."""
        return self._own is not None

    def show(self) -> None:
        """Write it anew the first time, and rewrite it from then on."""
        if self.is_shown:
            self.update()
        else:
            self.put()

    def update(self) -> bool:
        """Rewrite it in place; whether there is one."""
        return rewrite_newest(self._key, self.text(), and_also=self._own)

    def text(self) -> str:
        """Draw it."""
        now = stopwatch()
        if self._facts_at is None or now - self._facts_at > _FACTS_EVERY_SECONDS:
            self._facts, self._facts_at = page_facts(self._site, self._arrived), now
        return page_text(self._site, self._facts)

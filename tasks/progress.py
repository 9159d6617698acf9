"""How far things are, so that people see it.

Whatever a run is at stands on its board, which any of its threads writes on; the thread that keeps
the page up to date saves the board in the catalog, from where every page is drawn. Nothing that
goes wrong with showing it ever fails a backup.
"""

import contextvars
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import inf
from uuid import UUID

from blocks import Site
from catalog.at_work import Work, note_work
from likeness.clock import stopwatch, system_clock
from likeness.model.ids import RunId
from tasks.artifacts import move_bar, put_bar, slug

EVERY_SECONDS = 4.0
SECONDS_A_BAR = 2.0
"""All bars of a run together write no more often than that."""


@dataclass
class Pace:
    """How far one thing is, and how quick; asked again and again, from another thread.

    Attributes:
        todo_bytes: All of it.
        done: What is done so far, `before_bytes` included.
        before_bytes: What was done when this began.
        highest: The percentage so far, which never goes back.
    """

    todo_bytes: int
    done: Callable[[], int]
    before_bytes: int = 0
    highest: float = 0.0
    _begun: float = field(default_factory=stopwatch)

    def percent(self) -> float:
        """0 to 100; never less than it was."""
        share = 100.0 * self.done() / self.todo_bytes if self.todo_bytes else 100.0
        self.highest = max(self.highest, min(share, 100.0))
        return self.highest

    def bytes_a_second(self) -> float | None:
        """Since it began; none if nothing is done yet."""
        done = self.done() - self.before_bytes
        return done / max(stopwatch() - self._begun, 0.001) if done > 0 else None

    def time_left(self) -> timedelta | None:
        """At the speed so far; none if that is not known."""
        speed = self.bytes_a_second()
        left = max(self.todo_bytes - self.done(), 0)
        return timedelta(seconds=left / speed) if speed else None


@dataclass(frozen=True, slots=True)
class _BoardItem:
    work: Work
    label: Callable[[], str]
    pace: Pace | None = None
    note: str = ""

    def now(self) -> Work:
        label = self.label() + (f", {self.note}" if self.note else "")
        if self.pace is None:
            return replace(self.work, label=label)
        left = self.pace.time_left()
        return replace(
            self.work,
            label=label,
            todo_bytes=self.pace.todo_bytes,
            done_bytes=self.pace.done(),
            percent=self.pace.percent(),
            bytes_a_second=self.pace.bytes_a_second(),
            seconds_left=left.total_seconds() if left is not None else None,
        )


class Board:
    """What one run is at, item by item, in the order of the queue."""

    def __init__(self, run: RunId, queue: str) -> None:
        """Begin with nothing on it."""
        self.run, self._queue = run, queue
        self._lines: dict[str, _BoardItem] = {}
        self._writing = threading.Lock()

    def put(
        self, item: str, label: str | Callable[[], str], step: str, pace: Pace | None = None
    ) -> None:
        """An item is at a step now."""
        told = label if callable(label) else lambda: label
        work = Work(self.run, self._queue, item, "", step)
        with self._writing:
            self._lines[item] = _BoardItem(work, told, pace)

    def at(
        self, item: str, step: str, pace: Pace | None = None, *, note: str | None = None
    ) -> None:
        """A known item is at its next step; one that is not on the board stays off it.

        Args:
            item: Which.
            step: At what.
            pace: How far it is and how quick.
            note: What else is to be said of it from now on; none: what was said before.
        """
        with self._writing:
            if (line := self._lines.get(item)) is not None:
                work = replace(line.work, step=step)
                self._lines[item] = replace(
                    line, work=work, pace=pace, note=line.note if note is None else note
                )

    def done(self, item: str) -> None:
        """An item is through."""
        with self._writing:
            self._lines.pop(item, None)

    def clear(self) -> None:
        """All is done."""
        with self._writing:
            self._lines.clear()

    def save(self, site: Site) -> None:
        """Write it into the catalog."""
        with self._writing:
            lines: Sequence[_BoardItem] = tuple(self._lines.values())
        note_work(site.catalog.file, self.run, [line.now() for line in lines], system_clock())


_boards: dict[RunId, Board] = {}


@contextmanager
def board(run: RunId, queue: str) -> Generator[Board, None, None]:
    """The board of a run of this process, found by all its threads while the `with` lasts."""
    _boards[run] = made = Board(run, queue)
    try:
        yield made
    finally:
        _boards.pop(run, None)


@contextmanager
def vm_at_work(run: RunId, vm: str) -> Generator[None, None, None]:
    """A VM of a job that is watched is in flight while the `with` lasts."""
    on = _boards.get(run)
    if on is not None:
        on.at(vm, "snapshot")
    try:
        yield
    finally:
        if on is not None:
            on.done(vm)


def vm_at(run: RunId, vm: str, step: str, note: str) -> None:
    """A VM of a job that is watched is at a step of which there is more to say."""
    if (on := _boards.get(run)) is not None:
        on.at(vm, step, note=note)


@contextmanager
def transferring(
    run: RunId, vm: str, name: str, todo_bytes: int, done: Callable[[], int]
) -> Generator[None, None, None]:
    """A VM's disks are on their way while the `with` lasts; afterwards they are committed."""
    on, pace = _boards.get(run), Pace(todo_bytes, done)
    if on is not None:
        on.at(vm, "transfer", pace)
    with shown(f"transfer-{slug(name)}-{vm[:4]}", f"Transfer of {name}", pace.percent):
        yield
    if on is not None:
        on.at(vm, "commit", pace)


@contextmanager
def shown(key: str, description: str, percent: Callable[[], float]) -> Generator[None, None, None]:
    """Show `percent()` as a progress bar while the `with` lasts, if it lasts more than a moment.

    Args:
        key: Of the artifact: lower-case letters, digits and dashes.
        description: What is under way.
        percent: 0 to 100; called from another thread.
    """
    bar = _Bar(key, description, percent)
    with _bars.with_one_more(), every_few_seconds(bar.draw, f"progress {key}", then=bar.end):
        yield


class _Bars:
    """How many bars this process shows; the more, the seldomer each is written."""

    def __init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()

    @contextmanager
    def with_one_more(self) -> Generator[None, None, None]:
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def seconds_between(self) -> float:
        """From one writing of a bar to its next."""
        return max(EVERY_SECONDS - 1.0, SECONDS_A_BAR * self._count)


_bars = _Bars()


class _Bar:
    """A progress bar at the server; what is over at once never gets there."""

    def __init__(self, key: str, description: str, percent: Callable[[], float]) -> None:
        self._key, self._description, self._percent = key, description, percent
        self._made: UUID | None = None
        self._last = -inf

    def draw(self) -> None:
        if stopwatch() - self._last < _bars.seconds_between():
            return
        self._last = stopwatch()
        if self._made is None:
            self._made = put_bar(self._key, self._description, self._percent())
        else:
            move_bar(self._made, self._percent())

    def end(self) -> None:
        move_bar(self._made, self._percent())


@contextmanager
def every_few_seconds(
    call: Callable[[], None],
    name: str,
    *,
    then: Callable[[], None] | None = None,
    first_after: float = inf,
) -> Generator[None, None, None]:
    """Call again and again from another thread while the `with` lasts, and `then` at its end.

    Without a `then` it is the same once more.

    Args:
        call: What.
        name: Of the thread.
        then: At the end.
        first_after: Call after so many seconds already, the first time.
    """
    over = threading.Event()

    def keep() -> None:
        pause = min(first_after, EVERY_SECONDS)
        while not over.wait(pause):
            call()
            pause = EVERY_SECONDS
        (then or call)()

    context = contextvars.copy_context()  # so that Prefect's settings and run are known there too
    thread = threading.Thread(target=lambda: context.run(keep), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=EVERY_SECONDS)

"""A session: what several steps of a job open, opened once and shared.

While a session lasts, whoever opens the data store or the pool, or asks the catalog, gets what is
open already; the first one opens it. So tasks open what they need as if each were alone, and
nothing that holds an open file travels between them. What is lost is opened anew by the next one.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from prefect.blocks.core import Block

from likeness.clock import stopwatch
from likeness.errors import LikenessError

T = TypeVar("T")
_FRESH_SECONDS = 600.0
"""How long an opening is handed out: a long job, too, learns of new keys of its store."""

_JUST_SECONDS = 60.0
"""How long what a session has seen last counts, for what is written right after it."""


@dataclass(eq=False)
class _Opening(Generic[T]):
    thing: T
    close: ExitStack
    opened_at: float = field(default_factory=stopwatch)
    users: int = 0


class SharedOpening(Generic[T]):
    """What a block opens, for all who open it while a session lasts.

    Attributes:
        openings: How often it was opened.
        well: Whether whoever used it last found nothing the matter with it.
        was_well: Whether the session that ended a moment ago says so, and nobody tried since.
    """

    def __init__(self, *, fresh_seconds: float = _FRESH_SECONDS) -> None:
        """Open nothing yet."""
        self.openings = self.sessions = 0
        self.well = self.was_well = False
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._current: _Opening[T] | None = None

    @contextmanager
    def use(
        self, opened: Callable[[], AbstractContextManager[T]], require: Callable[[T], None]
    ) -> Generator[T, None, None]:
        """What is open, or is opened now.

        Args:
            opened: Opens it.
            require: Raises if what was opened before is not there any more; it is opened anew then.
        """
        self.well = self.was_well = False
        opening = self._entered(opened, require)
        try:
            yield opening.thing
            self.well = True
        finally:
            self._left(opening)

    def _entered(
        self, opened: Callable[[], AbstractContextManager[T]], require: Callable[[T], None]
    ) -> _Opening[T]:
        kept = self._kept()
        if kept is not None:
            try:
                require(kept.thing)
            except LikenessError:
                self._left(kept, lost=True)
            except BaseException:
                self._left(kept)
                raise
            else:
                return kept
        with self._lock:
            if self._current is None:
                with ExitStack() as stack:
                    thing = stack.enter_context(opened())
                    self._current = _Opening(thing, stack.pop_all())
                self.openings += 1
            self._current.users += 1
            return self._current

    def _kept(self) -> _Opening[T] | None:
        with self._lock:
            kept = self._current
            if kept is not None and stopwatch() - kept.opened_at > self._fresh_seconds:
                self._current = None  # its last user closes it
                if kept.users == 0:
                    kept.close.close()
                return None
            if kept is not None:
                kept.users += 1
            return kept

    def _left(self, opening: _Opening[T], *, lost: bool = False) -> None:
        with self._lock:
            opening.users -= 1
            if lost and self._current is opening:
                self._current = None
            over = self._current is not opening and opening.users == 0
        if over:
            opening.close.close()

    def end(self) -> None:
        """Close what nobody uses; whoever still uses it closes it."""
        with self._lock:
            opening, self._current = self._current, None
            over = opening is not None and opening.users == 0
        if opening is not None and over:
            opening.close.close()


class _Sessions:
    """Which blocks' openings are shared in this process at the moment."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._shared: list[tuple[tuple[Any, ...], SharedOpening[Any]]] = []
        self._ended_well: list[tuple[tuple[Any, ...], float]] = []

    def of(self, block: Block) -> SharedOpening[Any] | None:
        known = _facts(block)
        with self._guard:
            return next((each for facts, each in self._shared if facts == known), None)

    @contextmanager
    def sharing(self, block: Block) -> Generator[None, None, None]:
        shared = self._begun(block)
        try:
            yield
        finally:
            with self._guard:
                shared.sessions -= 1
                last = shared.sessions == 0
                if last:
                    self._shared = [pair for pair in self._shared if pair[1] is not shared]
                    if shared.well:
                        self._ended_well.append((_facts(block), stopwatch()))
            if last:
                shared.end()

    def was_just_well(self, block: Block) -> bool:
        shared = self.of(block)
        return shared is not None and shared.was_well

    def _begun(self, block: Block) -> SharedOpening[Any]:
        known = _facts(block)
        with self._guard:
            for facts, each in self._shared:
                if facts == known:
                    each.sessions += 1
                    return each
            made = SharedOpening[Any]()
            made.sessions = 1
            ended = [at for facts, at in self._ended_well if facts == known]
            made.was_well = any(stopwatch() - at < _JUST_SECONDS for at in ended)
            self._ended_well = [each for each in self._ended_well if each[0] != known]
            self._shared.append((known, made))
            return made


def _facts(block: Block) -> tuple[Any, ...]:
    """What makes two blocks open the same: their type, and every field as it is now."""
    return (type(block), *(getattr(block, name) for name in type(block).model_fields))


_sessions = _Sessions()
was_just_well = _sessions.was_just_well
"""Whether a block was open, and well, until the end of the session right before this one."""
shared_opening = _sessions.of
"""What is shared of a block at the moment; nothing outside of a session."""
sharing = _sessions.sharing
"""Share what a block opens while the `with` lasts; sessions may overlap, the last one closes."""

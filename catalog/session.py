"""A session with the catalog: one lock and one opening for many consecutive calls.

Opening the file costs several times as much as asking it something, so a job keeps it open. Other
processes are not held up: one that waits says so with a lock on a second side file, and the
session lets go between two calls, within a fraction of a second, and comes back after its turn.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar, cast

import duckdb

from catalog.connection import (
    CatalogLocation,
    Connection,
    open_for_writing,
    shared_openings,
    transaction,
)
from catalog.openings import cursor
from catalog.translating import errors_translated
from likeness.clock import stopwatch
from likeness.errors import CatalogBusy

T = TypeVar("T")
_LOOK_SECONDS = 0.1
_PAUSE_FOR_OTHERS_SECONDS = 0.05


@contextmanager
def catalog_session(catalog: CatalogLocation) -> Generator[None, None, None]:
    """While it lasts, `reading` and `writing` of this process share one opening of the file.

    Sessions of one process may overlap; the last one to end closes the file.
    """
    path = catalog.path.resolve()
    with shared_openings.guard:
        opening = shared_openings.by_path.get(path)
        if not isinstance(opening, SharedCatalog):
            opening = SharedCatalog(catalog)
            shared_openings.by_path[path] = opening
        opening.sessions += 1
    try:
        yield
    finally:
        with shared_openings.guard:
            opening.sessions -= 1
            last = opening.sessions == 0
            if last and _follows.get():
                last, _left_open[path] = False, opening
            elif last:
                _left_open.pop(path, None)
                del shared_openings.by_path[path]
        if last:
            opening.end()


_left_open: dict[Path, "SharedCatalog"] = {}
_follows: ContextVar[bool] = ContextVar("follows", default=False)


@contextmanager
def kept_open() -> Generator[None, None, None]:
    """Sessions that end meanwhile leave their catalog open, for what follows at once.

    That has sessions of its own, and calls `nothing_follows` at its end. Whoever else waits for the
    catalog gets it as ever.
    """
    token = _follows.set(True)
    try:
        yield
    finally:
        _follows.reset(token)


def nothing_follows() -> None:
    """Close what was left open and nobody has a session with."""
    with shared_openings.guard:
        over = [(path, opening) for path, opening in _left_open.items() if not opening.sessions]
        for path, opening in over:
            del _left_open[path]
            if shared_openings.by_path.get(path) is opening:
                del shared_openings.by_path[path]
    for _, opening in over:
        opening.end()


class SharedCatalog:
    """One opening of the catalog that the threads of a process share."""

    def __init__(self, catalog: CatalogLocation) -> None:
        """Open nothing yet."""
        self.sessions = 0
        self.openings = 0
        self.writes = 0
        self.opened_as = object()
        self._catalog = catalog
        self._changed = threading.Condition()
        self._writer = threading.Lock()
        self._open: ExitStack | None = None
        self._connection: Connection | None = None
        self._readers: list[Connection] = []
        self._known: dict[str, tuple[object, object]] = {}
        self._inode = 0
        self._calls = 0
        self._wanted = False
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """A connection that sees one moment of the catalog."""
        with self._call(reads=True) as connection:
            connection.begin()
            try:
                yield connection
            finally:
                with suppress(duckdb.Error):  # an error ended the transaction by itself
                    connection.rollback()

    @contextmanager
    def writing(self) -> Generator[Connection, None, None]:
        """A connection with one transaction, durable at its end; one at a time."""
        patience = max(self._catalog.patience.total_seconds(), 0)
        if not self._writer.acquire(timeout=patience):
            raise CatalogBusy(
                f"another thread has written to the catalog at {self._catalog.path} for"
                f" {patience:.0f} s; try again"
            )
        try:
            with self._call(reads=False) as connection, transaction(connection):
                yield connection
        finally:
            self.writes += 1
            self._writer.release()

    def lately(self, what: str, ask: Callable[[Connection], T], *, few: Callable[[T], bool]) -> T:
        """What was found when it was asked for last, if nobody has written since.

        Args:
            what: Is asked.
            ask: Asks it.
            few: Whether what was found is little enough to be kept in memory.
        """
        before = self._moment()
        at, known = self._known.get(what, (None, None))
        if before is not None and at == before:
            return cast(T, known)
        with self.reading() as connection:
            found = ask(connection)
        if before is not None and few(found):
            self._known[what] = (before, found)
        return found

    def _moment(self) -> tuple[object, int] | None:
        """What the catalog holds is the same while this is; none while it is not open."""
        with self._changed:
            if self._connection is None or self._is_replaced():
                return None
            return self.opened_as, self.writes

    def let_go(self) -> None:
        """Close as soon as no call is under way; the next call opens again."""
        with self._changed:
            self._wanted = True
            self._close_if_idle()

    def end(self) -> None:
        """No call comes any more: close."""
        self._ended.set()
        with self._changed:
            self._wanted = True
            self._close_if_idle()
            watcher, self._watcher = self._watcher, None
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join()

    @contextmanager
    def _call(self, *, reads: bool) -> Generator[Connection, None, None]:
        """A cursor of the opening; what only read leaves nothing behind, and is used again."""
        connection = self._enter(reads=reads)
        well = False
        try:
            with errors_translated(self._catalog.path):
                yield connection
            well = True
        finally:
            if not (well and reads):
                connection.close()
            with self._changed:
                if well and reads:
                    self._readers.append(connection)
                self._calls -= 1
                self._close_if_idle()

    def _enter(self, *, reads: bool) -> Connection:
        deadline = stopwatch() + max(self._catalog.patience.total_seconds(), 0)
        with self._changed:
            self._wanted = self._wanted or self._is_replaced()
            self._close_if_idle()
            while self._wanted and self._connection is not None:
                if not self._changed.wait(timeout=max(deadline - stopwatch(), 0)):
                    raise CatalogBusy(
                        f"a call has held the catalog at {self._catalog.path} for too long; try"
                        " again, and see which process does not come to an end"
                    )
            if self._connection is None:
                self._open_again()
            self._calls += 1
            assert self._connection is not None  # noqa: S101  # opened above, or it raised
            return self._readers.pop() if reads and self._readers else cursor(self._connection)

    def _open_again(self) -> None:
        if _others_wait(self._catalog):
            time.sleep(_PAUSE_FOR_OTHERS_SECONDS)
        with ExitStack() as stack:
            connection = stack.enter_context(open_for_writing(self._catalog))
            self._open = stack.pop_all()
        self.openings += 1
        self.opened_as = object()
        self._connection, self._wanted = connection, False
        self._inode = self._catalog.path.stat().st_ino
        if self._watcher is None and not self._ended.is_set():
            self._watcher = threading.Thread(
                target=self._watch, name="catalog session", daemon=True
            )
            self._watcher.start()

    def _is_replaced(self) -> bool:
        """Whether another file has the catalog's name now: a copy was put in its place."""
        if self._connection is None:
            return False
        try:
            return self._catalog.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _close_if_idle(self) -> None:
        """Close, if somebody wants it and no call is under way; the condition must be held."""
        if self._wanted and self._calls == 0 and self._open is not None:
            opened, self._open, self._connection = self._open, None, None
            self._known.clear()
            try:
                while self._readers:
                    self._readers.pop().close()
                opened.close()
            finally:
                self._changed.notify_all()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if self._connection is not None and _others_wait(self._catalog):
                self.let_go()


def _others_wait(catalog: CatalogLocation) -> bool:
    """Whether another process waits for its turn."""
    try:
        handle = os.open(catalog.waiting_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False

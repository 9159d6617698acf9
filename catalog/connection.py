"""One at a time: the only way into the catalog file.

An operating-system lock on a side file is held from before the file is opened until after it is
closed. DuckDB alone lets one process in at a time too, but whoever comes second gets an error
instead of a turn, and some of its releases lose commits when two processes open a file close
together. Nothing slow belongs inside a `with`: no share, no hypervisor, no compression.
"""

import fcntl
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import duckdb

from catalog.migrations import newest
from catalog.openings import Bounds, Opening
from catalog.translating import doubt_of, errors_translated, not_opened
from likeness.clock import stopwatch
from likeness.errors import BadInput, CatalogBusy, Damaged
from likeness.retrying import Attempts, Pauses

if importlib.util.find_spec("pandas") is None:
    # DuckDB looks for it twice with each parameter of each statement: a third of a short one's time
    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # how Python notes "not there"

Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")
_LOOK_SECONDS = 0.05
_LARGE_BYTES = 32 << 20
_BETWEEN_LOOKS = Pauses(0.002, 0.02, random=True)
_threads_guard = threading.Lock()
_threads: dict[Path, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class CatalogLocation:
    """Where a catalog is and how much of the machine it may use; opens nothing.

    Attributes:
        path: A file on a local disk, never on a share.
        patience: How long to wait for a turn.
        memory_bytes: What DuckDB may use; beyond it, it spills to the scratch folder.
        threads: How many cores a query may use.
    """

    path: Path
    patience: timedelta = field(default=timedelta(seconds=30))
    memory_bytes: int = 1 << 30
    threads: int = 2

    @property
    def lock_path(self) -> Path:
        """The side file that is locked."""
        return self.path.with_name(f"{self.path.name}.lock")

    @property
    def waiting_path(self) -> Path:
        """The side file that whoever waits for the lock holds shared, so that sessions let go."""
        return self.path.with_name(f"{self.path.name}.waiting")

    @property
    def scratch(self) -> Path:
        """Folder for what does not fit in memory, and for rows on their way in."""
        return self.path.with_name(f"{self.path.name}.scratch")

    @property
    def doubt(self) -> Path:
        """Is there while something in the catalog could not be read, until all of it was."""
        return doubt_of(self.path)


class SharedConnection(Protocol):
    """An opening that several calls share; see `catalog.session`.

    Attributes:
        opened_as: Another object each time the file is opened; while it is the same, nobody else
            can have changed the file.
    """

    opened_as: object

    def reading(self) -> AbstractContextManager[Connection]:
        """See `reading`."""

    def writing(self) -> AbstractContextManager[Connection]:
        """See `writing`."""

    def let_go(self) -> None:
        """Close as soon as no call is under way."""

    def lately(self, what: str, ask: Callable[[Connection], T], *, few: Callable[[T], bool]) -> T:
        """See `read_lately`."""


class SharedOpenings:
    """Which catalogs this process keeps open at the moment."""

    def __init__(self) -> None:
        """None yet."""
        self.guard = threading.Lock()
        self.by_path: dict[Path, SharedConnection] = {}

    def of(self, catalog: CatalogLocation) -> SharedConnection | None:
        """The one of a catalog, if there is one."""
        if not self.by_path:
            return None
        known = self.by_path.get(catalog.path)  # links are followed where it is not that already
        return known if known is not None else self.by_path.get(catalog.path.resolve())


shared_openings = SharedOpenings()


def make_room(catalog: CatalogLocation) -> None:
    """Make the folders a catalog needs, for its owner alone."""
    for folder in (catalog.path.parent, catalog.scratch):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)


@contextmanager
def catalog_locked(catalog: CatalogLocation, *, alone: bool) -> Generator[None, None, None]:
    """Hold the catalog's lock.

    Args:
        catalog: Which.
        alone: Keep everybody else out; otherwise only those who write.

    Raises:
        CatalogBusy: Nobody let go within the catalog's patience.
        BadInput: Its folder does not exist.
    """
    deadline = stopwatch() + catalog.patience.total_seconds()
    mine = _thread_lock(catalog.path)
    while not mine.acquire(timeout=_LOOK_SECONDS):
        if stopwatch() >= deadline:
            raise _busy(catalog, "another thread")
        if (shared := shared_openings.of(catalog)) is not None:
            shared.let_go()
    try:
        handle = _open_lock(catalog)
        try:
            _wait(catalog, handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, deadline)
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)
    finally:
        mine.release()


def _thread_lock(path: Path) -> threading.Lock:
    with _threads_guard:
        return _threads.setdefault(path.resolve(), threading.Lock())


def _open_lock(catalog: CatalogLocation) -> int:
    try:
        return os.open(catalog.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as cause:
        raise BadInput(f"there is no folder {catalog.path.parent} for a catalog") from cause
    except OSError as cause:
        raise BadInput(
            f"the folder {catalog.path.parent} of the catalog cannot be used: {cause.strerror};"
            " it must be on a local disk, and belong to the user who runs this"
        ) from cause


def _wait(catalog: CatalogLocation, handle: int, kind: int, deadline: float) -> None:
    if is_taken(handle, kind):
        return
    with _seen_waiting(catalog):
        for _ in Attempts(_BETWEEN_LOOKS, seconds=max(deadline - stopwatch(), 0.0)):
            if is_taken(handle, kind):
                return
        raise _busy(catalog, "another process")


def is_taken(handle: int, kind: int) -> bool:
    """Take a lock on an open file, if nobody else has it; whether it is ours now."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _seen_waiting(catalog: CatalogLocation) -> Generator[None, None, None]:
    """Let whoever has the catalog open for a while see that it is wanted."""
    handle = os.open(catalog.waiting_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(BlockingIOError):  # held alone for a moment, by somebody who looks
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _busy(catalog: CatalogLocation, who: str) -> CatalogBusy:
    seconds = catalog.patience.total_seconds()
    return CatalogBusy(
        f"{who} has held the catalog at {catalog.path} for {seconds:.0f} s; try again, and if it"
        " stays so, see which process does not come to an end"
    )


@contextmanager
def opened(
    catalog: CatalogLocation, path: Path, *, read_only: bool
) -> Generator[Connection, None, None]:
    """Open the file `path` as a catalog; the turn must be held. Use `reading` or `writing`."""
    threads = catalog.threads if _is_large(path) else 1
    bounds = Bounds(catalog.memory_bytes, catalog.scratch, threads)
    try:
        opening = Opening(path, bounds, read_only=read_only)
    except duckdb.Error as cause:
        raise not_opened(path, cause) from cause
    well = False
    try:
        with errors_translated(path):
            _make_private(path)
            yield opening.connection
        well = True
    finally:
        if not read_only:
            _make_private(path)
        opening.close(well=well)


def _is_large(path: Path) -> bool:
    """Whether a second thread can bring more than waking it costs, with each statement."""
    return path.exists() and path.stat().st_size >= _LARGE_BYTES


def _make_private(path: Path) -> None:
    for each in (path, path.with_name(f"{path.name}.wal")):
        if each.exists():
            each.chmod(0o600)


@contextmanager
def reading(catalog: CatalogLocation) -> Generator[Connection, None, None]:
    """Look things up; others may do so at the same time.

    Raises:
        CatalogBusy: Somebody writes and did not stop within the catalog's patience.
        BadInput: There is no catalog, or not of this release's schema.
    """
    if (shared := shared_openings.of(catalog)) is not None:
        with shared.reading() as connection:
            yield connection
        return
    with (
        catalog_locked(catalog, alone=False),
        opened(catalog, catalog.path, read_only=True) as connection,
    ):
        require_schema(catalog, connection)
        yield connection


def read_lately(
    catalog: CatalogLocation,
    what: str,
    ask: Callable[[Connection], T],
    *,
    few: Callable[[T], bool],
) -> T:
    """Look something up; within a session what it was, as long as nobody has written since.

    Args:
        catalog: Which.
        what: Is asked.
        ask: Asks it.
        few: Whether what was found is little enough to be kept in memory.
    """
    if (shared := shared_openings.of(catalog)) is not None:
        return shared.lately(what, ask, few=few)
    with reading(catalog) as connection:
        return ask(connection)


@contextmanager
def writing(catalog: CatalogLocation) -> Generator[Connection, None, None]:
    """One transaction: all of it is durable when the `with` ends, or nothing.

    Raises:
        CatalogBusy: Nobody let go within the catalog's patience.
        BadInput: There is no catalog, or not of this release's schema.
    """
    if (shared := shared_openings.of(catalog)) is not None:
        with shared.writing() as connection:
            yield connection
        return
    with open_for_writing(catalog) as connection, transaction(connection):
        yield connection


@contextmanager
def open_for_writing(catalog: CatalogLocation) -> Generator[Connection, None, None]:
    """Hold the lock and open the file, for as long as the `with` lasts; see `writing`."""
    with catalog_locked(catalog, alone=True):
        if not catalog.path.exists():
            raise BadInput(
                f"there is no catalog at {catalog.path}; create one, or recover it from the store"
            )
        with opened(catalog, catalog.path, read_only=False) as connection:
            require_schema(catalog, connection)
            yield connection


@contextmanager
def transaction(connection: Connection) -> Generator[None, None, None]:
    """Commit at the end; undo everything if it does not get there."""
    connection.begin()
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise
    connection.commit()


def _roll_back(connection: Connection) -> None:
    try:
        connection.rollback()
    except duckdb.Error:
        return  # an error that ended the transaction by itself


def schema_version(connection: Connection) -> int:
    """The newest migration the file has seen; 0 for an empty file.

    Raises:
        Damaged: It is a database of somebody else.
    """
    try:
        row = connection.execute("SELECT max(version) FROM schema_migrations").fetchone()
    except duckdb.CatalogException as cause:
        if not connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
            return 0
        raise Damaged("the catalog", "its file is the database of another program") from cause
    return int(row[0]) if row else 0


def require_schema(catalog: CatalogLocation, connection: Connection) -> None:
    """Return, if the file has the schema of this release.

    Raises:
        BadInput: It has an earlier or a later one.
    """
    found, ours = schema_version(connection), newest()
    if found > ours:
        raise BadInput(
            f"the catalog at {catalog.path} was made by a later release (schema {found}, this"
            f" release knows {ours}); update Likeness, or rebuild the catalog from the store"
        )
    if found < ours:
        raise BadInput(
            f"the catalog at {catalog.path} has schema {found} and this release needs {ours};"
            " migrate it first"
        )


def to_utc(moment: datetime) -> datetime:
    """As the catalog stores it: UTC without saying so.

    Raises:
        ValueError: It does not say in which zone it is.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone means nothing here")
    return moment.astimezone(UTC).replace(tzinfo=None)


def from_utc(stored: datetime | None) -> datetime | None:
    """What `to_utc` stored, aware again."""
    return stored.replace(tzinfo=UTC) if stored is not None else None

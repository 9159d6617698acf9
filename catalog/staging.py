"""Rows at once: many are written to a scratch file first, then read by DuckDB in one statement.

Everything slow happens before the lock is taken. Text is the fastest form that DuckDB reads and
Python writes without further libraries: 2 million rows a second out, 4 million in. Rows bound as
parameters, or a list bound as one, are a thousand times slower.
"""

import csv
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TextIO

from catalog.connection import CatalogLocation, Connection, catalog_locked, make_room
from likeness.errors import BadInput

Field = str | int | None
NOTHING = f"\\N{secrets.token_hex(8)}"
"""Stands for no value; nothing that a person can name a VM or a disk."""
_FEW = 32
"""Rows of a table that are kept in memory, and given to DuckDB as parameters."""
_PREFIX = "rows-"
_DRAFTS = "*.duckdb*.new*"


class Stage:
    """Rows that wait to be loaded: a few in memory, more in a scratch folder."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        """Stage rows; `folder` makes the scratch folder once it is needed."""
        self._make_folder = folder
        self._folder: Path | None = None
        self._few: dict[str, list[Sequence[Field]]] = defaultdict(list)

    def lines(self, table: str, batches: Iterable[str]) -> None:
        """Add rows that are written as text already: fields with commas between, line ends.

        No field has a comma, a quote or a line end of its own.
        """
        rest = iter(batches)
        for batch in () if self._is_written(table) else rest:
            if self._too_many(table, [line.split(",") for line in batch.splitlines()]):
                break
        if (first := next(rest, None)) is not None:
            with self._open(table) as file:
                file.writelines(chain([first], rest))

    def rows(self, table: str, rows: Iterable[Sequence[Field]]) -> None:
        """Add rows of anything."""
        rest = iter(rows)
        for row in () if self._is_written(table) else rest:
            if self._too_many(table, [row]):
                break
        self._write(table, rest)

    def has(self, table: str) -> bool:
        """Whether any row of a table was staged."""
        return table in self._few or self._is_written(table)

    def load(self, connection: Connection, table: str, **columns: str) -> None:
        """Make a temporary table of the staged rows.

        Args:
            connection: Where.
            table: Its name, as given to `lines` or `rows`.
            columns: Its columns and their types, in order.
        """
        if self._is_written(table):
            self._read(connection, table, columns)
        else:
            _bind(connection, table, columns, self._few.get(table, ()))

    def _too_many(self, table: str, rows: Sequence[Sequence[Field]]) -> bool:
        """Keep rows in memory; whether there are too many, and all are in the file now."""
        few = self._few[table]
        few.extend(rows)
        if len(few) <= _FEW:
            return False
        self._write(table, iter(few))
        few.clear()
        return True

    def _is_written(self, table: str) -> bool:
        return self._folder is not None and self._path(table).exists()

    def _write(self, table: str, rows: Iterator[Sequence[Field]]) -> None:
        if (first := next(rows, None)) is None:
            return
        with self._open(table) as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            for row in chain([first], rows):
                writer.writerow(NOTHING if field is None else field for field in row)

    def _read(self, connection: Connection, table: str, columns: Mapping[str, str]) -> None:
        types = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE {table} AS
            SELECT * FROM read_csv(?, columns = {{{types}}}, header = false, auto_detect = false,
                delim = ',', quote = '"', escape = '"', new_line = '\\n', nullstr = '{NOTHING}')""",  # noqa: S608  # our own words
            [str(self._path(table))],
        )

    def _path(self, table: str) -> Path:
        if self._folder is None:
            self._folder = self._make_folder()
        return self._folder / f"{table}.csv"

    def _open(self, table: str) -> TextIO:
        handle = os.open(self._path(table), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, "w", encoding="utf-8", newline="")


def _bind(
    connection: Connection,
    table: str,
    columns: Mapping[str, str],
    rows: Sequence[Sequence[Field]],
) -> None:
    """A temporary table of a few rows, as parameters: planning to read a file takes ten times."""
    kinds = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {table} ({kinds})")
    if rows:
        cells = ", ".join(f"?::VARCHAR::{kind}" for kind in columns.values())
        connection.execute(
            f"INSERT INTO {table} VALUES {', '.join([f'({cells})'] * len(rows))}",  # noqa: S608
            [None if field in (None, NOTHING) else str(field) for row in rows for field in row],
        )


@contextmanager
def staged(catalog: CatalogLocation) -> Generator[Stage, None, None]:
    """A stage that is gone when the `with` ends; no lock is held for it."""
    with ExitStack() as held:
        yield Stage(lambda: held.enter_context(private_folder(catalog)))


@contextmanager
def private_folder(catalog: CatalogLocation) -> Generator[Path, None, None]:
    """A new empty folder beside the catalog, for as long as the `with` lasts.

    Its maker holds a lock on it. The kernel drops that with the process, so that what was left by
    one that died can be told from what is in use.

    Raises:
        BadInput: The catalog's own folder does not exist, or its disk has no room.
    """
    make_room(catalog)
    folder, handle = _locked_folder(catalog)
    try:
        yield folder
    except OSError as cause:
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(
            f"no room left on this machine beside the catalog, in {catalog.scratch}; make room"
            " there, then run again"
        ) from cause
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _locked_folder(catalog: CatalogLocation) -> tuple[Path, int]:
    """Once more, if a sweep took the folder before its lock was taken."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=catalog.scratch))
        with suppress(FileNotFoundError):
            handle = _opened(folder)
            fcntl.flock(handle, fcntl.LOCK_SH)
            if folder.exists():
                return folder, handle
            os.close(handle)


def sweep_left(catalog: CatalogLocation) -> int:
    """Remove what processes that died left beside the catalog; how many files and folders.

    Safe beside running jobs: folders in use are locked, and DuckDB's own files and drafts belong to
    nobody while the catalog's turn is ours.
    """
    removed = sum(_removed_if_left(folder) for folder in catalog.scratch.glob(f"{_PREFIX}*"))
    with catalog_locked(catalog, alone=True):
        for left in (*catalog.scratch.glob("duckdb_temp*"), *catalog.path.parent.glob(_DRAFTS)):
            if left.is_file():
                left.unlink()
                removed += 1
    return removed


def _removed_if_left(folder: Path) -> bool:
    try:
        handle = _opened(folder)
    except FileNotFoundError:
        return False  # its maker is done with it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def name_list(connection: Connection, stage: Stage, table: str, names: Iterable[str]) -> None:
    """A temporary table `table (id UUID)` of names of 32 hex digits, each once."""
    stage.lines(table, (f"{name}\n" for name in dict.fromkeys(names)))
    stage.load(connection, table, id="UUID")

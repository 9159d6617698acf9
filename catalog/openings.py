"""Opening a file as a catalog without DuckDB being made anew each time.

To open a small file takes a millisecond; to make an instance of DuckDB, with all the functions it
knows, takes ten. So one that served an opening well is kept, without any file, for the next one.
"""

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

_NAME = "likeness"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the machine DuckDB may use.

    Attributes:
        memory_bytes: Beyond them it spills.
        scratch: The folder to spill to.
        threads: How many it computes with.
    """

    memory_bytes: int
    scratch: Path
    threads: int


_idle: deque[tuple[Bounds, DuckDBPyConnection]] = deque(maxlen=2)
_of_the_parent: list[object] = []


def _leave_to_the_parent() -> None:
    _of_the_parent.extend(_idle)  # not closed either: this process did not make them
    _idle.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class Opening:
    """A file that is open as a catalog.

    Attributes:
        connection: To it.
    """

    def __init__(self, path: Path, bounds: Bounds, *, read_only: bool) -> None:
        """Open it.

        Raises:
            duckdb.Error: It does not open.
        """
        self._bounds = bounds
        self._instance = _bounded(bounds)
        try:
            attach(self._instance, path, read_only=read_only)
            self.connection = cursor(self._instance)
        except BaseException:
            self._instance.close()
            raise

    def close(self, *, well: bool) -> None:
        """Write down what is in its log, and let the file go.

        Args:
            well: Nothing failed since it was opened.
        """
        self.connection.close()
        try:
            self._instance.execute(f"DETACH {_NAME}")
        except duckdb.Error:
            well = False  # its log keeps what was written, for the next opening
        if well and self._bounds.threads == 1:
            _idle.append((self._bounds, self._instance))
        else:
            self._instance.close()


def attach(instance: DuckDBPyConnection, path: Path, *, read_only: bool) -> None:
    """Open a file in an instance of DuckDB that has none."""
    mode = "READ_ONLY" if read_only else "READ_WRITE"
    instance.execute(f"ATTACH '{_quoted(path)}' AS {_NAME} (TYPE duckdb, {mode})")


def cursor(connection: DuckDBPyConnection) -> DuckDBPyConnection:
    """Another connection to what one is connected to."""
    found = connection.cursor()
    found.execute(f"USE {_NAME}")
    return found


def _bounded(bounds: Bounds) -> DuckDBPyConnection:
    """An instance of DuckDB that is nobody else's."""
    try:
        known, instance = _idle.pop()
    except IndexError:
        return _new(bounds)
    if known == bounds:
        return instance
    try:
        if bounds.threads == 1:
            instance.execute(f"SET memory_limit = '{_memory(bounds)}'")
            instance.execute(f"SET temp_directory = '{_quoted(bounds.scratch)}'")
            return instance
    except duckdb.Error:
        pass  # it holds more than that, or spilled to the other folder: a new one does not
    instance.close()
    return _new(bounds)


def _new(bounds: Bounds) -> DuckDBPyConnection:
    return duckdb.connect(
        config={
            "threads": bounds.threads,
            "memory_limit": _memory(bounds),
            "temp_directory": str(bounds.scratch),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def _memory(bounds: Bounds) -> str:
    return f"{bounds.memory_bytes // 1024} KiB"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")

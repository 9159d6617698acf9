"""What DuckDB says, in our own errors: busy, damaged, or no room or memory, which is no damage."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from likeness.errors import BadInput, CatalogBusy, Damaged, TransientError

_SAYS_DAMAGED = (
    "Corrupt",
    "Could not read enough bytes",
    "not a valid DuckDB database",
    "Is a directory",
)
_BROKEN = (duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)


def doubt_of(path: Path) -> Path:
    """The side file that says that something in a catalog could not be read."""
    return path.with_name(f"{path.name}.doubt")


@contextmanager
def errors_translated(path: Path) -> Generator[None, None, None]:
    """Say what went wrong with the catalog file `path` in our own errors."""
    try:
        yield
    except (*_BROKEN, duckdb.IOException, duckdb.OutOfMemoryException) as cause:
        if _says_damaged(cause):
            doubt_of(path).touch(mode=0o600)
            raise _damaged(path, cause) from cause
        raise _not_used(path, cause) from cause


def not_opened(path: Path, cause: duckdb.Error) -> Exception:
    """Why a file did not open as a catalog."""
    if "lock on file" in str(cause):
        return CatalogBusy(f"a program that is not ours has the catalog {path} open: {cause}")
    if not path.exists():
        return BadInput(f"there is no catalog at {path}; create one, or recover it from the store")
    if not os.access(path, os.R_OK | os.W_OK):
        return BadInput(
            f"the catalog at {path} may not be read and written by this user; run as the user who"
            " made it, or give it to this one"
        )
    if "version number" in str(cause):
        return BadInput(
            f"the catalog at {path} was written by another release of its database library:"
            f" {cause}; install that release of Likeness, or move the file away"
        )
    if _says_damaged(cause):
        return _damaged(path, cause)
    return _not_used(path, cause)


def _says_damaged(cause: duckdb.Error) -> bool:
    """No room, no memory or no rights are no damage, whatever they keep from working."""
    return isinstance(cause, _BROKEN) or (
        isinstance(cause, duckdb.IOException) and any(w in str(cause) for w in _SAYS_DAMAGED)
    )


def _not_used(path: Path, cause: duckdb.Error) -> TransientError:
    return TransientError(
        f"the catalog at {path} could not be used and is unchanged: {cause}; look for room on"
        " its disk and for memory, then repeat"
    )


def _damaged(path: Path, cause: duckdb.Error) -> Damaged:
    return Damaged(
        str(path),
        f"it cannot be read as a catalog ({cause}); the next job, validation or sweep sets it aside"
        " and goes on with a copy",
    )

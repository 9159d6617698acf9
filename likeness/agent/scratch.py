"""Scratch files of an agent: in a folder of its own, and what killed agents left goes away."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "likeness-agent-"


@contextmanager
def scratch_folder() -> Generator[Path, None, None]:
    """A private folder while the `with` lasts; what agents left that are no more goes first.

    Whose agent still runs is told by a lock: it is held before a folder gets the name looked for.
    """
    _remove_what_is_left()
    with tempfile.TemporaryDirectory(prefix="likeness-new-agent-") as begun, _held(Path(begun)):
        folder = Path(begun).with_name(_PREFIX + begun.rpartition("-")[2])
        Path(begun).rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_what_is_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _held(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Generator[None, None, None]:
    """Hold a folder of ours while the `with` lasts, unless another process does."""
    handle = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(f"{folder} belongs to somebody else")
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)

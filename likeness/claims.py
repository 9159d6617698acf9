"""Claims: who is at work on what, on this host.

A claim is an `flock` on a small file, held as long as the work lasts. The kernel drops it the
moment its process dies, however that happens, so there is nothing to expire, to renew or to clear
by hand.
"""

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_ALLOWED = re.compile(r"[a-z]+-[0-9a-f]{32}\Z")


class Claimed(Exception):
    """Somebody else, alive, has this claim. Callers say what that means."""


@contextmanager
def claim(folder: Path, name: str) -> Generator[None, None, None]:
    """Hold the claim `name` while the `with` lasts.

    Args:
        folder: Where claims of this installation lie; a local folder.
        name: A word, a dash and 32 hex digits.

    Raises:
        Claimed: Another process or thread has it.
    """
    handle = _open(folder, name)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def is_claimed(folder: Path, name: str) -> bool:
    """Whether somebody alive holds the claim at this moment."""
    try:
        with claim(folder, name):
            return False
    except Claimed:
        return True


def _open(folder: Path, name: str) -> int:
    if _ALLOWED.match(name) is None:
        raise ValueError(f"{name!r} is no name for a claim")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(folder / f"{name}.claim", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        raise Claimed from cause

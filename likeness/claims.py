"""Claims: who is at work on what, on this host.

A claim is an `flock` on a small file, held as long as the work lasts. The kernel drops it the
moment its process dies, however that happens, so there is nothing to expire, to renew or to clear
by hand.
"""

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

_ALLOWED = re.compile(r"[a-z]+-[0-9a-f]{32}\Z")


class Claimed(Exception):
    """Somebody else, alive, has this claim. Callers say what that means."""


@contextmanager
def claim(folder: Path, name: str, *, says: str = "") -> Generator[None, None, None]:
    """Hold the claim `name` while the `with` lasts.

    Args:
        folder: Where claims of this installation lie; a local folder.
        name: A word, a dash and 32 hex digits.
        says: What others may learn of it, see `said_by_claims`.

    Raises:
        Claimed: Another process or thread has it.
    """
    handle = _taken(folder, name)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, says.encode(), 0)
        yield
    finally:
        os.close(handle)


def said_by_claim(folder: Path, name: str) -> str:
    """What the holder of a claim says, or whoever held it last."""
    try:
        return _path(folder, name).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def is_claimed(folder: Path, name: str) -> bool:
    """Whether somebody alive holds the claim at this moment."""
    if not _path(folder, name).exists():
        return False
    try:
        with claim(folder, name):
            return False
    except Claimed:
        return True


def said_by_claims(folder: Path, beginning: str) -> set[str]:
    """What those claims say that somebody alive holds and whose names begin so."""
    return {
        path.read_text()
        for path in folder.glob(f"{beginning}*.claim")
        if is_claimed(folder, path.stem)
    }


def forget_claims(folder: Path, beginning: str, *, made_before: datetime) -> int:
    """Remove the files of old claims that nobody holds; how many.

    Args:
        folder: Where claims of this installation lie.
        beginning: Of the claims' names.
        made_before: Younger files stay: somebody may be about to take them.
    """
    removed = 0
    for path in folder.glob(f"{beginning}*.claim"):
        with suppress(Claimed, FileNotFoundError):
            if path.stat().st_mtime < made_before.timestamp():
                with claim(folder, path.stem):
                    path.unlink()
                removed += 1
    return removed


def _taken(folder: Path, name: str) -> int:
    """The claim's file, locked, and still the one that others will find under its name."""
    while True:
        handle = _open(folder, name)
        try:
            _lock(handle)
            if _is_at(handle, _path(folder, name)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _path(folder: Path, name: str) -> Path:
    if _ALLOWED.match(name) is None:
        raise ValueError(f"{name!r} is no name for a claim")
    return folder / f"{name}.claim"


def _open(folder: Path, name: str) -> int:
    path = _path(folder, name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        raise Claimed from cause

"""Reading a secret from a file: small, for its owner alone, and there within seconds."""

import os
import select
import stat
from collections.abc import Iterator
from pathlib import Path

from likeness.clock import stopwatch
from likeness.codec.typed import text_of
from likeness.errors import BadInput

_MAX_BYTES = 1 << 16
_NO_WRITER_SECONDS = 3.0
_QUIET_SECONDS = 30.0
"""A pipe's writer may ask a person something first."""


def read_secret(path: Path, what: str, *, otherwise: str) -> str:
    """The text of a file that holds a secret, with plain line ends.

    Args:
        path: A file, or a pipe that somebody writes.
        what: What to call it, such as ``the key file``.
        otherwise: What to do when it cannot be read.

    Raises:
        BadInput: It cannot be read, is no text, too large, or others may read it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            mode = os.fstat(handle).st_mode
            _require_private(path, what, mode)
            data = b"".join(_pieces(handle, mode))
        finally:
            os.close(handle)
        if len(data) > _MAX_BYTES:
            raise BadInput(
                f"{what} {path} has more than {_MAX_BYTES >> 10} KiB, so it is another file;"
                f" {otherwise}"
            )
        return text_of(data)
    except UnicodeDecodeError as cause:
        raise BadInput(
            f"{what} {path} cannot be read: it is no text in UTF-8 or UTF-16; {otherwise}"
        ) from cause
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or str(cause)
        raise BadInput(f"{what} {path} cannot be read: {why}; {otherwise}") from cause


def _require_private(path: Path, what: str, mode: int) -> None:
    if (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)) and stat.S_IMODE(mode) & 0o077:
        raise BadInput(f"other users can read {what} {path}; run: chmod 600 {path}")


def _pieces(handle: int, mode: int) -> Iterator[bytes]:
    """What the file holds, at most a little more than a secret may have.

    Raises:
        TimeoutError: It is a pipe, and nobody writes into it.
    """
    size, begun, patience = 0, stopwatch(), _NO_WRITER_SECONDS
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    hung_up = not stat.S_ISFIFO(mode)
    while size <= _MAX_BYTES:
        try:
            piece = os.read(handle, _MAX_BYTES)
        except BlockingIOError:
            piece, patience = b"", _QUIET_SECONDS  # a writer is there, and silent
        else:
            if not piece and (size or hung_up):
                return
        if piece:
            size, begun = size + len(piece), stopwatch()
            yield piece
            continue
        left = patience - (stopwatch() - begun)
        if left <= 0:
            raise TimeoutError(f"it is a pipe, and nothing came within {patience:.0f} s")
        events = waiting.poll(min(left, 0.2) * 1000)
        hung_up = any(event & select.POLLHUP for _, event in events)

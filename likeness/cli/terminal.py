"""Talking to a person at a terminal, or to the program that started this one.

Results go to standard output, everything else to standard error. Secrets are asked for without
showing them; where standard input is no terminal, each is read as one line of it.
"""

import getpass
import os
import stat
import sys
from pathlib import Path

from likeness.clock import stopwatch
from likeness.errors import BadInput
from likeness.model.sizes import readable_size

_SECONDS_BETWEEN = 1.0
_MOST_SECRET_CHARACTERS = 4096


def say(text: str = "") -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{text}\n")


def tell(text: str) -> None:
    """Write a line that is no result: a question, an error, how far it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """Text of somebody else's making without anything that steers a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def ask_secret(question: str) -> str:
    """Ask for something that nobody may see.

    Raises:
        BadInput: There is no answer.
    """
    if sys.stdin.isatty():
        try:
            answer = getpass.getpass(f"{question}: ", stream=sys.stderr)
        except EOFError:
            answer = ""
    else:
        answer = _line(question)
    return _given(answer, question)


def ask_words(question: str) -> str:
    """Ask for recovery words; they are shown as they are typed, since nobody types 24 blind.

    Raises:
        BadInput: There is no answer.
    """
    return _given(_line(question), question)


def secret_in(path: Path) -> str:
    """The text of a file that only its owner may read, without the line's end.

    Raises:
        BadInput: It cannot be read, is empty, or others may read it.
    """
    try:
        mode = path.stat().st_mode
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_SECRET_CHARACTERS)
    except (OSError, UnicodeDecodeError) as cause:
        raise BadInput(f"{path} cannot be read: {cause}; name a file with the secret in it") from (
            cause
        )
    if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise BadInput(f"other users can read {path}; run: chmod 600 {path}")
    return _given(text.rstrip("\r\n"), str(path))


def _line(question: str) -> str:
    sys.stderr.write(f"{question}: ")
    sys.stderr.flush()
    line = sys.stdin.readline(_MOST_SECRET_CHARACTERS)
    if not sys.stdin.isatty():
        sys.stderr.write("\n")
    return line.rstrip("\r\n")


def _given(answer: str, question: str) -> str:
    if not answer.strip():
        raise BadInput(f"nothing was given for {question!r}; run again and answer it")
    return answer


class Meter:
    """Says on standard error how far something is, at most once a second."""

    def __init__(self, what: str, total_bytes: int | None = None) -> None:
        """Begin; without a total only what is done is shown."""
        self._what, self._total, self._done = what, total_bytes, 0
        self._shown_at = stopwatch()
        self._own_line = os.isatty(sys.stderr.fileno())

    def add(self, done_bytes: int) -> None:
        """Note that more bytes are done."""
        self._done += done_bytes
        if stopwatch() - self._shown_at >= _SECONDS_BETWEEN:
            self._shown_at = stopwatch()
            self._show(end="" if self._own_line else "\n")

    def finish(self) -> None:
        """Show the end."""
        self._show(end="\n")

    def _show(self, *, end: str) -> None:
        done = readable_size(self._done)
        if self._total is not None:
            share = 100 * self._done // max(self._total, 1)
            done = f"{done} of {readable_size(self._total)} ({share} %)"
        sys.stderr.write(f"{chr(13) if self._own_line else ''}{self._what}: {done}{end}")
        sys.stderr.flush()

"""Talking to a person at a terminal, or to the program that started this one.

Results go to standard output, everything else to standard error. Secrets are asked for without
showing them; where standard input is no terminal, each is read as one line of it.
"""

import getpass
import io
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import TextIO

import click

from likeness.clock import stopwatch
from likeness.codec.secret_files import read_secret
from likeness.codec.slots import WORDS
from likeness.codec.typed import each_word, encoding_of
from likeness.errors import BadInput
from likeness.model.sizes import readable_size

_SECONDS_BETWEEN = 1.0
_BAR = 24
_MAX_SECRET_CHARACTERS = 4096


def say(text: str = "") -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{text}\n")


def say_json(document: object) -> None:
    """Write the result for a program: one document, whatever letters the terminal has."""
    say(json.dumps(document, indent=2, default=str))


def tell(text: str) -> None:
    """Write a line that is no result: a question, an error, how far it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def complain(text: str) -> None:
    """Write why something could not be done; in red where there is a terminal for it."""
    said = f"likeness: {printable(text)}"
    tell(click.style(said, fg="red") if _in_colour(sys.stderr) else said)


def coloured(text: str, colour: str) -> str:
    """A part of the result in a colour, where there is a terminal for it."""
    return click.style(text, fg=colour) if _in_colour(sys.stdout) else text


def _in_colour(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """Text of somebody else's making without anything that steers a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def ask_secret(question: str) -> str:
    """Ask for something that nobody may see.

    Raises:
        BadInput: There is no answer, or none that can be read.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        try:
            answer = getpass.getpass(f"{question}: ", stream=sys.stderr)
        except EOFError:
            answer = ""
        except UnicodeDecodeError as cause:
            raise _unreadable(question) from cause
    else:
        sys.stderr.write(f"{question}: ")
        answer = _line(question).rstrip("\n")
    return _given(answer, question)


def ask(question: str) -> str:
    """Ask for something that may be seen; empty if there is no answer.

    Raises:
        BadInput: What was given cannot be read.
    """
    sys.stderr.write(f"{question}: ")
    sys.stderr.flush()
    return _line(question).rstrip("\n")


def ask_words(question: str) -> str:
    """Ask for recovery words; they are shown as they are typed, since nobody types 24 blind.

    They may come in several lines; an empty one ends them at a terminal.

    Raises:
        BadInput: There is no answer, or none that can be read.
    """
    sys.stderr.write(f"{question}: ")
    sys.stderr.flush()
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    given = ""
    while len(each_word(given)) < WORDS:
        line = _line(question)
        given += line
        if not line or (at_terminal and not line.strip()):
            break
        if at_terminal and (known := len(each_word(given))) < WORDS:
            tell(f"{known} of {WORDS} words; go on, or press Enter to end")
    return _given(given, question)


def secret_in(path: Path) -> str:
    """The one line of a file that only its owner may read.

    Raises:
        BadInput: It cannot be read, is empty or has more lines, or others may read it.
    """
    text = _text_in(path).rstrip("\n")
    if "\n" in text or "\0" in text:
        raise BadInput(f"the file {path} has more than one line of text; leave the secret alone")
    return _given(text, str(path))


def words_in(path: Path) -> str:
    """The text of a file with recovery words, that only its owner may read.

    Raises:
        BadInput: It cannot be read or is empty, or others may read it.
    """
    return _given(_text_in(path), str(path))


def _text_in(path: Path) -> str:
    return read_secret(path, "the file", otherwise="name a file with the secret in it")


def _line(question: str) -> str:
    """One line of what was given, with its end; empty when there is no more.

    Raises:
        BadInput: It is longer than any secret, or cannot be read.
    """
    sys.stderr.flush()
    if sys.stdin is None:
        sys.stderr.write("\n")
        raise BadInput(f"nothing can be given for {question!r}: standard input is closed")
    try:
        source = sys.stdin if sys.stdin.isatty() else _decoded(sys.stdin)
        line = source.readline(_MAX_SECRET_CHARACTERS)
    except UnicodeDecodeError as cause:
        raise _unreadable(question) from cause
    finally:
        if not sys.stdin.isatty():
            sys.stderr.write("\n")
    if len(line) >= _MAX_SECRET_CHARACTERS or "\0" in line:
        raise BadInput(f"what was given for {question!r} is no line of text; run again")
    return line


@cache
def _decoded(source: TextIO) -> TextIO:
    """Standard input by the mark it begins with; by what the system says if there is none."""
    raw = getattr(source, "buffer", None)
    if not isinstance(raw, io.BufferedReader):
        return source
    return io.TextIOWrapper(raw, encoding_of(raw.peek(4)[:4], source.encoding))


def _unreadable(question: str) -> BadInput:
    return BadInput(
        f"what was given for {question!r} is no text in the encoding of this terminal; set LANG,"
        " such as LANG=C.UTF-8, and run again"
    )


def _given(answer: str, question: str) -> str:
    if not answer.strip():
        raise BadInput(f"nothing was given for {question!r}; run again and answer it")
    return answer


def speak_any_encoding() -> None:
    """Write what this terminal has no letters for as escapes, instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Meter:
    """Says on standard error how far something is: a bar on a terminal, else a line a second."""

    def __init__(self, what: str, total_bytes: int | None = None) -> None:
        """Begin; without a total only what is done is shown."""
        self._what, self._total, self._done = what, total_bytes, 0
        self._begun_at = self._shown_at = stopwatch()
        self._own_line = sys.stderr.isatty()

    def add(self, done_bytes: int) -> None:
        """Note that more bytes are done."""
        self._done += done_bytes
        between = _SECONDS_BETWEEN if not self._own_line else _SECONDS_BETWEEN / 5
        if stopwatch() - self._shown_at >= between:
            self._shown_at = stopwatch()
            self._show(end="" if self._own_line else "\n")

    def finish(self) -> None:
        """Show the end."""
        self._show(end="\n")

    def _show(self, *, end: str) -> None:
        done, bar = readable_size(self._done), ""
        if self._total is not None:
            share = min(self._done / max(self._total, 1), 1.0)
            done = f"{done} of {readable_size(self._total)} ({int(100 * share)} %)"
            full = int(_BAR * share)
            bar = f"[{'#' * full}{'-' * (_BAR - full)}] " if self._own_line else ""
        if self._own_line:
            speed = self._done / max(stopwatch() - self._begun_at, 0.001)
            done = f"{bar}{done}, {readable_size(int(speed))}/s"
            sys.stderr.write(f"\r{self._what}: {done}\x1b[K{end}")
        else:
            sys.stderr.write(f"{self._what}: {done}{end}")
        sys.stderr.flush()

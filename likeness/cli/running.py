"""Carrying out one command, and saying in one sentence why it could not be.

Exit codes: 0 all is well; 1 something is damaged, overdue or failed, or the fingerprint is another
one; 2 bad use, or the wrong key; 3 the store or server could not be reached, or not be checked in
full, or its answer not be written; 130 somebody stopped it.
"""

import io
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from likeness.cli.arguments import parser
from likeness.cli.completing import VARIABLE
from likeness.cli.options import Call
from likeness.cli.terminal import complain, speak_any_encoding, tell
from likeness.errors import (
    Damaged,
    LikenessError,
    ObjectMissing,
    ShareFull,
    ShareRefused,
    Stopped,
    TransientError,
    WrongFingerprint,
)
from likeness.stopping import StopToken
from likeness.transport.tuning import keep_large_buffers

FINE, DAMAGE, BAD_USE, UNREACHED, STOPPED = 0, 1, 2, 3, 130


def run_alone(command: click.Command) -> int:
    """Carry out one command that was started as a module of its own; its exit code."""
    return main(sys.argv[1:], command)


def main(arguments: Sequence[str], command: click.Command | None = None) -> int:
    """Carry out a command line; return the exit code.

    Args:
        arguments: What was typed.
        command: The one command that is meant; if none, the first argument names it.
    """
    _occupy_closed_handles()
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    if sys.stdout is None:
        tell("likeness: standard output is closed, so nobody would get the answer; nothing done")
        return BAD_USE
    speak_any_encoding()
    if any("\0" in each for each in arguments):
        tell("likeness: an argument has a NUL in it, which no name, place or key has; correct it")
        return BAD_USE
    keep_large_buffers()
    try:
        return _carry_out(arguments, command)
    except BrokenPipeError:
        _silence()
        return UNREACHED  # whatever was found, nobody was told all of it


def _occupy_closed_handles() -> None:
    """Let no object or image get the number of a standard stream that was closed at the start.

    Whatever library writes an error to number 2 would write it into a restored disk.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def _carry_out(arguments: Sequence[str], command: click.Command | None) -> int:
    stop = StopToken()
    try:
        understood = _understood(arguments, command)
        if not isinstance(understood, Call):  # --help or --version, which has been answered
            sys.stdout.flush()
            return understood
        with _stopped_by_signals(stop):
            code = understood.handler(understood.options, stop)
            sys.stdout.flush()
            return code
    except click.ClickException as error:
        return _misused(error)
    except LikenessError as error:
        complain(str(error))
        return _code_of(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(f"{_told(error)}; see to that, then run again")
        _say_the_rest()
        return UNREACHED


def _understood(arguments: Sequence[str], command: click.Command | None) -> Call | int:
    """What is to be done, or the exit code of what was answered already."""
    found: Call | int | None = (command or parser()).main(
        list(arguments),
        prog_name=f"likeness {command.name}" if command else "likeness",
        complete_var=VARIABLE,
        standalone_mode=False,
    )
    return found if found is not None else FINE


def _misused(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if context is not None:
        tell(context.get_usage())
        tell(f"`{context.command_path} --help` says more")
    complain(error.format_message())
    return BAD_USE


def _told(error: OSError) -> str:
    cause = error.strerror or str(error)
    return f"{error.filename}: {cause}" if error.filename else cause


def _say_the_rest() -> None:
    """Write what was found so far, if standard output is not what went wrong."""
    try:
        sys.stdout.flush()
    except OSError:
        _silence()


def _silence() -> None:
    """Let the flush at exit go nowhere: whoever reads standard output takes nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code_of(error: LikenessError) -> int:
    if isinstance(error, Stopped):
        return STOPPED
    if isinstance(error, (Damaged, ObjectMissing, WrongFingerprint)):
        return DAMAGE
    if isinstance(error, (TransientError, ShareRefused, ShareFull)):
        return UNREACHED
    return BAD_USE


@contextmanager
def _stopped_by_signals(stop: StopToken) -> Generator[None, None, None]:
    """The first Ctrl-C asks everybody to clean up and leave; the second ends the process."""

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.stop()
        signal.signal(number, signal.SIG_DFL)
        raise Stopped("stopped on request; nothing is left half done")

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Commands that the agent runs on its machine."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from likeness.clock import stopwatch
from likeness.errors import BadInput
from likeness.stopping import StopToken

_STEP_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_MAX_SAID = 200


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """What became of a command that people gave.

    Attributes:
        which: Before the disks were frozen, or after.
        code: Its exit code; none if it took too long.
        said: The end of what it said.
    """

    which: str
    code: int | None
    seconds: float
    said: str

    def sentence(self) -> str:
        """For the report."""
        ended = "took too long and was ended" if self.code is None else f"exit code {self.code}"
        told = f" ({self.said})" if self.said and self.code != 0 else ""
        return f"script {self.which} the snapshot: {ended}, {self.seconds:.1f} s{told}"


def environment() -> dict[str, str]:
    """The machine's own: one executable has libraries of its own, which no other may get."""
    there = dict(os.environ)
    if getattr(sys, "frozen", False):
        there.pop("LD_LIBRARY_PATH", None)
        if original := there.pop("LD_LIBRARY_PATH_ORIG", ""):
            there["LD_LIBRARY_PATH"] = original
    there["PATH"] = f"{there.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    return there | {"LC_ALL": "C"}


def run(command: Sequence[str], *, seconds: float = _STEP_SECONDS) -> str:
    """Run a program; what it printed.

    Raises:
        BadInput: It is not there, fails or hangs.
    """
    try:
        done = subprocess.run(  # noqa: S603  # programs of the system, no shell
            command, capture_output=True, timeout=seconds, env=environment(), check=True
        )
    except FileNotFoundError as cause:
        raise BadInput(f"the guest has no program {command[0]}; install it") from cause
    except subprocess.TimeoutExpired as cause:
        raise BadInput(f"{command[0]} hung in the guest for {seconds:.0f} s; look there") from cause
    except (OSError, subprocess.CalledProcessError) as cause:
        said = getattr(cause, "stderr", b"").decode(errors="replace").strip()[-_MAX_SAID:]
        raise BadInput(f"{command[0]} failed in the guest: {said or cause}") from cause
    return done.stdout.decode(errors="replace")


def run_script(which: str, command: str, seconds: float, stop: StopToken) -> ScriptResult:
    """Run what people gave, in a shell, and end it with all it started when its time is over.

    Raises:
        Stopped: On request; it was ended.
    """
    begun = stopwatch()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603  # it is what the guest's owner wrote down
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=environment(),
            start_new_session=True,
        )
        try:
            while process.poll() is None and stopwatch() - begun < seconds:
                stop.check()
                stop.wait(_LOOK_SECONDS)
        finally:
            code = process.poll()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0, os.SEEK_END)
        said.seek(max(0, said.tell() - _MAX_SAID))
        told = " ".join(said.read().decode(errors="replace").split())
    return ScriptResult(which, code, stopwatch() - begun, told)

"""Commands of `python -m likeness` without the half second that an interpreter takes to start.

One process loads the command line once and forks for each command: a process of its own, with its
own standard streams, environment and folder. Whatever depends on how an interpreter starts, such
as the encoding of a terminal or a closed stream, is tested with a new one instead.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MAX_MESSAGE = 1 << 20


def run_warm(
    words: Sequence[str], *, folder: Path, environment: Mapping[str, str], given: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    """What ``python -m likeness WORDS`` ends with and says, when it is given those bytes."""
    asked = json.dumps([list(words), str(folder), {**os.environ, **environment}])
    with (
        tempfile.TemporaryFile() as entered,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        entered.write(given)
        entered.seek(0)
        streams = [each.fileno() for each in (entered, out, err)]
        warm = _warm_process(os.getpid())
        socket.send_fds(warm, [asked.encode("utf-8", "surrogateescape")], streams)
        code = int(warm.recv(64))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), err.read())


@cache
def _warm_process(_owner: int) -> socket.socket:
    """It ends when this process does, and what it was asked to run with it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        os.set_inheritable(there.fileno(), True)  # noqa: FBT003
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "tests.support.warm", str(there.fileno())],
            {**os.environ, "PYTHONPATH": str(ROOT)},
            setsid=True,
        )
    return here


def _serve(asked: socket.socket) -> None:
    """Fork for each command; return in the child, with everything set as it was asked."""
    while True:
        message, streams, *_ = socket.recv_fds(asked, _MAX_MESSAGE, 3)
        if not message:
            sys.exit()
        child = os.fork()
        if not child:
            asked.close()
            _become(json.loads(message.decode("utf-8", "surrogateescape")), streams)
            return
        for each in streams:
            os.close(each)
        asked.send(str(_ended(child, asked)).encode())


def _ended(child: int, asked: socket.socket) -> int:
    """The exit code of a command, as `subprocess` gives it; killed if nobody waits any more."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, asked.fileno()], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(wanted: list[object], streams: list[int]) -> None:
    words, folder, environment = wanted
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(folder))
    os.environ.clear()
    os.environ.update(environment)  # type: ignore[call-overload]  # what was sent
    sys.argv = ["likeness", *words]  # type: ignore[misc]  # what was sent
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115


if __name__ == "__main__":
    from likeness.__main__ import run

    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(run())

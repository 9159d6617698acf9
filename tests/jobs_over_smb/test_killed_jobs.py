"""The process that backs up is killed at any moment, and what was acknowledged is there."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from likeness.store.format import layout
from tests.jobs_over_smb.walk import ALL, BOUND, Job
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb

JobMaker = Callable[..., Job]
ROOT = Path(__file__).parents[2]
NORMAL, LONG = 8, 150
ALIVE_SECONDS = (0.02, 0.8)


class Child:
    """A process that transfers and commits one version after the other, and says so."""

    def __init__(self, job: Job, folder: Path, seed: str) -> None:
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs_over_smb.backing_up"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        server, workshop = job.server, job.workshop
        self._type(server.port, server.username, server.password, job.path, folder)
        disk = workshop.disk_ids[workshop.vm, 0]
        self._type(workshop.key_file, workshop.vm, disk, seed)

    def kill_after(self, seconds: float) -> list[tuple[str, bytes]]:
        """Let it go, kill it; names of the records it called committed, and their disks."""
        assert self._line() == "ready"
        self._type("go")
        assert self._line() == "gone"
        time.sleep(seconds)
        self._process.kill()
        said, _ = self._process.communicate(timeout=BOUND)
        assert self._process.returncode == -signal.SIGKILL
        lines = [line.split() for line in said.splitlines(keepends=True) if line.endswith("\n")]
        return [(name, ALL[int(which)]) for name, which in lines]

    def end(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=BOUND)

    def _type(self, *lines: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def kill_many(job: Job, folder: Path, *, seed: int, times: int) -> tuple[int, int]:
    """Kill a job at random moments.

    Returns:
        How many versions were committed on the way, and how many kills left something behind in an
        inbox.
    """
    moments = random.Random(seed)
    committed = caught = inboxes = 0
    with ExitStack() as children:

        def start(number: int) -> Child:
            child = Child(job, folder / f"child-{seed}-{number}", f"{seed} {number}")
            children.callback(child.end)
            return child

        coming = start(0)
        for number in range(times):
            child, coming = coming, start(number + 1)
            found = child.kill_after(moments.uniform(*ALIVE_SECONDS))
            job.reconnect()
            there = {version.name: version for version in job.versions()}
            assert {name for name, _ in found} <= set(there), "an acknowledged version is gone"
            job.known += [(there[name], disk) for name, disk in found]
            committed += len(found)
            caught += len(job.transport.folders(layout.INBOX)) > inboxes
            inboxes = len(job.transport.folders(layout.INBOX))
    return committed, caught


def test_a_job_killed_at_any_moment_loses_nothing(
    server: SmbServer, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job()

    committed, caught = kill_many(job, tmp_path, seed=20310506, times=NORMAL)

    assert caught, "no kill struck a transfer or a commit"
    print(f"{NORMAL} kills, {caught} of them in mid-job; {committed} versions acknowledged")
    job.require_whole()


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_a_job_killed_again_and_again_loses_nothing(
    server: SmbServer, make_job: JobMaker, tmp_path: Path, seed: int
) -> None:
    job = make_job()
    for part in range(LONG // 10):
        kill_many(job, tmp_path, seed=1000 * seed + part, times=10)
        job.require_whole()

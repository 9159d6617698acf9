"""A server that was only frozen does later what the client gave up: nothing is done twice."""

import os
import signal
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from likeness.errors import ShareUnreachable
from likeness.model.ids import PackId
from likeness.store.format import layout
from tests.jobs_over_smb.walk import SHORT, Ended, Job, Moment
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb

JobMaker = Callable[..., Job]


class Stopped:
    """Serving processes of the server that were stopped, while new ones serve new connections."""

    def __init__(self, server: SmbServer) -> None:
        self._server = server
        self.pids: list[int] = []

    def stop(self) -> None:
        """Stop them between two requests: inside one they may hold what new ones wait for."""
        looked = 0
        while looked < 3:  # another thread of the job may just open its connection
            self._stop_idle(new := set(self._server._serving()) - set(self.pids))
            looked = 0 if new else looked + 1
            time.sleep(0.05)

    def _stop_idle(self, pids: Collection[int]) -> None:
        idle, until = 0, time.monotonic() + 30
        while pids and idle < 5 and time.monotonic() < until:
            idle = idle + 1 if all(is_asleep(pid) for pid in pids) else 0
            time.sleep(0.002)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            self.pids.append(pid)

    def go_on(self) -> None:
        """Let them carry out what they were asked, and wait until they are done and gone."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        until = time.monotonic() + 30
        while set(self.pids) & set(self._server.pids()) and time.monotonic() < until:
            time.sleep(0.01)
        assert not set(self.pids) & set(self._server.pids())
        self.pids = []


def is_asleep(pid: int) -> bool:
    """Whether no thread of a process computes or waits for a disk."""
    states = []
    for told in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            states.append(told.read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"S"}


@contextmanager
def stopped_at(job: Job, moment: Moment) -> Generator[tuple[Ended, Stopped], None, None]:
    """A job whose connections fell silent at a moment, for longer than its deadline."""
    stopped = Stopped(job.server)
    job.transport.strike(moment, stopped.stop)
    try:
        ended = job.go()
        assert isinstance(ended.problem, ShareUnreachable)
        assert "did not answer for 3 seconds" in str(ended.problem)
        job.reconnect()
        yield ended, stopped
    finally:
        for pid in stopped.pids:
            os.kill(pid, signal.SIGCONT)


MOMENTS = [
    Moment("rename", "in", 2),
    Moment("create", "maps", 2),
    Moment("create", "index", 1),
    Moment("create", "versions", 1),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_what_is_carried_out_after_the_repeat_does_no_harm(
    make_job: JobMaker, moment: Moment
) -> None:
    job = make_job(deadline_seconds=SHORT)
    with stopped_at(job, moment) as (ended, stopped):
        assert ended.receipt is not None
        version = job.repeat(ended.receipt)

        stopped.go_on()

        assert [each.record.run for each in job.versions()].count(ended.receipt.run) == 1
        assert job.repeat(ended.receipt) == version
    job.require_whole()


@pytest.mark.parametrize("moment", [MOMENTS[0], MOMENTS[3]], ids=str)
def test_what_is_carried_out_before_the_repeat_is_not_done_again(
    make_job: JobMaker, moment: Moment
) -> None:
    job = make_job(deadline_seconds=SHORT)
    with stopped_at(job, moment) as (ended, stopped):
        assert ended.receipt is not None
        stopped.go_on()

        version = job.repeat(ended.receipt)

        assert [each.record.run for each in job.versions()].count(ended.receipt.run) == 1
        assert job.repeat(ended.receipt) == version
    job.require_whole()


def test_packs_that_are_moved_between_the_look_and_the_move_are_admitted(
    make_job: JobMaker,
) -> None:
    """As a server would that carries out the moves of an earlier attempt at this very moment."""
    job = make_job()
    receipt = job.transfer()

    def move_all() -> None:
        for arrived in job.place.glob("in/*/*"):
            target = job.place / layout.pack(PackId(arrived.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another thread of the commit was faster
                arrived.rename(target)

    job.transport.strike(Moment("rename", "in", 1), move_all)

    job.repeat(receipt)

    assert job.transport.settled()
    assert job.transport.folders(layout.INBOX) == []
    job.require_whole()

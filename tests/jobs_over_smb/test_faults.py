"""The share fails in the middle of a job: it completes or says why, and nothing is lost."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.errors import LikenessError, ShareFull, ShareRefused, ShareUnreachable
from likeness.transport.smb import SmbTransport
from tests.jobs_over_smb.walk import (
    BOUND,
    PACKS_OF_THIRD,
    SHORT,
    THIRD,
    Ended,
    Job,
    Moment,
    is_a_sentence,
)
from tests.smb.server import SmbServer

pytestmark = pytest.mark.smb

JobMaker = Callable[..., Job]
MIB = 1 << 20

IN_TRANSFER = [
    Moment("create", "in", 1),
    Moment("create", "in", 3, during=True),
    Moment("create", "in", PACKS_OF_THIRD),
]
IN_COMMIT = [
    Moment("rename", "in", 1),
    Moment("rename", "in", 3, during=True),
    Moment("create", "maps", 1, during=True),
    Moment("create", "maps", 2),
    Moment("create", "index", 1),
    Moment("create", "versions", 1, during=True),
    Moment("create", "versions", 1),
    Moment("delete_folder", "in", 1),
]
SOME = [IN_TRANSFER[0], IN_TRANSFER[1], IN_COMMIT[0], IN_COMMIT[3], IN_COMMIT[6]]
"""Where the outcome does not depend on what a call had done already."""
IN_MID_CALL = [moment for moment in (*IN_TRANSFER, *IN_COMMIT) if moment.during]
WRITING = [moment for moment in IN_COMMIT if moment.call == "create" and not moment.during]


def cured(job: Job, ended: Ended, *, error: type[LikenessError], says: str) -> None:
    """The job ended as it may, and the share is well again: nothing is lost, and all goes on."""
    if ended.problem is not None:
        assert is_a_sentence(ended.problem), repr(ended.problem)
        assert isinstance(ended.problem, error), repr(ended.problem)
        assert re.search(says, str(ended.problem)), str(ended.problem)
    assert ended.seconds < BOUND
    job.reconnect()
    if ended.version is None and ended.receipt is not None:
        version = job.repeat(ended.receipt)
        assert version.record.run == ended.receipt.run
    job.require_whole()


def test_a_job_completes_over_an_encrypted_share(server: SmbServer, make_job: JobMaker) -> None:
    job = make_job()

    ended = job.go()

    assert ended.problem is None
    assert ended.receipt is not None
    assert ended.receipt.packs.packs == PACKS_OF_THIRD
    job.require_whole()
    kept = [path.read_bytes() for path in job.place.rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert not any(THIRD[at : at + 16] in data for data in kept for at in range(0, 1 << 20, 65536))
    assert isinstance(job.transport.inner, SmbTransport)


# --- connections are lost ------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [*IN_TRANSFER, *IN_COMMIT], ids=str)
def test_killed_connections(server: SmbServer, make_job: JobMaker, moment: Moment) -> None:
    job = make_job()
    job.transport.strike(moment, server.kill_connections)

    ended = job.go()

    assert job.transport.settled()
    if moment in IN_TRANSFER:
        assert ended.problem is None
    cured(job, ended, error=ShareUnreachable, says="then run again|dropped the session; run again")


@pytest.mark.parametrize(
    "moment", [IN_TRANSFER[1], IN_COMMIT[1], IN_COMMIT[2], IN_COMMIT[5]], ids=str
)
def test_a_server_that_crashes_and_comes_back(
    server: SmbServer, make_job: JobMaker, moment: Moment
) -> None:
    job = make_job()

    def crash() -> None:
        server.kill()
        server.start()

    job.transport.strike(moment, crash)

    ended = job.go()

    assert job.transport.settled()
    if moment in IN_TRANSFER:
        assert ended.problem is None
    cured(job, ended, error=ShareUnreachable, says="then run again|dropped the session; run again")


@pytest.mark.parametrize("moment", [IN_TRANSFER[1], IN_COMMIT[1], IN_COMMIT[5]], ids=str)
def test_a_server_that_does_not_come_back_for_long(
    server: SmbServer, make_job: JobMaker, moment: Moment
) -> None:
    job = make_job(deadline_seconds=SHORT)
    job.transport.strike(moment, server.kill)

    ended = job.go()
    server.start()

    if moment in IN_TRANSFER:
        assert ended.problem is not None
    cured(job, ended, error=ShareUnreachable, says=r"127\.0\.0\.1.*then run again")


# --- the server falls silent ---------------------------------------------------------------------


@pytest.mark.parametrize("moment", [IN_TRANSFER[1], IN_COMMIT[1], IN_COMMIT[6]], ids=str)
def test_a_server_that_is_silent_for_less_than_the_deadline(
    server: SmbServer, make_job: JobMaker, moment: Moment
) -> None:
    job = make_job(deadline_seconds=20.0)

    def pause() -> None:
        server.freeze()
        threading.Timer(1.0, server.thaw).start()

    job.transport.strike(moment, pause)

    ended = job.go()

    assert job.transport.settled()
    assert ended.problem is None
    assert ended.seconds > 0.9
    cured(job, ended, error=ShareUnreachable, says="never")


@pytest.mark.parametrize("moment", [IN_TRANSFER[2]], ids=str)
def test_a_transfer_goes_on_when_a_silent_server_answers_again(
    server: SmbServer, make_job: JobMaker, moment: Moment
) -> None:
    job = make_job(deadline_seconds=SHORT)

    def pause() -> None:
        server.freeze()
        threading.Timer(SHORT + 0.5, server.thaw).start()

    job.transport.strike(moment, pause)

    ended = job.go()

    assert ended.problem is None
    assert ended.seconds > SHORT
    cured(job, ended, error=ShareUnreachable, says="never")


@pytest.mark.parametrize(
    "moment", [IN_TRANSFER[1], IN_COMMIT[0], IN_COMMIT[6], IN_COMMIT[7]], ids=str
)
def test_a_server_that_stays_silent(server: SmbServer, make_job: JobMaker, moment: Moment) -> None:
    job = make_job(deadline_seconds=SHORT)
    job.transport.strike(moment, server.freeze)

    ended = job.go()
    server.thaw()

    assert ended.problem is not None
    cured(job, ended, error=ShareUnreachable, says="did not answer for 3 seconds; check that it")


# --- no room, no right, no account ---------------------------------------------------------------


@pytest.mark.parametrize("moment", [*IN_TRANSFER[1:], *WRITING], ids=str)
def test_a_share_that_is_full(server: SmbServer, tmp_path: Path, moment: Moment) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: only root mounts a small file system")
    with server.small("ads", size_bytes=48 * MIB):
        job = Job(server, tmp_path)
        filler = server.folder() / "filler"
        job.transport.strike(moment, lambda: fill_up(filler))

        ended = job.go()

        assert job.transport.settled()
        filler.unlink()
        if not moment.during:  # else the rest may have had its room before
            assert ended.problem is not None
        cured(job, ended, error=ShareFull, says="no room left for the account .* then run again")
        job.transport.close()


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@pytest.mark.parametrize("moment", SOME, ids=str)
def test_a_share_that_becomes_read_only(
    server: SmbServer, make_job: JobMaker, moment: Moment
) -> None:
    job = make_job()
    job.transport.strike(moment, lambda: server.set_read_only("ads"))

    ended = job.go()

    assert job.transport.settled()
    server.set_read_only("ads", read_only=False)
    if not moment.during:
        assert isinstance(ended.problem, ShareRefused)
    cured(job, ended, error=LikenessError, says="the share is not read-only|run again")


@pytest.mark.parametrize("moment", SOME, ids=str)
def test_a_password_that_is_changed(server: SmbServer, make_job: JobMaker, moment: Moment) -> None:
    job = make_job()

    def change() -> None:
        server.set_password("another-one")
        server.kill_connections()

    job.transport.strike(moment, change)

    ended = job.go()

    assert job.transport.settled()
    if not moment.during:
        assert isinstance(ended.problem, ShareRefused)
        assert re.search(
            "does not accept the account .* check its name and pass", str(ended.problem)
        )
    assert "another-one" not in repr(ended.problem)
    cured(job, ended, error=LikenessError, says="does not accept the account|run again")


def test_sessions_outlive_a_change_of_the_password(server: SmbServer, make_job: JobMaker) -> None:
    job = make_job()
    job.transport.strike(IN_TRANSFER[1], lambda: server.set_password("another-one"))

    ended = job.go()

    assert ended.problem is None
    cured(job, ended, error=LikenessError, says="never")

"""Logging in, and staying logged in while a pool goes through what pools go through."""

import socket
import threading
from urllib.parse import urlsplit

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.errors import BadInput, HostUnreachable, LoginRefused, Stopped
from likeness.stopping import StopToken
from likeness.xen.failures import Refusal
from likeness.xen.session import XenSession
from tests.xen.conftest import Stage, login
from tests.xen.passage import Passage


def test_a_session_says_who_opened_it_and_leaves_none_behind(stage: Stage) -> None:
    with login(stage.server) as xen:
        originator = stage.pool.db.record("session", xen.ref)["originator"]
        open_ones = stage.count("session")

    assert originator == "likeness"
    assert stage.count("session") == open_ones - 1


def test_a_wrong_password_is_refused_at_once_and_only_tried_once(stage: Stage) -> None:
    before = stage.pool.journal.counts()["session.login_with_password"]

    with pytest.raises(LoginRefused, match=r"root.*wrong name or password") as refused:
        XenSession.login(stage.server.url, username="root", password="guess-4711")

    assert stage.pool.journal.counts()["session.login_with_password"] == before + 1
    assert stage.server.url in str(refused.value)
    assert "guess-4711" not in str(refused.value)


def test_nobody_answering_is_said_with_the_address(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(HostUnreachable, match=f"127.0.0.1:{port}"):
        XenSession.login(
            f"http://127.0.0.1:{port}", username="root", password="x", patience_seconds=0.3
        )


def test_a_host_that_comes_up_meanwhile_is_waited_for(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    pool = Pool(settings)
    opened: list[LabServer] = []
    late = threading.Timer(0.5, lambda: opened.append(LabServer(pool, listen=("127.0.0.1", port))))
    late.start()
    try:
        with XenSession.login(
            f"http://127.0.0.1:{port}",
            username=settings.username,
            password=settings.password,
            patience_seconds=30.0,
        ) as xen:
            assert xen.call("pool.get_all")
    finally:
        late.join()
        for server in opened:
            server.close()


def test_waiting_for_a_host_ends_when_somebody_asks_to_stop() -> None:
    stop = StopToken()
    stop.stop()

    with pytest.raises(Stopped):
        XenSession.login(
            "http://127.0.0.1:1", username="root", password="x", patience_seconds=60.0, stop=stop
        )


@pytest.mark.parametrize("url", ["http://192.0.2.7", "http://xen.example", "http://0.0.0.0:80"])
def test_plain_http_over_a_network_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(BadInput, match="plain HTTP"):
        XenSession.login(url, username="root", password="x")


@pytest.mark.parametrize("url", ["", "ftp://xen1", "https://", "https://xen1:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="no address"):
        XenSession.login(url, username="root", password="x")


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput) as refused:
        XenSession.login("https://root:secret@xen1", username="root", password="x")

    assert "secret" not in str(refused.value)


def test_neither_password_nor_session_is_shown(stage: Stage) -> None:
    shown = repr(stage.xen) + str(stage.xen)

    assert stage.server.password not in shown
    assert stage.xen.ref not in shown


def test_a_forgotten_session_is_begun_again_once_and_the_call_repeated(stage: Stage) -> None:
    stale = stage.xen.ref
    stage.pool.sessions.end_all()

    assert stage.xen.call("pool.get_all")
    assert stage.xen.ref != stale


def test_a_pool_that_forgets_every_session_is_not_asked_for_ever(stage: Stage) -> None:
    stage.pool.faults.fail("pool.get_all", "SESSION_INVALID", "x", times=0)
    before = stage.pool.journal.counts()["session.login_with_password"]

    with pytest.raises(LoginRefused, match="forgets every session"):
        stage.xen.call("pool.get_all")

    assert stage.pool.journal.counts()["session.login_with_password"] == before + 1


def test_many_threads_that_lose_their_session_log_in_once_together(stage: Stage) -> None:
    before = stage.pool.journal.counts()["session.login_with_password"]
    stage.pool.sessions.end_all()
    seen: list[object] = []
    threads = [
        threading.Thread(target=lambda: seen.append(stage.xen.call("pool.get_all")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)

    assert len(seen) == 8
    assert stage.pool.journal.counts()["session.login_with_password"] == before + 1


def test_a_login_at_a_member_goes_on_to_the_coordinator(settings: Settings) -> None:
    pool = Pool(settings, hosts=2)
    with LabServer(pool) as server:
        port = urlsplit(server.url).port
        member = pool.db.get("host", other_host(pool), "address")
        with XenSession.login(
            f"http://{member}:{port}", username=server.username, password=server.password
        ) as xen:
            assert xen.coordinator.host == "127.0.0.1"
            assert xen.call("pool.get_all")


def test_a_new_coordinator_is_found_while_a_session_is_open(settings: Settings) -> None:
    pool = Pool(settings, hosts=2)
    with LabServer(pool) as server, login(server) as xen:
        member = other_host(pool)
        pool.set_coordinator(member)

        assert xen.call("pool.get_all")
        assert xen.coordinator.host == pool.db.get("host", member, "address")


def test_a_host_that_is_still_starting_is_waited_for(stage: Stage) -> None:
    stage.pool.faults.fail("pool.get_all", "HOST_STILL_BOOTING", times=2)

    assert stage.xen.call("pool.get_all")


def test_a_call_that_changes_something_is_not_sent_twice_when_its_answer_is_lost(
    stage: Stage,
) -> None:
    lost = Passage(urlsplit(stage.server.url).port or 0)
    with XenSession.login(
        lost.url, username=stage.server.username, password=stage.server.password
    ) as xen:
        assert xen.call("pool.get_all")
        lost.deaf = True
        with pytest.raises(HostUnreachable, match="whether it was done"):
            xen.call("task.create", "once", "")
        lost.deaf = False
    lost.close()

    assert len(stage.pool.db.where("task", name_label="once")) == 1


def test_a_call_has_a_deadline(stage: Stage) -> None:
    stage.pool.faults.hang("pool.get_all", times=0)

    with (
        pytest.raises(HostUnreachable, match=r"pool\.get_all"),
        login(stage.server, deadline_seconds=0.3, patience_seconds=0.5) as xen,
    ):
        xen.call("pool.get_all")


def test_a_refusal_keeps_its_code_and_names_no_session(stage: Stage) -> None:
    with pytest.raises(Refusal) as refused:
        stage.xen.call("VM.get_record", "OpaqueRef:nothing")

    assert refused.value.code == "HANDLE_INVALID"
    assert stage.xen.ref not in str(refused.value)


def other_host(pool: Pool) -> str:
    """The host that is not the coordinator at first."""
    hosts = pool.db.refs("host")
    return next(ref for ref in hosts if pool.db.get("host", ref, "address") != "127.0.0.1")

"""Logging in, staying in, being put out."""

import time

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import JsonClient, Refused, Xen, open_session


def test_the_published_library_logs_in_by_every_path(lab: LabServer) -> None:
    for url in (lab.url, lab.url + "/", lab.url + "/RPC2"):
        session = open_session(url)
        session.xenapi.login_with_password(lab.username, lab.password)
        assert session.API_version == "2.23"
        session.xenapi.session.logout()


def test_a_wrong_password_is_refused_and_takes_its_time() -> None:
    with LabServer(Pool(Settings(wrong_password_seconds=0.3))) as lab:
        client = JsonClient(lab.url)
        before = time.monotonic()
        with pytest.raises(Refused) as refused:
            client.log_in("root", "wrong")
        assert refused.value.args[:2] == ("SESSION_AUTHENTICATION_FAILED", "root")
        assert time.monotonic() - before >= 0.3
        with pytest.raises(Refused, match="SESSION_AUTHENTICATION_FAILED"):
            client.log_in("somebody", lab.password)


def test_the_pause_after_a_wrong_password_is_five_seconds_by_default() -> None:
    assert Settings().wrong_password_seconds == 5.0


def test_after_logout_the_session_is_named_as_invalid(lab: LabServer) -> None:
    client = JsonClient(lab.url)
    client.log_in(lab.username, lab.password)
    client("session.logout")
    with pytest.raises(Refused) as refused:
        client("VM.get_all")
    assert refused.value.args == ("SESSION_INVALID", client.session)


def test_a_session_ends_when_it_was_not_used_for_long() -> None:
    now = [0.0]
    settings = Settings(session_idle_seconds=100.0, monotonic=lambda: now[0])
    with LabServer(Pool(settings)) as lab:
        client = JsonClient(lab.url)
        client.log_in(lab.username, lab.password)
        for _ in range(5):
            now[0] += 99.0
            client("VM.get_all")
        now[0] += 101.0
        with pytest.raises(Refused, match="SESSION_INVALID"):
            client("VM.get_all")


def test_a_member_sends_the_client_to_its_coordinator(lab: LabServer) -> None:
    lab.pool.set_coordinator(address="192.0.2.7")
    client = JsonClient(lab.url)
    with pytest.raises(Refused) as refused:
        client.log_in(lab.username, lab.password)
    assert refused.value.args == ("HOST_IS_SLAVE", "192.0.2.7")
    lab.pool.set_coordinator()
    client.log_in(lab.username, lab.password)


def test_two_hosts_listen_on_two_addresses_and_the_role_can_change() -> None:
    with LabServer(Pool(Settings(), hosts=2)) as lab:
        first, second = JsonClient(lab.url), JsonClient(lab.url.replace("127.0.0.1", "127.0.0.2"))
        first.log_in(lab.username, lab.password)
        with pytest.raises(Refused) as refused:
            second.log_in(lab.username, lab.password)
        assert refused.value.args == ("HOST_IS_SLAVE", "127.0.0.1")
        first("pool.designate_new_master", first("host.get_all")[1])
        with pytest.raises(Refused) as refused:
            first.log_in(lab.username, lab.password)
        assert refused.value.args == ("HOST_IS_SLAVE", "127.0.0.2")
        second.log_in(lab.username, lab.password)


def test_the_journal_shows_calls_without_passwords(lab: LabServer, xen: Xen) -> None:
    xen.api.secret.create({"value": "hush", "other_config": {}})
    xen.vm("web")
    entries = lab.pool.journal.entries()
    methods = [entry.method for entry in entries]
    assert methods[0] == "session.login_with_password"
    assert "VM.get_by_name_label" in methods
    assert lab.password not in repr([e for e in entries if e.method.startswith("session.")])
    assert xen.token not in repr(entries)

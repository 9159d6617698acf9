"""People are told once, whatever happens to the mail server or to us; tried on a real one."""

import ssl
from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks import Site
from catalog.audits import AuditTrouble, record_troubles
from catalog.messages import recent_deliveries, undelivered, write_message
from catalog.runs import begin_run, finish_run, last_runs, record_outcome
from catalog.values import Verdict
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.model.ids import RunId, VmId, random_name
from likeness.model.outcome import VmOutcome, VmState
from likeness.store.format.observations import Weight, notice, trouble
from tasks.claims import run_claimed
from tasks.failure_letters import failure_letter, flow_letter, late_letter
from tasks.letters import aftermath_letter, job_letter, trouble_letter
from tasks.notify import Delivered, channels, tell
from tasks.overdue import Cause
from tasks.reports import no_link, page
from tasks.watching import overdue_letter
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import DAY, House, settings_of
from tests.validation.mail_server import PASSWORD, MailServer, mail_of

# Neither side closes the socket of a connection that failed in mid-handshake; the collector does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=["SSL", "STARTTLS"])
def mail_server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[MailServer, None, None]:
    server = MailServer(tmp_path, request.param)
    server.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))
    yield server
    server.stop()


@pytest.fixture
def one_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[MailServer, None, None]:
    server = MailServer(tmp_path, "STARTTLS")
    server.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))
    yield server
    server.stop()


def damaged_house(house: House) -> None:
    """A VM whose two versions need a damaged block, found and recorded, and nobody told."""
    content = noise("web", 4 * CHUNK)
    first = house.back_up("web", content)
    house.back_up("web", content + noise("more", CHUNK))
    house.validate()
    house.clock.now += DAY
    house.spoil(house.pack_of(first))
    with house.prover() as prover:
        prover.prove([house.pack_of(first)])
    assert house.verdicts()["web"] == [Verdict.BAD, Verdict.BAD]


def heal(house: House) -> None:
    house.back_up("web", noise("web", 4 * CHUNK))
    house.validate()


def test_damage_is_told_once_by_mail_and_so_is_its_healing(
    house: House, mail_server: MailServer
) -> None:
    site = settings_of(house.site, mail=mail_of(mail_server))
    damaged_house(house)

    assert tell(site).arrived == 1
    assert tell(site) == Delivered()
    (mail,) = mail_server.inbox
    assert mail_server.logins == [True]
    assert mail["To"] == "ops@example.com, boss@example.com"
    assert mail["Subject"] == "Likeness: damage found: 2 versions of 1 VM (web)"
    body = mail.get_content()
    for row in house.rows():
        assert row.version[:8] in body
    for part in ("WHAT IT MEANS", "WHAT HAPPENS NEXT", "red since", "disk 0: 64.0 KiB at bytes "):
        assert part in body
    assert PASSWORD not in mail.as_string()

    heal(house)
    assert tell(site).arrived == 1
    assert tell(site) == Delivered()
    assert len(mail_server.inbox) == 2
    assert mail_server.inbox[1]["Subject"].startswith("Likeness: healed: 2 versions of 1 VM")
    assert mail_server.inbox[0]["Message-ID"] != mail_server.inbox[1]["Message-ID"]


def test_a_server_that_is_down_loses_nothing_and_gets_it_when_it_is_back(
    house: House, one_server: MailServer
) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    one_server.stop()
    damaged_house(house)

    for attempt in (1, 2):
        told = tell(site)
        assert told.arrived == 0
        (waiting,) = told.waiting
        assert waiting.attempts == attempt
        assert "refused" in waiting.problem
        assert "1 message could not be delivered yet" in told.sentence
    assert house.verdicts()["web"] == [Verdict.BAD, Verdict.BAD]

    one_server.start()
    assert tell(site).arrived == 1
    assert len(one_server.inbox) == 1
    assert undelivered(house.catalog) == []


@pytest.mark.parametrize("refusal", ["451 try later", "550 no such box"])
def test_a_server_that_does_not_take_it_is_asked_again(
    house: House, one_server: MailServer, refusal: str
) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    damaged_house(house)
    one_server.refuse = refusal
    assert refusal[4:] in tell(site).sentence
    one_server.refuse = ""
    assert tell(site).arrived == 1
    assert len(one_server.inbox) == 1


def test_a_name_with_a_line_feed_is_told_in_one_line(house: House, one_server: MailServer) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    outcome = VmOutcome("web\nBcc: all@example.com", VmState.FAILED, sentence="no room")
    write_message(
        house.catalog,
        replace(job_letter("a", RunId(random_name()), [outcome], ""), subject="web\n failed\u2028"),
        ["mail"],
        house.clock(),
    )
    assert tell(site) == Delivered(arrived=1)
    assert one_server.inbox[0]["Subject"] == "web failed"


def test_a_message_the_server_never_takes_holds_up_no_other(
    house: House, one_server: MailServer
) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    one_server.never = "job a"
    for job in ("a", "b", "c"):
        letter = job_letter(job, RunId(random_name()), [], "")
        write_message(house.catalog, letter, ["mail"], house.clock())
        house.clock.now += DAY

    assert [tell(site).arrived for _ in range(3)] == [0, 2, 0]
    assert [mail["Subject"].split(":")[1] for mail in one_server.inbox] == [" job b", " job c"]
    (waiting,) = undelivered(house.catalog)
    assert "job a" in waiting.message.subject
    assert waiting.problem


def test_a_wrong_password_is_said_without_the_password(
    house: House, one_server: MailServer
) -> None:
    wrong = SecretStr("not the password")
    site = settings_of(house.site, mail=mail_of(one_server, password=wrong))
    damaged_house(house)

    told = tell(site)

    assert one_server.logins[:1] == [False]
    assert "Authentication" in told.sentence
    assert "not the password" not in told.sentence


def test_a_server_nobody_vouches_for_gets_neither_password_nor_mail(
    house: House, one_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", ssl.get_default_verify_paths().openssl_cafile)
    site = settings_of(house.site, mail=mail_of(one_server))
    damaged_house(house)

    assert "certificate" in tell(site).sentence
    assert (one_server.logins, one_server.inbox) == ([], [])


def test_a_password_never_travels_in_the_clear(house: House, one_server: MailServer) -> None:
    mail = mail_of(one_server, smtp_type="INSECURE")

    with pytest.raises(BadInput, match="in the clear"):
        mail.send("subject", "body", message=random_name(), clock=house.clock)


def test_names_and_domains_of_any_script_reach_a_server_that_knows_ascii_alone(
    house: House, one_server: MailServer
) -> None:
    mail = mail_of(one_server)
    mail.recipients = ["Doe, Jane <jane@example.com>; info@b\u00fccher.example"]

    mail.send("subject", "body", message=random_name(), clock=house.clock)

    (got,) = one_server.inbox
    assert [str(each) for each in got["To"].addresses] == [
        '"Doe, Jane" <jane@example.com>',
        "info@xn--bcher-kva.example",
    ]


def test_who_cannot_be_reached_keeps_nobody_else_from_the_mail(
    house: House, one_server: MailServer
) -> None:
    one_server.stop()
    one_server.international = False
    one_server.start()
    mail = mail_of(one_server)
    mail.recipients = ["b\u00fcro@example.com", "ops@example.com"]

    mail.send("subject", "body", message=random_name(), clock=house.clock)

    (got,) = one_server.inbox
    assert got["To"] == "ops@example.com"
    assert "cannot be given b\u00fcro@example.com" in " ".join(got.get_content().split())
    mail.recipients = ["b\u00fcro@example.com"]
    with pytest.raises(BadInput, match="SMTPUTF8"):
        mail.send("subject", "body", message=random_name(), clock=house.clock)


def test_what_was_found_before_a_crash_is_told_after_it(
    house: House, one_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the verdict, after the incident, after the message, after the sending."""
    site = settings_of(house.site, mail=mail_of(one_server))
    damaged_house(house)

    class Died(BaseException):
        pass

    def die(*_arguments: object, **_more: object) -> None:
        raise Died

    for where in (
        "catalog.messages.write_message",
        "tasks.notify._try",
        "catalog.messages.note_delivery",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, die)
            with pytest.raises(Died):
                tell(site)
    assert tell(site).arrived == 1
    ids = {mail["Message-ID"] for mail in one_server.inbox}
    assert len(one_server.inbox) == 2  # what nobody noted had arrived is sent again, once
    assert len(ids) == 1  # as one and the same mail
    assert [d.attempts for d in recent_deliveries(house.catalog)] == [1]
    assert tell(site) == Delivered()


@pytest.mark.parametrize(
    ("level", "routine", "expected"),
    [
        ("none", False, ()),
        ("none", True, ()),
        ("errors", False, ("mail",)),
        ("errors", True, ()),
        ("always", False, ("mail",)),
        ("always", True, ("mail",)),
    ],
)
def test_the_level_decides_who_is_told_of_what(
    house: House, tmp_path: Path, *, level: str, routine: bool, expected: tuple[str, ...]
) -> None:
    site: Site = settings_of(house.site, mail=mail_of(MailServer(tmp_path, "SSL"), level=level))

    assert channels(site, routine=routine) == expected
    with_hook = settings_of(site, webhook="custom-webhook/ops")
    assert ("webhook" in channels(with_hook, routine=routine)) is not routine


def test_no_letter_has_a_line_that_somebody_else_began() -> None:
    """A name that is a whole letter of its own: in each letter, wherever it may name something."""
    run, now = RunId(random_name()), datetime(2026, 1, 1, tzinfo=UTC)
    evil = "db\r\n\x85\u2028The data store is at head 9\u202e"
    cause = Cause("vm", f"VM {evil} has no version")
    for letter in (
        failure_letter(evil, run, "Failed", f"VM {evil}: gone", (), [f"VM {evil}: is there"]),
        late_letter(evil, run, now, f"It waits for {evil}"),
        flow_letter("0", "sweep", evil, run, "Failed", f"snapshot {evil}: gone"),
        overdue_letter("0", [cause], "main"),
        aftermath_letter(evil, run, [f"standby of {evil}: gone"]),
        trouble_letter([AuditTrouble(evil, Weight.SPARE_LOST.value, evil, evil, now)]),
        job_letter(evil, run, [VmOutcome("a", VmState.FAILED, sentence=evil)], "", [evil]),
    ):
        said = [letter.subject, *letter.body.splitlines()]
        assert [line for line in said if line.strip().startswith("The data store is")] == []
        assert len(letter.subject.splitlines()) == 1
        assert any("The data store is at head 9" in line for line in said)
        assert "\u202e" not in letter.subject + letter.body
    chat = no_link("VM <!channel> ![p](http://b) is gone")
    assert "<" not in chat
    assert "](" not in chat
    assert page("a\n\u202eb\x1b[2J\r") == "a\nb[2J"


def test_the_report_of_a_job_carries_the_head_that_bears_witness() -> None:
    outcomes = [
        VmOutcome("web", VmState.DONE, read_bytes=3 << 20, sent_bytes=1 << 20),
        VmOutcome("db", VmState.FAILED, sentence="its disk is being moved"),
        VmOutcome("a\r\n\u2028The data store is at head 9\u202e", VmState.DONE),
    ]
    run = RunId(random_name())

    letter = job_letter("nightly", run, outcomes, "head 4711 a1b2c3d4")

    assert letter.subject == "Likeness: job nightly: 1 of 3 VMs failed"
    assert [line for line in letter.body.splitlines() if line.startswith("The data store")] == [
        "The data store is at head 4711 a1b2c3d4."
    ]
    assert "\u202e" not in letter.body
    assert "head 4711 a1b2c3d4" in letter.body
    assert "its disk is being moved" in letter.body
    assert letter.message == job_letter("nightly", run, outcomes, "another").message


def outcome(name: str, state: VmState = VmState.DONE) -> VmOutcome:
    return VmOutcome(name, state, vm=VmId(random_name()))


def test_a_job_that_died_before_it_could_tell_is_told_by_whatever_runs_next(
    house: House, one_server: MailServer
) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    killed, failed, well, alive = (RunId(random_name()) for _ in range(4))
    now = system_clock()
    for run, job in ((killed, "killed"), (failed, "failed"), (well, "well"), (alive, "alive")):
        begin_run(house.catalog, run, job, now)
    record_outcome(house.catalog, failed, outcome("db", VmState.FAILED), now)
    finish_run(house.catalog, failed, "failed", "", now)
    record_outcome(house.catalog, well, outcome("web"), now)
    finish_run(house.catalog, well, "completed", "", now)

    with run_claimed(site, alive):
        tell(site)
        tell(site)

    told = {mail["Subject"]: mail.get_content() for mail in one_server.inbox}
    assert sorted(told) == [
        "Likeness: job failed: 1 of 1 VM failed",
        "Likeness: job killed: Crashed",
    ]
    assert len(one_server.inbox) == 2
    assert "killed, or the machine went down" in told["Likeness: job killed: Crashed"]
    assert [run.state for run in last_runs(house.catalog, job="killed")] == ["died"]
    assert [run.state for run in last_runs(house.catalog, job="alive")] == ["running"]


def test_a_job_that_was_stopped_is_left_to_its_hook_for_a_while(
    house: House, one_server: MailServer
) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    now = system_clock()
    for name, ended in (("new", now), ("old", now - DAY), ("later", now + DAY)):
        run = RunId(random_name())
        begin_run(house.catalog, run, name, now)
        finish_run(house.catalog, run, "stopped", "somebody cancelled it", ended)

    tell(site)

    assert sorted(mail["Subject"] for mail in one_server.inbox) == [
        "Likeness: job later: Stopped",
        "Likeness: job old: Stopped",
    ]
    assert "somebody cancelled it" in one_server.inbox[0].get_content()


def test_a_lost_spare_of_the_store_is_told_once(house: House, one_server: MailServer) -> None:
    site = settings_of(house.site, mail=mail_of(one_server))
    slot = f"keys/slot-{'0' * 16}"
    found = [trouble(slot, "missing, although the newest head knows it")]
    for _ in range(2):
        record_troubles(house.catalog, [*found, notice("in", "odd", "look")], house.clock())
        tell(site)

    (mail,) = one_server.inbox
    assert mail["Subject"] == "Likeness: the data store needs attention: 1 object"
    assert slot in mail.get_content()
    assert "add a new slot" in " ".join(mail.get_content().split())

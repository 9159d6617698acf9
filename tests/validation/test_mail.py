"""People are told once, whatever happens to the mail server or to us; tried on a real one."""

import email
import gc
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass, field
from email import policy
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import SecretStr

from blocks import Mail, Site
from catalog.messages import recent_deliveries, undelivered
from catalog.values import Verdict
from lab.certificates import make_certificate
from likeness.errors import BadInput
from likeness.model.ids import RunId, random_name
from likeness.model.outcome import VmOutcome, VmState
from tasks.letters import job_letter
from tasks.notify import Told, channels, tell
from tests.unit.workshop import CHUNK, noise
from tests.validation.house import DAY, House, settings_of

# Neither side closes the socket of a connection that failed in mid-handshake; the collector does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ACCOUNT, PASSWORD = "likeness", "correct horse battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class MailServer:
    """A real SMTP server with TLS and login, on loopback.

    Attributes:
        inbox: What it took, newest last.
        refuse: What it answers instead of taking a mail; empty: it takes it.
    """

    folder: Path
    encryption: str
    port: int = field(default_factory=free_port)
    inbox: list[Any] = field(default_factory=list)
    logins: list[bool] = field(default_factory=list)
    refuse: str = ""
    _controller: Controller | None = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        self.inbox.append(email.message_from_bytes(envelope.content, policy=policy.default))
        return "250 OK"

    def authenticate(self, _server: Any, session: Any, *rest: Any) -> AuthResult:
        del session
        given = rest[-1]
        assert isinstance(given, LoginPassword)
        right = (given.login, given.password) == (ACCOUNT.encode(), PASSWORD.encode())
        self.logins.append(right)
        return AuthResult(success=right, handled=False)

    def start(self) -> None:
        certificate = make_certificate("mail.example", ["127.0.0.1"])
        (self.folder / "mail.pem").write_text(certificate.pem)
        context = certificate.server_context(self.folder)
        tls: dict[str, Any] = (
            {"ssl_context": context}
            if self.encryption == "SSL"
            else {"tls_context": context, "require_starttls": True, "auth_required": True}
        )
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self.authenticate,
            auth_require_tls=self.encryption != "SSL",
            **tls,
        )
        self._controller._trigger_server = self._knock  # type: ignore[method-assign]
        self._controller.start()

    def _knock(self) -> None:
        """See that it listens; aiosmtpd's own way would ask for a trusted certificate."""
        socket.create_connection(("127.0.0.1", self.port), timeout=10).close()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop(no_assert=True)
            self._controller = None
            gc.collect()


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


def mail_of(server: MailServer, *, level: str = "errors", **account: Any) -> Mail:
    credentials = EmailServerCredentials(
        smtp_server="127.0.0.1",
        smtp_port=server.port,
        smtp_type=server.encryption,
        username=ACCOUNT,
        **{"password": SecretStr(PASSWORD), **account},
    )
    return Mail(
        server=credentials,
        sender="likeness@example.com",
        recipients=["ops@example.com", "boss@example.com"],
        level=level,  # type: ignore[arg-type]  # pydantic looks
    )


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
    assert tell(site) == Told()
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
    assert tell(site) == Told()
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
    mail = mail_of(one_server)
    mail.server.smtp_type = type(mail.server.smtp_type).INSECURE

    with pytest.raises(BadInput, match="in the clear"):
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
    assert tell(site) == Told()


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


def test_the_report_of_a_job_carries_the_head_that_bears_witness() -> None:
    outcomes = [
        VmOutcome("web", VmState.DONE, read_bytes=3 << 20, sent_bytes=1 << 20),
        VmOutcome("db", VmState.FAILED, sentence="its disk is being moved"),
    ]
    run = RunId(random_name())

    letter = job_letter("nightly", run, outcomes, "head 4711 a1b2c3d4")

    assert letter.subject == "Likeness: job nightly: 1 of 2 VMs failed"
    assert "head 4711 a1b2c3d4" in letter.body
    assert "its disk is being moved" in letter.body
    assert letter.message == job_letter("nightly", run, outcomes, "another").message

"""A real SMTP server with TLS and login, on loopback."""

import email
import gc
import socket
from dataclasses import dataclass, field
from email import policy
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import SecretStr

from blocks import Mail
from lab.certificates import make_certificate

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
        never: It does not take a mail with these words in its subject.
        international: It can be given addresses that are not ASCII.
    """

    folder: Path
    encryption: str
    port: int = field(default_factory=free_port)
    inbox: list[Any] = field(default_factory=list)
    logins: list[bool] = field(default_factory=list)
    refuse: str = ""
    never: str = ""
    international: bool = True
    _controller: Controller | None = None

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuse:
            return self.refuse
        mail = email.message_from_bytes(envelope.content, policy=policy.default)
        if self.never and self.never in mail["Subject"]:
            return "554 it looks like spam"
        self.inbox.append(mail)
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
            enable_SMTPUTF8=self.international,
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


def account_of(server: MailServer, **account: Any) -> EmailServerCredentials:
    """The account at a mail server."""
    return EmailServerCredentials(
        smtp_server="127.0.0.1",
        smtp_port=server.port,
        username=ACCOUNT,
        **{"smtp_type": server.encryption, "password": SecretStr(PASSWORD), **account},
    )


def mail_of(server: MailServer, *, level: str = "errors", **account: Any) -> Mail:
    return Mail(
        server="mail-server",
        sender="likeness@example.com",
        recipients=["ops@example.com", "boss@example.com"],
        level=level,  # type: ignore[arg-type]  # pydantic looks
    ).with_account(account_of(server, **account))

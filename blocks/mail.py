"""Who is told, and how."""

from email.message import EmailMessage
from email.utils import format_datetime
from typing import ClassVar, Literal, Self

from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from prefect_email.credentials import SMTPType  # type: ignore[import-untyped]
from pydantic import Field, PrivateAttr, field_validator

from blocks.addresses import addresses_in, needs_smtputf8
from blocks.loading import load_block
from blocks.schema import SchemaMadeOnce
from likeness.clock import Clock
from likeness.errors import BadInput

Level = Literal["none", "errors", "always"]


class Mail(SchemaMadeOnce, Block):
    """The mail server, its account, and who is told of what.

    Example:
        ```python
        from blocks import Mail

        mail = Mail.load("BLOCK_NAME")
        print(mail.recipients)
        ```
    """

    _block_type_name: ClassVar[str] = "Mail"
    _block_type_slug: ClassVar[str] = "likeness-mail"

    server: str = Field(
        title="Email Server Credentials block",
        description="Name of the block with the address, account and password of the server; SSL"
        " or STARTTLS, so that neither password nor message can be read on the way.",
        min_length=1,
    )
    sender: str = Field(title="From", description="The address that mails come from.")
    recipients: list[str] = Field(
        title="To",
        description="Who gets them; one address in each row, with a name if you like.",
        min_length=1,
    )
    level: Level = Field(
        default="errors",
        title="When to send",
        description="After errors and damage, always, or never. What was damaged and is healed is"
        " told wherever the damage was.",
    )

    _account: EmailServerCredentials | None = PrivateAttr(default=None)

    def with_account(self, account: EmailServerCredentials | None = None) -> Self:
        """The same, with the account at the mail server: the one given, or by the block's name.

        Raises:
            BadInput: There is no such block, or it cannot be used.
        """
        self._account = account or load_block(EmailServerCredentials, self.server)
        return self

    @field_validator("sender")
    @classmethod
    def _one_sender(cls, sender: str) -> str:
        found = addresses_in([sender])
        if len(found) != 1:
            raise ValueError(f"{sender!r} are {len(found)} addresses; mails come from one")
        return str(found[0])

    @field_validator("recipients")
    @classmethod
    def _each_recipient(cls, recipients: list[str]) -> list[str]:
        return [str(each) for each in addresses_in(recipients)]

    def try_login(self) -> None:
        """Log in at the mail server and leave, without a mail.

        Raises:
            OSError, smtplib.SMTPException: The server does not answer, or does not let us in.
        """
        account = self._account or load_block(EmailServerCredentials, self.server)
        with account.get_server() as server:
            server.noop()

    def send(self, subject: str, body: str, *, message: str, clock: Clock) -> None:
        """Hand one mail to the server.

        Args:
            subject: One line.
            body: Plain text.
            message: What names the mail for ever: a mail that is sent again, because nobody knows
                whether it arrived, is the same mail to whoever gets both.
            clock: The present.

        Raises:
            OSError, smtplib.SMTPException: The server does not answer, or does not take it.
            BadInput: The password would travel for everybody to read, or the server cannot be
                given one of the addresses.
        """
        account = self._account or load_block(EmailServerCredentials, self.server)
        if account.smtp_type is SMTPType.INSECURE and account.username:
            raise BadInput(
                "the mail server's password would travel in the clear; choose SSL or STARTTLS in"
                " its block, or no account"
            )
        (sender,), recipients = addresses_in([self.sender]), addresses_in(self.recipients)
        mail = EmailMessage()
        mail["From"], mail["To"] = sender, recipients
        mail["Subject"] = " ".join(subject.split())  # a VM may bear any name, line feeds included
        mail["Date"] = format_datetime(clock())
        mail["Message-ID"] = f"<{message}@{sender.domain}>"
        mail.set_content(body)
        with account.get_server() as server:
            server.ehlo_or_helo_if_needed()
            if not server.has_extn("smtputf8"):
                _leave_out(mail, needs_smtputf8([sender, *recipients]))
            server.send_message(mail)


def _leave_out(mail: EmailMessage, beyond: list[str]) -> None:
    """Send to those who can be reached, and tell them who cannot.

    Raises:
        BadInput: Nobody would be left, or nobody to send it.
    """
    if not beyond:
        return
    why = (
        f"the mail server cannot be given {', '.join(beyond)}, not ASCII before the @; correct the"
        " Mail block, or use a server with SMTPUTF8"
    )
    left = [each for each in mail["To"].addresses if each.addr_spec not in beyond]
    if not left or mail["From"].addresses[0].addr_spec in beyond:
        raise BadInput(why)
    mail.replace_header("To", left)
    mail.set_content(f"{mail.get_content()}\nNot everybody gets this: {why}.\n")

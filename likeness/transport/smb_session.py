"""One SMB connection, logged in, with one share open; used by one call at a time.

Built on smbprotocol's connection, session and tree, never on `smbclient`, whose connections are
shared by the whole process and whose waits have no end.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from smbprotocol.exceptions import SMBException, SMBResponseException
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from likeness.clock import stopwatch
from likeness.transport.smb_connection import Answer, BoundedConnection, Message
from likeness.transport.smb_errors import (
    DENIED,
    FOREIGN,
    EncryptionMissing,
    LogInDenied,
    ShareAccount,
    loses_connection,
    status_of,
)
from likeness.transport.smb_socket import Deadline

_CREDITS = 1024  # a session starts with 64
_BYTES_PER_CREDIT = 64 << 10
_LARGEST_REQUEST_BYTES = 1 << 20
_ECHO_SECONDS = 5.0


class SmbSession:
    """A logged-in connection to a share."""

    def __init__(
        self, place: ShareAccount, password: str, *, encrypt: bool, deadline: Deadline
    ) -> None:
        """Connect, log in, open the share.

        Raises:
            SMBException, OSError: It did not come about; nothing is left open.
        """
        self.place = place
        self.lost = False
        self._used_at = stopwatch()
        self.connection = BoundedConnection(place.server, place.port, deadline)
        try:
            self._log_in(password, encrypt=encrypt)
        except BaseException:
            self.drop()
            raise

    def _log_in(self, password: str, *, encrypt: bool) -> None:
        self.connection.connect(timeout=self.deadline.left)
        if encrypt and not self.connection.supports_encryption:
            raise EncryptionMissing("the server offers no cipher")
        session = Session(
            self.connection, self.place.username, password, require_encryption=encrypt
        )
        try:
            session.connect()
        except SMBResponseException as cause:
            if status_of(cause) in DENIED:
                raise LogInDenied("denied at the log-in") from None  # its frames hold the password
            raise
        finally:
            session.password = None
        if encrypt and not session.encrypt_data:
            raise EncryptionMissing("the session is not encrypted")
        if session.encrypt_data:
            self.connection.require_encryption(session)
        self._session_id = session.session_id
        self.encrypted = bool(session.encrypt_data)
        self.connection.echo(self._session_id, credit_request=_CREDITS)
        self.tree = TreeConnect(session, rf"\\{self.place.server}\{self.place.share}")
        self.tree.connect()
        self.tree.is_dfs_share = False  # paths are sent as they are, and links lead nowhere
        most = min(_LARGEST_REQUEST_BYTES, max(self._credits // 2, 1) * _BYTES_PER_CREDIT)
        self.write_bytes = min(self.connection.max_write_size, most)
        self.read_bytes = min(self.connection.max_read_size, most)
        self.listing_bytes = min(self.connection.max_transact_size, most // 4)

    @property
    def _credits(self) -> int:
        with self.connection.sequence_lock:
            window = self.connection.sequence_window
            return int(window["high"] - window["low"])

    def has_credits_for(self, count: int) -> bool:
        """Whether the server would take another request about `count` bytes now."""
        return self._credits > -(-count // _BYTES_PER_CREDIT)

    @property
    def deadline(self) -> Deadline:
        """The deadline of the call under way."""
        return self.connection.deadline

    def take_up(self, deadline: Deadline, *, idle_seconds: float) -> bool:
        """Begin a call; say whether the connection still lives, asking it when it was idle."""
        self.connection.deadline = deadline
        if not self.alive:
            return False
        if stopwatch() - self._used_at > idle_seconds:
            return self._answers_echo(deadline)
        return True

    def set_idle(self) -> None:
        """End a call."""
        self._used_at = stopwatch()

    @property
    def alive(self) -> bool:
        """Whether nothing is known to be wrong with it."""
        at = self.connection.transport
        return not self.lost and at is not None and not at.hung_up

    def drop(self) -> None:
        """Hang up without a word; the server closes what was open."""
        self.lost = True
        if self.connection.transport is not None:
            with contextlib.suppress(OSError):
                self.connection.disconnect(close=False)

    def send(self, message: Message) -> Any:
        """Send one request, without waiting for its answer."""
        return self.connection.send(message, self._session_id, self.tree.tree_connect_id)

    def outcome(self, request: Any) -> Answer | SMBException:
        """Wait for the answer to a request, which may be a refusal.

        Raises:
            SMBException, OSError: The connection was lost.
        """
        try:
            return self.connection.receive(request)
        except SMBResponseException as cause:
            if loses_connection(cause):
                raise
            return cause

    def answer(self, request: Any) -> Answer:
        """Wait for the answer to a request.

        Raises:
            SMBResponseException: It is a refusal.
            SMBException, OSError: The connection was lost.
        """
        return self.connection.receive(request)

    def ask(self, message: Message) -> Answer:
        """Send one request and wait for its answer."""
        return self.answer(self.send(message))

    def ask_together(
        self, messages: Sequence[Message], *, closing: bool = True
    ) -> list[Answer | SMBException]:
        """Send requests about one file in one go; the first opens it.

        Args:
            messages: In the order to be carried out.
            closing: Whether the last one closes the file.

        Returns:
            For each an answer, or the refusal.

        Raises:
            SMBException, OSError: The connection was lost.
        """
        requests = self.connection.send_compound(
            list(messages), self._session_id, self.tree.tree_connect_id, related=True
        )
        answers = [self.outcome(request) for request in requests]
        opened = not isinstance(answers[0], SMBException)
        if closing and opened and isinstance(answers[-1], SMBException):
            self.lost = True  # the server still holds a handle that nobody will close
        return answers

    def _answers_echo(self, deadline: Deadline) -> bool:
        self.connection.deadline = Deadline(min(deadline.left / 2, _ECHO_SECONDS))
        try:
            self.connection.echo(self._session_id)
        except FOREIGN:
            return False
        finally:
            self.connection.deadline = deadline
        return True

"""smbprotocol's connection with three things it lacks.

* Every wait ends with the deadline of the call under way.
* An answer that should be encrypted or signed and is not ends the connection; smbprotocol takes it.
* Large messages are encrypted and decrypted without being copied half a dozen times.

Source: MS-SMB2 2.2.41 (transform header), 3.2.5.1.1 (what a client must not accept).
"""

import os
import struct
import uuid
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from smbprotocol.connection import Ciphers, Connection
from smbprotocol.exceptions import SMBException
from smbprotocol.header import Commands, NtStatus, Smb2Flags
from smbprotocol.session import Session

from likeness.transport.smb_errors import AnswerRefused
from likeness.transport.smb_socket import BoundedSocket, Deadline

Message = Any  # smbprotocol is not typed
Answer = Any

_TRANSFORM = struct.Struct("<4s16s12s4xIHHQ")  # protocol, tag, nonce, size, -, flags, session
_SEALED = b"\xfdSMB"
_TAG = slice(4, 20)
_NONCE = slice(20, 32)
_BOUND = slice(20, 52)  # what the tag covers besides the message
_ENCRYPTED = 1
_NOTICE = 0xFFFFFFFFFFFFFFFF  # message id of what the server sends unasked


class BoundedConnection(Connection):  # type: ignore[misc]  # smbprotocol is not typed
    """One TCP connection to a server; used by one thread at a time, besides its receiving one."""

    def __init__(self, server: str, port: int, deadline: Deadline) -> None:
        self.deadline = deadline
        self._bounded: BoundedSocket | None = None
        self._sealing: Session | None = None
        self._cipher_in: AESGCM | None = None
        self._cipher_out: AESGCM | None = None
        super().__init__(uuid.uuid4(), server, port, require_signing=True)

    @property
    def transport(self) -> BoundedSocket | None:
        """The TCP connection; `Connection.connect` sets its own, which this one replaces."""
        return self._bounded

    @transport.setter
    def transport(self, made: object) -> None:
        if made is not None:
            self._bounded = BoundedSocket(
                self.server_name, self.port, deadline=lambda: self.deadline, opened=self._opened
            )

    def require_encryption(self, session: Session) -> None:
        """From now on take nothing that is not encrypted for this session."""
        if self.cipher_id in (Ciphers.AES_128_GCM, Ciphers.AES_256_GCM):
            self._cipher_in = AESGCM(session.decryption_key)
            self._cipher_out = AESGCM(session.encryption_key)
        self._sealing = session

    def receive(
        self,
        request: Any,
        wait: bool = True,  # noqa: FBT001, FBT002  # smbprotocol's signature
        timeout: float | None = None,
        resolve_symlinks: bool = True,  # noqa: FBT001, FBT002
    ) -> Answer:
        """Wait for one answer until the deadline; links on the share are not followed."""
        del timeout, resolve_symlinks
        while self._is_without_answer(request, interim_counts=not wait):
            if not request.response_event.wait(self.deadline.left):
                raise TimeoutError("no answer")
        return super().receive(request, wait=wait, resolve_symlinks=False)

    def _is_without_answer(self, request: Any, *, interim_counts: bool) -> bool:
        """Whether nothing came yet, or only word that the server is still at it.

        smbprotocol would wait on after such word, but for whole seconds of a clock that can be set.
        """
        with request.response_event_lock:
            if not request.response_event.is_set():
                return True
            if interim_counts or request.response is None or not _is_interim(request.response):
                return False
            request.response_event.clear()
        self._check_worker_running()  # after the clearing: a thread that ends later sets it again
        return True

    def verify_signature(
        self,
        header: Any,
        session_id: int,
        force: bool = False,  # noqa: FBT001, FBT002  # smbprotocol's signature
    ) -> None:
        """Check a signature, and that there is one."""
        session = self.session_table.get(session_id)
        needed = session is not None and session.signing_required and _is_answer(header)
        if needed and not header["flags"].has_flag(Smb2Flags.SMB2_FLAGS_SIGNED):
            raise SMBException("an answer came without the signature it must have")
        super().verify_signature(header, session_id, force)

    def _encrypt(self, b_data: bytes, session: Session) -> list[bytes | memoryview]:
        if self._cipher_out is None:
            return [super()._encrypt(b_data, session).pack()]
        nonce = os.urandom(12)
        head = _TRANSFORM.pack(
            _SEALED, bytes(16), nonce, len(b_data), 0, _ENCRYPTED, session.session_id
        )
        sealed = memoryview(self._cipher_out.encrypt(nonce, b_data, head[_BOUND]))
        return [head[:4], sealed[-16:], head[_BOUND], sealed[:-16]]

    def _opened(self, message: bytearray) -> bytes:
        """Decrypt a message whose tag follows it, refuse one that should have been encrypted."""
        if self._sealing is None:
            return bytes(message)
        if message[:4] != _SEALED:
            raise SMBException("an answer came unencrypted in an encrypted session")
        if self._cipher_in is None:
            return bytes(message)
        message += message[_TAG]
        return self._cipher_in.decrypt(
            bytes(message[_NONCE]), memoryview(message)[_BOUND.stop :], bytes(message[_BOUND])
        )

    def _check_worker_running(self) -> None:
        if self._t_exc is not None:
            self.disconnect(close=False)
            raise AnswerRefused(str(self._t_exc)) from self._t_exc
        super()._check_worker_running()

    def _process_message_thread(self) -> None:
        try:
            super()._process_message_thread()
        finally:
            # smbprotocol's own loop over this table may meet a request that is just being added.
            for request in list(self.outstanding_requests.values()):
                request.response_event.set()


def _is_answer(header: Any) -> bool:
    """Whether MS-SMB2 wants it signed: not a log-in's steps, interim answers and notices."""
    return bool(
        header["command"].get_value() != Commands.SMB2_SESSION_SETUP
        and not _is_interim(header)
        and header["message_id"].get_value() != _NOTICE
    )


def _is_interim(header: Any) -> bool:
    """Whether it only says that the server is at work on the request."""
    return bool(header["status"].get_value() == NtStatus.STATUS_PENDING)

"""The network block device protocol, as much of it as XenServer's server speaks.

Source: the protocol's own specification (fixed newstyle negotiation, simple replies), and what
XenServer makes of it: STARTTLS before anything else, EXPORT_NAME, read only, at most 2 MiB a
request.
"""

import socket
import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from likeness.clock import stopwatch
from likeness.errors import CertificateRefused, HostRefused, TransferBroken
from likeness.stopping import StopToken
from likeness.xen.endpoints import is_loopback, pinned_tls

READ_LIMIT = 2 << 20
"""Bytes XenServer gives in one answer at most."""

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">QII")
_OPTION_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_INIT_MAGIC, _OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
_OPTION_NUMBER = int.from_bytes(_OPTION_MAGIC, "big")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698

_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME, _STARTTLS = 1, 5
_ACK = 1
_READ, _DISCONNECT = 0, 2
_ZEROES = 124
_TICK = 0.5
_MAX_NAME = 4096
_REPLY_TEXT_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where a disk is offered.

    Attributes:
        address: Of the host.
        port: TCP port.
        export: Name of the disk there; it holds the session, so it is shown nowhere.
        fingerprint: Of the host's certificate, 64 hex digits; empty: the host offers no TLS.
        subject: The name on that certificate.
    """

    address: str
    port: int
    export: str = field(repr=False)
    fingerprint: str
    subject: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.address}:{self.port}"


class NbdConnection:
    """One connection to one disk: requests are sent ahead, answers come in any order."""

    def __init__(
        self, sock: socket.socket, server: NbdAddress, idle_seconds: float, stop: StopToken
    ) -> None:
        self._sock, self._server = sock, server
        self._idle_seconds, self._stop = idle_seconds, stop
        self._waiting: dict[int, memoryview] = {}
        self._next_handle = 0
        self.size_bytes = 0

    @classmethod
    def open(
        cls,
        server: NbdAddress,
        *,
        connect_seconds: float,
        idle_seconds: float,
        stop: StopToken,
    ) -> "NbdConnection":
        """Connect, start TLS with the expected certificate, and choose the disk.

        Raises:
            TransferBroken: Nobody answers, or not as the protocol has it.
            CertificateRefused: The host is not the one the pool named.
            HostRefused: The host offers no TLS and is not this machine.
            Stopped: Somebody asked to stop.
        """
        try:
            sock = socket.create_connection((server.address, server.port), timeout=connect_seconds)
        except OSError as cause:
            raise TransferBroken(f"{server.name} does not answer: {cause}") from cause
        connection = cls(sock, server, connect_seconds, stop)
        try:
            connection._negotiate()
        except (OSError, struct.error) as cause:
            connection.hang_up()
            raise TransferBroken(f"{server.name} broke off: {cause}") from cause
        except BaseException:
            connection.hang_up()
            raise
        connection._idle_seconds = idle_seconds
        return connection

    @property
    def outstanding(self) -> int:
        """Requests without an answer yet."""
        return len(self._waiting)

    def request(self, offset: int, target: memoryview) -> int:
        """Ask for a range; its bytes will be put into `target`. Gives the request's number.

        Args:
            offset: Where it starts on the disk.
            target: 1 byte to `READ_LIMIT`.

        Raises:
            TransferBroken: The connection broke.
        """
        handle = self._next_handle
        self._next_handle += 1
        self._send(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, handle, offset, len(target)))
        self._waiting[handle] = target
        return handle

    def receive(self) -> int:
        """Take in the next answer; gives the number of the request it belongs to.

        Raises:
            TransferBroken: The connection broke, nothing came in time, or the disk gave an error.
            Stopped: Somebody asked to stop.
        """
        magic, error, handle = _REPLY.unpack(self._exactly(_REPLY.size))
        if magic != _REPLY_MAGIC:
            raise TransferBroken(f"{self._server.name} sent no answer of the protocol")
        target = self._waiting.pop(handle, None)
        if target is None:
            raise TransferBroken(f"{self._server.name} answered what nobody asked")
        if error:
            raise TransferBroken(f"{self._server.name} could not read the disk (error {error})")
        self._fill(target)
        return int(handle)

    def close(self) -> None:
        """Say goodbye, so that the host lets go of the disk at once, and hang up."""
        if self._sock.fileno() >= 0:
            try:
                self._sock.settimeout(1.0)
                self._sock.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
            except OSError:
                pass  # it has hung up already, which is as good
        self.hang_up()

    def hang_up(self) -> None:
        """Close the socket; safe to repeat."""
        self._waiting.clear()
        self._sock.close()

    def _negotiate(self) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.settimeout(_TICK)
        magic, style, flags = _GREETING.unpack(self._exactly(_GREETING.size))
        if magic != _INIT_MAGIC or style != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
            raise TransferBroken(f"{self._server.name} does not speak this protocol")
        no_zeroes = flags & _NO_ZEROES
        self._send(struct.pack(">I", _FIXED_NEWSTYLE | no_zeroes))
        self._secure()
        name = self._server.export.encode()
        if len(name) > _MAX_NAME:
            raise TransferBroken(f"{self._server.name} offers a disk with an impossible name")
        self._send(_OPTION.pack(_OPTION_NUMBER, _EXPORT_NAME, len(name)) + name)
        self.size_bytes, _ = _EXPORT.unpack(self._exactly(_EXPORT.size))
        if not no_zeroes:
            self._exactly(_ZEROES)

    def _secure(self) -> None:
        if not self._server.fingerprint:
            self._must_be_here()
            return
        self._send(_OPTION.pack(_OPTION_NUMBER, _STARTTLS, 0))
        magic, option, kind, length = _OPTION_REPLY.unpack(self._exactly(_OPTION_REPLY.size))
        if magic != _OPTION_REPLY_MAGIC or option != _STARTTLS or length > _REPLY_TEXT_LIMIT:
            raise TransferBroken(f"{self._server.name} does not speak this protocol")
        self._exactly(length)
        if kind != _ACK:
            self._must_be_here()
            return
        self._sock.settimeout(self._idle_seconds)
        self._sock = pinned_tls(
            self._sock,
            [self._server.fingerprint],
            name=self._server.name,
            server=self._server.subject or self._server.address,
        )
        self._sock.settimeout(_TICK)

    def _must_be_here(self) -> None:
        if not is_loopback(self._server.address):
            raise HostRefused(
                f"{self._server.name} offers the disk without encryption; give its network the "
                "purpose nbd instead of insecure_nbd",
                code="NBD_WITHOUT_TLS",
            )

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as cause:
            raise TransferBroken(f"{self._server.name} hung up: {cause}") from cause

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, target: memoryview) -> None:
        got = 0
        last_came_at = stopwatch()
        while got < len(target):
            self._stop.check()
            try:
                count = self._sock.recv_into(target[got:])
            except (TimeoutError, ssl.SSLWantReadError):
                if stopwatch() - last_came_at > self._idle_seconds:
                    raise TransferBroken(
                        f"{self._server.name} sent nothing for {self._idle_seconds:.0f} s"
                    ) from None
                continue
            except OSError as cause:
                raise TransferBroken(f"{self._server.name} broke off: {cause}") from cause
            if count == 0:
                raise TransferBroken(f"{self._server.name} hung up")
            got += count
            last_came_at = stopwatch()


def first_that_answers(
    servers: Iterable[NbdAddress], *, connect_seconds: float, idle_seconds: float, stop: StopToken
) -> NbdConnection:
    """Try one address after the other: a pool offers a disk on networks nobody here can reach.

    Raises:
        TransferBroken: None answers; the message says what each said.
        Stopped: Somebody asked to stop.
    """
    said = []
    for server in servers:
        try:
            return NbdConnection.open(
                server, connect_seconds=connect_seconds, idle_seconds=idle_seconds, stop=stop
            )
        except (TransferBroken, CertificateRefused, HostRefused) as cause:
            said.append(str(cause))
    raise TransferBroken("; ".join(said) or "the pool offers the disk at no address")

"""The TCP side of an SMB connection, with an end to every wait.

smbprotocol's own socket blocks for ever when a server stops reading, and while it does so nobody
can close it. This one takes the place of `smbprotocol.transport.Tcp`: same methods, but sending
ends with the caller's deadline, and closing never waits for the far end.
"""

import contextlib
import queue
import select
import socket
import threading
from collections.abc import Callable, Sequence

from smbprotocol.exceptions import SMBException

from likeness.clock import stopwatch

_KEEPALIVE_SECONDS = 30
_KEEPALIVE_PROBES = 3
_MAX_BYTES = 0xFFFFFF  # the length field of direct TCP has 24 bits
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Deadline:
    """How long a call waits for a server that says nothing.

    Every answer that carries data renews it, so a slow line is not mistaken for a dead one.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = stopwatch() + seconds

    def renew(self) -> None:
        """Start again: the server has answered."""
        self._until = stopwatch() + self.seconds

    @property
    def left(self) -> float:
        """Seconds to go; 0 when used up."""
        return max(self._until - stopwatch(), 0.0)

    @property
    def used_up(self) -> bool:
        """Whether the server has been silent for too long."""
        return self.left <= 0.0


class BoundedSocket:
    """A TCP connection whose every wait ends when the caller's deadline does."""

    def __init__(
        self,
        server: str,
        port: int,
        *,
        deadline: Callable[[], Deadline],
        opened: Callable[[bytearray], bytes] = bytes,
    ) -> None:
        """Prepare.

        Args:
            server: Name or address.
            port: TCP port.
            deadline: Gives the deadline of the call under way.
            opened: What to do with a message before it is handed on.
        """
        self.server = server
        self.port = port
        self.connected = False
        self._deadline = deadline
        self._opened = opened
        self._socket: socket.socket | None = None
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

    def connect(self) -> None:
        """Connect to the first of the server's addresses that answers.

        Raises:
            OSError: None does, or the name is not known.
        """
        deadline = self._deadline()
        addresses = _addresses(self.server, self.port, deadline.left)
        failure: OSError = OSError(f"{self.server} has no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(max(deadline.left / (len(addresses) - tried), 0.01))
                made.connect(address)
                _configure(made, deadline.seconds)
            except OSError as cause:
                failure = cause
                made.close()
                continue
            made.settimeout(0)
            self._socket, self.connected = made, True
            return
        raise failure

    @property
    def hung_up(self) -> bool:
        """Whether the far end closed the connection, noticed or not."""
        if self._socket is None or not self.connected:
            return True
        poll = select.poll()
        poll.register(self._socket, _HUNG_UP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Hang up, whoever is sending or receiving; they see a closed connection."""
        if self._socket is None:
            return
        self.connected = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes both waits, so the locks come free
        with self._sending, self._receiving:
            self._socket.close()

    def send(self, message: bytes | Sequence[bytes | memoryview]) -> None:
        """Send one message, in one piece or several.

        Raises:
            TimeoutError: The server stopped reading.
            OSError: The connection is gone.
        """
        parts = [message] if isinstance(message, bytes) else message
        length = sum(len(part) for part in parts)
        if length > _MAX_BYTES:
            raise ValueError(f"a message of {length} bytes does not fit one SMB frame")
        buffers = [memoryview(length.to_bytes(4, "big")), *(memoryview(part) for part in parts)]
        with self._sending:
            while buffers:
                sent = self._send_some(buffers)
                while buffers and sent >= len(buffers[0]):
                    sent -= len(buffers.pop(0))
                if buffers:
                    buffers[0] = buffers[0][sent:]

    def recv(self, timeout: float) -> bytes:
        """Wait for the next message, however long it takes: whoever asked keeps the time.

        Args:
            timeout: Not used; a dead peer is found by TCP keepalive, a silent one by the caller.

        Returns:
            The message without its length; nothing when the connection is closed.

        Raises:
            SMBException: It is no SMB.
        """
        del timeout
        prefix = self._receive_exactly(4)
        if not prefix:
            return b""
        length = int.from_bytes(prefix, "big")
        if length > _MAX_BYTES:
            raise SMBException("what came over the connection is no SMB")
        message = self._receive_exactly(length)
        return self._opened(message) if message else b""

    def _send_some(self, buffers: list[memoryview]) -> int:
        while True:
            if self._socket is None or not self.connected:
                raise ConnectionResetError("the SMB connection is closed")
            try:
                return self._socket.sendmsg(buffers)
            except BlockingIOError:
                self._wait_until_writable(self._socket)

    def _wait_until_writable(self, at: socket.socket) -> None:
        poll = select.poll()
        poll.register(at, select.POLLOUT)
        if not poll.poll(self._deadline().left * 1000):
            raise TimeoutError("the server stopped reading")

    def _receive_exactly(self, count: int) -> bytearray:
        """Exactly `count` bytes, or none when the connection ends before."""
        buffer, filled = bytearray(count), 0
        while filled < count:
            # Let go of by ourselves: a profiler keeps frames, and with them what they looked at.
            with self._receiving, memoryview(buffer)[filled:] as rest:
                got = self._receive_some(rest)
            if not got:
                self.close()
                return bytearray()
            filled += got
        return buffer

    def _receive_some(self, view: memoryview) -> int:
        if self._socket is None or not self.connected:
            return 0
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            try:
                return self._socket.recv_into(view)
            except BlockingIOError:
                poll.poll()
            except OSError:
                return 0


def _configure(made: socket.socket, deadline_seconds: float) -> None:
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", _KEEPALIVE_SECONDS // _KEEPALIVE_PROBES),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", max(int(deadline_seconds * 2000), 1000)),
    ):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]


def _addresses(server: str, port: int, seconds: float) -> list[_Address]:
    """Look the name up, but wait no longer than `seconds` for a silent name server."""
    answers: queue.SimpleQueue[list[_Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(socket.getaddrinfo(server, port, type=socket.SOCK_STREAM)))  # type: ignore[arg-type]
        except OSError as cause:
            answers.put(cause)

    threading.Thread(target=look_up, name=f"look up {server}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0.01))
    except queue.Empty:
        raise TimeoutError(f"no name server told the address of {server}") from None
    if isinstance(answer, OSError):
        raise answer
    return answer

"""A small NBD server as XenServer's is, that can also be made to misbehave."""

import contextlib
import select
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
ACK, UNSUPPORTED, POLICY, TLS_REQUIRED = 1, 0x80000001, 0x80000002, 0x80000005
OPTION_REPLY = 0x3E889045565A9


@dataclass
class Manners:
    """How the server behaves.

    Attributes:
        break_after: Hang up after so many bytes, on this many connections.
        breaks: How many connections are broken off.
        error_at: Answer a read at this offset with an error.
        reversed_answers: Collect requests and answer the last first.
        stall: Take requests and answer nothing.
        shorter_by: Announce a size smaller than the disk's.
    """

    break_after: int = 0
    breaks: int = 0
    error_at: int = -1
    reversed_answers: bool = False
    stall: bool = False
    shorter_by: int = 0


@dataclass
class Seen:
    """What the server was asked."""

    reads: list[tuple[int, int]] = field(default_factory=list)
    exports: list[str] = field(default_factory=list)
    goodbyes: int = 0
    connections: int = 0


class NbdServer:
    """Serves disks by their uuid on loopback, with TLS if it has a certificate."""

    def __init__(self, disks: dict[str, bytes], pem: Path | None = None) -> None:
        self.disks = disks
        self.manners = Manners()
        self.seen = Seen()
        self._context: ssl.SSLContext | None = None
        if pem is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pem)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.seen.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        mine = [sock]
        self._open.append(sock)
        try:
            sock.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 1))
            _exactly(sock, 4)
            sock, disk = self._negotiate(sock, mine)
            if disk is not None:
                self._transmit(sock, disk)
        except (OSError, EOFError, struct.error):
            pass
        finally:
            for each in mine:
                each.close()

    def _negotiate(
        self, sock: socket.socket, mine: list[socket.socket]
    ) -> tuple[socket.socket, bytes | None]:
        secured = self._context is None
        while True:
            _, option, length = struct.unpack(">QII", _exactly(sock, 16))
            data = _exactly(sock, length)
            if option == 5 and self._context is not None:
                _answer(sock, option, ACK)
                sock = self._context.wrap_socket(sock, server_side=True)
                mine.append(sock)
                self._open.append(sock)
                secured = True
            elif option == 5:
                _answer(sock, option, POLICY)
            elif not secured and option != 1:
                _answer(sock, option, TLS_REQUIRED)
            elif option == 1:
                disk = self._disk(data.decode()) if secured else None
                if disk is not None:
                    size = len(disk) - self.manners.shorter_by
                    sock.sendall(struct.pack(">QH", size, 3) + bytes(124))
                return sock, disk
            else:
                _answer(sock, option, UNSUPPORTED)

    def _disk(self, export: str) -> bytes | None:
        self.seen.exports.append(export)
        return self.disks.get(export.partition("?")[0].strip("/"))

    def _transmit(self, sock: socket.socket, disk: bytes) -> None:
        sent, held = 0, []
        breaking = self.manners.breaks > 0
        self.manners.breaks -= 1
        while True:
            _, _, kind, handle, offset, length = struct.unpack(">IHHQQI", _exactly(sock, 28))
            if kind == 2:
                self.seen.goodbyes += 1
                return
            self.seen.reads.append((offset, length))
            if self.manners.stall:
                continue
            held.append((handle, offset, length))
            if self.manners.reversed_answers and _more_is_coming(sock):
                continue
            for known in reversed(held):
                if breaking and sent + known[2] > self.manners.break_after:
                    return
                sent += known[2]
                self._give(sock, disk, *known)
            held = []

    def _give(
        self, sock: socket.socket, disk: bytes, handle: int, offset: int, length: int
    ) -> None:
        error = 5 if offset == self.manners.error_at else 0
        sock.sendall(struct.pack(">IIQ", 0x67446698, error, handle))
        if not error:
            sock.sendall(disk[offset : offset + length])


def _answer(sock: socket.socket, option: int, kind: int) -> None:
    sock.sendall(struct.pack(">QIII", OPTION_REPLY, option, kind, 0))


def _more_is_coming(sock: socket.socket) -> bool:
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(200))


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data

"""A TCP relay between client and server: what went over the wire, and what if it had not."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

Frame = bytes
Change = Callable[[Frame], Frame | None]
"""What becomes of a message from the server: itself, another, or none."""


def unchanged(frame: Frame) -> Frame:
    return frame


class Wire:
    """Relays SMB messages one by one.

    Attributes:
        port: Where to connect instead of the server.
        sent: Every byte the clients sent.
        received: Every byte the server answered.
        connections: How many were made through it.
    """

    def __init__(self, server_port: int, *, change: Change = unchanged) -> None:
        self.sent = bytearray()
        self.received = bytearray()
        self.connections = 0
        self._change = change
        self._server_port = server_port
        self._open: list[socket.socket] = []
        self._forgotten: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._passing = threading.Event()
        self._passing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold(self) -> None:
        """Pass nothing on any more, but keep the connections: a line that swallows everything."""
        self._passing.clear()

    def forget_connections(self) -> None:
        """Swallow whatever comes over the connections there are; new ones work."""
        self._forgotten |= set(self._open)

    def close(self) -> None:
        """Cut every connection."""
        self._passing.set()
        for held in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._open += [client, server]
                self.connections += 1
                for source, target, record, change in (
                    (client, server, self.sent, unchanged),
                    (server, client, self.received, self._change),
                ):
                    threading.Thread(
                        target=self._relay, args=(source, target, record, change), daemon=True
                    ).start()

    def _relay(
        self, source: socket.socket, target: socket.socket, record: bytearray, change: Change
    ) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = struct.unpack(">I", _exactly(source, 4))
                frame = _exactly(source, length)
                self._passing.wait()
                record += frame
                changed = change(frame)
                if changed is not None and source not in self._forgotten:
                    target.sendall(struct.pack(">I", len(changed)) + changed)
        for held in (source, target):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)


def _exactly(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = source.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data

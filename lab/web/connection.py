"""One HTTP connection: requests in, answers out, in full control of the bytes."""

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedReader
from socket import SHUT_WR, socket
from urllib.parse import parse_qsl, unquote

from lab.storage.files import DataFile
from lab.storage.layers import ZEROS

MAX_LINE_BYTES = 64 << 10
MAX_HEADERS = 200
SEND_BYTES = 1 << 20
DRAIN_BYTES = 64 << 20
DRAIN_SECONDS = 2.0
SENDFILE_BYTES = 1 << 30


class BadRequest(Exception):
    """What came in is no HTTP request."""


@dataclass
class Request:
    """One request without its body.

    `target` is path and query as sent; header names are in lower case.
    """

    method: str
    target: str
    path: str
    query: dict[str, str]
    version: str
    headers: dict[str, str] = field(repr=False)

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants to go on after the answer."""
        said = self.headers.get("connection", "").lower()
        return said == "keep-alive" if self.version == "HTTP/1.0" else said != "close"

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, or None if the client does not say."""
        said = self.headers.get("content-length", "").strip()
        return int(said) if said.isdigit() else None

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name."""
        pairs = (part.split("=", 1) for part in self.headers.get("cookie", "").split(";"))
        return {pair[0].strip(): unquote(pair[1].strip()) for pair in pairs if len(pair) == 2}


class Connection:
    """A client's socket, plain or TLS.

    Attributes:
        host: Which of the pool's hosts the client asked, by number.
    """

    def __init__(self, sock: socket, host: int = 0) -> None:
        self.sock = sock
        self.host = host
        self._input: BufferedReader = sock.makefile("rb", buffering=256 << 10)  # type: ignore[assignment]

    def close(self) -> None:
        """Hang up."""
        self._end_tls()
        self._input.close()
        self.sock.close()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._end_tls()
        # The plain form: that of a TLS socket would forget the keys, and there may be more to read.
        socket.shutdown(self.sock, SHUT_WR)

    def _end_tls(self) -> None:
        """Send TLS's own end mark, and do not wait for the client's."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0.0)
            with suppress(OSError, ValueError):
                self.sock.unwrap()

    def drain(self) -> None:
        """Stop sending and read what the client still sends, so that it sees the answer."""
        self.end()
        self.sock.settimeout(DRAIN_SECONDS)
        left = DRAIN_BYTES
        while left > 0 and (data := self._input.read1(SEND_BYTES)):
            left -= len(data)

    # -- in --------------------------------------------------------------------------------------

    def requests(self) -> Iterator[Request]:
        """Yield requests until the client hangs up.

        Raises:
            BadRequest: The client does not speak HTTP.
        """
        while line := self._input.readline(MAX_LINE_BYTES):
            if line.strip():
                yield self._read_request(line)

    def _read_request(self, line: bytes) -> Request:
        try:
            method, target, version = line.decode("latin-1").split()
        except ValueError as cause:
            raise BadRequest(repr(line[:80])) from cause
        headers: dict[str, str] = {}
        for _ in range(MAX_HEADERS):
            name, colon, value = (
                self._input.readline(MAX_LINE_BYTES).decode("latin-1").partition(":")
            )
            if not colon:
                break
            headers[name.strip().lower()] = value.strip()
        path, _, asked = target.partition("?")
        query = dict(parse_qsl(asked, keep_blank_values=True))
        return Request(method, target, unquote(path), query, version, headers)

    def read(self, length: int) -> bytes:
        """Read exactly `length` bytes, or fewer when the client hangs up before."""
        return self._input.read(length)

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer; returns how many bytes came before the client hung up."""
        filled = 0
        while filled < len(buffer):
            count = self._input.readinto(buffer[filled:])
            if not count:
                break
            filled += count
        return filled

    # -- out -------------------------------------------------------------------------------------

    def send_head(self, status: int, headers: dict[str, str], *, version: str = "HTTP/1.1") -> None:
        """Send a status line and headers."""
        lines = [f"{version} {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def answer(self, request: Request, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole answer with its length."""
        own = {
            "content-length": str(len(body)),
            "connection": "keep-alive" if request.keeps_alive else "close",
            "cache-control": "no-cache, no-store",
        }
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in (own | headers).items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def send_zeros(self, length: int) -> None:
        """Send zeros."""
        while length > 0:
            step = min(length, len(ZEROS))
            self.sock.sendall(memoryview(ZEROS)[:step])
            length -= step

    def send_file(self, file: DataFile, start: int, end: int) -> None:
        """Send a range of a file; holes in it cost no reading."""
        position = start
        for low, high in file.data_ranges(start, end):
            self.send_zeros(low - position)
            self._send_data(file, low, high)
            position = high
        self.send_zeros(end - position)

    def _send_data(self, file: DataFile, start: int, end: int) -> None:
        position = start
        if isinstance(self.sock, ssl.SSLSocket):
            while position < end:
                part = file.read(position, min(SEND_BYTES, end - position))
                self.sock.sendall(part)
                position += len(part)
            return
        while position < end:
            count = min(SENDFILE_BYTES, end - position)
            sent = os.sendfile(self.sock.fileno(), file.descriptor, position, count)
            if sent == 0:
                self.send_zeros(end - position)
                return
            position += sent

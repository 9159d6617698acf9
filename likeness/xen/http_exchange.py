"""GET and PUT on a host's disk handlers, their bodies straight from and to the socket.

The session travels in a cookie, never in an address that ends up in logs, and only to hosts of
the pool that have proved who they are.
"""

import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, parse_headers
from io import BytesIO
from urllib.parse import urlencode, urlsplit

from likeness.clock import stopwatch
from likeness.errors import HostRefused, TransferBroken
from likeness.stopping import StopToken
from likeness.xen.endpoints import Endpoint, open_socket
from likeness.xen.session import XenSession

_HEAD_LIMIT = 1 << 16
_TICK = 0.5
_HOPS = 3
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})([^\r\n]*)")


class SessionForgotten(Exception):
    """The host does not accept the session any more; inside `likeness.xen` only."""


@dataclass(slots=True)
class Body:
    """The body of an answer while it is coming in."""

    sock: socket.socket
    early: bytes
    idle_seconds: float
    stop: StopToken

    def fill(self, target: memoryview) -> int:
        """Fill a buffer from the body.

        Returns:
            How many bytes came; less than the buffer holds only when the body has ended.

        Raises:
            TransferBroken: The connection broke, or nothing came for `idle_seconds`.
            Stopped: Somebody asked to stop.
        """
        got = min(len(self.early), len(target))
        if got:
            target[:got] = self.early[:got]
            self.early = self.early[got:]
        last_came_at = stopwatch()
        while got < len(target):
            self.stop.check()
            try:
                count = self.sock.recv_into(target[got:])
            except TimeoutError:
                if stopwatch() - last_came_at > self.idle_seconds:
                    raise TransferBroken(f"no data came for {self.idle_seconds:.0f} s") from None
                continue
            except OSError as cause:
                raise TransferBroken(f"the connection broke: {cause}") from cause
            if count == 0:
                break
            got += count
            last_came_at = stopwatch()
        return got

    def close(self) -> None:
        """Hang up; safe to repeat."""
        self.sock.close()


@dataclass(slots=True)
class Upload:
    """The body of a request while it is going out."""

    sock: socket.socket
    idle_seconds: float
    stop: StopToken

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it.

        Raises:
            TransferBroken: The connection broke, or nothing was taken for `idle_seconds`.
            Stopped: Somebody asked to stop.
        """
        left = memoryview(data)
        last_went_at = stopwatch()
        while left:
            self.stop.check()
            try:
                count = self.sock.send(left)
            except TimeoutError:
                if stopwatch() - last_went_at > self.idle_seconds:
                    raise TransferBroken(
                        f"the host took no data for {self.idle_seconds:.0f} s"
                    ) from None
                continue
            except OSError as cause:
                raise TransferBroken(f"the connection broke: {cause}") from cause
            left = left[count:]
            last_went_at = stopwatch()

    def finish(self) -> None:
        """Say that nothing more comes, and wait until the host has taken what was sent.

        Hanging up at once could make the host lose data that is still on its way.
        """
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            ends_at = stopwatch() + self.idle_seconds
            while stopwatch() < ends_at and not self.stop.stopped:
                try:
                    if not self.sock.recv(_HEAD_LIMIT):
                        return
                except TimeoutError:
                    continue

    def close(self) -> None:
        """Hang up; safe to repeat."""
        self.sock.close()


def get_body(
    xen: XenSession,
    path: str,
    query: Mapping[str, str],
    *,
    idle_seconds: float,
    stop: StopToken,
) -> Body:
    """Ask for a path, follow the pool to the host that has it, and leave the body to be read.

    Raises:
        SessionForgotten: The session must be renewed first.
        TransferBroken: The host did not answer as it should.
        HostRefused: The account may not, or the pool points elsewhere than at its own hosts.
        CertificateRefused: A host is not the one that was confirmed.
        Stopped: Somebody asked to stop.
    """
    sock, early = _exchanged(xen, "GET", path, query, {}, idle_seconds, stop)
    return Body(sock=sock, early=early, idle_seconds=idle_seconds, stop=stop)


def put_body(
    xen: XenSession,
    path: str,
    query: Mapping[str, str],
    *,
    length: int | None,
    idle_seconds: float,
    stop: StopToken,
) -> Upload:
    """Announce a body, follow the pool to the host that takes it, and leave it to be sent.

    The host says 200 before it has read anything; only the transfer's task tells how it went.

    Args:
        xen: The session.
        path: The handler.
        query: Without the session.
        length: Bytes of the body, where known.
        idle_seconds: Give up when nothing moves for so long.
        stop: Looked at while waiting.

    Raises:
        As `get_body`.
    """
    announced = {} if length is None else {"Content-Length": str(length)}
    sock, _ = _exchanged(xen, "PUT", path, query, announced, idle_seconds, stop)
    return Upload(sock=sock, idle_seconds=idle_seconds, stop=stop)


def _exchanged(
    xen: XenSession,
    method: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    idle_seconds: float,
    stop: StopToken,
) -> tuple[socket.socket, bytes]:
    """A socket on which 200 was said, and what came after that already."""
    place = xen.coordinator
    target = f"{path}?{urlencode(query)}"
    for _ in range(_HOPS):
        head = _request_head(method, target, place, xen.ref, headers)
        sock = _sent(place, head, min(idle_seconds, 60.0))
        try:
            status, said, early = _head(sock, stop, idle_seconds)
        except BaseException:
            sock.close()
            raise
        if status == 200:
            return sock, early
        sock.close()
        if status not in (301, 302, 303, 307):
            raise _refused(status, place, path)
        place, target = _next_hop(xen, said.get("Location", ""), target)
    raise TransferBroken(f"{xen.url} sends {path} from host to host without end")


def _request_head(
    method: str, target: str, place: Endpoint, session: str, headers: Mapping[str, str]
) -> bytes:
    lines = {
        "Host": f"{place.host}:{place.port}",
        "Cookie": f"session_id={session}",
        "User-Agent": "likeness",
        "Accept": "*/*",
        "Connection": "close",
        **headers,
    }
    return (
        f"{method} {target} HTTP/1.1\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        + "\r\n"
    ).encode("ascii")


def _sent(place: Endpoint, head: bytes, deadline_seconds: float) -> socket.socket:
    try:
        sock = open_socket(place, deadline_seconds=deadline_seconds)
    except OSError as cause:
        raise TransferBroken(f"{place.url} does not answer: {cause}") from cause
    try:
        sock.sendall(head)
    except OSError as cause:
        sock.close()
        raise TransferBroken(f"{place.url} hung up: {cause}") from cause
    return sock


def _head(
    sock: socket.socket, stop: StopToken, idle_seconds: float
) -> tuple[int, HTTPMessage, bytes]:
    """Status, headers, and the first bytes of the body."""
    got = bytearray()
    sock.settimeout(_TICK)
    ends_at = stopwatch() + idle_seconds
    while b"\r\n\r\n" not in got:
        stop.check()
        if len(got) > _HEAD_LIMIT or stopwatch() > ends_at:
            raise TransferBroken("the host gave no HTTP answer")
        try:
            part = sock.recv(4096)
        except TimeoutError:
            continue
        except OSError as cause:
            raise TransferBroken(f"the connection broke: {cause}") from cause
        if not part:
            raise TransferBroken("the host hung up without an answer")
        got += part
    whole = BytesIO(got)
    found = _STATUS.match(whole.readline())
    try:
        headers = parse_headers(whole)
    except HTTPException as cause:
        raise TransferBroken(f"the host's answer is not HTTP: {cause}") from cause
    if not found:
        raise TransferBroken("the host's answer is not HTTP")
    return int(found[1]), headers, whole.read()


def _refused(status: int, place: Endpoint, path: str) -> Exception:
    if status == 401:
        return SessionForgotten()
    if status == 403:
        return HostRefused(
            f"{place.url} does not let this account read disks through {path}; "
            "give it a role with that right, such as vm-power-admin",
            code="RBAC_PERMISSION_DENIED",
        )
    return TransferBroken(f"{place.url} answered {path} with HTTP {status}")


def _next_hop(xen: XenSession, location: str, target: str) -> tuple[Endpoint, str]:
    parts = urlsplit(location)
    if not parts.hostname:
        return xen.coordinator, location or target
    place = xen.host_at(parts.netloc)
    if place is None:
        raise HostRefused(
            f"{xen.url} points to {parts.hostname}, which is no host of its pool; "
            "the session is not sent there",
            code="HOST_UNKNOWN",
        )
    return place, target


def second_answer(tail: bytes) -> str:
    """The status line of an HTTP answer inside a body, which is how a host reports late."""
    found = [match[0].decode("latin-1") for match in _STATUS.finditer(tail)]
    return found[-1] if found else ""

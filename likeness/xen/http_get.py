"""A GET on a host's disk handler: the head read by us, the body straight from the socket."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
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


def get_body(
    xen: XenSession,
    path: str,
    query: Mapping[str, str],
    *,
    idle_seconds: float,
    stop: StopToken,
) -> Body:
    """Ask for a path, follow the pool to the host that has it, and leave the body to be read.

    The session travels in a cookie, never in an address that ends up in logs.

    Raises:
        SessionForgotten: The session must be renewed first.
        TransferBroken: The host did not answer as it should.
        HostRefused: The account may not, or the pool points elsewhere than at its own hosts.
        CertificateRefused: A host is not the one that was confirmed.
    """
    place = xen.coordinator
    target = f"{path}?{urlencode(query)}"
    for _ in range(_HOPS):
        sock = _sent(place, target, xen.ref, min(idle_seconds, 60.0))
        try:
            status, headers, early = _head(sock, stop, idle_seconds)
        except BaseException:
            sock.close()
            raise
        if status == 200:
            sock.settimeout(_TICK)
            return Body(sock=sock, early=early, idle_seconds=idle_seconds, stop=stop)
        sock.close()
        if status not in (301, 302, 303, 307):
            raise _refused(status, place, path)
        place, target = _next_hop(xen, headers.get("location", ""), target)
    raise TransferBroken(f"{xen.url} sends {path} from host to host without end")


def _sent(place: Endpoint, target: str, session: str, deadline_seconds: float) -> socket.socket:
    try:
        sock = open_socket(place, deadline_seconds=deadline_seconds)
    except OSError as cause:
        raise TransferBroken(f"{place.url} does not answer: {cause}") from cause
    try:
        sock.sendall(
            f"GET {target} HTTP/1.1\r\n"
            f"Host: {place.host}:{place.port}\r\n"
            f"Cookie: session_id={session}\r\n"
            "User-Agent: likeness\r\n"
            "Accept: */*\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
        )
    except OSError as cause:
        sock.close()
        raise TransferBroken(f"{place.url} hung up: {cause}") from cause
    return sock


def _head(
    sock: socket.socket, stop: StopToken, idle_seconds: float
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and the first bytes of the body."""
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
    head, _, early = bytes(got).partition(b"\r\n\r\n")
    found = _STATUS.match(head)
    if not found:
        raise TransferBroken("the host's answer is not HTTP")
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return int(found[1]), {name.strip().lower(): value.strip() for name, _, value in lines}, early


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

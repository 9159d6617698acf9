"""One XML-RPC connection to one host, with a deadline for every call.

The XAPI client's own habits are switched off here where they would hurt: it repeats a call whose
answer was lost, which can take a snapshot twice, and it logs in again up to three times.
"""

import http.client
import select
import socket
import xmlrpc.client  # the protocol XenServer speaks; answers come from its own host
from collections.abc import Callable
from typing import Any

import XenAPI

from likeness.clock import stopwatch
from likeness.xen.endpoints import Endpoint, open_socket
from likeness.xen.failures import Refusal

ORIGINATOR = "likeness"
"""XenServer counts sessions per originator, so ours never push out another program's."""

CONNECT_SECONDS = 10.0
"""For reaching a host and its handshake; a host that is switched off shows by its silence."""

_READ_BYTES = 1 << 16


class SessionGone(Exception):
    """The session is not known any more; inside `likeness.xen` only."""


class NotReached(Exception):
    """The host was not reached: nothing was sent; inside `likeness.xen` only."""


class AnswerLost(Exception):
    """The call was sent and no answer came; inside `likeness.xen` only."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket that knows its host before anything is sent."""

    def __init__(self, place: Endpoint, seconds: Callable[[], float]) -> None:
        super().__init__(place.host, place.port)
        self._place, self._seconds = place, seconds

    def connect(self) -> None:
        self.sock = open_socket(self._place, deadline_seconds=self._seconds())


class _Transport(xmlrpc.client.Transport):
    """Carries calls over one kept connection; never repeats one by itself."""

    user_agent = "likeness"
    accept_gzip_encoding = False

    def __init__(self, place: Endpoint) -> None:
        super().__init__()
        self._place = place
        self._http: http.client.HTTPConnection | None = None
        self._ends_at = 0.0

    def begin(self, deadline_seconds: float) -> None:
        """Set the deadline of the next call and be connected for it.

        Raises:
            NotReached: Nobody answers.
            CertificateRefused: The host is not the one that was confirmed.
        """
        self._ends_at = stopwatch() + deadline_seconds
        if self._http is not None and self._http.sock is not None and _went_away(self._http.sock):
            self.close()
        if self._http is None or self._http.sock is None:
            self._http = _Connection(self._place, lambda: min(self._remaining(), CONNECT_SECONDS))
            try:
                self._http.connect()
            except OSError as cause:
                self._http = None
                raise NotReached(str(cause)) from cause
        self._http.sock.settimeout(self._remaining())

    def make_connection(self, host: object) -> http.client.HTTPConnection:
        if self._http is None:
            raise NotReached(f"no connection to {self._place.url}")
        return self._http

    def request(self, host: Any, handler: str, request_body: Any, verbose: Any = 0) -> Any:
        return self.single_request(host, handler, request_body, verbose)

    def parse_response(self, response: Any) -> tuple[Any, ...]:
        """Read the answer under what is left of the deadline."""
        parser, unmarshaller = self.getparser()
        while data := response.read(_READ_BYTES):
            if self._http is not None and self._http.sock is not None:
                self._http.sock.settimeout(self._remaining())
            parser.feed(data)
        parser.close()
        return unmarshaller.close()

    def close(self) -> None:
        """Hang up; safe to repeat."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _remaining(self) -> float:
        left = self._ends_at - stopwatch()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return left


class RpcConnection:
    """One host's XAPI; used by one thread at a time."""

    def __init__(self, place: Endpoint) -> None:
        self.place = place
        self._transport = _Transport(place)
        self._proxy = XenAPI.Session(f"{place.scheme}://host/RPC2", transport=self._transport)

    def login(self, username: str, password: str, *, deadline_seconds: float) -> str:
        """Open a session and give its reference.

        Raises:
            Refusal, NotReached, AnswerLost: See `call`.
        """
        return str(
            self._guarded(
                "session.login_with_password",
                lambda: _value(
                    self._proxy.session.login_with_password(username, password, "1.1", ORIGINATOR)
                ),
                deadline_seconds,
            )
        )

    def call(
        self, method: str, params: tuple[Any, ...], *, session: str, deadline_seconds: float
    ) -> Any:
        """Call one message, once.

        Args:
            method: Such as ``VM.get_record`` or ``Async.VM.snapshot``.
            params: Without the session; integers as `str`.
            session: The session's reference.
            deadline_seconds: For everything, connecting included.

        Raises:
            Refusal: XenServer answered with an error.
            SessionGone: It does not know the session.
            NotReached: Nothing was sent.
            AnswerLost: It was sent, and no answer came.
        """

        def send() -> Any:
            target = self._proxy
            for part in method.split("."):
                target = getattr(target, part)
            return _value(target(session, *params))

        return self._guarded(method, send, deadline_seconds)

    def close(self) -> None:
        """Hang up; safe to repeat."""
        self._transport.close()

    def _guarded(self, method: str, send: Callable[[], Any], deadline_seconds: float) -> Any:
        try:
            self._transport.begin(deadline_seconds)
        except TimeoutError as cause:
            raise NotReached(str(cause)) from cause
        try:
            return send()
        except XenAPI.Failure as failure:
            code, *details = [str(part) for part in failure.details]
            raise Refusal(code, details, method=method) from None
        except xmlrpc.client.Fault as fault:
            raise Refusal("INTERNAL_ERROR", [fault.faultString], method=method) from None
        except xmlrpc.client.ProtocolError as cause:
            self.close()
            raise AnswerLost(f"HTTP {cause.errcode} {cause.errmsg}") from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, SyntaxError) as cause:
            self.close()
            raise AnswerLost(f"{type(cause).__name__}: {cause}") from cause
        except BaseException:
            self.close()
            raise


def _value(answer: Any) -> Any:
    """What is inside XAPI's own envelope."""
    if not isinstance(answer, dict) or "Status" not in answer:
        raise xmlrpc.client.Fault(500, "the answer is not in XAPI's form")
    if answer["Status"] == "Success":
        return answer.get("Value", "")
    details = answer.get("ErrorDescription") or ["INTERNAL_ERROR", "no description"]
    if details[0] == "SESSION_INVALID":
        raise SessionGone
    raise XenAPI.Failure(details)


def _went_away(sock: socket.socket) -> bool:
    """Whether the other side closed a connection that nobody uses at the moment."""
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(0))


def result_of(fragment: str) -> Any:
    """What is in a task's ``result``: an XML-RPC ``<value>`` as text, empty for nothing.

    Raises:
        ValueError: It is neither.
    """
    if not fragment:
        return ""
    envelope = f"<methodResponse><params><param>{fragment}</param></params></methodResponse>"
    try:
        (value,), _ = xmlrpc.client.loads(envelope)
    except (SyntaxError, xmlrpc.client.Error) as cause:
        raise ValueError(f"a task's result is not in XML-RPC's form: {cause}") from cause
    return value

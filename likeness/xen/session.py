"""A login to a XenServer or XCP-ng pool that survives what pools go through.

The coordinator may change, the session may be forgotten, a host may be starting: each has its
answer here, once, so that nothing above has to think of it. One session serves many threads.
"""

import copy
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from likeness.clock import stopwatch
from likeness.errors import (
    BadInput,
    CertificateRefused,
    HostUnreachable,
    LikenessError,
    LoginRefused,
)
from likeness.retrying import Attempts, Pauses, unless_stopped
from likeness.stopping import StopToken
from likeness.xen.endpoints import Endpoint, endpoint, fingerprint_of_pem, is_loopback
from likeness.xen.failures import Refusal, explain
from likeness.xen.owner import Owner
from likeness.xen.rpc import AnswerLost, NotReached, RpcConnection, SessionGone

NULL = "OpaqueRef:NULL"
"""XenServer's reference to nothing; very old hosts give an empty string instead."""

CALL_SECONDS = 60.0
LISTING_SECONDS = 300.0
RETRY_SECONDS = 30.0
TASK_SECONDS = 600.0
IDLE_SECONDS = 300.0
_NOT_NOW = frozenset({"HOST_STILL_BOOTING", "TOO_BUSY"})
_LATELY_SECONDS = 60.0
_BETWEEN_HOSTS = Pauses(0.1, 5.0)
_LOGIN = "session.login_with_password"


def is_null(ref: str) -> bool:
    """Whether a reference points to nothing."""
    return ref in ("", NULL)


@dataclass(slots=True)
class _Trying:
    """One call, as often as it takes."""

    attempts: Attempts
    logged_in_again: bool = False


@dataclass(slots=True)
class _Login:
    """What a session and those made from it by `XenSession.like` have in common."""

    coordinator: Endpoint
    hosts: dict[tuple[str, int], Endpoint]
    lock: threading.RLock = field(default_factory=threading.RLock)
    idle: list[RpcConnection] = field(default_factory=list)
    ref: str = ""
    closed: bool = False
    known: dict[tuple[str, str], Any] = field(default_factory=dict)
    lately: dict[tuple[str, str], tuple[float, Any]] = field(default_factory=dict)
    asking_lately: threading.Lock = field(default_factory=threading.Lock)


class XenSession:
    """One account's session with one pool; use it in a `with`.

    Methods may be called from many threads at once; each call has a connection of its own.

    Attributes:
        owner: Whom the pool's tasks that this session begins belong to; nobody: they are not
            marked.
        task_seconds: The longest that anything done in the pool's background may take.
        idle_seconds: The longest that a transfer may stand still.
    """

    def __init__(
        self,
        place: Endpoint,
        *,
        username: str,
        password: str,
        deadline_seconds: float,
        patience_seconds: float,
        stop: StopToken,
        owner: Owner | None = None,
        task_seconds: float = TASK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.owner = owner
        self.task_seconds, self.idle_seconds = task_seconds, idle_seconds
        self._username, self._password = username, password
        self._deadline_seconds, self._retry_seconds = deadline_seconds, patience_seconds
        self._stop = stop
        self._configured = place
        self._login = _Login(place, {(place.host, place.port): place})

    @classmethod
    def login(
        cls,
        url: str,
        *,
        username: str,
        password: str,
        fingerprint: str | Iterable[str] | None = None,
        deadline_seconds: float = CALL_SECONDS,
        patience_seconds: float = RETRY_SECONDS,
        stop: StopToken | None = None,
        owner: Owner | None = None,
        task_seconds: float = TASK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> Self:
        """Log in, wherever in the pool the coordinator is.

        Args:
            url: Any host of the pool, such as ``https://xen1.example``.
            username: The account; its role must allow snapshots (vm-power-admin).
            password: Its password; kept in memory to log in again, shown nowhere.
            fingerprint: SHA-256 of the host's certificate, or several, see `endpoints.endpoint`.
            deadline_seconds: For every single call.
            patience_seconds: How long to try all known hosts while none answers.
            stop: Ends waiting early.
            owner: See the class, as the two that follow.
            task_seconds: Longer ones are cancelled.
            idle_seconds: Longer ones are broken off.

        Raises:
            BadInput: The address or the fingerprint is none.
            HostUnreachable: No host of the pool answers.
            LoginRefused: The account is not accepted; not tried again.
            CertificateRefused: The host is not the one that was confirmed.
        """
        session = cls(
            endpoint(url, fingerprint),
            username=username,
            password=password,
            deadline_seconds=deadline_seconds,
            patience_seconds=patience_seconds,
            stop=stop or StopToken(),
            owner=owner,
            task_seconds=task_seconds,
            idle_seconds=idle_seconds,
        )
        session._log_in()
        session._learn_hosts()
        return session

    def like(self, *, stop: StopToken | None, owner: Owner | None) -> Self:
        """The same login for another owner's work, with a stop token of its own.

        Whoever logged in closes it for all.
        """
        same = copy.copy(self)
        same.owner, same._stop = owner, stop or StopToken()
        return same

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"XenSession({self._configured.url}, {self._username})"

    @property
    def url(self) -> str:
        """The address that was given."""
        return self._configured.url

    @property
    def coordinator(self) -> Endpoint:
        """The host that answers at the moment."""
        return self._login.coordinator

    @property
    def ref(self) -> str:
        """The session's reference: a secret, for transfers that carry it themselves."""
        return self._login.ref

    def host_at(self, address: str) -> Endpoint | None:
        """A host of this pool by its address; nothing when the pool has no such host."""
        try:
            place = self._configured.at(address)
        except BadInput:
            return None
        with self._login.lock:
            exact = self._login.hosts.get((place.host, place.port))
            return exact or next(
                (h for h in self._login.hosts.values() if h.host == place.host), None
            )

    def renew(self, stale: str) -> None:
        """Log in again, unless another thread has done so since `stale` was current."""
        with self._login.lock:
            if self._login.ref == stale:
                self._log_in()

    def call(self, method: str, *params: Any, deadline_seconds: float | None = None) -> Any:
        """Call one XAPI message.

        A call that only reads is repeated while hosts do not answer, for the session's patience;
        one that changes something is repeated only when it certainly was not sent.

        Args:
            method: Such as ``VM.get_record``.
            params: Without the session; integers as `str`, times as XML-RPC has them.
            deadline_seconds: Instead of the session's own.

        Raises:
            Refusal: XenServer answered with an error; see `failures.explained`.
            HostUnreachable: No answer; whether it was done is unknown if it changes something.
            LoginRefused: The account is not accepted any more.
        """
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        trying = _Trying(self._attempts())
        while True:
            used = self._login.ref
            try:
                return self._once(method, params, session=used, seconds=seconds)
            except (SessionGone, NotReached, AnswerLost, Refusal) as problem:
                self._recover(method, problem, trying, used)

    def once(self, method: str, ref: str) -> Any:
        """What a message said of an object the first time, for what hardly ever changes."""
        if (method, ref) not in self._login.known:
            self._login.known[method, ref] = self.call(method, ref)
        return self._login.known[method, ref]

    def lately(self, method: str, ref: str, *, keep: Callable[[Any], bool]) -> Any:
        """What a message said of an object within the last minute, for what many VMs share.

        Args:
            method: Such as ``SR.get_record``.
            ref: The object.
            keep: Whether an answer may be given again; trouble is looked at anew each time.
        """
        with self._login.asking_lately:  # so that of two VMs at once only one asks
            asked_at, answer = self._login.lately.get((method, ref), (0.0, None))
            if answer is None or stopwatch() - asked_at > _LATELY_SECONDS:
                asked_at, answer = stopwatch(), self.call(method, ref)
                if keep(answer):
                    self._login.lately[method, ref] = (asked_at, answer)
            return answer

    def close(self) -> None:
        """Log out and hang up; safe to repeat, never fails."""
        with self._login.lock:
            if self._login.closed:
                return
            self._login.closed = True
            used, self._login.ref = self._login.ref, ""
        if used:
            with suppress(LikenessError, SessionGone, NotReached, AnswerLost):
                self._once("session.logout", (), session=used, seconds=5.0)
        with self._login.lock:
            idle, self._login.idle = self._login.idle, []
        for connection in idle:
            connection.close()

    def _once(self, method: str, params: tuple[Any, ...], *, session: str, seconds: float) -> Any:
        connection = self._borrow()
        try:
            return connection.call(method, params, session=session, deadline_seconds=seconds)
        finally:
            self._release(connection)

    def _borrow(self) -> RpcConnection:
        with self._login.lock:
            place = self._login.coordinator
            while self._login.idle:
                connection = self._login.idle.pop()
                if connection.place == place:
                    return connection
                connection.close()
        return RpcConnection(place)

    def _release(self, connection: RpcConnection) -> None:
        with self._login.lock:
            if not self._login.closed and connection.place == self._login.coordinator:
                self._login.idle.append(connection)
                return
        connection.close()

    def _recover(self, method: str, problem: Exception, trying: _Trying, used: str) -> None:
        """Make another attempt possible, or leave with what went wrong."""
        if isinstance(problem, SessionGone):
            self._log_in_once_more(trying, used)
        elif isinstance(problem, AnswerLost) and not _only_reads(method):
            raise HostUnreachable(
                f"{self._login.coordinator.url} gave no answer to {method} ({problem}); "
                "whether it was done will show at the next run"
            ) from problem
        elif not isinstance(problem, Refusal) or problem.code == "HOST_IS_SLAVE":
            self._elsewhere(method, trying, problem, used)
        elif problem.code not in _NOT_NOW or not trying.attempts.again():
            raise problem

    def _log_in_once_more(self, trying: _Trying, used: str) -> None:
        if trying.logged_in_again:
            raise LoginRefused(
                f"{self.url} forgets every session of {self._username!r} at once; "
                "look at the number of sessions and the clock of the pool"
            )
        trying.logged_in_again = True
        self.renew(used)

    def _elsewhere(self, method: str, trying: _Trying, cause: Exception, stale: str) -> None:
        """Wait a little, then log in wherever the coordinator is now."""
        if not trying.attempts.again():
            raise HostUnreachable(
                f"no host of the pool {self.url} answers {method}: {cause}; "
                "check that the pool is up and can be reached from here"
            ) from cause
        self.renew(stale)

    def _log_in(self) -> None:
        attempts = self._attempts()
        while not isinstance(outcome := self._try_hosts(), str):
            if not attempts.again():
                raise HostUnreachable(
                    f"no XenServer answers at {self.url}: {outcome}; check the address, and that "
                    "the pool is up and can be reached from here"
                ) from outcome
        self._login.ref = outcome

    def _attempts(self) -> Attempts:
        wait = unless_stopped(self._stop, "waiting for a host of the pool to answer")
        return Attempts(_BETWEEN_HOSTS, seconds=self._retry_seconds, wait=wait)

    def _try_hosts(self) -> str | Exception:
        """A session's reference, or why no host gave one."""
        with self._login.lock:
            first = self._login.coordinator
            waiting = [first, *(host for host in self._login.hosts.values() if host != first)]
        tried: set[tuple[str, int]] = set()
        why: Exception = NotReached("no host is known")
        while waiting:
            place = waiting.pop(0)
            if (place.host, place.port) in tried:
                continue
            tried.add((place.host, place.port))
            outcome = self._try_host(place)
            if isinstance(outcome, str):
                return outcome
            if isinstance(outcome, Endpoint):
                waiting.insert(0, outcome)
            elif place == first or isinstance(why, NotReached):
                why = outcome
        return why

    def _try_host(self, place: Endpoint) -> str | Endpoint | Exception:
        """A session's reference, the coordinator to ask instead, or why not."""
        connection = RpcConnection(place)
        try:
            ref = connection.login(
                self._username, self._password, deadline_seconds=self._deadline_seconds
            )
        except Refusal as refusal:
            if refusal.code == "HOST_IS_SLAVE" and refusal.details:
                return self._coordinator_at(refusal.details[0])
            if refusal.code in _NOT_NOW:
                return refusal
            raise self._login_error(refusal, place) from None
        except CertificateRefused as cause:
            if place == self._configured or len(self._login.hosts) == 1:
                raise
            return cause
        except (NotReached, AnswerLost, SessionGone) as cause:
            return cause
        finally:
            connection.close()
        with self._login.lock:
            self._login.coordinator = place
            self._login.hosts[place.host, place.port] = place
        return ref

    def _coordinator_at(self, address: str) -> Endpoint:
        known = self.host_at(address)
        return known or self._configured.at(address)

    def _login_error(self, refusal: Refusal, place: Endpoint) -> LikenessError:
        if refusal.code == "SESSION_AUTHENTICATION_FAILED":
            return LoginRefused(
                f"{place.url} does not accept the account {self._username!r}: wrong name or "
                "password. It is not tried again; correct the account first"
            )
        return explain(refusal, f"login of {self._username!r} at {place.url}")

    def _learn_hosts(self) -> None:
        """Remember every host of the pool, so that a new coordinator is found without help."""
        with suppress(Refusal, HostUnreachable):
            for ref, host in self.call("host.get_all_records").items():
                address = str(host.get("address", ""))
                if address and self._may_reach(address):
                    place = self._configured.at(address, fingerprints=self._certificate_of(ref))
                    with self._login.lock:
                        self._login.hosts.setdefault((place.host, place.port), place)

    def _may_reach(self, address: str) -> bool:
        return self._configured.scheme == "https" or is_loopback(address)

    def _certificate_of(self, host_ref: str) -> tuple[str, ...]:
        """What the pool itself says a member's certificate is, when certificates are pinned."""
        if not self._configured.fingerprints:
            return ()
        with suppress(Refusal, HostUnreachable, ValueError):
            return (fingerprint_of_pem(str(self.call("host.get_server_certificate", host_ref))),)
        return ()


def _only_reads(method: str) -> bool:
    name = method.rsplit(".", 1)[-1]
    return name.startswith("get_") or method in ("event.from", "VDI.list_changed_blocks", _LOGIN)

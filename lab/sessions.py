"""Logins and how long they last."""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from lab.database import Database
from lab.failures import XapiFailure
from lab.roles import DENIED, LEAST, ROLES, ROOT, permissions
from lab.settings import Settings
from lab.wire.values import NULL, Date, Value, date_of

SESSIONS_PER_ORIGINATOR = 500
SHOWN_EVERY_SECONDS = 600.0


@dataclass(frozen=True)
class Account:
    """Somebody other than the local superuser; `subject` is the record that gives the roles."""

    password: str = field(repr=False)
    subject: str


class Sessions:
    """The open sessions of one pool; a session's record lives in the database.

    Attributes:
        accounts: Who else may log in, by name.
        pool_secret: By what the pool's hosts know each other.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings
        self._lock = threading.Lock()
        self._last_use: OrderedDict[str, float] = OrderedDict()
        self._shown: dict[str, float] = {}
        self._event_position: dict[str, tuple[set[str], int]] = {}
        self._roles: dict[str, str] = {}
        self.accounts: dict[str, Account] = {}
        self.pool_secret = secrets.token_hex(32)

    def log_in(self, username: str, password: str, originator: str) -> str:
        """Open a session; beyond 500 of one originator the one unused longest ends.

        Sessions that name no originator are counted by user.

        Raises:
            XapiFailure: SESSION_AUTHENTICATION_FAILED, after a pause.
        """
        if not self.password_fits(username, password):
            time.sleep(self._settings.wrong_password_seconds)
            raise XapiFailure("SESSION_AUTHENTICATION_FAILED", username, "Authentication failure")
        role, identity = self._identity(username)
        self._make_room(originator, username)
        named = {"pool": False, "auth_user_name": username, "originator": originator}
        return self._open(role, **identity, **named)

    def log_in_host(self, secret: str) -> str:
        """Open a session for one of the pool's own hosts, which knows the pool's secret.

        Raises:
            XapiFailure: SESSION_AUTHENTICATION_FAILED.
        """
        if not hmac.compare_digest(secret.encode(), self.pool_secret.encode()):
            raise XapiFailure("SESSION_AUTHENTICATION_FAILED", "pool", "Authentication failure")
        return self._open(ROOT, pool=True, is_local_superuser=True)

    def _open(self, role: str, **fields: Value) -> str:
        now, host = self._now(), self._db.refs("host")[0]
        ref = self._db.create(
            "session", this_host=host, last_active=now, validation_time=now, **fields
        )
        with self._lock:
            self._roles[ref] = role
            self._last_use[ref] = self._settings.monotonic()
        return ref

    def _identity(self, username: str) -> tuple[str, dict[str, Value]]:
        """Who a user is to the pool: the role and what the session's record says of it.

        Raises:
            XapiFailure: RBAC_PERMISSION_DENIED for one whom nobody gave a role.
        """
        if username == self._settings.username:
            return ROOT, {"is_local_superuser": True, "subject": NULL}
        subject = self.accounts[username].subject
        record = self._db.record("subject", subject)
        held = {self._db.get("role", role, "name_label") for role in record["roles"]}
        role = next((name for name in ROLES if name in held), "")
        if not role:
            raise XapiFailure("RBAC_PERMISSION_DENIED", "session.login_with_password", DENIED)
        return role, {
            "is_local_superuser": False,
            "subject": subject,
            "auth_user_sid": record["subject_identifier"],
            "rbac_permissions": permissions(self._db.facts, role),
        }

    def role(self, ref: str) -> str:
        """What a living session may do."""
        with self._lock:
            return self._roles.get(ref, LEAST)

    def password_fits(self, username: str, password: str) -> bool:
        """Compare in constant time."""
        if username in self.accounts:
            known = self.accounts[username].password
            return hmac.compare_digest(password.encode(), known.encode())
        user = hmac.compare_digest(username.encode(), self._settings.username.encode())
        return hmac.compare_digest(password.encode(), self._settings.password.encode()) and user

    def check(self, ref: str) -> None:
        """Let a living session live on.

        Raises:
            XapiFailure: SESSION_INVALID.
        """
        now, alive = self._settings.monotonic(), False
        with self._lock:
            last = self._last_use.get(ref)
            if last is not None and now - last <= self._settings.session_idle_seconds:
                self._last_use[ref] = now
                self._last_use.move_to_end(ref)
                alive = True
        if alive:
            self._show_use(ref, now)
            return
        self.end(ref)
        raise XapiFailure("SESSION_INVALID", ref)

    def end(self, ref: str) -> None:
        """Close a session; one that is gone already is no failure."""
        with self._lock:
            self._last_use.pop(ref, None)
            self._event_position.pop(ref, None)
            self._shown.pop(ref, None)
            self._roles.pop(ref, None)
        with self._db.lock:
            if self._db.exists("session", ref):
                self._db.destroy("session", ref)

    def end_all(self) -> int:
        """Expire every session at once; returns how many there were."""
        with self._lock:
            refs = list(self._last_use)
        for ref in refs:
            self.end(ref)
        return len(refs)

    def event_position(self, ref: str) -> tuple[set[str], int]:
        """What the session registered for with `event.register`, and the last change it saw.

        Raises:
            XapiFailure: SESSION_NOT_REGISTERED.
        """
        with self._lock:
            if ref not in self._event_position:
                raise XapiFailure("SESSION_NOT_REGISTERED", ref)
            return self._event_position[ref]

    def set_event_position(self, ref: str, classes: set[str], generation: int) -> None:
        """Remember it."""
        with self._lock:
            self._event_position[ref] = (classes, generation)

    def _show_use(self, ref: str, now: float) -> None:
        """Write the last use into the record, at most every ten minutes."""
        with self._lock:
            due = now - self._shown.get(ref, -SHOWN_EVERY_SECONDS) >= SHOWN_EVERY_SECONDS
            if due:
                self._shown[ref] = now
        with self._db.lock:
            if due and self._db.exists("session", ref):
                self._db.put("session", ref, last_active=self._now())

    def _make_room(self, originator: str, username: str) -> None:
        with self._lock:
            by_age = list(self._last_use)
        mine = [r for r in by_age if self._counted_with(r) == (originator or username)]
        for ref in mine[: max(0, len(mine) - SESSIONS_PER_ORIGINATOR + 1)]:
            self.end(ref)

    def _counted_with(self, ref: str) -> str | None:
        with self._db.lock:
            if not self._db.exists("session", ref):
                return None
            record = self._db.row("session", ref).record
            return str(record["originator"] or record["auth_user_name"])

    def _now(self) -> Date:
        return date_of(self._settings.now())

"""Logins and how long they last."""

import hmac
import threading
import time
from dataclasses import dataclass, field

from lab.database import Database, new_uuid
from lab.failures import XapiFailure
from lab.roles import DENIED, LEAST, ROLES, ROOT, permissions
from lab.settings import Settings
from lab.wire.values import NULL, Date, Value, date_of


@dataclass(frozen=True)
class Account:
    """Somebody other than the local superuser; `subject` is the record that gives the roles."""

    password: str = field(repr=False)
    subject: str


class Sessions:
    """The open sessions of one pool; a session's record lives in the database.

    Attributes:
        accounts: Who else may log in, by name.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings
        self._lock = threading.Lock()
        self._last_use: dict[str, float] = {}
        self._roles: dict[str, str] = {}
        self.accounts: dict[str, Account] = {}

    def log_in(self, username: str, password: str, originator: str) -> str:
        """Open a session."""
        if not self.password_fits(username, password):
            time.sleep(self._settings.wrong_password_seconds)
            raise XapiFailure("SESSION_AUTHENTICATION_FAILED", username, "Authentication failure")
        role, identity = self._identity(username)
        named = {"pool": False, "auth_user_name": username, "originator": originator}
        return self._open(role, **identity, **named)

    def add_account(self, name: str, password: str, role: str) -> str:
        """Let somebody else log in, as an external user with one role.

        Args:
            name: Anything but the superuser's name.
            password: With what.
            role: One of `lab.roles.ROLES`.

        Returns:
            The reference of the subject.

        Raises:
            ValueError: No such role, or the name is taken.
        """
        if role not in ROLES or name in (self._settings.username, *self.accounts):
            raise ValueError(f"{name} cannot be given the role {role}")
        subject = self._db.create(
            "subject",
            subject_identifier=f"u:{new_uuid()}",
            other_config={"subject-name": name},
            roles=self._db.where("role", name_label=role),
        )
        self.accounts[name] = Account(password, subject)
        return subject

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
        """Who a user is to the pool: the role and what the session's record says of it."""
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
        """Let a living session live on."""
        now = self._settings.monotonic()
        with self._lock:
            last = self._last_use.get(ref)
            if last is not None and now - last <= self._settings.session_idle_seconds:
                self._last_use[ref] = now
                return
        self.end(ref)
        raise XapiFailure("SESSION_INVALID", ref)

    def end(self, ref: str) -> None:
        """Close a session; one that is gone already is no failure."""
        with self._lock:
            self._last_use.pop(ref, None)
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

    def _now(self) -> Date:
        return date_of(self._settings.now())

"""`event.from` and its older relatives: what changed since a token."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.database import Database
from lab.failures import XapiFailure
from lab.wire.values import Int32, Value

BATCH_SECONDS = 0.05
TOKEN_DIGITS = 20


@dataclass(frozen=True)
class Subscription:
    """One element of the class list: everything, a class, or one object; in lower case."""

    class_name: str
    ref: str = ""

    @classmethod
    def parse(cls, text: str) -> "Subscription":
        """Read `*`, `class` or `class/ref`."""
        parts = text.lower().split("/")
        if len(parts) > 2 or not all(parts):
            raise XapiFailure("EVENT_SUBSCRIPTION_PARSE_FAILURE", text)
        return cls(*parts)

    def covers(self, class_name: str, ref: str) -> bool:
        """Say whether an object belongs to it."""
        if self.class_name == "*":
            return True
        return self.class_name == class_name.lower() and self.ref in ("", ref.lower())


def make_token(generation: int) -> str:
    """Write a change number as a token: two decimal numbers of 20 digits."""
    return f"{generation:0{TOKEN_DIGITS}d},{0:0{TOKEN_DIGITS}d}"


def read_token(token: str) -> int:
    """Read a token; empty means the beginning."""
    if token == "":
        return -1
    parts = token.split(",")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() for p in parts):
        raise XapiFailure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    return int(parts[0])


class EventStream:
    """Reads the database's change numbers as events."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._quiet = {n for n, facts in database.facts.classes.items() if not facts.events}

    def wait_for(
        self, classes: list[str], token: str, timeout: float, alive: Callable[[], None]
    ) -> Value:
        """Answer `event.from`: block until something changed or the timeout passed.

        Args:
            classes: As the caller gave them.
            token: Of the last answer, or empty.
            timeout: Seconds.
            alive: Called while waiting; raises when the session is over.

        Raises:
            XapiFailure: A bad token or subscription, or what `alive` raises.
        """
        wanted = [Subscription.parse(text) for text in classes]
        since = read_token(token)
        deadline = time.monotonic() + max(timeout, 0.0)
        with self._db.lock:
            while not (found := self._collect(wanted, since)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._db.changed.wait(min(left, 1.0))
                alive()
        if found and since >= 0 and any(s.class_name != "task" for s in wanted):
            time.sleep(max(0.0, min(BATCH_SECONDS, deadline - time.monotonic())))
        with self._db.lock:
            return {
                "events": self._collect(wanted, since),
                "token": make_token(self._db.generation),
                "valid_ref_counts": self._counts(),
            }

    @staticmethod
    def _miss(class_name: str, ref: str) -> None:
        raise XapiFailure("HANDLE_INVALID", class_name, ref)

    def _counts(self) -> dict[str, Int32]:
        return {name.lower(): Int32(self._db.count(name)) for name in self._db.facts.classes}

    def _collect(self, wanted: list[Subscription], since: int) -> list[Value]:
        events = []
        for gone in reversed(self._db.deletions):
            if gone.deleted <= since:
                break
            known = gone.created <= since
            if known and self._wanted(wanted, gone.class_name, gone.ref):
                events.append(_event(gone.deleted, gone.class_name, "del", gone.ref))
        for class_name, ref, row in self._db.changes_since(since):
            if self._wanted(wanted, class_name, ref):
                operation = "add" if row.created > since else "mod"
                event = _event(row.modified, class_name, operation, ref)
                event["snapshot"] = self._db.record(class_name, ref)
                events.append(event)
        return sorted(events, key=lambda event: int(event["id"]))

    def _wanted(self, wanted: list[Subscription], class_name: str, ref: str) -> bool:
        if class_name in self._quiet:
            return False
        return any(subscription.covers(class_name, ref) for subscription in wanted)


def _event(number: int, class_name: str, operation: str, ref: str) -> dict[str, Value]:
    return {
        "id": str(number),
        "timestamp": "0.0",
        "class": class_name.lower(),
        "operation": operation,
        "ref": ref,
    }

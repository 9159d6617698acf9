"""Operations that exclude each other: a conflicting one waits, as the server does."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from lab.database import Database
from lab.failures import XapiFailure
from lab.settings import Settings

MAY_OVERLAP = (
    frozenset({"snapshot", "checkpoint", "snapshot_with_quiesce"}),
    frozenset({"clone", "copy", "export"}),
    frozenset({"list_changed_blocks"}),
)
RETRY_SECONDS = 1.0


class Caller(Protocol):
    """What operations need of the call that asks."""

    task: str
    operation_id: str

    def check(self) -> None:
        """Stop here when the task was cancelled."""


def conflict(wanted: str, running: str) -> bool:
    """Say whether two operations on one object exclude each other."""
    return not any(wanted in group and running in group for group in MAY_OVERLAP)


class Operations:
    """Keeps `current_operations` of the objects, and makes the conflicting wait."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings

    @contextmanager
    def during(self, call: Caller, class_name: str, ref: str, name: str) -> Iterator[None]:
        """Run an operation on an object.

        A conflict is retried for `conflict_seconds`; the task can be cancelled meanwhile.

        Raises:
            XapiFailure: OTHER_OPERATION_IN_PROGRESS, TASK_CANCELLED, HANDLE_INVALID.
        """
        key = call.task or call.operation_id
        self._enter(call, class_name, ref, name, key)
        try:
            if self._settings.operation_seconds:
                self._linger(call)
            yield
        finally:
            with self._db.lock:
                if self._db.exists(class_name, ref):
                    self._db.drop_pair(class_name, ref, "current_operations", key)

    def _enter(self, call: Caller, class_name: str, ref: str, name: str, key: str) -> None:
        give_up = time.monotonic() + self._settings.conflict_seconds
        with self._db.lock:
            while found := self._in_the_way(class_name, ref, name):
                call.check()
                if time.monotonic() >= give_up:
                    raise XapiFailure("OTHER_OPERATION_IN_PROGRESS", class_name, ref, *found)
                left = give_up - time.monotonic()
                self._db.changed.wait(min(RETRY_SECONDS, max(left, 0.0)))
            self._db.set_pair(class_name, ref, "current_operations", key, name)

    def _in_the_way(self, class_name: str, ref: str, name: str) -> tuple[str, str] | None:
        running = self._db.get(class_name, ref, "current_operations")
        return next(((op, key) for key, op in running.items() if conflict(name, op)), None)

    def _linger(self, call: Caller) -> None:
        end = time.monotonic() + self._settings.operation_seconds
        while (left := end - time.monotonic()) > 0:
            call.check()
            time.sleep(min(left, 0.02))

"""Tasks: what an `Async.` call returns, and what an HTTP transfer completes."""

import threading
from collections.abc import Callable

from lab.database import Database
from lab.failures import XapiFailure
from lab.settings import Settings
from lab.wire.values import Value, date_of
from lab.wire.xmlrpc import encode

MAX_PENDING_TASKS = 200


class Tasks:
    """The tasks of one pool: records in the database, plus who may be told to stop."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._db = database
        self._settings = settings
        self._lock = threading.Lock()
        self._cancelled: dict[str, threading.Event] = {}

    def create(
        self, label: str, description: str = "", *, cancellable: bool = False, parent: str = ""
    ) -> str:
        """Make a pending task."""
        if len(self._db.where("task", status="pending")) >= MAX_PENDING_TASKS:
            raise XapiFailure("TOO_MANY_PENDING_TASKS")
        fields: dict[str, Value] = {"subtask_of": parent} if parent else {}
        ref = self._db.create(
            "task",
            name_label=label,
            name_description=description,
            created=date_of(self._settings.now()),
            status="pending",
            resident_on=self._db.refs("host")[0],
            type="<none/>",
            allowed_operations=["cancel"] if cancellable else [],
            **fields,
        )
        with self._lock:
            self._cancelled[ref] = threading.Event()
        return ref

    def make_cancellable(self, ref: str) -> None:
        """Let `task.cancel` work on it from now on."""
        self._db.put("task", ref, allowed_operations=["cancel"])

    def succeed(self, ref: str, value: Value = None) -> None:
        """Complete a task; the result is an XML-RPC fragment, empty for nothing."""
        result = "" if value is None else encode(value)
        self._finish(ref, status="success", result=result)

    def fail(self, ref: str, error: XapiFailure) -> None:
        """End a task with a failure; a cancelled one says so."""
        status = "cancelled" if error.code == "TASK_CANCELLED" else "failure"
        self._finish(ref, status=status, error_info=error.description)

    def cancel(self, ref: str) -> None:
        """Ask the work behind a task to stop."""
        with self._db.lock:
            record = self._db.record("task", ref)
            if record["status"] not in ("pending", "cancelling"):
                return
            if "cancel" not in record["allowed_operations"]:
                raise XapiFailure("OPERATION_NOT_ALLOWED", "the task cannot be cancelled")
            self._db.put("task", ref, status="cancelling", allowed_operations=[])
        self.cancel_event(ref).set()

    def cancel_event(self, ref: str) -> threading.Event:
        """Set when the task was asked to stop."""
        with self._lock:
            return self._cancelled.setdefault(ref, threading.Event())

    def check(self, ref: str) -> None:
        """Stop here when the task was cancelled."""
        if ref and self.cancel_event(ref).is_set():
            raise XapiFailure("TASK_CANCELLED", ref)

    def run(self, ref: str, work: Callable[[], Value]) -> None:
        """Do the work and complete the task with what it returns or raises."""
        try:
            value = work()
        except XapiFailure as error:
            self.fail(ref, error)
        except Exception as error:  # noqa: BLE001  # the server reports any breakage this way
            self.fail(ref, XapiFailure("INTERNAL_ERROR", repr(error)))
        else:
            self.succeed(ref, value)

    def _finish(self, ref: str, **fields: Value) -> None:
        with self._db.lock:
            if not self._db.exists("task", ref):
                return
            if self._db.get("task", ref, "status") not in ("pending", "cancelling"):
                return
            done = date_of(self._settings.now())
            self._db.put("task", ref, finished=done, progress=1.0, allowed_operations=[], **fields)

"""One call on its way through the pool."""

import time
from dataclasses import dataclass, field
from typing import Any

from lab.database import Database
from lab.parts.assembly import Parts
from lab.parts.machines import Machines
from lab.parts.storage import Storage


@dataclass
class Call:
    """What a behaviour may use: the pool, who calls, and the task the call runs under."""

    pool: Parts
    name: str
    session: str = ""
    task: str = ""
    host: str = ""
    operation_id: str = field(default_factory=lambda: f"call-{time.monotonic_ns()}")

    @property
    def db(self) -> Database:
        """The pool's objects."""
        return self.pool.db

    @property
    def storage(self) -> Storage:
        """The pool's storage."""
        return self.pool.storage

    @property
    def machines(self) -> Machines:
        """The pool's machines."""
        return self.pool.machines

    def check(self) -> None:
        """Stop here when the task was cancelled.

        Raises:
            XapiFailure: TASK_CANCELLED.
        """
        self.pool.tasks.check(self.task)

    def progress(self, fraction: float) -> None:
        """Tell the task how far it is, 0 to 1."""
        if self.task and self.db.exists("task", self.task):
            self.db.put("task", self.task, progress=fraction)

    def operation(self, class_name: str, ref: str, name: str) -> Any:
        """Announce an operation on an object for as long as the `with` lasts; see `operations`."""
        return self.pool.operations.during(self, class_name, ref, name)

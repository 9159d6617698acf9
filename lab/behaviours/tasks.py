"""task.*: tasks of the client's own, and cancelling."""

from lab.calls import Call
from lab.failures import not_allowed
from lab.registry import message
from lab.wire.values import date_of


@message("task.create")
def create(call: Call, label: str, description: str) -> str:
    """Make a task that an HTTP transfer, or the client itself, completes."""
    return call.pool.tasks.create(label, description)


@message("task.destroy")
def destroy(call: Call, ref: str) -> None:
    """Forget a task; work that runs under it goes on."""
    call.db.destroy("task", ref)


@message("task.cancel")
def cancel(call: Call, ref: str) -> None:
    """Ask the work behind a task to stop."""
    call.pool.tasks.cancel(ref)


@message("task.set_status")
def set_status(call: Call, ref: str, value: str) -> None:
    """Complete a task of the client's own."""
    with call.db.lock:
        if call.db.get("task", ref, "status") not in ("pending", "cancelling"):
            raise not_allowed("the task has ended")
        ended = value in ("success", "failure", "cancelled")
        done = {"finished": date_of(call.pool.settings.now())} if ended else {}
        call.db.put("task", ref, status=value, **done)

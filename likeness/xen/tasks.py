"""Calls that can hang, made in the pool's background and given up on after a deadline.

XenServer itself waits up to two hours for a conflicting operation, so a call that changes a VM or
a disk is never made directly: it becomes a task of the pool, which we watch, and cancel when its
time is up or somebody asks us to stop. It is marked unless it has ended at the first look; should
we die in between, it ends by itself, and what it makes is found by its own name.

The pool itself says when a task has ended, by an event; where it gives none, we look again and
again.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from likeness.clock import stopwatch
from likeness.errors import HostBusy, LikenessError, Stopped
from likeness.retrying import Attempts, Pauses, unless_stopped, until_done
from likeness.stopping import StopToken
from likeness.xen.failures import Overdue, Refusal, suppress_gone
from likeness.xen.owner import label_of
from likeness.xen.rpc import result_of
from likeness.xen.session import XenSession

MARK = "likeness:task"
"""Key of a task's `other_config`: installation and run that began it, with a space between."""

_CANCEL_SECONDS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
_WHILE_NO_ROOM = Pauses(0.25, 16.0, tries=8)
_EVENT_SECONDS = 1.0
"""The longest wait for an event: a request to stop is heard no later."""
_QUIET_WAITS = 5
"""Waits without any event before the task is looked at: it may be lost, and never make one."""
OWN = "Likeness: "
"""How the name of a task begins that we made for a transfer."""

UNFINISHED = ("pending", "cancelling")
"""States of a task that has not ended."""


def run_task(
    xen: XenSession,
    method: str,
    *params: Any,
    deadline_seconds: float | None = None,
    stop: StopToken | None = None,
) -> Any:
    """Run one message in the pool's background and wait for what it gives.

    Args:
        xen: The session.
        method: Such as ``VM.snapshot``; it must have an ``Async.`` form.
        params: As for `XenSession.call`.
        deadline_seconds: After that the task is cancelled; never later than the session's own
            `task_seconds`.
        stop: Asked to stop, the task is cancelled too.

    Returns:
        The message's value; an empty string for nothing.

    Raises:
        Refusal: The pool refused or the task failed.
        Overdue: The deadline passed; the task was cancelled or at least asked to end.
        HostBusy: The task is gone, and with it whether it was done.
        Stopped: Somebody asked to stop.
        HostUnreachable: No host answers.
    """
    stop = stop or StopToken()
    longest = xen.task_seconds
    seconds = longest if deadline_seconds is None else min(deadline_seconds, longest)
    watch = _Watch(xen, _started(xen, method, params, stop))
    try:
        if watch.look()["status"] in UNFINISHED:
            _mark(xen, watch.task)
            return _awaited(watch, method, seconds, stop)
        return _outcome(watch.record, method)
    except Refusal as refusal:
        if refusal.code == "HANDLE_INVALID" and refusal.details[:1] == ("task",):
            raise HostBusy(
                f"the pool lost track of {method} before it ended, as after a change of its"
                " coordinator; whether it was done shows at the next run",
                code="TASK_LOST",
            ) from refusal
        raise
    finally:
        if watch.over:
            forget(xen, watch.task)
        else:
            _forget_finished(xen, watch.task)


class _Watch:
    """A task of the pool, looked at until it has ended.

    Attributes:
        xen: The session.
        task: Its reference.
        record: What was seen of it last.
    """

    def __init__(self, xen: XenSession, task: str) -> None:
        self.xen, self.task = xen, task
        self.record: Mapping[str, Any] = {"status": "pending"}
        self._token = ""
        self._events, self._quiet, self._pause = True, 0, _FIRST_PAUSE

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.record["status"] not in UNFINISHED

    def look(self) -> Mapping[str, Any]:
        """See what it is now.

        Raises:
            Refusal: It is gone, or the pool refused.
        """
        self.record = self.xen.call("task.get_record", self.task)
        return self.record

    def wait(self, seconds: float, stop: StopToken) -> None:
        """Wait for a change, a second at most.

        Raises:
            Refusal: It is gone.
        """
        if self._events:
            try:
                return self._wait_for_event(min(seconds, _EVENT_SECONDS))
            except Refusal as refusal:
                if refusal.code == "HANDLE_INVALID":
                    raise
                self._events = False  # an account that may not, or a pool that cannot
        if not stop.wait(min(self._pause, seconds)):
            self._pause = min(self._pause * 1.5, _LONGEST_PAUSE)
            self.look()
        return None

    def _wait_for_event(self, seconds: float) -> None:
        first, began = not self._token, stopwatch()
        answer = self.xen.call("event.from", [f"task/{self.task}"], self._token, float(seconds))
        self._token = str(answer["token"])
        for event in answer["events"]:
            if event["operation"] == "del":
                raise Refusal("HANDLE_INVALID", ["task", self.task], method="event.from")
            self.record = event["snapshot"]
        self._quiet = 0 if answer["events"] else self._quiet + 1
        if self._quiet and stopwatch() - began < seconds / 2:
            self._events = False  # it does not wait, so we must
        if self._quiet and (first or self._quiet % _QUIET_WAITS == 0):
            self.look()


@contextmanager
def own_task(xen: XenSession, label: str) -> Generator[str, None, None]:
    """A task of ours for one HTTP transfer; the host completes it. Gives its reference."""
    name = f"{OWN}{label}"
    name = label_of(xen.owner, name) if xen.owner else name
    task = str(xen.call("task.create", name, "transfer of a disk"))
    try:
        yield task
    except BaseException:
        cancel(xen, task)  # so that the host lets go of the disk at once
        raise
    finally:
        forget(xen, task)


def cancel(xen: XenSession, task: str) -> None:
    """Ask the pool to stop a task, where that is possible."""
    with suppress(LikenessError):
        xen.call("task.cancel", task)


def forget(xen: XenSession, task: str) -> None:
    """Remove a task record; what cannot be removed now the pool collects by itself."""
    with suppress(LikenessError):
        xen.call("task.destroy", task)


def outcome_of(xen: XenSession, task: str, method: str, *, deadline_seconds: float) -> Any:
    """Wait until a task has ended by itself; never cancels it.

    Raises:
        Refusal: It failed.
        Overdue: It has not ended within the deadline.
    """
    watch = _Watch(xen, task)
    watch.look()
    _until_over(watch, method, deadline_seconds, StopToken())
    return _outcome(watch.record, method)


def _until_over(watch: _Watch, method: str, deadline_seconds: float, stop: StopToken) -> None:
    """Return when a task has ended.

    Raises:
        Overdue: It has not ended within the deadline.
        Stopped: Somebody asked to stop.
    """
    ends_at = stopwatch() + deadline_seconds
    while not watch.over:
        left = ends_at - stopwatch()
        if left <= 0:
            raise Overdue(f"the pool has not finished {method} within {deadline_seconds:.0f} s")
        if stop.stopped:
            raise Stopped(f"stopped on request during {method}")
        watch.wait(left, stop)


def _started(xen: XenSession, method: str, params: tuple[Any, ...], stop: StopToken) -> str:
    """Begin a task; while the pool has too many of them, wait for room."""
    wait = unless_stopped(stop, f"the pool had no room for {method}")
    return until_done(
        lambda: str(xen.call(f"Async.{method}", *params)),
        Attempts(_WHILE_NO_ROOM, wait=wait),
        passing=lambda why: isinstance(why, Refusal) and why.code == "TOO_MANY_PENDING_TASKS",
    )


def _awaited(watch: _Watch, method: str, deadline_seconds: float, stop: StopToken) -> Any:
    try:
        _until_over(watch, method, deadline_seconds, stop)
    except Overdue as late:
        return _given_up(watch, method, Overdue(f"{late}; the task was cancelled"))
    except Stopped as why:
        return _given_up(watch, method, why)
    return _outcome(watch.record, method)


def _given_up(watch: _Watch, method: str, why: Overdue | Stopped) -> Any:
    """Cancel a task; when it was done before the cancel came through, what it gave counts."""
    with suppress(Refusal):
        watch.xen.call("task.cancel", watch.task)
    try:
        seconds = min(_CANCEL_SECONDS, watch.xen.task_seconds)
        _until_over(watch, method, seconds, StopToken())
        outcome = _outcome(watch.record, method)
    except (Refusal, Overdue) as cause:
        if isinstance(cause, Refusal) and cause.code != "TASK_CANCELLED":
            raise
        raise why from cause
    if isinstance(why, Stopped):
        raise why
    return outcome


def _outcome(record: Mapping[str, Any], method: str) -> Any:
    if record["status"] == "success":
        return result_of(str(record["result"]))
    if record["status"] == "cancelled":
        raise Refusal("TASK_CANCELLED", [], method=method)
    info = [str(part) for part in record["error_info"]]
    code, *details = info or ["INTERNAL_ERROR", f"task {record['status']} without a reason"]
    raise Refusal(code, details, method=method)


def _mark(xen: XenSession, task: str) -> None:
    """Say whose a task is, so that the sweep can end it when we do not live to see its end."""
    if xen.owner is not None:
        with suppress(LikenessError):
            value = f"{xen.owner.installation} {xen.owner.run}"
            xen.call("task.add_to_other_config", task, MARK, value)


def _forget_finished(xen: XenSession, task: str) -> None:
    """Remove the record of a task that has ended; one that has not is left for the sweep."""
    with suppress(LikenessError), suppress_gone():
        if xen.call("task.get_status", task) not in UNFINISHED:
            forget(xen, task)

"""Who holds a frozen disk, and taking it from the pool's own hands."""

from collections.abc import Callable, Collection
from contextlib import suppress

from likeness.errors import LikenessError
from likeness.retrying import Attempts, Pauses, until_done
from likeness.xen.failures import IN_USE, Refusal, suppress_gone
from likeness.xen.session import XenSession
from likeness.xen.tasks import run_task

WHILE_HELD = Pauses(0.25, 5.0, tries=14)
"""The last attempt comes about 50 seconds after the first; most hosts let go at once."""
_PULL_AFTER = 5
_STEP_SECONDS = 120.0


def until_free(step: Callable[[], object], *, pauses: Pauses = WHILE_HELD) -> None:
    """Do a step that the pool refuses as long as its object is in use.

    Raises:
        Refusal: It was still in use at the last try, or was refused for another reason.
    """
    until_done(step, Attempts(pauses), passing=_is_in_use)


def _is_in_use(problem: Exception) -> bool:
    return isinstance(problem, Refusal) and problem.code in IN_USE


def is_time_to_pull(attempt: int, pauses: Pauses) -> bool:
    """Whether a disk was asked for politely often enough; hosts let go within seconds."""
    return attempt > min(_PULL_AFTER, (pauses.tries or 2 * _PULL_AFTER) // 2)


def is_held(
    xen: XenSession, disk: str, *, pull: bool, drives: Collection[str] | None = None
) -> bool:
    """Whether a VM has the disk plugged in; with `pull` the pool's own plugs are pulled.

    Args:
        xen: The session.
        disk: Which.
        pull: See above.
        drives: The disk's VBDs, if they were asked for just now.

    Raises:
        Refusal: The pool refused; the disk may be gone.
    """
    held = False
    for vbd in xen.call("VDI.get_VBDs", disk) if drives is None else drives:
        with suppress_gone():
            record = xen.call("VBD.get_record", vbd)
            if not xen.call("VM.get_is_control_domain", record["VM"]):
                held = True
            elif pull:
                _pull(xen, str(vbd), attached=bool(record["currently_attached"]))
    return held


def _pull(xen: XenSession, vbd: str, *, attached: bool) -> None:
    """Take a disk away from a host's own domain, which reads it for a transfer that is over."""
    with suppress(LikenessError):
        if attached:
            run_task(xen, "VBD.unplug_force", vbd, deadline_seconds=_STEP_SECONDS)
        run_task(xen, "VBD.destroy", vbd, deadline_seconds=_STEP_SECONDS)

"""Ending what the pool is still doing for runs that are over.

A program that dies leaves its transfers' tasks pending, and perhaps a snapshot that is still being
taken. They come first in a sweep: whatever they make is then found with the rest.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from likeness.errors import HostBusy
from likeness.model.ids import RunId, is_name
from likeness.xen.failures import Refusal, suppress_gone
from likeness.xen.owner import Owner, owner_in_label
from likeness.xen.session import LISTING_SECONDS, XenSession
from likeness.xen.tasks import MARK, OWN, UNFINISHED, cancel, forget, outcome_of

END_SECONDS = 30.0


def owned_tasks(xen: XenSession) -> dict[str, tuple[Owner, dict[str, Any]]]:
    """Every task of the pool that carries our mark: whose it is and its record, by reference.

    Raises:
        Refusal: The pool refused.
    """
    records = xen.call("task.get_all_records", deadline_seconds=LISTING_SECONDS)
    owned = {ref: (owner_of_task(record), record) for ref, record in records.items()}
    return {ref: (owner, record) for ref, (owner, record) in owned.items() if owner is not None}


def owner_of_task(record: Mapping[str, Any]) -> Owner | None:
    """Whose a task is; nothing if it is none of ours."""
    words = str((record.get("other_config") or {}).get(MARK, "")).split()
    if len(words) == 2 and is_name(words[0]) and is_name(words[1]):
        return Owner(words[0], RunId(words[1]))
    name = str(record["name_label"])  # others name theirs after VMs, and these by any name
    return owner_in_label(name) if name.startswith(OWN) else None


def end_task(
    xen: XenSession, ref: str, record: Mapping[str, Any], *, seconds: float = END_SECONDS
) -> None:
    """Cancel a task, wait for its end and remove its record. Safe to repeat.

    A transfer's task that no host has taken up cannot be cancelled and holds nothing: its record
    is all there is of it.

    Args:
        xen: The session.
        ref: The task.
        record: Its record.
        seconds: How long to wait until what was cancelled has ended; never longer than the
            session's longest task.

    Raises:
        HostBusy: It goes on; the next sweep tries again.
        Refusal: The pool refused.
    """
    with suppress_gone():
        if xen.call("task.get_status", ref) in UNFINISHED:
            cancel(xen, ref)
            never_taken_up = xen.call("task.get_status", ref) == "pending"
            if not (never_taken_up and owner_in_label(str(record["name_label"]))):
                _await_end(xen, ref, min(seconds, xen.task_seconds))
    forget(xen, ref)


def _await_end(xen: XenSession, ref: str, seconds: float) -> None:
    try:
        with suppress(Refusal):  # however it ended, it has
            outcome_of(xen, ref, "a task that was cancelled", deadline_seconds=seconds)
    except HostBusy as cause:
        raise HostBusy(
            f"the pool has not ended it {seconds:.0f} s after it was cancelled; the next sweep"
            " tries again"
        ) from cause

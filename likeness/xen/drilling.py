"""Starting a restored VM for a trial: without network cards, watched, and taken away at the end.

While it runs it carries a mark of its own, so that no job takes it for a VM, and the sweep takes
away what a run that died leaves.
"""

from collections.abc import Mapping
from typing import Any

from likeness.clock import stopwatch
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.failures import Refusal, explained, suppress_gone
from likeness.xen.holding import WHILE_HELD
from likeness.xen.marks import Owner
from likeness.xen.restoring import RestoredVm, destroy_vm
from likeness.xen.session import XenSession, is_null
from likeness.xen.tasks import run_task

_START_SECONDS = 300.0
_LOOK_SECONDS = 2.0
_STARTS = ("start", "start_on")


def owner_of_drill(record: Mapping[str, Any]) -> Owner | None:
    """Whose drill a VM is; nothing if it is none."""
    return marks.owner_in_marks(record, marks.DRILL)


def start_drill(xen: XenSession, vm: RestoredVm, *, owner: Owner) -> None:
    """Start a VM that is whole, and stays ours.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    with explained(f"starting the drill of VM {vm.name}"):
        marks.put_marks(xen, "VM", vm.ref, owner=owner, kind=marks.DRILL, uuid=vm.uuid)
        blocked = xen.call("VM.get_blocked_operations", vm.ref)
        for operation in _STARTS:
            if operation in blocked:
                xen.call("VM.remove_from_blocked_operations", vm.ref, operation)
        run_task(xen, "VM.start", vm.ref, False, False, deadline_seconds=_START_SECONDS)  # noqa: FBT003


def guest_answers(xen: XenSession, vm: RestoredVm, *, seconds: float, stop: StopToken) -> str:
    """Wait for the guest's tools; what they say of it, or nothing if they say nothing in time.

    Raises:
        HostBusy, HostRefused, HostUnreachable: The pool does not say.
        Stopped: Somebody asked to stop.
    """
    begun = stopwatch()
    with explained(f"waiting for the guest of VM {vm.name}"):
        while True:
            stop.check()
            if said := _said(xen, vm.ref):
                return said
            left = seconds - (stopwatch() - begun)
            if left <= 0:
                return ""
            stop.wait(min(_LOOK_SECONDS, left))


def _said(xen: XenSession, ref: str) -> str:
    metrics = str(xen.call("VM.get_guest_metrics", ref))
    if is_null(metrics):
        return ""
    try:
        record = xen.call("VM_guest_metrics.get_record", metrics)
    except Refusal:
        return ""  # it has restarted meanwhile
    system = str(record.get("os_version", {}).get("name", ""))
    if not (system or record.get("PV_drivers_detected")):
        return ""
    return system or "its tools are there"


def end_drill(xen: XenSession, ref: str, *, pauses: Pauses = WHILE_HELD) -> None:
    """Shut a drill's VM down and take it away with its disks; safe to repeat.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now; the sweep tries again.
    """
    with explained("ending a drill"), suppress_gone():
        record = xen.call("VM.get_record", ref)
        owner = owner_of_drill(record)
        if owner is None:
            destroy_vm(xen, ref, pauses=pauses)
            return
        if record["power_state"] != "Halted":
            run_task(xen, "VM.hard_shutdown", ref, deadline_seconds=_START_SECONDS)
        marks.put_marks(xen, "VM", ref, owner=owner, kind=marks.RESTORED)
    destroy_vm(xen, ref, pauses=pauses)

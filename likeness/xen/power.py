"""Shutting a VM down for its snapshot, and making sure that it runs again.

Before the VM is shut down it is marked, so that one left halted by a crash is started by the
sweep.
"""

from contextlib import suppress

from likeness.model.ids import RunId, is_name
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.failures import Refusal
from likeness.xen.inventory import XenVm
from likeness.xen.marks import Owner
from likeness.xen.session import XenSession
from likeness.xen.tasks import run_task

_START_SECONDS = 300.0


def shut_down_for_snapshot(
    xen: XenSession, vm: XenVm, *, owner: Owner, stop: StopToken, deadline_seconds: float | None
) -> bool:
    """Shut a running VM down cleanly.

    Returns:
        Whether it has to be started again; False when it was halted already.

    Raises:
        Refusal: The guest or the pool refuses, or the VM is paused or suspended.
        HostBusy: The guest did not shut down in time.
    """
    state = str(xen.call("VM.get_power_state", vm.ref))
    if state == "Halted":
        return False
    if state != "Running":
        raise Refusal(
            "VM_BAD_POWER_STATE", [vm.ref, "running", state.lower()], method="VM.clean_shutdown"
        )
    promise = f"{owner.installation} {owner.run} {vm.uuid}"
    marks.set_mark(xen, "VM", vm.ref, marks.START_AGAIN, promise)
    try:
        run_task(xen, "VM.clean_shutdown", vm.ref, deadline_seconds=deadline_seconds, stop=stop)
    except BaseException:
        _start_if_halted(xen, vm.ref)
        raise
    return True


def start_again(xen: XenSession, vm: XenVm) -> None:
    """Start a VM that was shut down for its snapshot.

    Raises:
        Refusal: The pool cannot start it; the mark stays, so the sweep tries again.
    """
    _start(xen, vm.ref)


def promised_start(uuid: str, other_config: dict[str, str]) -> Owner | None:
    """Who shut this VM down and owes it a start; nothing if nobody does."""
    words = other_config.get(marks.START_AGAIN, "").split()
    if len(words) != 3 or words[2] != uuid or not (is_name(words[0]) and is_name(words[1])):
        return None
    return Owner(words[0], RunId(words[1]))


def start_promised_vm(xen: XenSession, ref: str) -> bool:
    """Start a VM that a crashed run left halted; says whether it had to.

    Raises:
        Refusal: The pool cannot start it.
    """
    halted = xen.call("VM.get_power_state", ref) == "Halted"
    _start(xen, ref)
    return bool(halted)


def _start(xen: XenSession, ref: str) -> None:
    if xen.call("VM.get_power_state", ref) == "Halted":
        try:
            run_task(xen, "VM.start", ref, False, False, deadline_seconds=_START_SECONDS)  # noqa: FBT003
        except Refusal as refusal:
            if refusal.code != "VM_BAD_POWER_STATE":
                raise
    xen.call("VM.remove_from_other_config", ref, marks.START_AGAIN)


def _start_if_halted(xen: XenSession, ref: str) -> None:
    """After a shutdown that failed: a VM that went down all the same is started.

    The mark goes only when the VM runs for certain: a guest may still be shutting down.
    """
    with suppress(Refusal):
        if xen.call("VM.get_power_state", ref) == "Halted":
            _start(xen, ref)

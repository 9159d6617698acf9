"""Torn records: what a job that was killed began to write, and nobody was ever told of."""

from itertools import takewhile

from likeness.model.ids import VmId
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.format.unfinished import is_torn
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.heads import read_head_state
from likeness.store.write.history import covered_records


def torn_records(store: SignedView, vm: VmId, names: list[str]) -> set[str]:
    """Records at the end of a VM's that are not whole, and that no head covers.

    Args:
        store: Whose.
        vm: Which VM.
        names: All its records, oldest first.

    Returns:
        None of them if heads or versions are lost: nobody knows then what was relied on.
    """
    torn = list(takewhile(lambda name: is_torn(store, name), reversed(names)))
    if not torn:
        return set()
    try:
        head_state = read_head_state(store)
        as_told = read_forgotten(store).as_told(names, vm, head_state.objects)
        covered = covered_records(as_told, torn, head_state.vms.get(vm))
    except UNREADABLE:
        return set()
    return set() if covered is None else set(torn) - covered

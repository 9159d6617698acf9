"""Recorded versions: every version there is or was, and what is the matter with the others.

What heads tell of decides whether a record that is not whole was a version, or is what a commit
left that never came to its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, is_torn
from likeness.errors import LikenessError, ObjectMissing, WrittenLate
from likeness.model.ids import VmId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.observations import (
    NOT_READ,
    UNREADABLE,
    Observation,
    Weight,
    cause_of,
    late,
    notice,
    unchecked,
    with_closed,
)
from likeness.store.format.public_view import SignedView
from likeness.store.read.versions import misplaced_records, read_version
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.history import (
    History,
    covered_records,
    read_history,
    read_record,
    records_of,
    vm_folders,
)
from likeness.transport.passing import CarefulTransport


@dataclass
class ReadableVersions:
    """Versions that can be read, and what is to be told of records.

    Attributes:
        versions: Names of their records in order, each with the name it lies under.
        told: What was noticed.
    """

    versions: dict[str, str]
    told: list[Observation]


def recorded_versions(view: SignedView) -> ReadableVersions:
    """Read every version record, and compare with what the newest head says.

    With the store's keys, records are opened too; without, their signatures are checked.

    Raises:
        ShareUnreachable: The store does not answer.
    """
    listing = CarefulTransport(view.transport)
    found = _recorded(view.over(listing))
    found.told = list(with_closed(found.told, listing))
    return found


def _recorded(view: SignedView) -> ReadableVersions:
    found = ReadableVersions({}, [])
    bad: dict[str, LikenessError] = {}
    folders = vm_folders(view.transport)
    for vm in folders:
        for name in records_of(view.transport, vm):
            try:
                _read(view, name)
                found.versions[name] = name
            except WrittenLate as cause:
                found.told.append(late(name, cause))
            except (*NOT_READ, *UNREADABLE) as cause:
                bad[name] = cause
    misplaced = dict(misplaced_records(view)) if bad else {}
    for name, lies_at in misplaced.items():
        elsewhere = f"damaged or missing, and whole as {lies_at}"
        meaning = "the version restores; copy the record back under its own name"
        found.told.append(Observation(Weight.SPARE_LOST, name, elsewhere, meaning))
        found.versions[name] = lies_at
    history, forgotten = read_history(view), read_forgotten(view)
    for vm in sorted({*folders, *history.head_state.vms}):
        here = {name for name in (*found.versions, *bad) if VmId(name.split("/")[1]) == vm}
        names = forgotten.as_told(sorted(here), vm, history.head_state.objects)
        found.told += _of_one_vm(view, vm, names, found.versions, bad, history)
    found.versions = dict(sorted(found.versions.items()))
    return found


def _read(view: SignedView, name: str) -> None:
    if isinstance(view, DataStore):
        read_version(view, name)
    else:
        read_record(view, name)


def _of_one_vm(
    view: SignedView,
    vm: VmId,
    names: list[str],
    whole: dict[str, str],
    bad: dict[str, LikenessError],
    history: History,
) -> Iterator[Observation]:
    said = history.head_state.vms.get(vm)
    spoilt = [name for name in names if name in bad and name not in whole]
    covered = covered_records(names, spoilt, said)
    if covered is None and said is not None:
        yield _gone(vm, said[0], sum(name in whole for name in names))
    for name in spoilt:
        cause = bad[name]
        needed = covered is None or name in covered
        if isinstance(cause, NOT_READ):
            yield unchecked(name, cause)
        elif needed or _was_a_version(view, name):
            meaning = "this version cannot be restored from here; look for it in the vault"
            yield Observation(Weight.DAMAGE, name, cause_of(cause), meaning, (name,))
        elif said is None and history.breaks:
            yield unchecked(name, f"{cause_of(cause)}, and the heads that would know are damaged")
        else:
            yield notice(
                name,
                f"a record that no head covers: {cause_of(cause)}",
                "the uncommitted tail of a job that died, or not of this store; no version is lost",
            )


def _was_a_version(view: SignedView, name: str) -> bool:
    """Whether a record that no head covers was written to its end once, and came to harm since.

    A commit that died leaves the beginning of a record, and a copy of another record is whole.
    """
    try:
        data = view.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)
        Frame.parse(data, name=name)
    except (*NOT_READ, ObjectMissing):
        return False
    except UNREADABLE:
        return not is_torn(data)
    return False


def _gone(vm: VmId, known: int, here: int) -> Observation:
    return Observation(
        Weight.DAMAGE,
        layout.versions_of(vm),
        f"the newest head knows {known} versions of this VM, and not the same {here} are here",
        "versions were deleted, damaged or replaced; what is missing does not restore from here",
    )

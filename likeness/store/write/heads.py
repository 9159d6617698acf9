"""Heads: a signed chain that says what the store held, so that a loss or a rollback shows.

A head is written at the end of every job. It names what changed since the head before: for each
VM the number of its versions and a digest over their names, and the control objects that appeared
or went. Every 64th head says everything, so that reading the present state never takes more. What
is too much for one head goes on in the next ones, as if it had changed since.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    NameTaken,
    ObjectUnreadable,
    ShareRefused,
    StoreTooNew,
    WrittenLate,
)
from likeness.model.ids import VmId
from likeness.store.format import layout
from likeness.store.format.believing import LOST, exists_surely
from likeness.store.format.data_store import DataStore, read_frame, set_aside
from likeness.store.format.documents import HeadDocument, HeadObject, HeadVm, VersionClear
from likeness.store.format.public_view import SignedView
from likeness.store.format.unfinished import is_torn
from likeness.store.read.versions import record_names, vms
from likeness.store.write.forgetting import Forgotten, read_forgotten
from likeness.store.write.holding import lost_holds
from likeness.transport.passing import CLOSED, CarefulTransport, OnceTransport

FULL_EVERY = 64
MAX_OBJECTS = 1 << 17
MAX_VMS = 1 << 15
"""What one head tells at most: about 30 MiB, and a document may have 64."""
_ATTEMPTS = 10  # jobs that end in one moment
FIRST = "0" * 64
"""What a head goes on from that begins anew."""


@dataclass(slots=True)
class HeadState:
    """What the newest head says the store holds.

    Attributes:
        number: The head's number; 0 if there is none.
        digest: BLAKE3 of the head, as hex. Number and first digits go into every report, where
            they bear witness against a store that was set back as a whole.
        vms: VM to number and digest of its versions.
        objects: Control object to its BLAKE3 digest, as hex.
        problem: What was wrong with the heads before this one, or is gone since, in words; empty
            if nothing was. Told once, by the head that is written then.
    """

    number: int = 0
    digest: str = FIRST
    vms: dict[VmId, tuple[int, str]] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def short(self) -> str:
        """For a person to write down, such as ``head 4711 a1b2c3d4``."""
        return f"head {self.number} {self.digest[:8]}"


def read_head_state(store: SignedView) -> HeadState:
    """Put the present state together from the newest heads.

    Raises:
        Damaged: A head that is needed is damaged, or breaks the chain; believed when seen twice.
        ObjectMissing: It is listed, and is not there.
        ObjectUnreadable: It cannot be read at the moment.
        StoreTooNew: A later release wrote it.
    """
    numbers = _numbers(store)
    head_state = HeadState()
    start = _newest_full(numbers)
    if numbers and not _is_full(numbers[start]):
        name = layout.numbered(layout.HEADS, numbers[start])
        raise Damaged(name, "the heads before it are gone, and it does not say everything")
    at = 0
    for number in numbers[start:]:
        name = layout.numbered(layout.HEADS, number)
        try:
            head, frame = store.read_surely(name, Kind.HEAD, HeadDocument)
        except WrittenLate:
            continue
        if at and (head.previous != head_state.digest or number != head_state.number + 1):
            raise Damaged(name, "it does not follow the head before it; heads were lost or changed")
        _apply(head_state, head)
        head_state.number = number
        head_state.digest = frame.digest
        at += 1
    return head_state


def write_head(store: DataStore, *, clock: Clock) -> HeadState:
    """Write a head if anything changed since the newest.

    Where the chain is torn, damaged or not to be read, or something else lies under its next name,
    it begins anew with a head that says everything, under the next number that is due for one. What
    was lost is told in `HeadState.problem`, once.

    Where another job writes one at the same moment, this one comes after it.

    Returns:
        What the newest head says now.

    Raises:
        StoreTooNew: A later release wrote the newest head, or changed the store.
        ShareUnreachable: The share went away, or the store from the share; repeat.
    """
    look = _at_one_look(store)
    look.require_writable()
    store.require_unchanged()
    _set_late_heads_aside(store)
    told, attempts = HeadState(), 0
    blocked: set[int] = set()
    for attempt in range(FULL_EVERY):
        look = _at_one_look(store) if attempt else look
        try:
            head_state, is_all = _write_next(store, look, clock, told, blocked)
        except NameTaken as cause:
            attempts += 1
            if attempts == _ATTEMPTS:
                raise
            if cause.name not in map(_name, _numbers(store)):
                blocked.add(layout.number_of(cause.name))  # a folder, say, that no listing shows
            continue
        if is_all:
            break
    head_state.problem = told.problem
    return head_state


def _at_one_look(store: DataStore) -> DataStore:
    """The same store, each folder of which is listed once: what comes later the next head tells."""
    return store.over(OnceTransport(store.transport))


def _set_late_heads_aside(store: DataStore) -> None:
    """Make room where somebody wrote who had lost the store; nothing if it was never taken over."""
    if store.past.adopted(store):
        for number in _numbers(store)[-FULL_EVERY:]:
            _set_aside_if_late(store, _name(number), Kind.HEAD, HeadDocument)


def _set_aside_if_late(
    store: DataStore, name: str, kind: Kind, clear: type[HeadDocument] | type[VersionClear]
) -> bool:
    try:
        store.read_surely(name, kind, clear)
    except WrittenLate:
        set_aside(store, name)
        return True
    except (*LOST, ObjectUnreadable, ShareRefused, StoreTooNew):
        return False  # whoever needs it tells of it
    return False


def _write_next(
    store: DataStore, look: DataStore, clock: Clock, told: HeadState, blocked: Collection[int]
) -> tuple[HeadState, bool]:
    """Write one head, if need be.

    Args:
        store: Where.
        look: The same at one look; for folders of control objects.
        clock: The present.
        told: What heads said when the writing began, of what the newest do not say again yet;
            gathers what was lost.
        blocked: Numbers under which something else lies.

    Returns:
        What the newest head says now, and whether that is everything.
    """
    head_state = _newest_unblocked(store, blocked)
    told.vms |= head_state.vms
    told.objects |= head_state.objects
    number = head_state.number + 1
    seen = HeadState() if _is_full(number) else head_state
    changed, lost = _changed_vms(store, look, seen, told)
    objects = _changed_objects(store, look, seen, known=told.objects)
    told.problem = told.problem or head_state.problem
    told.objects |= {each.name: each.digest for each in objects if not each.gone}
    if not changed and not objects:
        return head_state, True
    head = HeadDocument(
        number=number,
        previous=head_state.digest,
        made_at=clock().isoformat(),
        vms=tuple(changed[:MAX_VMS]),
        objects=tuple(objects[:MAX_OBJECTS]),
    )
    digest_, _ = store.write(layout.numbered(layout.HEADS, number), Kind.HEAD, head)
    _apply(head_state, head)
    head_state.number, head_state.digest = number, digest_
    if lost and not told.problem:
        shown = ", ".join(lost[:8])
        told.problem = (
            f"version records that head {number - 1} told of are gone or replaced, of VM {shown}"
        )
    return head_state, len(changed) <= MAX_VMS and len(objects) <= MAX_OBJECTS


def _newest_unblocked(store: DataStore, blocked: Collection[int]) -> HeadState:
    """What the heads say; where they do not, or have no free name, a witness to begin anew from."""
    try:
        head_state = read_head_state(store)
    except (*LOST, ObjectUnreadable, ShareRefused) as cause:
        head_state = _anew(_numbers(store)[-1], str(cause))
    if head_state.number + 1 in blocked:
        head_state = _anew(
            head_state.number + 1, f"{_name(head_state.number + 1)} is no head; remove it"
        )
    while head_state.number + 1 in blocked:
        head_state.number += FULL_EVERY
    return head_state


def _anew(newest: int, problem: str) -> HeadState:
    """Nothing is known; the next head is the first after `newest` that says everything."""
    return HeadState(number=-(-newest // FULL_EVERY) * FULL_EVERY, problem=problem)


def _name(number: int) -> str:
    return layout.numbered(layout.HEADS, number)


def _numbers(store: SignedView) -> list[int]:
    return sorted(
        layout.number_of(entry.name)
        for entry in store.transport.entries(layout.HEADS)
        if layout.is_known(entry.name)
    )


def _is_full(number: int) -> bool:
    """Whether a head of this number says everything."""
    return number % FULL_EVERY == 1


def _newest_full(numbers: list[int]) -> int:
    """Index of the newest head that says everything."""
    for at in range(len(numbers) - 1, -1, -1):
        if _is_full(numbers[at]):
            return at
    return 0


def _apply(head_state: HeadState, head: HeadDocument) -> None:
    for vm in head.vms:
        head_state.vms[VmId(vm.vm)] = (vm.versions, vm.digest)
    for each in head.objects:
        if each.gone:
            head_state.objects.pop(each.name, None)
        else:
            head_state.objects[each.name] = each.digest


def versions_digest(names: list[str]) -> str:
    """BLAKE3 over the names of a VM's version records, in order."""
    return digest([f"{name}\n".encode() for name in sorted(names)]).hex()


def _changed_vms(
    store: DataStore, look: DataStore, seen: HeadState, told: HeadState
) -> tuple[list[HeadVm], list[VmId]]:
    """VMs that are not as they were seen; and those that lost a version nobody gave up.

    Statements are read after the records, so that each record that moved away is spoken of.
    """
    changed, lost = [], []
    listing = CarefulTransport(store.transport)
    present = set(vms(store.over(listing)))
    everyone = sorted(present | set(told.vms))
    there = {vm: _records(store, vm) for vm in everyone}
    forgotten = read_forgotten(look)
    for vm in everyone:
        try:
            names, forgotten = _seen_surely(store, vm, there[vm], forgotten, told)
        except CLOSED:  # what is known of it stands until somebody can look
            if vm in told.vms and seen.vms.get(vm) != told.vms[vm]:
                count, digest_ = told.vms[vm]
                changed.append(HeadVm(vm=vm, versions=count, digest=digest_))
            continue
        if _lacks(forgotten.as_told(names, vm, told.objects), told.vms.get(vm)):
            lost.append(vm)
        gone = forgotten.now | _late(store, names, forgotten, vm, told)
        names = [name for name in names if name not in gone]
        names = _without_torn(store, names, forgotten, vm, told)
        present.update([vm] if names else [])
        now = (len(names), versions_digest(names))
        if seen.vms.get(vm) != now and (vm in present or vm in seen.vms):
            changed.append(HeadVm(vm=vm, versions=now[0], digest=now[1]))
    return changed, lost


def _seen_surely(
    store: DataStore, vm: VmId, names: list[str] | None, forgotten: Forgotten, told: HeadState
) -> tuple[list[str], Forgotten]:
    """A VM's records; that some are gone is believed when two listings say so."""
    known = told.vms.get(vm)
    if names is not None and not _lacks(forgotten.as_told(names, vm, told.objects), known):
        return names, forgotten
    with store.again() as again:
        return record_names(again, vm), read_forgotten(store)


def _late(
    store: DataStore, names: list[str], forgotten: Forgotten, vm: VmId, told: HeadState
) -> set[str]:
    """Records of who had lost the store, now set aside; those that a head told of are none."""
    if not store.past.adopted(store):
        return set()
    new = _not_told_of(names, forgotten, vm, told)
    return {n for n in new if _set_aside_if_late(store, n, Kind.VERSION, VersionClear)}


def _not_told_of(names: list[str], forgotten: Forgotten, vm: VmId, told: HeadState) -> set[str]:
    as_told = forgotten.as_told(names, vm, told.objects)
    known = told.vms.get(vm)
    told_of = [] if known is None or _lacks(as_told, known) else as_told[: known[0]]
    return set(names) - set(told_of)


def _without_torn(
    store: DataStore, names: list[str], forgotten: Forgotten, vm: VmId, told: HeadState
) -> list[str]:
    """A VM's records, less those at the end that somebody only began to write.

    If he is still at it, the next head tells of it. If he died, nobody was told of a version, and
    the VM's next backup moves it away: no head may miss it then.
    """
    new = _not_told_of(names, forgotten, vm, told) - store.past.written
    torn = set(takewhile(lambda name: name in new and is_torn(store, name), reversed(names)))
    return [name for name in names if name not in torn]


def _lacks(as_told: list[str], known: tuple[int, str] | None) -> bool:
    count, digest_ = known or (0, "")
    return count > 0 and versions_digest(as_told[:count]) != digest_


def _records(store: DataStore, vm: VmId) -> list[str] | None:
    """A VM's version records; none if they cannot be listed."""
    try:
        return record_names(store, vm)
    except CLOSED:
        return None


def _changed_objects(
    store: DataStore, look: DataStore, seen: HeadState, *, known: Mapping[str, str]
) -> list[HeadObject]:
    """Objects that appeared or went; what is `known` keeps its digest, whatever lies there now.

    A pin that vanished stays known: else nobody would miss it.
    """
    listing = CarefulTransport(look.transport)
    present = {
        entry.name
        for folder in layout.CONTROL
        for entry in listing.entries(folder)
        if layout.is_known(entry.name) and not layout.is_turn(entry.name)
    }
    present.update(n for n in set(known) - present if exists_surely(store, n))
    present |= lost_holds(store, set(known) - present)
    added = [
        HeadObject(name=name, digest=found)
        for name in sorted(present - set(seen.objects))
        if (found := known.get(name) or _digest_if_whole(store, name))
    ]
    gone = [
        HeadObject(name=name, digest=seen.objects[name], gone=True)
        for name in sorted(set(seen.objects) - present)
    ]
    return added + gone


def _digest_if_whole(store: DataStore, name: str) -> str:
    """BLAKE3 of a document of ours, as hex; empty if it is not whole, or not yet, or not any more.

    Another job may be writing it at this moment: the next head will tell of it, as of one that
    cannot be read now. Nobody else's document gets into a head.
    """
    try:
        frame = read_frame(store.transport, name)
        frame.require_signature(layout.kind_of(name), store.verifier(frame))
    except (*LOST, ObjectUnreadable, ShareRefused, StoreTooNew):
        return ""
    return frame.digest

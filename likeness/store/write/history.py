"""History: what the chain of heads says the store must hold, told even where the chain is broken.

`likeness.store.write.heads` refuses a broken chain; an audit says where it is broken and goes on
with what is left. After a break the heads' word is taken only for what they say themselves, never
for what earlier ones said.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind
from likeness.errors import Damaged, WrittenLate
from likeness.model.ids import VersionId, VmId, is_name
from likeness.store.format import layout
from likeness.store.format.data_store import signed_part
from likeness.store.format.documents import HeadDocument, VersionClear
from likeness.store.format.observations import UNREADABLE, Observation, Weight, told, trouble
from likeness.store.format.public_view import SignedView
from likeness.store.write.heads import FULL_EVERY, HeadState, versions_digest
from likeness.transport.base import Entry, Transport


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed document that was read whole.

    Attributes:
        frame: Verified.
        digest: BLAKE3 of the object, as hex.
    """

    frame: Frame
    digest: str


def read_signed(view: SignedView, name: str, kind: Kind) -> Signed:
    """Read and verify a document without looking into it.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not whole, or not signed by this store for this place.
    """
    return verified(view, name, kind, _bytes_of(view, name))


def verified(view: SignedView, name: str, kind: Kind, data: bytes) -> Signed:
    """The document in `data`, once its signature was checked.

    Raises:
        Damaged: It is not whole, or not signed by this store for this place.
    """
    frame = Frame.parse(data, name=name)
    frame.require_signature(kind, view.verifier(frame))
    return Signed(frame, frame.digest)


class History:
    """What the heads say.

    Attributes:
        head_state: The present state, as far as unbroken heads tell it.
        breaks: Where the chain is broken, or a head is not what it should be.
        digests: Digest of each head that was read, by its number.
    """

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.head_state = HeadState()
        self.breaks: list[Observation] = []
        self.digests: dict[int, str] = {}
        self._previous: str | None = None
        self._epoch = 0

    def take(self, number: int, head: HeadDocument, signed: Signed) -> None:
        """Add the next head that is whole."""
        name = signed.frame.name
        if self._previous is not None and head.previous != self._previous:
            self.break_at(name, "it does not follow the head before it; one of them was replaced")
        if signed.frame.epoch < self._epoch:
            self.break_at(name, "it was signed with keys that were given up before it was made")
        if number % FULL_EVERY == 1:
            self._forget()
        for vm in head.vms:
            self.head_state.vms[VmId(vm.vm)] = (vm.versions, vm.digest)
        for each in head.objects:
            if each.gone:
                self.head_state.objects.pop(each.name, None)
            else:
                self.head_state.objects[each.name] = each.digest
        self.head_state.number, self.head_state.digest = number, signed.digest
        self.digests[number] = self._previous = signed.digest
        self._epoch = max(self._epoch, signed.frame.epoch)

    def break_at(self, name: str, cause: str) -> None:
        """Note that the chain ends here and begins anew."""
        self.break_with(trouble(name, cause))

    def break_with(self, found: Observation) -> None:
        """Likewise, with what is to be said of it."""
        self.breaks.append(found)
        self._previous = None
        self._forget()

    def _forget(self) -> None:
        self.head_state.vms.clear()
        self.head_state.objects.clear()


def read_history(view: SignedView, *, whole: bool = False) -> History:
    """Walk the heads: those that give the present state, or all of them.

    Raises:
        ShareUnreachable: The store did not answer.
    """
    history = History()
    numbers = sorted(
        layout.number_of(entry.name)
        for entry in view.transport.entries(layout.HEADS)
        if layout.is_known(entry.name)
    )
    expected = 1
    if not whole:
        numbers = numbers[_newest_full(numbers) :]
        expected = numbers[0] if numbers else 1
    for number in numbers:
        name = layout.numbered(layout.HEADS, number)
        if number != expected:
            missing = layout.numbered(layout.HEADS, expected)
            more = number - expected - 1
            history.break_at(missing, f"missing, and {more} after it" if more else "missing")
        expected = number + 1
        try:
            signed = read_signed(view, name, Kind.HEAD)
            head = signed_part(signed.frame.clear, HeadDocument, name=name)
            if head.number != number:
                raise Damaged(name, f"it is head {head.number} under another's name")
        except WrittenLate:
            expected = number
        except UNREADABLE as cause:
            history.break_with(told(name, cause))
        else:
            history.take(number, head, signed)
    return history


def expect_head(history: History, number: int, digits: str) -> Iterator[Observation]:
    """Compare with what a report of an earlier day said, such as ``head 4711 a1b2c3d4``.

    Args:
        history: Read whole.
        number: The head's number there.
        digits: The first digits of its digest there, at least eight.
    """
    name = layout.numbered(layout.HEADS, number)
    found = history.digests.get(number)
    if found is not None and found.startswith(digits.lower()):
        return
    cause = "missing, although a report told of it" if found is None else f"it is {found[:8]} now"
    meaning = (
        "the store was set back to an earlier state, or is another one; versions made since are"
        " gone from it"
    )
    yield Observation(Weight.DAMAGE, name, cause, meaning)


def covered_records(
    names: list[str], bad: Iterable[str], said: tuple[int, str] | None
) -> frozenset[str] | None:
    """Which of a VM's records the newest head speaks for.

    Args:
        names: All that are there, oldest first.
        bad: Those of them that could not be read.
        said: Number and digest of its versions, as the head says; none if no head knows the VM.

    Returns:
        The records; what is missing among them came after the head. None if the head speaks of
        records that are not there.
    """
    if said is None:
        return frozenset()
    spoilt = set(bad)
    for candidates in (names, [name for name in names if name not in spoilt]):
        first = candidates[: said[0]]
        if len(first) == said[0] and versions_digest(first) == said[1]:
            return frozenset(first)
    return None


@dataclass(frozen=True, slots=True)
class Record:
    """A version record that was verified, and what everybody may read of it."""

    name: str
    clear: VersionClear
    signed: Signed


def read_record(view: SignedView, name: str) -> Record:
    """Read and verify one version record, without opening it.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not whole, or not signed by this store for this place.
    """
    return verified_record(view, name, _bytes_of(view, name))


def verified_record(view: SignedView, name: str, data: bytes) -> Record:
    """The version record in `data`, once its signature was checked.

    Raises:
        Damaged: It is not whole, or not signed by this store for this place.
    """
    signed = verified(view, name, Kind.VERSION, data)
    clear = signed_part(signed.frame.clear, VersionClear, name=name)
    if layout.version_record(VmId(clear.vm), clear.sequence, VersionId(clear.version)) != name:
        raise Damaged(name, "it is the record of another version")
    if clear.digests and len(clear.digests) != len(clear.objects):
        raise Damaged(name, "it does not say one digest for each of its objects")
    return Record(name, clear, signed)


def everything(transport: Transport) -> Iterator[Entry]:
    """All that lies in a store's own folders and beside them, but not in folders of others'.

    A share has such: for what was deleted, for its own snapshots, for a file system's finds. They
    may be huge, and closed to us.
    """
    yield from transport.entries("", deep=False)
    for folder in layout.FOLDERS:
        yield from transport.entries(folder)


def vm_folders(transport: Transport) -> list[VmId]:
    """Every VM with a folder of versions."""
    return [VmId(name) for name in transport.folders(layout.VERSIONS) if is_name(name)]


def records_of(transport: Transport, vm: VmId) -> list[str]:
    """Names of a VM's version records, oldest first; not yet believed."""
    names = (entry.name for entry in transport.entries(layout.versions_of(vm)))
    return sorted(name for name in names if layout.is_known(name))


def map_pairs(clear: VersionClear) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Both copies of each map part a version brought in, and their digests, empty if not told."""
    digests = clear.digests or ("",) * len(clear.objects)
    maps = [
        (name, each)
        for name, each in zip(clear.objects, digests, strict=True)
        if name.startswith(f"{layout.MAPS}/")
    ]
    for (one, its), (other, others) in zip(maps[::2], maps[1::2], strict=False):
        yield (one, other), (its, others)


def _bytes_of(view: SignedView, name: str) -> bytes:
    return view.transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)


def _newest_full(numbers: list[int]) -> int:
    for at in range(len(numbers) - 1, -1, -1):
        if numbers[at] % FULL_EVERY == 1:
            return at
    return 0

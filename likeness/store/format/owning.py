"""Owning a store: one installation may change it, the one whose owner document is the newest.

Taking a store over is an explicit act, never a time-out. Whoever owned it before finds the newer
document when it wants to write the next time, and is refused; what it finishes writing after that
counts for nothing (`likeness.store.format.adopted`). Of an installation that was copied, the one
that begins to write first goes on, and the other is refused (`likeness.store.format.turns`).
"""

from collections.abc import Callable, Iterable

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.codec.keys import FIRST_EPOCH
from likeness.errors import NameTaken, StoreTakenOver
from likeness.store.format import layout
from likeness.store.format.adopted import found_there
from likeness.store.format.believing import LOST
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.documents import AdoptedDocument, OwnerDocument
from likeness.store.format.public_view import SignedView
from likeness.store.format.turns import Pens, Turns


def newest_owner(
    store: SignedView, listed: Iterable[str] | None = None
) -> tuple[OwnerDocument | None, int]:
    """The owner document with the highest number that is whole, and the epoch it was signed in.

    Args:
        store: Where.
        listed: What lies in `OWNER`, if that was listed just now.

    Raises:
        ObjectUnreadable: Nobody knows which it is.
        StoreTooNew: A later release wrote it.
    """
    names = _names(store) if listed is None else sorted(filter(layout.is_owner, listed))
    for name in reversed(names):
        try:
            owner, frame = store.read_unchanging(name, Kind.OWNER, OwnerDocument)
        except LOST:
            continue
        return owner, frame.epoch
    return None, FIRST_EPOCH


def owner_of(store: SignedView) -> str:
    """The installation that owns a store, as 32 hex digits; empty when no document says so."""
    owner, _ = newest_owner(store)
    return owner.installation if owner else ""


def owners(store: SignedView) -> list[OwnerDocument]:
    """Every owner there ever was whose document is whole, oldest first."""
    found = []
    for name in _names(store):
        try:
            owner, _ = store.read_surely(name, Kind.OWNER, OwnerDocument)
        except LOST:
            continue
        found.append(owner)
    return found


def take_over(store: DataStore, installation: str, *, host: str, clock: Clock) -> OwnerDocument:
    """Make an installation the owner; from now on every other one is refused. Safe to repeat.

    Args:
        store: Opened without a fence.
        installation: 32 hex digits.
        host: For people: where it runs.
        clock: The present.

    Raises:
        StoreTakenOver: Somebody else took it over at the same moment.
        ShareUnreachable: Nobody knows whether it was done; repeat.
    """
    owner, _ = newest_owner(store)
    if owner is not None and owner.installation == installation:
        _adopt(store, owner.number)
        return owner
    there = store.transport.listing(layout.OWNER)
    number = layout.free_number(layout.OWNER, there.names, there.folders)
    document = OwnerDocument(
        number=number, installation=installation, taken_at=clock().isoformat(), host=host
    )
    try:
        store.write(layout.numbered(layout.OWNER, number), Kind.OWNER, document)
    except NameTaken as cause:
        raise StoreTakenOver(
            f"data store {store.store_id[:8]} was taken over by another installation at this"
            " moment; see which one shall own it, then run this again there"
        ) from cause
    _adopt(store, number)
    return document


def _adopt(store: DataStore, number: int) -> None:
    """Say what is there, now that whoever owned the store before is refused.

    What an owner found stays as it was first said; a part that was torn in mid-write makes room.
    """
    store.past.moved_on(number)
    if number == 1:
        return  # nobody came before
    for found in found_there(store, number):
        name = layout.adopted(number, found.part)
        try:
            store.read_surely(name, Kind.ADOPTED, AdoptedDocument)
        except LOST:
            set_aside(store, name)
            store.write(name, Kind.ADOPTED, found)


class Fence:
    """Keeps an installation that does not own a store any more from changing it.

    It is asked before each step that changes something (`DataStore.for_one_step`): one listing of a
    folder with a handful of files. The documents never change, so each is read once.
    """

    def __init__(self, installation: Callable[[], str], pens: Pens | None = None) -> None:
        """Say who wants to write.

        Args:
            installation: 32 hex digits, asked at the first change; empty: anybody may.
            pens: Tells this installation from a copy of it; without, they are not told apart.
        """
        self._installation = installation
        self._turns = Turns(pens) if pens is not None else None
        self._seen = ""
        self._number = 0

    def __call__(self, store: DataStore) -> None:
        """Return, if the installation owns the store, or nobody does.

        Raises:
            StoreTakenOver: Another one does, or a copy of this one.
        """
        mine = self._installation()
        names = [entry.name for entry in store.transport.entries(layout.OWNER)]
        newest = max(filter(layout.is_owner, names), default="")
        if not mine:
            return
        if newest != self._seen:
            owner, _ = newest_owner(store, names)
            if owner is not None and owner.installation != mine:
                raise StoreTakenOver(_refusal(store, owner))
            self._seen, self._number = newest, owner.number if owner else 0
            store.past.moved_on(self._number)
        if self._turns is not None and self._number:
            self._turns.require_ours(store, self._number, names)


def require_no_other_owner(store: SignedView, vault: SignedView) -> None:
    """Return, if nobody made a data store of his own of a vault.

    Raises:
        StoreTakenOver: An installation did that the data store does not know.
    """
    owner, _ = newest_owner(vault)
    if owner is None or owner.installation in {each.installation for each in owners(store)}:
        return
    if layout.numbered(layout.OWNER, owner.number) not in _unread(store):
        raise StoreTakenOver(_refusal(vault, owner))


def _unread(store: SignedView) -> set[str]:
    """Owner documents that are there and not whole: what they said, nobody knows."""
    whole = {layout.numbered(layout.OWNER, each.number) for each in owners(store)}
    return set(_names(store)) - whole


def _refusal(store: SignedView, owner: OwnerDocument) -> str:
    where = f" on {owner.host[:60]}" if owner.host else ""
    return (
        f"data store {store.store_id[:8]} was taken over by installation"
        f" {owner.installation[:8]}{where} at {owner.taken_at[:16]}, so nothing is written; stop"
        " this one, or take it over again with python -m flows.recover"
    )


def _names(store: SignedView) -> list[str]:
    entries = store.transport.entries(layout.OWNER)
    return sorted(entry.name for entry in entries if layout.is_owner(entry.name))

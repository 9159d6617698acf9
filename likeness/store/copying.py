"""Vaulting: a second store of the same id and format, filled with the same sealed bytes.

Packs are compared with the digests their index segments signed for, documents with their
signatures; damage is believed when it was read twice. A version's record is copied when all it
needs is in the vault: a copy of each part of its block maps, and every data block, which may lie
in other packs than here (`likeness.store.vault_mending`). What is whole nowhere holds up the
versions that need it, and no others.
"""

from collections.abc import Iterable, Iterator

from likeness.clock import Clock, system_clock
from likeness.codec.documents import MOST_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.keys import FIRST_EPOCH
from likeness.errors import Damaged, DocumentForged, NoVault, ObjectMissing, ObjectUnreadable
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore, signed_part
from likeness.store.documents import FormatDocument
from likeness.store.guard import require_writer
from likeness.store.owning import require_no_other_owner
from likeness.store.second_place import require_second_place
from likeness.store.vault_goods import Goods
from likeness.store.vault_mending import Copied, Mending
from likeness.transport.base import Entry, Transport
from likeness.transport.passing import CarefulTransport

_COPIERS = 3


def copy_to_vault(
    store: DataStore, vault: Transport, *, stop: StopToken, clock: Clock = system_clock
) -> Iterator[Copied]:
    """Copy everything the vault lacks.

    Args:
        store: Where from.
        vault: Where to: an empty place, or a vault of this store.
        stop: Looked at before every object.
        clock: The present.

    Yields:
        Each object that was copied or made, and each that the vault cannot have at the moment. A
        version record with a problem may lie in the vault and not be restorable from there.

    Raises:
        NoVault: The vault is another store's, or is the data store by another name; nothing was
            copied.
        StoreTooNew: This release may only read the store.
        StoreTakenOver: Another installation owns the data store now, or the vault.
        ShareFull: The vault has no room left.
        ShareUnreachable: One of the two places does not answer.
    """
    store.require_writable()
    require_second_place(store.transport, vault)
    _require_own_vault(store, vault)
    require_no_other_owner(store, DataStore(vault, store.facts, store.keys, unfinished=True))
    listing = CarefulTransport(store.transport)
    yield from _Copying(store.over(listing), vault, stop, clock).run()
    for folder, cause in sorted(listing.closed.items()):
        sentence = f"{folder} cannot be listed ({cause}), so what lies in it waits; see the disk"
        yield Copied(folder, 0, sentence)


def _require_own_vault(store: DataStore, vault: Transport) -> None:
    """A copy of the format document that was torn in mid-write is no other store's."""
    for copy in layout.FORMAT_COPIES:
        try:
            _is_whole_format(store, vault, copy)
        except DocumentForged as cause:
            raise NoVault(
                f"the vault at {vault!r} belongs to another data store; choose another place for"
                " this vault"
            ) from cause


def _is_whole_format(store: DataStore, vault: Transport, copy: str) -> bool:
    """Whether the vault has this copy of our format document.

    Raises:
        DocumentForged: It is whole, and another store's.
        StoreTooNew: It is whole, and this release may not write to the vault.
    """
    try:
        data = vault.read(copy, 0, MOST_DOCUMENT_BYTES + 1)
        frame = Frame.parse(data, name=layout.FORMAT_COPIES[0])
    except (Damaged, ObjectMissing, ObjectUnreadable):
        return False
    frame.require_signature(Kind.FORMAT, store.keys.public(max(frame.epoch, FIRST_EPOCH)))
    require_writer(signed_part(frame.clear, FormatDocument, name=copy))
    return True


class _Copying:
    """One vaulting, in its order: nothing comes before what it needs."""

    def __init__(self, store: DataStore, vault: Transport, stop: StopToken, clock: Clock) -> None:
        self._store, self._stop = store, stop
        self._vault = DataStore(vault, store.facts, store.keys, unfinished=True)
        self._mending = Mending(store, self._vault, clock, stop)

    def run(self) -> Iterator[Copied]:
        """What comes last is listed first, so that a version committed meanwhile waits."""
        last = self._lacking(layout.HEADS, layout.CATALOG)
        versions = self._lacking(layout.VERSIONS)
        index = self._lacking(layout.INDEX, layout.SWEPT)
        self._goods = Goods(self._store, self._vault, self._mending)
        yield from self._copy(self._each_lacking(layout.KEYS, layout.OWNER, layout.MAPS))
        yield from self._copy(self._each_lacking(layout.PACKS))
        yield from self._copy(index)
        yield from self._mend(versions)
        yield from self._copy(versions)
        yield from self._goods.unrestorable({entry.name for entry in versions})
        yield from self._goods.spoilt_maps()
        yield from self._copy(last)
        for name in reversed(layout.FORMAT_COPIES):
            if not _is_whole_format(self._store, self._vault.transport, name):
                yield from self._copy([Entry(name, 0)])

    def _lacking(self, *folders: str) -> list[Entry]:
        return list(self._each_lacking(*folders))

    def _each_lacking(self, *folders: str) -> Iterator[Entry]:
        for folder in folders:
            yield from _lacking(self._store.transport, self._vault.transport, folder)

    def _copy(self, entries: Iterable[Entry]) -> Iterator[Copied]:
        def copy(entry: Entry) -> Copied | None:
            self._stop.check()
            return self._goods.copy(entry.name)

        for copied in bounded_map(copy, entries, workers=_COPIERS, name="vault"):
            if copied is not None:
                yield copied

    def _mend(self, versions: list[Entry]) -> Iterator[Copied]:
        """Make anew what could not be copied, and learn what the vault cannot have."""
        goods, mending = self._goods, self._mending
        there = goods.packs_there()
        holes = goods.index_has_holes(versions)
        if holes:
            yield from mending.index(there, goods.take)
        if missing := goods.missing(there):
            yield from mending.packs(missing, there)
        if holes:
            mending.look_up((record for _, record in goods.records(versions)), there)


def _lacking(store: Transport, vault: Transport, folder: str) -> Iterator[Entry]:
    """Objects of ours that the vault lacks, or has in another length (torn in mid-write)."""
    there = vault.entries(folder)
    theirs = next(there, None)
    for mine in store.entries(folder):
        while theirs is not None and theirs.name < mine.name:
            theirs = next(there, None)
        same = theirs is not None and theirs.name == mine.name
        if layout.is_known(mine.name) and not (
            same and theirs is not None and theirs.size_bytes == mine.size_bytes
        ):
            yield mine

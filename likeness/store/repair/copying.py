"""Vaulting: a second store of the same id and format, filled with the same sealed bytes.

Packs are compared with the digests their index segments signed for, documents with their
signatures; damage is believed when it was read twice. A version's record is copied when all it
needs is in the vault: a copy of each part of its block maps, and every data block, which may lie
in other packs than here (`likeness.store.repair.vault_mending`). What is whole nowhere holds up the
versions that need it, and no others.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from likeness.clock import Clock, system_clock
from likeness.errors import DocumentForged, NoVault, ShareFull, ShareRefused
from likeness.model.ids import ChunkId, PackId, VersionId
from likeness.pacing import BandwidthCap
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.guard import require_writer
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.owning import require_no_other_owner
from likeness.store.format.vaults import format_document, made_vault_at, vault_at, whole_format
from likeness.store.read.index import read_segment, segments
from likeness.store.repair.copyable_objects import CopyableObjects, not_listed
from likeness.store.repair.second_place import require_second_place
from likeness.store.repair.vault_mending import Copied, Mending
from likeness.transport.base import Entry, Transport
from likeness.transport.passing import CarefulTransport

_COPIERS = 3
_MAX_REFUSALS = 32
"""In a row, until no more packs are tried; a smaller one may fit, and be all a version needs."""
_WHY: dict[type[Exception], str] = {
    ShareFull: "there is no room for it there",
    ShareRefused: "the account of the vault may not write any more",
}


class PauseHours(Exception):  # a state, and nothing is wrong
    """It is not one of the hours to copy at any more; the next vaulting goes on."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a vaulting goes about it.

    Attributes:
        cap: How many bytes a second at most; as fast as it goes if none.
        may_go_on: Asked before every object; `PauseHours` leaves when it says no.
        planned: Told once how many bytes of packs the vault lacks.
        trusted: The last vaulting left nothing out, so what is new is all there is to look at.
        only: Copy these versions and what they need, and nothing else; all if none.
        own_history: The vault keeps by rules of its own, and writes its own heads and statements.
    """

    cap: BandwidthCap | None = None
    may_go_on: Callable[[], bool] = lambda: True
    planned: Callable[[int], None] = lambda _: None
    trusted: bool = False
    only: frozenset[VersionId] | None = None
    own_history: bool = False

    def wait_for_turn(self, size_bytes: int, *, stop: StopToken) -> None:
        """Before an object is copied: as fast as the cap allows, and at the hours it may be.

        Raises:
            PauseHours: It is not to go on now.
            Stopped: On request.
        """
        stop.check()
        if not self.may_go_on():
            raise PauseHours
        if self.cap is not None:
            self.cap.take(size_bytes, stop=stop)


AT_ONCE = Manner()


def copy_to_vault(
    store: DataStore,
    vault: Transport,
    *,
    stop: StopToken,
    clock: Clock = system_clock,
    manner: Manner = AT_ONCE,
) -> Iterator[Copied]:
    """Copy everything the vault lacks.

    Args:
        store: Where from.
        vault: Where to: an empty place, or a vault of this store.
        stop: Looked at before every object.
        clock: The present.
        manner: How fast, and when.

    Yields:
        Each object that was copied or made, and each that the vault cannot have at the moment. A
        version record with a problem may lie in the vault and not be restorable from there.

    Raises:
        NoVault: The vault is another store's, or is the data store by another name; nothing was
            copied.
        StoreTooNew: This release may only read the store.
        StoreTakenOver: Another installation owns the data store now, or the vault.
        ShareFull, ShareRefused: The vault takes nothing more; raised when all was told of that it
            could have, and which versions it has not.
        ShareUnreachable: One of the two places does not answer.
        PauseHours: It is not to go on now; what was copied stays.
    """
    if store.read_only:  # whoever fetches copies need not own what they are copies of
        require_writer(store.facts)
    else:
        store.require_writable()
    require_second_place(store.transport, vault)
    _require_own_vault(store, vault)
    require_no_other_owner(store, vault_at(store, vault))
    listing = CarefulTransport(store.transport)
    there = _target(store, vault, clock)
    yield from _Copying(store.over(listing), there, stop, clock, manner).run()
    for folder, cause in sorted(listing.closed.items()):
        yield Copied(folder, 0, not_listed(folder, cause))


def _require_own_vault(store: DataStore, vault: Transport) -> None:
    """A copy of the format document that was torn in mid-write is no other store's."""
    for copy in layout.FORMAT_COPIES:
        try:
            whole_format(store, vault, copy)
        except DocumentForged as cause:
            raise NoVault(
                f"the vault at {vault!r} belongs to another data store; choose another place for"
                " this vault"
            ) from cause


def _target(store: DataStore, place: Transport, clock: Clock) -> DataStore:
    """What is filled: a vault, or from a vault a data store."""
    if not store.facts.vault:
        return made_vault_at(store, place, clock=clock)
    facts = msgspec.structs.replace(store.facts, vault="")
    return DataStore(place, facts, store.keys, unfinished=True)


class _Copying:
    """One vaulting, in its order: nothing comes before what it needs."""

    def __init__(
        self, store: DataStore, vault: DataStore, stop: StopToken, clock: Clock, manner: Manner
    ) -> None:
        self._store, self._stop, self._manner = store, stop, manner
        self._vault = vault
        self._refused: ShareFull | ShareRefused | None = None
        self._refusals = 0
        self._mending = Mending(store, self._vault, clock, stop)

    def run(self) -> Iterator[Copied]:
        """What comes last is listed first, so that a version committed meanwhile waits."""
        only = self._manner.only
        last = self._last()
        versions = self._lacking(layout.VERSIONS)
        index = self._lacking(layout.INDEX, layout.SWEPT, layout.FORGETS, layout.HOLDS)
        new = [entry.name for entry in index if entry.name.startswith(f"{layout.INDEX}/")]
        trusted = self._manner.trusted and only is None
        self._copyable = CopyableObjects(
            self._store, self._vault, self._mending, of=new if trusted else None
        )
        yield from self._copy(self._each_lacking(layout.KEYS, layout.OWNER, layout.ADOPTED))
        maps = self._each_lacking(layout.MAPS)
        packs = self._lacking(layout.PACKS)
        if only is not None:
            versions = [each for each in versions if each.name.rpartition("-")[2] in only]
            needed = self._needed(versions)
            maps = (each for each in maps if each.name in needed)
            packs = [each for each in packs if each.name in needed]
            index = [each for each in index if each.name in needed]
        yield from self._copy(maps)
        self._manner.planned(sum(entry.size_bytes for entry in packs))
        yield from self._copy(packs)
        yield from self._copy(index)
        yield from self._mend(versions)
        yield from self._copy(versions)
        yield from self._copyable.unrestorable({entry.name for entry in versions})
        yield from self._copyable.spoilt_maps()
        yield from self._copy(last)
        yield from self._say_what_it_is()
        if self._refused is not None:
            raise self._refused

    def _say_what_it_is(self) -> Iterator[Copied]:
        place, lacking, there = self._vault.transport, [], None
        for name in reversed(layout.FORMAT_COPIES):
            found = whole_format(self._store, place, name)
            there = found or there
            lacking += [] if found else [name]
        data = there.data if there else format_document(self._vault)
        for name in lacking:
            self._stop.check()
            yield self._copyable.put(name, data)

    def _last(self) -> list[Entry]:
        if self._manner.own_history:
            return self._lacking(layout.CATALOG)
        return self._lacking(layout.HEADS, layout.CATALOG) if self._manner.only is None else []

    def _needed(self, versions: list[Entry]) -> set[str]:
        """Maps, packs and index segments that these versions need; the rest is cared for later."""
        needed: set[str] = set()
        chunks: set[ChunkId] = set()
        for _, record in self._copyable.records(versions):
            for disk in record.disks:
                needed.update(name for part in disk.parts for name in part.copies)
                with suppress(*UNREADABLE):  # then its version waits
                    chunks.update(chunk for _, chunk in self._mending.chunks_of(disk))
        packs: set[PackId] = set()
        for name in segments(self._store):
            with suppress(*UNREADABLE):
                held = [p for p in read_segment(self._store, name, chunks=chunks) if p.locations]
                packs.update(pack.pack for pack in held)
                needed.update([name] if held else [])
        self._copyable.keep_only(packs)
        return needed | {layout.pack(each) for each in packs}

    def _lacking(self, *folders: str) -> list[Entry]:
        return list(self._each_lacking(*folders))

    def _each_lacking(self, *folders: str) -> Iterator[Entry]:
        for folder in folders:
            yield from lacking(self._store.transport, self._vault.transport, folder)

    def _copy(self, entries: Iterable[Entry]) -> Iterator[Copied]:
        def copy(entry: Entry) -> Copied | None:
            if self._refusals >= _MAX_REFUSALS and entry.name.startswith(f"{layout.PACKS}/"):
                return None  # the versions that need it are told of
            self._manner.wait_for_turn(entry.size_bytes, stop=self._stop)
            try:
                copied = self._copyable.copy(entry.name)
            except (ShareFull, ShareRefused) as cause:
                self._refused = self._refused or cause
                self._refusals += 1
                return None
            self._refusals = 0
            return copied

        for copied in bounded_map(copy, entries, workers=_COPIERS, name="vault"):
            if copied is not None:
                yield copied

    def _mend(self, versions: list[Entry]) -> Iterator[Copied]:
        """Make anew what could not be copied, and learn what the vault cannot have."""
        copyable, mending = self._copyable, self._mending
        there = copyable.packs_there()
        if self._refused is not None:
            mending.give_up(copyable.missing(there), there, _WHY[type(self._refused)])
            return
        holes = copyable.index_has_holes(versions)
        if holes:
            copyable.learn_all()  # what is new is not all there is to look at then
            there = copyable.packs_there()
            yield from mending.index(there, copyable.take)
        if missing := copyable.missing(there):
            yield from mending.packs(missing, there)
        if holes:
            mending.look_up((record for _, record in copyable.records(versions)), there)
            if mending.lost:
                yield from mending.salvage(there)


def _is_of_its_place(name: str) -> bool:
    """Whether an object tells of the place that it lies in, and of no other."""
    return layout.is_turn(name) or layout.is_vault_keys(name)


def lacking(store: Transport, vault: Transport, folder: str) -> Iterator[Entry]:
    """Objects of ours that the vault lacks, or has in another length (torn in mid-write)."""
    there = vault.entries(folder)
    theirs = next(there, None)
    for mine in store.entries(folder):
        while theirs is not None and theirs.name < mine.name:
            theirs = next(there, None)
        same = theirs is not None and theirs.name == mine.name
        ours = layout.is_known(mine.name) and not _is_of_its_place(mine.name)
        if ours and not (same and theirs is not None and theirs.size_bytes == mine.size_bytes):
            yield mine

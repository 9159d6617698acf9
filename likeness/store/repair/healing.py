"""Healing: damaged chunks put back into a store from another one that has them whole.

Nothing is overwritten. Each chunk is opened and hashed where it is whole, sealed anew under a
session of this run, and written into a new pack, which a signed index segment then vouches for.
Whether it lies well in its new place is for the next proof to say.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from likeness.clock import Clock
from likeness.codec.keys import SessionKey
from likeness.codec.records import Opened, Opener, Sealer
from likeness.errors import (
    Damaged,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    StoreTooNew,
)
from likeness.model.ids import PackId, RunId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.pack import (
    MAX_PACK_BYTES,
    PACK_TARGET_BYTES,
    PackBuilder,
    PackHeader,
    PackReceipt,
)
from likeness.store.read.index import read_segment, segments, unindexed_packs, write_index

_LEVEL = 1
_MAX_UNREAD = 4
_OF_NO_USE = (Damaged, ObjectMissing, StoreTooNew, ObjectUnreadable, ShareRefused)
Key = bytes
"""The first 16 bytes of a chunk id."""


@dataclass(frozen=True, slots=True)
class Healing:
    """What was put back.

    Attributes:
        packs: New packs, in their place and in the index.
        found: The chunks in them.
    """

    packs: tuple[PackReceipt, ...]
    found: frozenset[Key]


def heal_chunks(
    store: DataStore,
    source: DataStore,
    wanted: Collection[Key],
    *,
    run: RunId,
    clock: Clock,
    stop: StopToken,
    problem: Callable[[str], None] = lambda _: None,
) -> Healing:
    """Fetch chunks that are damaged here from a store that has them whole.

    A crash leaves packs that nothing refers to, in the run's inbox or in no index segment.

    Args:
        store: Where they are damaged.
        source: Where they may be whole: the vault, opened with the same keys.
        wanted: First 16 bytes of their ids.
        run: Who does it; names the inbox.
        clock: The present.
        stop: Looked at before every pack.
        problem: Told of each pack of the source that is of no use.

    Raises:
        ShareUnreachable: One of the two stores does not answer; repeat.
        ShareFull: No room for the new packs.
    """
    store.require_writable()
    left = set(wanted)
    writer = ChunkWriter(store, run)
    for pack, locations in _packs(source, problem):
        wanted_here = [place for place in locations if place.chunk[:16] in left]
        if wanted_here:
            stop.check()
            for opened in whole_chunks(source, pack, wanted_here, problem):
                if opened.chunk[:16] in left:
                    writer.add(opened)
                    left.discard(opened.chunk[:16])
        if not left:
            break
    receipts = writer.finish()
    for _ in write_index(store, receipts, run=run, clock=clock):
        pass
    if receipts:
        store.for_writing().delete_folder(layout.inbox(run))
    return Healing(receipts, frozenset(set(wanted) - left))


def _packs(
    source: DataStore, problem: Callable[[str], None]
) -> Iterator[tuple[PackId, PackLocations]]:
    """Every pack of the index, and then those that only a lost segment of it knew."""
    indexed: set[PackId] = set()
    for name in segments(source, unread=lambda cause: problem(str(cause))):
        try:
            for pack in read_segment(source, name):
                indexed.add(pack.pack)
                yield pack.pack, pack.locations
        except _OF_NO_USE as cause:
            problem(str(cause))
    yield from unindexed_packs(source, indexed, unread=lambda cause: problem(str(cause)))


def whole_chunks(
    source: DataStore,
    pack: PackId,
    locations: Iterable[Location],
    problem: Callable[[str], None] = lambda _: None,
) -> Iterator[Opened]:
    """The content of those chunks of a pack that bear out their ids, whatever else is in it.

    A pack of which several records in turn cannot be read is given up: a failing disk takes long
    over each.
    """
    name = layout.pack(pack)
    try:
        opener = _opener(source, name)
    except _OF_NO_USE as cause:
        problem(str(cause))
        return
    unread = 0
    for place in locations:
        try:
            record = source.transport.read(name, place.offset, place.length)
            opened = opener.open(record, name=name, offset=place.offset)
        except _OF_NO_USE as cause:
            problem(str(cause))
            unread += isinstance(cause, ObjectUnreadable)
            if unread == _MAX_UNREAD:
                return
            continue
        if opened.chunk == place.chunk:
            yield opened


def _opener(source: DataStore, name: str) -> Opener:
    head = source.transport.read(name, 0, PackHeader.max_bytes(sessions=8))
    try:
        header = PackHeader.parse(head, name=name, store=source.store_id)
    except Damaged:
        whole = source.transport.read(name, 0, MAX_PACK_BYTES)
        header = PackHeader.parse_any(whole, name=name, store=source.store_id, suite=source.suite)
    return header.opener(source.keys, chunk_bytes=source.chunk_bytes)


class ChunkWriter:
    """Seals chunks into new packs of a store, through an inbox, as a transfer does.

    Each keeps its scope: only in a session of its own can a reader name it as it was named.
    """

    def __init__(self, store: DataStore, run: RunId) -> None:
        """Write as `run`, which names the inbox."""
        self._store, self._run = store, run
        self._scopes: dict[bytes, tuple[Sealer, PackBuilder]] = {}
        self._done: list[PackReceipt] = []

    def add(self, opened: Opened) -> None:
        """Take a chunk; its pack is written when it is long enough."""
        if opened.scope not in self._scopes:
            self._scopes[opened.scope] = self._begun(opened.scope)
        sealer, packs = self._scopes[opened.scope]
        packs.add(opened.chunk, sealer.seal(opened.chunk, opened.plaintext))
        if packs.size_bytes >= PACK_TARGET_BYTES:
            self._write(packs)

    def finish(self) -> tuple[PackReceipt, ...]:
        """Write the rest; every pack that was written lies in its place."""
        for _, packs in self._scopes.values():
            if packs.size_bytes:
                self._write(packs)
        return tuple(self._done)

    def _begun(self, scope: bytes) -> tuple[Sealer, PackBuilder]:
        store = self._store
        session = SessionKey.fresh(store.keys.public().box, scope=scope)
        sealer = Sealer(store.store_id, session, suite=store.suite, level=_LEVEL)
        return sealer, PackBuilder(store.store_id, session, store.suite)

    def _write(self, packs: PackBuilder) -> None:
        receipt, transport = (pack := packs.finish()).receipt, self._store.for_writing()
        arriving, place = layout.arriving_pack(self._run, receipt.pack), layout.pack(receipt.pack)
        transport.create(arriving, pack.parts)
        try:
            transport.rename(arriving, place)
        except (NameTaken, ObjectMissing):
            transport.size(place)  # the move happened although its answer was lost
        self._done.append(receipt)

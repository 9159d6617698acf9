"""Healing: damaged chunks put back into a store from another one that has them whole.

Nothing is overwritten. Each chunk is opened and hashed where it is whole, sealed anew under a
session of this run, and written into a new pack, which a signed index segment then vouches for.
Whether it lies well in its new place is for the next proof to say.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from likeness.clock import Clock
from likeness.codec.keys import SessionKey
from likeness.codec.records import Opener, Sealer
from likeness.errors import Damaged, NameTaken, ObjectMissing, StoreTooNew
from likeness.model.ids import ChunkId, RunId
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.index import KnownPack, known_packs, write_index
from likeness.store.pack import (
    MOST_PACK_BYTES,
    PACK_TARGET_BYTES,
    PackBuilder,
    PackHeader,
    PackReceipt,
    Place,
)

_LEVEL = 1
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
    builder = _Builder(store, run)
    for pack in known_packs(source, damaged=lambda cause: problem(str(cause))):
        places = [place for place in pack.places if place.chunk[:16] in left]
        if places:
            stop.check()
            for chunk, plaintext in _whole_chunks(source, pack, places, problem):
                if chunk[:16] in left:
                    builder.add(chunk, plaintext)
                    left.discard(chunk[:16])
        if not left:
            break
    receipts = builder.finish()
    for _ in write_index(store, receipts, run=run, clock=clock):
        pass
    if receipts:
        store.transport.delete_folder(layout.inbox(run))
    return Healing(receipts, frozenset(set(wanted) - left))


def _whole_chunks(
    source: DataStore, pack: KnownPack, places: list[Place], problem: Callable[[str], None]
) -> Iterator[tuple[ChunkId, bytes]]:
    """The content of those chunks that bear out their ids."""
    name = layout.pack(pack.pack)
    try:
        opener = _opener(source, name)
    except (Damaged, ObjectMissing, StoreTooNew) as cause:
        problem(str(cause))
        return
    for place in places:
        try:
            record = source.transport.read(name, place.offset, place.length)
            opened = opener.open(record, name=name, offset=place.offset)
        except (Damaged, ObjectMissing) as cause:
            problem(str(cause))
            continue
        if opened.chunk == place.chunk:
            yield opened.chunk, opened.plaintext


def _opener(source: DataStore, name: str) -> Opener:
    head = source.transport.read(name, 0, PackHeader.most_bytes(sessions=8))
    try:
        header = PackHeader.parse(head, name=name, store=source.store_id)
    except Damaged:
        whole = source.transport.read(name, 0, MOST_PACK_BYTES)
        header = PackHeader.parse_any(whole, name=name, store=source.store_id, suite=source.suite)
    return header.opener(source.keys, chunk_bytes=source.chunk_bytes, id_keys=source.id_keys)


class _Builder:
    """Seals chunks into new packs of a store, through an inbox, as a transfer does."""

    def __init__(self, store: DataStore, run: RunId) -> None:
        session = SessionKey.fresh(store.keys.public().box)
        self._store, self._run = store, run
        self._sealer = Sealer(store.store_id, session, suite=store.suite, level=_LEVEL)
        self._packs = PackBuilder(store.store_id, session, store.suite)
        self._done: list[PackReceipt] = []

    def add(self, chunk: ChunkId, plaintext: bytes) -> None:
        self._packs.add(chunk, self._sealer.seal(chunk, plaintext))
        if self._packs.size_bytes >= PACK_TARGET_BYTES:
            self._write()

    def finish(self) -> tuple[PackReceipt, ...]:
        if self._packs.size_bytes:
            self._write()
        return tuple(self._done)

    def _write(self) -> None:
        receipt, transport = (pack := self._packs.finish()).receipt, self._store.transport
        arriving, place = layout.arriving_pack(self._run, receipt.pack), layout.pack(receipt.pack)
        transport.create(arriving, pack.parts)
        try:
            transport.rename(arriving, place)
        except (NameTaken, ObjectMissing):
            transport.size(place)  # the move happened although its answer was lost
        self._done.append(receipt)

"""Compacting: what is needed of packs that hold little of it moves into new packs, sealed as it is.

No key of any data block is used: a record is bound to its session, not to its pack, so it moves
byte for byte, and its session's box moves with it. Only the new pack's table is sealed anew, under
a session of its own. The new packs are written, indexed and read back; what becomes of the old ones
is for the reclaim to say, and a run that dies leaves packs that the next global pass gives back.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from likeness.clock import Clock
from likeness.codec.aead import Suite
from likeness.codec.keys import SessionKey
from likeness.codec.records import checksum_matches, renumbered, session_number
from likeness.errors import NameTaken, ObjectMissing
from likeness.model.ids import ChunkId, PackId, RunId, StoreId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.copies import Copy
from likeness.store.format.data_store import DataStore
from likeness.store.format.locations import Location
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack import (
    MAX_PACK_BYTES,
    PACK_TARGET_BYTES,
    BoxedSession,
    Pack,
    PackBuilder,
    PackReceipt,
)
from likeness.store.read.index import known_packs, write_index

MAX_SESSIONS = 8
"""In one pack, the table's own included: readers read so long a header at once."""
LIVE_SHARE = 0.7
"""A pack of which less is needed is rewritten."""
Prove = Callable[[Sequence[PackReceipt]], Collection[PackId]]
"""Takes new packs in, reads them back, and tells which are whole."""


@dataclass
class Compaction:
    """Rewrites packs.

    Attributes:
        store: Where.
        run: Which run this is; names the inbox that new packs arrive in.
        clock: The present.
        stop: Looked at before every pack.
        prove: See `Prove`.
        target_bytes: When a pack is full.
        moved_bytes: Sealed bytes that were rewritten.
    """

    store: DataStore
    run: RunId
    clock: Clock
    stop: StopToken
    prove: Prove
    target_bytes: int = PACK_TARGET_BYTES
    moved_bytes: int = 0
    _filling: "MovingBuilder | None" = None
    _written: list[PackReceipt] = field(default_factory=list)

    def rewrite(self, needed: Mapping[PackId, Collection[ChunkId]]) -> Mapping[ChunkId, Copy]:
        """Move data blocks into new packs.

        What cannot be read, or is not whole, stays where it is.

        Args:
            needed: Packs, each with what is needed of it.

        Returns:
            Where the data blocks are now, too, proved.

        Raises:
            ShareUnreachable: The store does not answer.
            ShareFull: No room for the new packs.
            Stopped: On request.
        """
        self._written, self._filling = [], None
        for pack in known_packs(self.store, needed, damaged=lambda _: None):
            self.stop.check()
            wanted = [place for place in pack.locations if place.chunk in needed[pack.pack]]
            for session, place, record in self._records(pack.pack, wanted):
                self._builder_for(session).take(session, place.chunk, record)
        self._close()
        for _ in write_index(self.store, self._written, run=self.run, clock=self.clock):
            pass
        if not self._written:
            return {}
        self.store.for_writing().delete_folder(layout.inbox(self.run))
        whole = set(self.prove(self._written))
        return {
            place.chunk: Copy(receipt.pack, receipt.size_bytes)
            for receipt in self._written
            if receipt.pack in whole
            for place in receipt.locations
        }

    def _records(
        self, pack: PackId, locations: Sequence[Location]
    ) -> Iterator[tuple[BoxedSession, Location, bytes]]:
        """Those records of a pack that are whole as far as can be told without a key."""
        name = layout.pack(pack)
        with suppress(*UNREADABLE):  # the validation says what is the matter with it
            data = self.store.transport.read(name, 0, MAX_PACK_BYTES)
            held = Pack(data, name=name, store=self.store.store_id)
            sessions = held.header.sessions
            if held.header.suite is not self.store.suite:
                return
            for place in locations:
                record = held.record(place)
                if checksum_matches(record) and session_number(record) < len(sessions):
                    yield sessions[session_number(record)], place, record

    def _builder_for(self, session: BoxedSession) -> "MovingBuilder":
        here = self._filling
        if here is None or here.size_bytes >= self.target_bytes or not here.has_room(session):
            self._close()
            own = SessionKey.fresh(self.store.keys.public().box)
            here = self._filling = MovingBuilder(self.store.store_id, own, self.store.suite)
        return here

    def _close(self) -> None:
        """Write the pack that is being filled, through the inbox as a transfer does."""
        if self._filling is None:
            return
        pack = self._filling.finish()
        self._filling, receipt, transport = None, pack.receipt, self.store.for_writing()
        arriving, place = layout.arriving_pack(self.run, receipt.pack), layout.pack(receipt.pack)
        transport.create(arriving, pack.parts)
        try:
            transport.rename(arriving, place)
        except (NameTaken, ObjectMissing):
            transport.size(place)  # the move happened although its answer was lost
        self._written.append(receipt)
        self.moved_bytes += sum(each.length for each in receipt.locations)


class MovingBuilder(PackBuilder):
    """Makes one pack of records that others sealed."""

    def __init__(self, store: StoreId, session: SessionKey, suite: Suite) -> None:
        """Build a pack; `session` seals nothing but its table."""
        super().__init__(store, session, suite)
        self._moved: list[BoxedSession] = []

    def has_room(self, session: BoxedSession) -> bool:
        """Whether a record of that session may be added."""
        return session in self._moved or len(self._moved) + 1 < MAX_SESSIONS

    def take(self, session: BoxedSession, chunk: ChunkId, record: bytes) -> None:
        """Add a record of a session."""
        if session not in self._moved:
            self._moved.append(session)
        self.add(chunk, renumbered(record, self._moved.index(session) + 1))

    def _sessions(self) -> Sequence[BoxedSession]:
        return (*super()._sessions(), *self._moved)

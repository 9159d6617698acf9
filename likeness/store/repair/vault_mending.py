"""Mending a vault: what cannot be copied to it as it is, is made anew from what is whole in it.

A pack with one damaged byte is not copied, since its bytes are not those that were signed for. Yet
versions need its other chunks. Those are opened and hashed here, sealed anew, and written into a
pack of the vault's own, with an index segment. So a version whose damaged chunk was healed by
another pack restores from the vault, too; what is whole nowhere holds up the versions that need
it, and no others.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from likeness.clock import Clock
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    LikenessError,
    ObjectMissing,
    StoreTooNew,
)
from likeness.model.ids import ZERO_CHUNK, ChunkId, PackId, RunId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord, MapPart, VersionRecord
from likeness.store.format.locations import Location
from likeness.store.format.maps import Run, positions_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack import MAX_PACK_BYTES, Pack, PackReceipt
from likeness.store.read.index import KnownPack, read_segment, segments, write_index
from likeness.store.read.salvaging import Salvager, unindexed_packs
from likeness.store.read.versions import read_part
from likeness.store.repair.healing import ChunkWriter, whole_chunks

_MAX_IN_HAND = 1 << 20  # chunk ids looked up at once: about 100 MiB


def _nobody(_name: str, _cause: LikenessError) -> None:
    """The versions that need what cannot be read are told of."""


def in_words(cause: Exception) -> str:
    """What is the matter with an object, after "is"."""
    if isinstance(cause, Damaged):
        return "damaged"
    if isinstance(cause, ObjectMissing):
        return "missing"
    if isinstance(cause, StoreTooNew):
        return "written by a later release"
    return "not readable at the moment"


@dataclass(frozen=True, slots=True)
class Copied:
    """One object that the vault has now, or lacks.

    Attributes:
        name: Its name in both stores, or in the vault if it was made there.
        size_bytes: Its length.
        problem: Why it was not copied, in words; empty if it was.
    """

    name: str
    size_bytes: int
    problem: str = ""


@dataclass
class Mending:
    """What the vault lacks of the data store's chunks, and what was done about it.

    Attributes:
        store: Where from.
        vault: Where to, with the same keys.
        clock: The present.
        stop: Looked at before every pack.
        lost: Chunks that versions need and the vault cannot get.
        why: Why, if that is not for want of whole data: the vault takes nothing more.
    """

    store: DataStore
    vault: DataStore
    clock: Clock
    stop: StopToken
    lost: set[ChunkId] = field(default_factory=set)
    why: str = ""
    _parts_with_lost: dict[str, bool] = field(default_factory=dict)

    def packs(self, missing: Collection[PackId], there: set[PackId]) -> Iterator[Copied]:
        """Save what is whole in packs that the vault has not, and nothing else there holds.

        Args:
            missing: Packs that an index segment knows.
            there: Packs that the vault has whole; those that are made are added.

        Yields:
            Each pack that was made.
        """
        held, left = self._left_in(missing, there)
        run = RunId(random_name())
        writer = ChunkWriter(self.vault, run)
        for pack_id, locations in held.items():
            self.stop.check()
            wanted = [place for place in locations if place.chunk in left]
            for opened in whole_chunks(self.store, pack_id, wanted) if wanted else ():
                writer.add(opened)
                left.discard(opened.chunk)
        yield from self._keep(writer, run, there)
        self.lost |= left

    def salvage(self, there: set[PackId]) -> Iterator[Copied]:
        """Save what is lost from packs that no index segment knows and no table tells of.

        Args:
            there: Packs that the vault has whole; those that are made are added.

        Yields:
            Each pack that was made.
        """
        indexed = {pack.pack: pack.size_bytes for pack in self._known(self.store)}
        salvager = Salvager(self.store, self.stop, _nobody)
        run = RunId(random_name())
        writer = ChunkWriter(self.vault, run)
        for name in unindexed_packs(self.store, indexed, (), _nobody):
            for opened in salvager.records(name) if self.lost else ():
                if opened.chunk in self.lost:
                    writer.add(opened)
                    self.lost.discard(opened.chunk)
        yield from self._keep(writer, run, there)

    def _keep(self, writer: ChunkWriter, run: RunId, there: set[PackId]) -> Iterator[Copied]:
        """Index the packs that were made."""
        made = writer.finish()
        for _ in write_index(self.vault, made, run=run, clock=self.clock):
            pass
        for receipt in made:
            there.add(receipt.pack)
            yield Copied(layout.pack(receipt.pack), receipt.size_bytes)
        if made:
            self.vault.transport.delete_folder(layout.inbox(run))

    def give_up(self, missing: Collection[PackId], there: Container[PackId], why: str) -> None:
        """The vault takes nothing more: what is in these packs alone it cannot get now."""
        self.why = why
        self.lost |= self._left_in(missing, there)[1]

    def _left_in(
        self, missing: Collection[PackId], there: Container[PackId]
    ) -> tuple[dict[PackId, list[Location]], set[ChunkId]]:
        """What packs hold, and which of it the vault has nowhere."""
        held: dict[PackId, list[Location]] = {}
        for pack in self._known(self.store, self.vault):
            if pack.pack in missing:
                held[pack.pack] = list(pack.locations)
        left = {place.chunk for locations in held.values() for place in locations}
        return held, left - self._in_the_vault(left, there)

    def index(self, there: set[PackId], copy: Callable[[str], Copied]) -> Iterator[Copied]:
        """Take in packs that only a lost index segment knew, and index them in the vault anew.

        Args:
            there: Packs that the vault has whole; those that are copied are added.
            copy: Copies one pack as it is; raises one of `UNREADABLE` if it cannot.

        Yields:
            Each pack that was copied.
        """
        indexed = {pack.pack for pack in self._known(self.store, self.vault)}
        found: list[PackReceipt] = []
        for entry in self.store.transport.entries(layout.PACKS):
            pack = PackId(entry.name.rpartition("/")[2])
            if pack in indexed or not layout.is_known(entry.name):
                continue
            self.stop.check()
            with suppress(*UNREADABLE):
                receipt = self._receipt(entry.name)
                if pack not in there:
                    yield copy(entry.name)
                there.add(pack)
                found.append(receipt)
        for _ in write_index(self.vault, found, run=RunId(random_name()), clock=self.clock):
            pass

    def look_up(self, records: Iterable[VersionRecord], there: Container[PackId]) -> None:
        """Note what the vault lacks of all that these versions need; for when the index has holes.

        Args:
            records: Of versions that the vault is to have.
            there: Packs that the vault has whole, by now.
        """
        wanted: set[ChunkId] = set()
        for record in records:
            for disk in record.disks:
                with suppress(*UNREADABLE):  # then its version waits in any case
                    wanted.update(chunk for _, chunk in self.chunks_of(disk))
            if len(wanted) > _MAX_IN_HAND:
                self.lost |= wanted - self._in_the_vault(wanted, there)
                wanted = set()
        self.lost |= wanted - self._in_the_vault(wanted, there)

    def needs_what_is_lost(self, record: VersionRecord) -> bool:
        """Whether a version needs a chunk that the vault cannot get."""
        return bool(self.lost) and any(
            self._may_need(disk) and any(chunk in self.lost for _, chunk in self.chunks_of(disk))
            for disk in record.disks
        )

    def chunks_of(self, disk: DiskRecord) -> Iterator[tuple[int, ChunkId]]:
        """Every position of a disk that is not zero, with its chunk, in no order.

        Raises:
            Damaged, ObjectUnreadable: A part of its map is whole in neither place.
        """
        positions = positions_of(disk.size_bytes, disk.chunk_bytes)
        told = bytearray(positions)
        for part in reversed(disk.parts):  # what a later part says of a position holds
            for run in self._runs(disk, part, positions):
                for position, chunk in run.each():
                    if not told[position] and chunk != ZERO_CHUNK:
                        yield position, chunk
                    told[position] = 1

    def _may_need(self, disk: DiskRecord) -> bool:
        """Whether any part of its map names a lost chunk, be it for a position changed since.

        Versions share parts, so each is read once.
        """
        positions = positions_of(disk.size_bytes, disk.chunk_bytes)
        for part in disk.parts:
            name = part.copies[0]
            if name not in self._parts_with_lost:
                runs = self._runs(disk, part, positions)
                named = any(chunk in self.lost for run in runs for _, chunk in run.each())
                self._parts_with_lost[name] = named
        return any(self._parts_with_lost[part.copies[0]] for part in disk.parts)

    def _runs(self, disk: DiskRecord, part: MapPart, positions: int) -> list[Run]:
        try:
            return read_part(self.store, disk, part, positions)
        except UNREADABLE:
            return read_part(self.vault, disk, part, positions)

    def _in_the_vault(self, chunks: set[ChunkId], there: Container[PackId]) -> set[ChunkId]:
        """Those of some chunks that lie in a pack which the vault has whole and indexed."""
        return {
            place.chunk
            for pack in (self._known(self.vault, chunks=chunks) if chunks else ())
            if pack.pack in there
            for place in pack.locations
        }

    @staticmethod
    def _known(*stores: DataStore, chunks: Container[bytes] | None = None) -> Iterator[KnownPack]:
        """Every pack of every index segment that can be read."""
        for store in stores:
            for name in segments(store):
                with suppress(*UNREADABLE):
                    yield from read_segment(store, name, chunks=chunks)

    def _receipt(self, name: str) -> PackReceipt:
        """A pack as it tells of itself.

        Raises:
            Damaged: It is not whole.
        """
        data = self.store.transport.read(name, 0, MAX_PACK_BYTES + 1)
        whole = Pack(data, name=name, store=self.store.store_id)
        locations = whole.locations(self.store.keys)
        return PackReceipt(whole.header.pack, len(data), digest([data]), whole.checksum, locations)

"""Arrivals: a manifest that a source left in its inbox, read and checked by the controller.

Nothing is parsed before it proved to be made by the holder of the job's token. What the token's
holder says is not believed either, since a source may be in somebody else's hands: every number is
checked against what the controller knows itself, every pack must be there in its length, and a map
may name only chunks that are zero, unchanged, or in a pack of this very manifest. So the worst a
source can do is to spoil the version it is making.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from likeness.codec.documents import Kind
from likeness.codec.manifests import (
    HEADER_BYTES,
    LAST_PART,
    MOST_OBJECT_BYTES,
    TOKEN_BYTES,
    PartHeader,
    read_part,
)
from likeness.errors import (
    BadInput,
    Damaged,
    DocumentForged,
    ObjectMissing,
    TransferBroken,
)
from likeness.model.disk import DiskFacts
from likeness.model.ids import (
    CHUNK_ID_BYTES,
    ZERO_CHUNK,
    ChunkId,
    DiskId,
    PackId,
    RunId,
    VmId,
    random_name,
)
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.documents import Counts, IndexClear, decode
from likeness.store.id_ledger import IdLedger, each_id
from likeness.store.inbox import (
    MAP_HEAD,
    MAP_RUN,
    PACK_HEAD,
    PART_BYTES,
    PLACE,
    Closing,
    PartKind,
)
from likeness.store.maps import FlatMap, positions_of
from likeness.store.observations import UNREADABLE
from likeness.store.pack import MOST_PACK_BYTES, PackHeader, PackReceipt, Place
from likeness.store.receipts import DiskReceipt, PackLog

MOST_ATTEMPTS = 16
"""Times a source may have begun its manifest anew."""
_BYTES_A_POSITION = MAP_RUN.size + CHUNK_ID_BYTES + PACK_HEAD.size + PLACE.size
_WINDOW = 1 << 16


@dataclass(frozen=True, slots=True)
class AwaitedDisk:
    """A disk whose manifest is awaited, as the controller knows it.

    Attributes:
        facts: From the snapshot.
        previous: Its map in the VM's last version; the same one the source was given.
    """

    facts: DiskFacts
    previous: FlatMap | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a source left, checked: the parts of a `TransferReceipt` that only the source knows.

    Attributes:
        disks: With new maps in the scratch folder.
        packs: In the scratch folder too; digests are claims until the packs are proved.
        counts: Sizes are measured here; the rest is what the source measured, within bounds.
        passed_over: Objects in the inbox that are no part of it, in words.
    """

    disks: tuple[DiskReceipt, ...]
    packs: PackLog
    counts: Counts
    passed_over: tuple[str, ...]


def read_manifest(
    store: DataStore,
    run: RunId,
    token: bytes,
    *,
    vm: VmId,
    disks: Sequence[AwaitedDisk],
    scratch: Path,
    stop: StopToken,
) -> Arrival:
    """Read what a source left for a run.

    Args:
        store: Where.
        run: Which.
        token: The 32 bytes that the source was given for this job alone.
        vm: Whose disks.
        disks: Those of the snapshot, in any order.
        scratch: A folder for maps and the pack log; the caller's to empty.
        stop: Looked at before every part.

    Raises:
        TransferBroken: There is no whole manifest; the source died before it was done.
        DocumentForged: All that is there was made by somebody else.
        Damaged: The source says what cannot be, or its packs are not as it says.
        ShareUnreachable: The store does not answer.
        Stopped: On request.
    """
    if len(token) != TOKEN_BYTES:
        raise BadInput(f"a job's token has {TOKEN_BYTES} bytes, not {len(token)}")
    reading = _Reading(store, run, token, vm, tuple(disks), scratch, stop)
    for attempt in reading.attempts():
        try:
            return reading.read(attempt)
        except _NotWhole as cause:
            reading.passed_over.append(str(cause))
    raise reading.nothing()


def open_inbox(store: DataStore, run: RunId) -> None:
    """Make the folder of a run's inbox, for a source that may add files and make no folder.

    Raises:
        ShareUnreachable: The store does not answer; repeat.
    """
    name = layout.arriving_manifest(run, random_name())
    transport = store.for_writing()
    transport.create(name, [])  # folders are made with what lies in them, and stay
    transport.delete(name)


def discard_manifest(store: DataStore, run: RunId) -> None:
    """Remove a run's manifest once its version is committed; safe to repeat."""
    transport = store.for_writing()
    for entry in list(transport.entries(layout.inbox(run))):
        if entry.name.endswith(layout.MANIFEST_SUFFIX):
            transport.delete(entry.name)
    transport.delete_folder(layout.inbox(run))


class _NotWhole(Exception):  # a state: another attempt of the source may be whole
    """An attempt lacks a part, or its parts are somebody else's."""


_Parts = Mapping[int, Sequence[str]]
"""Part number to the objects that claim to be it."""


class _Reading:
    """One look at one inbox."""

    def __init__(
        self,
        store: DataStore,
        run: RunId,
        token: bytes,
        vm: VmId,
        disks: tuple[AwaitedDisk, ...],
        scratch: Path,
        stop: StopToken,
    ) -> None:
        self._store, self.run, self._token, self._vm = store, run, token, vm
        self._scratch, self._stop = scratch, stop
        self.disks = {disk.facts.disk: disk for disk in disks}
        self.positions = sum(
            positions_of(disk.facts.size_bytes, store.chunk_bytes) for disk in disks
        )
        self.most_parts = self.positions * _BYTES_A_POSITION // PART_BYTES + len(disks) + 8
        self.passed_over: list[str] = []
        self._forged: DocumentForged | None = None
        self._genuine = False
        self.arrived: dict[str, int] = {}

    def attempts(self) -> Iterator[_Parts]:
        """Objects that look like parts, by attempt and number; none of it believed."""
        found: dict[bytes, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in self._listed():
            self._stop.check()
            try:
                head = self._store.transport.read(name, 0, HEADER_BYTES)
                header = PartHeader.parse(head, name=name, store=self._store.store_id, run=self.run)
            except UNREADABLE as cause:
                self.passed_over.append(str(cause))
            else:
                found[header.attempt][header.part].append(name)
        for _, parts in sorted(found.items()):
            yield parts

    def read(self, parts: _Parts) -> Arrival:
        """Read one attempt.

        Raises:
            _NotWhole: A part is missing or somebody else's.
            Damaged: It says what cannot be.
        """
        name, plaintext = self._part(parts, LAST_PART)
        closing = self._closing(name, plaintext)
        with ExitStack() as undo:
            build = _Build(self, closing, name, undo)
            for number in range(closing.parts):
                self._stop.check()
                build.take(*self._part(parts, number))
            disks, packs, counts = build.finish()
            undo.pop_all()
        return Arrival(disks, packs, counts, tuple(self.passed_over))

    def nothing(self) -> Exception:
        """Why there is no manifest."""
        if self._forged is not None and not self._genuine:
            return self._forged
        told = f" ({'; '.join(self.passed_over[:3])})" if self.passed_over else ""
        return TransferBroken(
            f"the source left no whole manifest for run {self.run}{told}; it died before it was"
            " done: look at its log, and run the job again"
        )

    def require_own(self, packs: set[PackId]) -> None:
        """Packs that a commit moved already must be in no other run's index segment.

        Raises:
            Damaged: One is.
        """
        for entry in self._store.transport.entries(layout.INDEX) if packs else ():
            if layout.is_known(entry.name):
                clear, _ = self._store.read_surely(entry.name, Kind.INDEX, IndexClear)
                strange = {PackId(p.pack) for p in clear.packs} & packs
                if strange and clear.run != self.run:
                    raise Damaged(
                        layout.inbox(self.run),
                        f"its manifest claims pack {min(strange)}, which run {clear.run} brought",
                    )

    def size_of(self, pack: PackId) -> int | None:
        """Length of a pack that is not in the inbox but where admitted ones are."""
        try:
            return self._store.transport.size(layout.pack(pack))
        except ObjectMissing:
            return None

    def scratch_path(self, ending: str) -> Path:
        """A new file's or folder's."""
        return self._scratch / f"{random_name()}.{ending}"

    @property
    def chunk_bytes(self) -> int:
        return self._store.chunk_bytes

    def _listed(self) -> Iterator[str]:
        parts = 0
        for entry in self._store.transport.entries(layout.inbox(self.run)):
            if not layout.is_known(entry.name):
                self.passed_over.append(f"{entry.name!r} is not of this program")
            elif not entry.name.endswith(layout.MANIFEST_SUFFIX):
                self.arrived[entry.name] = entry.size_bytes
            elif entry.size_bytes > MOST_OBJECT_BYTES:
                self.passed_over.append(f"{entry.name} is longer than any part may be")
            else:
                parts += 1
                if parts > self.most_parts * MOST_ATTEMPTS:
                    raise Damaged(
                        layout.inbox(self.run),
                        f"it holds more than {parts - 1} parts of manifests, and no job of this"
                        " size leaves so many; somebody else writes into the drop box",
                    )
                yield entry.name

    def _part(self, parts: _Parts, number: int) -> tuple[str, bytes]:
        """The first object that claims to be this part and opens as it."""
        for name in parts.get(number, ()):
            try:
                data = self._store.transport.read(name, 0, MOST_OBJECT_BYTES + 1)
                _, plaintext = read_part(
                    data,
                    name=name,
                    keys=self._store.keys,
                    run=self.run,
                    vm=self._vm,
                    token=self._token,
                )
            except DocumentForged as cause:
                self._forged = cause
                self.passed_over.append(str(cause))
            except UNREADABLE as cause:
                self.passed_over.append(str(cause))
            else:
                self._genuine = True
                return name, plaintext
        which = "its last part" if number == LAST_PART else f"part {number}"
        raise _NotWhole(f"an attempt lacks {which}")

    def _closing(self, name: str, plaintext: bytes) -> Closing:
        if plaintext[:1] != bytes([PartKind.CLOSING]):
            raise Damaged(name, "it is no closing part")
        closing = decode(plaintext[1:], Closing, name=name)
        sizes = {DiskId(disk.disk): disk.size_bytes for disk in closing.disks}
        awaited = {name: disk.facts.size_bytes for name, disk in self.disks.items()}
        if sizes != awaited or len(closing.disks) != len(awaited):
            raise Damaged(name, "it speaks of other disks, or other sizes, than the snapshot has")
        bounds = closing.parts <= self.most_parts and closing.places <= self.positions
        if not bounds or closing.packs > closing.places:
            raise Damaged(name, "it speaks of more than disks of these sizes can need")
        return closing


class _Build:
    """Puts maps and pack log together from the parts of one attempt."""

    def __init__(self, reading: _Reading, closing: Closing, name: str, undo: ExitStack) -> None:
        self._reading, self._closing, self._name = reading, closing, name
        self._disks = [reading.disks[DiskId(disk.disk)] for disk in closing.disks]
        self._maps = [undo.enter_context(self._new_map(disk)) for disk in self._disks]
        self._reached = [0] * len(self._maps)
        path = reading.scratch_path("packs")
        undo.callback(path.unlink, missing_ok=True)
        self._log = PackLog(path)
        self._ledger = IdLedger(reading.scratch_path("ids"), closing.places)
        undo.callback(self._ledger.close)
        self._packs: set[PackId] = set()
        self._moved: set[PackId] = set()
        self._places = self._sent_bytes = 0

    def take(self, name: str, plaintext: bytes) -> None:
        """Add a part.

        Raises:
            Damaged: It says what cannot be.
        """
        kind = plaintext[:1]
        if kind == bytes([PartKind.MAP]):
            self._take_map(name, plaintext[1:])
        elif kind == bytes([PartKind.PACKS]):
            self._take_packs(name, plaintext[1:])
        else:
            raise Damaged(name, "it is a part of no kind that can be here")

    def finish(self) -> tuple[tuple[DiskReceipt, ...], PackLog, Counts]:
        """Everything was taken: check what only shows at the end.

        Raises:
            Damaged: The parts do not fit together.
        """
        closing = self._closing
        if (len(self._packs), self._places) != (closing.packs, closing.places):
            raise Damaged(self._name, "its parts tell of other packs than it counts")
        lacking = self._ledger.lacking()
        if lacking is not None:
            raise Damaged(
                self._name,
                f"a map names chunk {lacking.hex()[:12]}, which is neither in the VM's last version"
                " at that place nor in a pack of this run",
            )
        for disk, chunk_map in zip(closing.disks, self._maps, strict=True):
            if chunk_map.root() != disk.root:
                raise Damaged(
                    self._name,
                    f"the map of disk {disk.disk} is not the one the source had; it worked from"
                    " another version than the VM's last",
                )
        self._reading.require_own(self._moved)
        counts = self._counts()
        self._ledger.close()
        receipts = (
            DiskReceipt(disk.facts, chunk_map, disk.previous)
            for disk, chunk_map in zip(self._disks, self._maps, strict=True)
        )
        return tuple(receipts), self._log, counts

    def _new_map(self, disk: AwaitedDisk) -> FlatMap:
        """A map that says what the VM's last version says."""
        positions = positions_of(disk.facts.size_bytes, self._reading.chunk_bytes)
        chunk_map = FlatMap(self._reading.scratch_path("map"), positions)
        for first in range(0, positions if disk.previous else 0, _WINDOW):
            count = min(_WINDOW, positions - first)
            ids = disk.previous.ids(first, count) if disk.previous else b""
            if ids.count(0) != len(ids):
                chunk_map.write(first, ids)
        return chunk_map

    def _take_map(self, name: str, body: bytes) -> None:
        number, count = MAP_HEAD.unpack_from(body) if len(body) >= MAP_HEAD.size else (0, 0)
        at = MAP_HEAD.size + count * MAP_RUN.size
        if number >= len(self._maps) or not count or at > len(body):
            raise Damaged(name, "it speaks of no disk of this VM, or is too short for its runs")
        for first, length in MAP_RUN.iter_unpack(body[MAP_HEAD.size : at]):
            ids = body[at : at + length * CHUNK_ID_BYTES]
            self._require_run(name, number, first, length, ids)
            self._set(number, first, ids)
            at += len(ids)
        if at != len(body):
            raise Damaged(name, "it is longer than its runs")

    def _require_run(self, name: str, number: int, first: int, length: int, ids: bytes) -> None:
        whole = length > 0 and len(ids) == length * CHUNK_ID_BYTES
        end = first + length
        if not whole or first < self._reached[number] or end > self._maps[number].positions:
            raise Damaged(name, "it speaks of positions that the disk does not have, or twice")
        self._reached[number] = end

    def _set(self, number: int, first: int, ids: bytes) -> None:
        chunk_map = self._maps[number]
        before = chunk_map.ids(first, len(ids) // CHUNK_ID_BYTES)
        self._ledger.want(
            each
            for each, old in zip(each_id(ids), each_id(before), strict=True)
            if each not in (old, ZERO_CHUNK)
        )
        chunk_map.write(first, ids)

    def _take_packs(self, name: str, body: bytes) -> None:
        at = 0
        while at < len(body):
            if len(body) - at < PACK_HEAD.size:
                raise Damaged(name, "it is cut short in a pack")
            pack, size, digest, checksum, count = PACK_HEAD.unpack_from(body, at)
            at += PACK_HEAD.size
            end = at + count * PLACE.size
            if not count or end > len(body):
                raise Damaged(name, "it tells of a pack with nothing in it, or is cut short")
            places = tuple(
                Place(ChunkId(c), offset, length)
                for c, offset, length in PLACE.iter_unpack(body[at:end])
            )
            self._admit(name, PackReceipt(PackId(pack.hex()), size, digest, checksum, places))
            at = end

    def _admit(self, name: str, pack: PackReceipt) -> None:
        """Check one pack, and note its chunks.

        Raises:
            Damaged: It cannot be, or is not there in its length.
        """
        self._places += len(pack.places)
        if pack.pack in self._packs or self._places > self._closing.places:
            raise Damaged(name, f"it tells of pack {pack.pack} twice, or of too many chunks")
        _require_places(name, pack)
        found = self._reading.arrived.get(layout.arriving_pack(self._reading.run, pack.pack))
        if found is None:
            found = self._reading.size_of(pack.pack)
            self._moved.add(pack.pack)
        if found != pack.size_bytes:
            have = "missing" if found is None else f"there with {found} bytes"
            raise Damaged(
                name, f"it tells of pack {pack.pack} with {pack.size_bytes} bytes, which is {have}"
            )
        self._packs.add(pack.pack)
        self._sent_bytes += pack.size_bytes
        self._ledger.bring(place.chunk for place in pack.places)
        self._log.append(pack)

    def _counts(self) -> Counts:
        said = self._closing.counts
        disk_bytes = sum(disk.facts.size_bytes for disk in self._disks)
        parts = said.zero_bytes + said.unchanged_bytes + said.repeated_bytes + said.new_bytes
        if said.disk_bytes != disk_bytes or said.sent_bytes != self._sent_bytes:
            raise Damaged(self._name, "its sums are not those of its disks and packs")
        if said.read_bytes > disk_bytes or parts > said.read_bytes:
            raise Damaged(self._name, "it counts more bytes than its disks have")
        return said


def _require_places(name: str, pack: PackReceipt) -> None:
    """Places must lie in their pack, in order, and not in each other."""
    reached = PackHeader.most_bytes(sessions=1)
    fits = reached < pack.size_bytes <= MOST_PACK_BYTES
    for place in pack.places:
        fits = fits and place.offset >= reached and place.length > 0
        reached = place.offset + place.length
        fits = fits and place.chunk != ZERO_CHUNK
    if not fits or reached > pack.size_bytes:
        raise Damaged(name, f"what it says lies in pack {pack.pack} cannot lie there")

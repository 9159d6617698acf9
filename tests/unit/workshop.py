"""A small data store and everything needed to fill it: what the engine's tests work in."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path

from likeness.agent.reader import FileDiskReader
from likeness.agent.transfer import Bundle, DiskJob, transfer
from likeness.codec.aead import Suite
from likeness.errors import ObjectUnreadable
from likeness.model.disk import DiskFacts, Extent, Skips, VmFacts
from likeness.model.ids import ZERO_CHUNK, ChunkId, DiskId, PackId, RunId, VmId, random_name
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.store.check.proving import (
    DocumentProof,
    Finding,
    PackProof,
    prove_documents,
    prove_packs,
)
from likeness.store.format import layout
from likeness.store.format.copies import Copies, Copy, no_copies
from likeness.store.format.data_store import DataStore
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.opening import create_store, open_store_with_key_file
from likeness.store.format.pack_log import PackLog
from likeness.store.format.relied_on import ReliedOn
from likeness.store.prune.sweeping import DeletedPacks, delete_redundant_packs
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.index import known_packs
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version, last_version, load_map
from likeness.store.write.commit import Step, commit_version
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.transport.base import Transport
from likeness.transport.metered import MeteredTransport
from tests.support.memory import MemoryTransport

KIB = 1 << 10
MIB = 1 << 20
CHUNK = 64 * KIB
PACK = 256 * KIB
NO_PAUSES = Pauses(0.0, 0.0, tries=3)

Disk = bytes | Path


class TickingClock:
    """A clock that goes on by one second whenever somebody looks at it."""

    def __init__(self) -> None:
        self._now = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now


def noise(seed: int | str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def text(seed: int | str, size: int) -> bytes:
    """Bytes that compress well, and differ from chunk to chunk."""
    line = f"{seed} the quick brown fox jumps over the lazy dog\n".encode()
    numbered = (b"%08d " % at + line for at in range(size // (len(line) + 9) + 1))
    return b"".join(numbered)[:size]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DiskInMemory:
    """Takes a restored disk without any file; gone if the restore failed."""

    def __init__(self, size_bytes: int) -> None:
        self._data = bytearray(size_bytes)
        self.whole: bytes | None = None
        self.lost: tuple[Extent, ...] = ()

    def reserve(self, extents: Iterable[Extent], total_bytes: int) -> None:
        lengths = [extent.length for extent in extents if extent.end <= len(self._data)]
        assert sum(lengths) == total_bytes

    def write(self, offset: int, data: bytes) -> None:
        self._data[offset : offset + len(data)] = data

    def mark_lost(self, extents: Sequence[Extent], cause: str) -> None:
        assert cause
        self.lost = tuple(extents)

    def finish(self) -> None:
        self.whole = bytes(self._data)

    def abandon(self) -> None:
        self._data = bytearray()


class WithSomethingEndless(MemoryTransport):
    """Holds an object, put there by a stranger, that no memory holds."""

    endless = ""

    def put_something_endless(self, name: str) -> None:
        self.endless = name
        self.create(name, [b"endless"])

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name != self.endless:
            return super().read(name, offset, length)
        if length is None:
            raise MemoryError
        return bytes(length)


class WithBadSectors(MemoryTransport):
    """Answers, and cannot read some of its objects."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: set[str] = set()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name in self.bad:
            raise ObjectUnreadable(f"{name}: bad sector")
        return super().read(name, offset, length)


class SecondLook(MeteredTransport):
    """Lets something happen right before the second look at what seemed lost."""

    def __init__(self, inner: Transport, happens: Callable[[], object]) -> None:
        super().__init__(inner, folder=layout.PACKS)
        self._happens = happens

    def again(self) -> AbstractContextManager[Transport]:
        self._happens()
        return super().again()


class Workshop:
    """A store in memory, or wherever `transport` is, and hands to fill it.

    Disks are given as bytes or as image files; equal positions in the list are the same live disk
    from version to version.
    """

    def __init__(
        self,
        folder: Path,
        *,
        transport: Transport | None = None,
        suite: Suite = Suite.AEGIS_256,
        chunk_bytes: int = CHUNK,
        passphrase: str | None = None,
    ) -> None:
        self.folder = folder
        self.clock = TickingClock()
        self.key_file = folder / f"{random_name()}.key"
        self.transport: Transport = transport or MemoryTransport()
        made = create_store(
            self.transport,
            key_file=self.key_file,
            clock=self.clock,
            suite=suite,
            chunk_bytes=chunk_bytes,
            passphrase=passphrase,
        )
        self.store, self.words = made.store, made.recovery_words
        self.disk_ids: dict[tuple[VmId, int], DiskId] = defaultdict(lambda: DiskId(random_name()))
        self.vm = VmId(random_name())

    def copied(self, folder: Path, transport: Transport) -> "Workshop":
        """The same over a copy of its folder, and of its store."""
        made = copy(self)
        made.folder, made.key_file = folder, folder / self.key_file.name
        made.transport = transport
        made.store = open_store_with_key_file(transport, made.key_file)
        made.disk_ids = self.disk_ids.copy()
        return made

    @property
    def objects(self) -> dict[str, bytes]:
        """The store's objects, to be looked at and damaged."""
        assert isinstance(self.transport, MemoryTransport)
        return self.transport.objects

    def bundle(self, **changed: object) -> Bundle:
        facts: dict[str, object] = {
            "store": self.store.store_id,
            "box": self.store.keys.public().box,
            "chunk_id_key": self.store.keys.chunk_id_key,
            "chunk_bytes": self.store.chunk_bytes,
            "suite": self.store.suite,
            "pack_bytes": PACK,
            "workers": 2,
        }
        return Bundle(**(facts | changed))  # type: ignore[arg-type]  # tests may give nonsense

    def guest_bundle(self, vm: VmId, **changed: object) -> Bundle:
        """What a guest is told that is not trusted with the store's chunk id key."""
        scope = self.store.keys.scope_of(vm)
        key = self.store.keys.chunk_id_key_in(scope)
        return self.bundle(**{"scope": scope, "chunk_id_key": key} | changed)

    def path_of(self, disk: Disk) -> Path:
        if isinstance(disk, Path):
            return disk
        path = self.folder / f"{random_name()}.raw"
        path.write_bytes(disk)
        return path

    def previous_map(self, vm: VmId, disk: DiskId) -> FlatMap | None:
        last = last_version(self.store, vm)
        for record in last.record.disks if last else ():
            if record.disk == disk:
                return load_map(self.store, record, self.folder / f"{random_name()}.previous")
        return None

    def transfer(
        self,
        *disks: Disk,
        vm: VmId | None = None,
        run: RunId | None = None,
        inbox: Transport | None = None,
        bundle: Bundle | None = None,
        stop: StopToken | None = None,
        skips: Mapping[int, Skips] | None = None,
        distrusted: frozenset[bytes] = frozenset(),
        incremental: bool = True,
        pauses: Pauses = NO_PAUSES,
        vm_name: str = "web",
        known: Container[bytes] = (),
    ) -> TransferReceipt:
        """Send the disks of a VM to its inbox."""
        vm = vm or self.vm
        run = run or RunId(random_name())
        jobs = []
        for at, disk in enumerate(disks):
            reader = FileDiskReader(self.path_of(disk))
            disk_id = self.disk_ids[vm, at]
            facts = DiskFacts(disk_id, f"disk {at}", str(at), reader.size_bytes)
            positions = positions_of(reader.size_bytes, self.store.chunk_bytes)
            jobs.append(
                DiskJob(
                    facts,
                    reader,
                    FlatMap(self.folder / f"{random_name()}.map", positions),
                    self.previous_map(vm, disk_id) if incremental else None,
                    (skips or {}).get(at),
                )
            )
        log = PackLog(self.folder / f"{run}.packs")
        relied_on = ReliedOn(self.folder / f"{random_name()}.relied")
        try:
            counts = transfer(
                jobs,
                run=run,
                bundle=bundle or self.bundle(),
                inbox=inbox or self.transport,
                log=log,
                stop=stop or StopToken(),
                distrusted=distrusted,
                known=known,
                relied_on=relied_on,
                pauses=pauses,
            )
        finally:
            for job in jobs:
                job.reader.close()
        return TransferReceipt(
            run=run,
            job="nightly",
            vm=VmFacts(vm, vm_name, '{"memory": 1}'),
            taken_at=self.clock(),
            consistency="standard",
            consistency_asked="standard",
            note="",
            disks=tuple(DiskReceipt(job.facts, job.chunk_map, job.previous) for job in jobs),
            packs=log,
            counts=counts,
            relied_on=relied_on,
            last=last_version(self.store, vm) if incremental else None,
        )

    def commit(
        self,
        receipt: TransferReceipt,
        step: Step = lambda _: None,
        above: int = 0,
        copies: Copies = no_copies,
    ) -> Version:
        return commit_version(
            self.store, receipt, clock=self.clock, step=step, above=above, copies=copies
        )

    def back_up(self, *disks: Disk, above: int = 0, **options: object) -> Version:
        """Transfer and commit."""
        receipt = self.transfer(*disks, **options)  # type: ignore[arg-type]  # handed on
        version = self.commit(receipt, above=above)
        for disk in receipt.disks:
            disk.chunk_map.close()
            if disk.previous is not None:
                disk.previous.close()
        return version

    def restore_file(
        self, version: Version, at: int = 0, *, store: DataStore | None = None
    ) -> Path:
        """Restore the version's disk number `at` to a new file."""
        disk = version.record.disks[at]
        target = self.folder / f"{random_name()}.restored"
        restore_disk(
            store or self.store,
            disk,
            FileDiskWriter(target, disk.size_bytes),
            scratch=self.folder,
            stop=StopToken(),
        )
        return target

    def restore(self, version: Version, at: int = 0, *, store: DataStore | None = None) -> bytes:
        target = self.restore_file(version, at, store=store)
        data = target.read_bytes()
        target.unlink()
        return data

    def restore_in_memory(self, version: Version, at: int = 0) -> bytes:
        disk = version.record.disks[at]
        target = DiskInMemory(disk.size_bytes)
        restore_disk(self.store, disk, target, scratch=self.folder, stop=StopToken())
        assert target.whole is not None
        return target.whole

    def chunks_of(self, version: Version) -> set[bytes]:
        """Ids of all chunks a version needs."""
        found: set[bytes] = set()
        for disk in version.record.disks:
            with load_map(self.store, disk, self.folder / f"{random_name()}.map") as chunk_map:
                for run in chunk_map.runs_unlike(None, 0, chunk_map.positions):
                    found.update(chunk for _, chunk in run.each())
        return found - {ZERO_CHUNK}

    def copies(self, chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
        """Every pack of the index, as a catalog would tell that has proved them all."""
        return {
            place.chunk: Copy(pack.pack, pack.size_bytes)
            for pack in known_packs(self.store)
            for place in pack.locations
            if place.chunk in chunks
        }

    def packs_of(self, version: Version) -> set[PackId]:
        """Packs that hold a chunk the version needs, as the catalog would know them."""
        wanted = self.chunks_of(version)
        return {
            pack.pack
            for pack in known_packs(self.store, damaged=lambda _: None)
            if any(place.chunk in wanted for place in pack.locations)
        }

    def holders(self, packs: Collection[PackId]) -> dict[PackId, dict[PackId, int]]:
        """For each pack the others that hold its chunks too, as the catalog would know them."""
        known = {pack.pack: pack for pack in known_packs(self.store)}
        found: dict[PackId, dict[PackId, int]] = {}
        for pack in packs:
            chunks = {place.chunk for place in known[pack].locations}
            found[pack] = {
                other.pack: other.size_bytes
                for other in known.values()
                if other.pack not in packs and chunks & {place.chunk for place in other.locations}
            }
        return found

    def delete_redundant(self, packs: Collection[PackId]) -> DeletedPacks:
        """Delete packs of which others hold all chunks."""
        held = self.holders(packs)
        return delete_redundant_packs(self.store, lambda: held, reason="a test", clock=self.clock)

    def prove(self, packs: set[PackId], store: DataStore | None = None) -> list[PackProof]:
        return list(prove_packs(store or self.store, packs, clock=self.clock, stop=StopToken()))

    def prove_documents(self, version: Version) -> DocumentProof:
        return prove_documents(self.store, version.name, self.folder)

    def is_proved(self, version: Version, packs: set[PackId]) -> bool:
        """What validation says of a version whose packs are known."""
        proofs = self.prove(packs)
        whole = all(proof.finding is Finding.PROVED for proof in proofs) and len(proofs) == len(
            packs
        )
        return whole and self.prove_documents(version).readable

    def names(self, folder: str) -> list[str]:
        return [entry.name for entry in self.transport.entries(folder)]

    def pack_names(self) -> list[str]:
        return self.names(layout.PACKS)


def changed(data: bytes, *edits: tuple[int, bytes]) -> bytes:
    """`data` with some bytes replaced."""
    out = bytearray(data)
    for offset, piece in edits:
        out[offset : offset + len(piece)] = piece
    return bytes(out)


def flipped(data: bytes, at: int, mask: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


Maker = Callable[..., Workshop]

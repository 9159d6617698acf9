"""A source that holds no key leaves a manifest; the controller takes it only if all of it fits."""

import secrets
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likeness.codec.manifests import LAST_PART, MOST_OBJECT_BYTES, MOST_PART_BYTES, Seal
from likeness.errors import (
    BadInput,
    Damaged,
    DocumentForged,
    LikenessError,
    ShareUnreachable,
    Stopped,
    TransferBroken,
)
from likeness.model.disk import DiskFacts
from likeness.model.ids import ZERO_CHUNK, ChunkId, DiskId, PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.arrivals import Arrival, AwaitedDisk, discard_manifest, read_manifest
from likeness.store.data_store import DataStore
from likeness.store.documents import Counts
from likeness.store.id_ledger import IdLedger
from likeness.store.inbox import (
    MAP_HEAD,
    MAP_RUN,
    PACK_HEAD,
    PLACE,
    Closing,
    ClosingDisk,
    PartKind,
    write_manifest,
)
from likeness.store.maps import FlatMap, positions_of
from likeness.store.pack import PackReceipt, Place
from likeness.store.receipts import DiskReceipt, PackLog, TransferReceipt
from likeness.transport.base import Transport
from likeness.transport.faulty import CHANGING, Fault, FaultyTransport
from likeness.transport.local import LocalTransport
from tests.cli.conftest import ROOT
from tests.unit.workshop import CHUNK, Workshop, changed, flipped, noise

NO_PAUSES = (0.0, 0.0, 0.0)
SIZE = 8 * CHUNK


@dataclass
class Job:
    """One transfer by a source that has a token and no key."""

    workshop: Workshop
    receipt: TransferReceipt
    token: bytes

    @property
    def store(self) -> DataStore:
        return self.workshop.store

    @property
    def run(self) -> RunId:
        return self.receipt.run

    def seal(self, **changes: object) -> Seal:
        facts: dict[str, object] = {
            "store": self.store.store_id,
            "box": self.store.keys.public().box,
            "run": self.run,
            "vm": self.receipt.vm.vm,
            "token": self.token,
            "suite": self.store.suite,
        }
        return Seal.fresh(**(facts | changes))  # type: ignore[arg-type]  # tests change facts

    def leave(
        self,
        *,
        seal: Seal | None = None,
        inbox: Transport | None = None,
        disks: Sequence[DiskReceipt] | None = None,
        packs: PackLog | None = None,
        counts: Counts | None = None,
        stop: StopToken | None = None,
    ) -> tuple[str, ...]:
        return write_manifest(
            inbox or self.workshop.transport,
            seal or self.seal(),
            disks=self.receipt.disks if disks is None else disks,
            packs=packs or self.receipt.packs,
            counts=counts or self.receipt.counts,
            stop=stop or StopToken(),
            pauses=NO_PAUSES,
        )

    def awaited(self) -> list[AwaitedDisk]:
        return [AwaitedDisk(disk.facts, disk.previous) for disk in self.receipt.disks]

    def read(self, **changes: object) -> Arrival:
        facts: dict[str, object] = {
            "vm": self.receipt.vm.vm,
            "disks": self.awaited(),
            "scratch": self.scratch(),
            "stop": StopToken(),
        }
        options = facts | changes
        run, token = options.pop("run", self.run), options.pop("token", self.token)
        return read_manifest(self.store, run, token, **options)  # type: ignore[arg-type]

    def scratch(self) -> Path:
        path = self.workshop.folder / f"{random_name()}.scratch"
        path.mkdir()
        return path

    def put(self, data: bytes, run: RunId | None = None) -> str:
        """An object in the inbox that calls itself a part of a manifest."""
        name = layout.arriving_manifest(run or self.run, random_name())
        self.workshop.transport.create(name, [data])
        return name

    def parts(self) -> list[str]:
        names = self.workshop.names(layout.inbox(self.run))
        return [name for name in names if name.endswith(".mf")]

    def receipt_of(self, arrival: Arrival) -> TransferReceipt:
        """What the controller commits: its own facts, and what the source left."""
        return replace(
            self.receipt, disks=arrival.disks, packs=arrival.packs, counts=arrival.counts
        )


def make_job(workshop: Workshop, *disks: bytes) -> Job:
    return Job(workshop, workshop.transfer(*disks), secrets.token_bytes(32))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, transport=LocalTransport(tmp_path / "store", make=True))


@pytest.fixture
def job(workshop: Workshop) -> Job:
    """An incremental transfer of two disks, in the inbox and not committed."""
    one, two = noise("one", SIZE), noise("two", SIZE // 2)
    workshop.back_up(one, two)
    return make_job(workshop, changed(one, (3 * CHUNK, bytes(2 * CHUNK)), (0, b"new")), two)


# What is left arrives


@pytest.mark.parametrize("first", [True, False], ids=["a first version", "a later version"])
def test_a_manifest_that_arrived_commits_and_restores(workshop: Workshop, *, first: bool) -> None:
    disk, other = noise("disk", SIZE), noise("other", 3 * CHUNK + 1000)
    if not first:
        workshop.back_up(changed(disk, (CHUNK, b"before")), other)
    job = make_job(workshop, disk, other)
    job.leave()

    arrival = job.read()
    version = workshop.commit(job.receipt_of(arrival))
    discard_manifest(job.store, job.run)

    assert arrival.passed_over == ()
    assert arrival.counts == job.receipt.counts
    assert workshop.restore(version, 0) == disk
    assert workshop.restore(version, 1) == other
    assert workshop.names(layout.INBOX) == []


def test_discarding_a_manifest_leaves_packs_alone(job: Job) -> None:
    job.leave()
    discard_manifest(job.store, job.run)

    left = job.workshop.names(layout.inbox(job.run))
    assert left == [layout.arriving_pack(job.run, pack.pack) for pack in job.receipt.packs]


def test_the_arrived_maps_are_those_of_the_source(job: Job) -> None:
    job.leave()

    arrival = job.read()

    for mine, theirs in zip(arrival.disks, job.receipt.disks, strict=True):
        assert mine.chunk_map.root() == theirs.chunk_map.root()
        assert mine.facts == theirs.facts
    assert list(arrival.packs) == list(job.receipt.packs)


def test_a_disk_that_grew_or_shrank_arrives(workshop: Workshop) -> None:
    disk = noise("disk", SIZE)
    for now in (disk + noise("more", SIZE), disk[: SIZE // 2]):
        workshop.back_up(disk)
        job = make_job(workshop, now)
        job.leave()
        version = workshop.commit(job.receipt_of(job.read()))
        assert workshop.restore(version) == now


def test_a_vm_in_which_nothing_changed_leaves_one_part(workshop: Workshop) -> None:
    disk = noise("disk", SIZE)
    workshop.back_up(disk)
    job = make_job(workshop, disk)

    assert len(job.leave()) == 1
    version = workshop.commit(job.receipt_of(job.read()))
    assert workshop.restore(version) == disk


def huge(workshop: Workshop, positions: int) -> Job:
    """A transfer of a big disk, with packs that are there in name and length."""
    facts = DiskFacts(DiskId(random_name()), "huge", "0", positions * CHUNK)
    job = make_job(workshop, noise("small", CHUNK))
    chunk_map = FlatMap(workshop.folder / "huge.map", positions)
    log = PackLog(workshop.folder / "huge.packs")
    each, sent = 50_000, 0
    for first in range(0, positions, each):
        count = min(each, positions - first)
        ids = secrets.token_bytes(32 * count)
        chunk_map.write(first, ids)
        places = tuple(
            Place(ChunkId(ids[32 * n : 32 * n + 32]), 200 + 100 * n, 100) for n in range(count)
        )
        pack = PackId(random_name())
        size = 100 * count + 1000
        path = Path(workshop.transport.root) / layout.arriving_pack(job.run, pack)  # type: ignore[attr-defined]
        with path.open("wb") as file:
            file.truncate(size)
        log.append(PackReceipt(pack, size, bytes(32), bytes(16), places))
        sent += size
    total = facts.size_bytes
    counts = Counts(disk_bytes=total, read_bytes=total, new_bytes=total, sent_bytes=sent)
    job.receipt = replace(
        job.receipt, disks=(DiskReceipt(facts, chunk_map, None),), packs=log, counts=counts
    )
    return job


def test_a_big_map_travels_in_parts_that_each_fit_in_memory(workshop: Workshop) -> None:
    job = huge(workshop, 400_000)

    names = job.leave()
    arrival = job.read()

    assert len(names) >= 6
    sizes = [workshop.transport.size(name) for name in names]
    assert max(sizes) < 7 << 20
    assert arrival.disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()
    assert arrival.packs.packs == 8


def test_a_part_that_was_sent_twice_does_no_harm(job: Job) -> None:
    for name in job.leave():
        job.put(job.workshop.transport.read(name))

    assert job.read().disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()


@pytest.mark.parametrize("fault", [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_a_part_that_was_not_acknowledged_is_sent_again(workshop: Workshop, fault: Fault) -> None:
    workshop.back_up(noise("one", SIZE))
    for at in (1, 2, 3):
        job = make_job(workshop, changed(noise("one", SIZE), (0, b"%d" % at)))
        faulty = FaultyTransport(workshop.transport, at=at, fault=fault, counting=CHANGING)

        job.leave(inbox=faulty)

        assert faulty.happened
        assert job.read().disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()


def test_an_earlier_attempt_that_died_is_passed_over(job: Job) -> None:
    names = job.leave()
    for name in names[::2]:
        job.workshop.transport.delete(name)
    job.leave()

    arrival = job.read()

    assert arrival.disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()


def test_a_commit_that_died_half_way_reads_the_same_manifest_again(job: Job) -> None:
    class Died(Exception):
        pass

    def die(step: str) -> None:
        if step == "index written":
            raise Died

    job.leave()
    with pytest.raises(Died):
        job.workshop.commit(job.receipt_of(job.read()), die)

    version = job.workshop.commit(job.receipt_of(job.read()))

    assert job.workshop.restore(version, 1) == noise("two", SIZE // 2)


def test_a_source_needs_no_module_that_opens_stores(tmp_path: Path) -> None:
    program = (
        "import sys, likeness.agent.transfer, likeness.store.inbox;"
        "print(sorted({'mnemonic', 'pydantic', 'XenAPI', 'likeness.store.data_store'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"


# What others put there does not arrive


def test_knowing_the_drop_box_is_not_enough_to_inject_a_manifest(job: Job) -> None:
    job.leave(seal=job.seal(token=secrets.token_bytes(32)))

    with pytest.raises(DocumentForged, match="not made by this job"):
        job.read()


def test_a_forged_manifest_beside_the_right_one_is_passed_over_and_told(job: Job) -> None:
    for _ in range(4):
        job.leave(seal=job.seal(token=secrets.token_bytes(32)))
    job.leave()
    job.leave(seal=job.seal(token=secrets.token_bytes(32)))

    arrival = job.read()

    assert arrival.disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()


def test_forged_parts_in_the_name_of_the_right_attempt_are_passed_over(job: Job) -> None:
    seal = job.seal()
    names = job.leave(seal=seal)
    false = replace(seal, token=secrets.token_bytes(32))
    for number in (0, 1, LAST_PART):
        for _ in range(5):
            job.put(false.write(number, b"false"))

    arrival = job.read()

    assert arrival.disks[0].chunk_map.root() == job.receipt.disks[0].chunk_map.root()
    assert len(names) == 3


CHANGED: dict[str, Callable[[Job], dict[str, object]]] = {
    "another run": lambda _: {"run": RunId(random_name())},
    "another vm": lambda _: {"vm": VmId(random_name())},
    "another store": lambda _: {"store": random_name()},
    "another store's key": lambda job: {
        "box": Workshop(job.workshop.folder).store.keys.public().box
    },
}


@pytest.mark.parametrize("what", sorted(CHANGED))
def test_a_manifest_made_for_something_else_does_not_arrive(job: Job, what: str) -> None:
    names = job.leave(seal=job.seal(**CHANGED[what](job)))
    for name in names:  # into this run's inbox, whatever it was made for
        job.put(job.workshop.transport.read(name))

    with pytest.raises((DocumentForged, TransferBroken)):
        job.read()


def test_the_manifest_of_an_earlier_run_does_not_arrive_again(job: Job) -> None:
    names = job.leave()
    job.workshop.commit(job.receipt_of(job.read()))
    later = make_job(job.workshop, noise("one", SIZE), noise("two", SIZE // 2))
    for name in names:
        later.put(job.workshop.transport.read(name))

    with pytest.raises(TransferBroken, match="another run"):
        later.read()


def test_a_token_read_off_one_vms_job_is_no_use_for_anothers(job: Job) -> None:
    job.leave()

    with pytest.raises(DocumentForged):
        job.read(vm=VmId(random_name()))


def test_a_token_of_a_wrong_length_is_refused(job: Job) -> None:
    with pytest.raises(BadInput, match="32 bytes"):
        job.read(token=b"short")


def test_nothing_in_the_inbox_is_a_transfer_that_broke(job: Job) -> None:
    with pytest.raises(TransferBroken, match="no whole manifest"):
        job.read()


def test_each_missing_part_is_a_transfer_that_broke(job: Job) -> None:
    for name in job.leave():
        path = Path(job.workshop.transport.root) / name  # type: ignore[attr-defined]
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises(TransferBroken, match="lacks"):
            job.read()
        path.write_bytes(kept)

    assert job.read().passed_over == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_flipped_byte_keeps_a_part_from_arriving(job: Job, data: st.DataObject) -> None:
    if not job.parts():
        job.leave()
    name = data.draw(st.sampled_from(job.parts()))
    path = Path(job.workshop.transport.root) / name  # type: ignore[attr-defined]
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(flipped(whole, at, 1 << data.draw(st.integers(0, 7))))
    try:
        with pytest.raises((TransferBroken, DocumentForged)):
            job.read()
    finally:
        path.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_torn_and_grown_parts_do_not_arrive(job: Job, data: st.DataObject) -> None:
    if not job.parts():
        job.leave()
    name = data.draw(st.sampled_from(job.parts()))
    path = Path(job.workshop.transport.root) / name  # type: ignore[attr-defined]
    whole = path.read_bytes()
    length = data.draw(st.integers(0, len(whole) + 100).filter(lambda n: n != len(whole)))
    path.write_bytes((whole + bytes(100))[:length])
    try:
        with pytest.raises((TransferBroken, DocumentForged)):
            job.read()
    finally:
        path.write_bytes(whole)


def test_an_endless_object_is_never_read(job: Job) -> None:
    path = Path(job.workshop.transport.root) / job.put(b"")  # type: ignore[attr-defined]
    with path.open("wb") as file:
        file.truncate(MOST_OBJECT_BYTES + 1)
    job.leave()

    (told,) = job.read().passed_over

    assert "longer than any part" in told


def test_a_flood_of_parts_is_refused_before_they_are_read(job: Job) -> None:
    for _ in range(16 * 10 + 1):
        job.put(b"x")

    with pytest.raises(Damaged, match="somebody else writes into the drop box"):
        job.read()


def test_a_strange_name_in_the_inbox_is_passed_over(job: Job) -> None:
    job.workshop.transport.create(f"{layout.inbox(job.run)}/../x".replace("../", ""), [b""])
    job.leave()

    (told,) = job.read().passed_over

    assert "not of this program" in told


def test_a_manifest_too_long_for_any_reader_is_never_written(job: Job) -> None:
    with pytest.raises(ValueError, match="never be read"):
        job.seal().write(0, bytes(MOST_PART_BYTES + 1))


def test_writing_stops_when_asked(job: Job) -> None:
    stop = StopToken()
    stop.stop()
    with pytest.raises(Stopped):
        job.leave(stop=stop)


def test_reading_stops_when_asked(job: Job) -> None:
    job.leave()
    stop = StopToken()
    stop.stop()
    with pytest.raises(Stopped):
        job.read(stop=stop)


def test_a_share_that_never_acknowledges_is_unreachable(job: Job) -> None:
    faulty = FaultyTransport(job.workshop.transport, at=1, for_good=True)
    with pytest.raises(ShareUnreachable):
        job.leave(inbox=faulty)


# A source in somebody else's hands has the token, and lies


def lie(job: Job, *plaintexts: bytes, closing: Closing | None = None) -> None:
    """Leave parts of one attempt, sealed as they should be, saying what they should not."""
    seal = job.seal()
    for number, plaintext in enumerate(plaintexts):
        job.put(seal.write(number, plaintext))
    said = closing or honest_closing(job, parts=len(plaintexts))
    job.put(seal.write(LAST_PART, bytes([PartKind.CLOSING]) + msgspec.json.encode(said)))


def honest_closing(job: Job, **changes: object) -> Closing:
    facts: dict[str, object] = {
        "parts": 2,
        "packs": job.receipt.packs.packs,
        "places": sum(len(pack.places) for pack in job.receipt.packs),
        "disks": tuple(
            ClosingDisk(disk=d.facts.disk, size_bytes=d.facts.size_bytes, root=d.chunk_map.root())
            for d in job.receipt.disks
        ),
        "counts": job.receipt.counts,
    }
    return Closing(**(facts | changes))  # type: ignore[arg-type]  # tests change facts


def map_part(disk: int, *runs: tuple[int, bytes], count: int | None = None) -> bytes:
    return b"".join(
        (
            bytes([PartKind.MAP]),
            MAP_HEAD.pack(disk, len(runs) if count is None else count),
            *(MAP_RUN.pack(first, len(ids) // 32) for first, ids in runs),
            *(ids for _, ids in runs),
        )
    )


def pack_part(*packs: PackReceipt) -> bytes:
    out = bytes([PartKind.PACKS])
    for pack in packs:
        out += PACK_HEAD.pack(
            bytes.fromhex(pack.pack), pack.size_bytes, pack.digest, pack.checksum, len(pack.places)
        )
        out += b"".join(PLACE.pack(p.chunk, p.offset, p.length) for p in pack.places)
    return out


def honest_map(job: Job) -> bytes:
    disk = job.receipt.disks[0]
    runs = disk.chunk_map.runs_unlike(disk.previous, 0, disk.chunk_map.positions)
    return map_part(0, *((run.first, run.ids) for run in runs))


def honest_packs(job: Job) -> bytes:
    return pack_part(*job.receipt.packs)


def test_what_is_honest_arrives_by_hand_too(job: Job) -> None:
    """Else the lies below would be refused for another reason."""
    lie(job, honest_map(job), honest_packs(job))

    assert job.read().packs.packs == job.receipt.packs.packs


def test_a_chunk_that_is_neither_unchanged_nor_new_is_refused(job: Job) -> None:
    lie(job, map_part(0, (0, secrets.token_bytes(32))), honest_packs(job))

    with pytest.raises(Damaged, match="neither in the VM's last version"):
        job.read()


def test_a_chunk_of_another_place_of_the_vm_is_refused(job: Job) -> None:
    """It may be unchanged only where it was; elsewhere it must be in a pack of the run."""
    previous = job.receipt.disks[0].previous
    assert previous is not None
    lie(job, map_part(0, (1, previous.ids(5, 1))), honest_packs(job))

    with pytest.raises(Damaged, match="neither in the VM's last version"):
        job.read()


LIES: dict[str, Callable[[Job], tuple[bytes, ...]]] = {
    "a disk that is not there": lambda job: (map_part(2, (0, bytes(32))), honest_packs(job)),
    "a position behind the end": lambda job: (map_part(0, (8, bytes(32))), honest_packs(job)),
    "a position far behind the end": lambda job: (
        map_part(0, (2**64 - 1, bytes(32))),
        honest_packs(job),
    ),
    "positions twice": lambda job: (
        map_part(0, (0, bytes(64)), (1, bytes(32))),
        honest_packs(job),
    ),
    "positions twice in two parts": lambda job: (honest_map(job), honest_map(job)),
    "an empty run": lambda job: (map_part(0, (0, b"")), honest_packs(job)),
    "no runs": lambda job: (map_part(0), honest_packs(job)),
    "more runs than bytes": lambda job: (
        map_part(0, (0, bytes(32)), count=2**32 - 1),
        honest_packs(job),
    ),
    "bytes after the runs": lambda job: (honest_map(job) + b"x", honest_packs(job)),
    "another map than it says": lambda job: (map_part(0, (7, bytes(32))), honest_packs(job)),
    "an empty part": lambda job: (b"", honest_packs(job)),
    "an unknown kind": lambda job: (b"\x09", honest_packs(job)),
    "a second closing": lambda job: (bytes([PartKind.CLOSING]) + b"{}", honest_packs(job)),
    "a pack twice": lambda job: (
        honest_map(job),
        pack_part(*job.receipt.packs, *job.receipt.packs),
    ),
    "a pack fewer": lambda job: (honest_map(job), pack_part(*list(job.receipt.packs)[1:])),
    "a pack cut short": lambda job: (honest_map(job), honest_packs(job)[:-1]),
    "a head cut short": lambda job: (honest_map(job), honest_packs(job)[:20]),
    "a pack with 2^32 chunks": lambda job: (
        honest_map(job),
        bytes([PartKind.PACKS])
        + PACK_HEAD.pack(bytes(16), 1 << 20, bytes(32), bytes(16), 2**32 - 1),
    ),
}

PACK_LIES: dict[str, Callable[[PackReceipt], PackReceipt]] = {
    "that is not there": lambda pack: replace(pack, pack=PackId(random_name())),
    "longer than it is": lambda pack: replace(pack, size_bytes=pack.size_bytes + 1),
    "longer than any": lambda pack: replace(pack, size_bytes=2**63),
    "of no bytes": lambda pack: replace(pack, size_bytes=0),
    "with the zero chunk": lambda pack: with_places(
        pack, replace(pack.places[0], chunk=ZERO_CHUNK), *pack.places[1:]
    ),
    "with a chunk in its header": lambda pack: with_places(
        pack, replace(pack.places[0], offset=0), *pack.places[1:]
    ),
    "with a chunk behind its end": lambda pack: with_places(
        pack, *pack.places[:-1], replace(pack.places[-1], offset=pack.size_bytes - 1)
    ),
    "with a chunk of no bytes": lambda pack: with_places(
        pack, *pack.places[:-1], replace(pack.places[-1], length=0)
    ),
    "with chunks in each other": lambda pack: with_places(
        pack, pack.places[0], replace(pack.places[0], chunk=ChunkId(b"x" * 32)), *pack.places[2:]
    ),
}


def with_places(pack: PackReceipt, *places: Place) -> PackReceipt:
    return replace(pack, places=places)


@pytest.mark.parametrize("what", sorted(PACK_LIES))
def test_a_lie_about_a_pack_is_refused(workshop: Workshop, what: str) -> None:
    job = make_job(workshop, noise("several chunks", SIZE))
    packs = [PACK_LIES[what](pack) for pack in job.receipt.packs]
    sent = min(sum(pack.size_bytes for pack in packs), 2**62)
    counts = msgspec.structs.replace(job.receipt.counts, sent_bytes=sent)
    lie(job, honest_map(job), pack_part(*packs), closing=honest_closing(job, counts=counts))

    with pytest.raises(Damaged, match="pack") as refused:
        job.read()

    assert "other packs than it counts" not in str(refused.value)


@pytest.mark.parametrize("what", sorted(LIES))
def test_a_lie_is_refused(job: Job, what: str) -> None:
    lie(job, *LIES[what](job))
    scratch = job.scratch()

    with pytest.raises(Damaged):
        job.read(scratch=scratch)

    assert list(scratch.iterdir()) == []


CLOSINGS: dict[str, Callable[[Job], dict[str, object]]] = {
    "parts that nobody needs": lambda _: {"parts": 10**6},
    "chunks that nobody needs": lambda _: {"places": 13},
    "more packs than chunks": lambda _: {"packs": 12, "places": 11},
    "no packs": lambda _: {"packs": 0},
    "one chunk more": lambda job: {"places": honest_closing(job).places + 1},
    "no disk": lambda _: {"disks": ()},
    "one disk fewer": lambda job: {"disks": honest_closing(job).disks[:1]},
    "a disk twice": lambda job: {"disks": honest_closing(job).disks[:1] * 2},
    "another size": lambda job: {
        "disks": tuple(
            msgspec.structs.replace(disk, size_bytes=disk.size_bytes + 1)
            for disk in honest_closing(job).disks
        )
    },
}


@pytest.mark.parametrize("what", sorted(CLOSINGS))
def test_a_lie_in_the_last_part_is_refused(job: Job, what: str) -> None:
    lie(job, honest_map(job), honest_packs(job), closing=honest_closing(job, **CLOSINGS[what](job)))

    with pytest.raises(Damaged):
        job.read()


def test_a_last_part_of_another_kind_is_refused(job: Job) -> None:
    seal = job.seal()
    job.put(seal.write(0, honest_map(job)))
    job.put(seal.write(1, honest_packs(job)))
    said = msgspec.json.encode(honest_closing(job))
    job.put(seal.write(LAST_PART, bytes([PartKind.PACKS]) + said))

    with pytest.raises(Damaged, match="no closing part"):
        job.read()


@pytest.mark.parametrize("count", Counts.__struct_fields__)
def test_sums_that_cannot_be_are_refused(job: Job, count: str) -> None:
    counts = msgspec.structs.replace(job.receipt.counts, **{count: 10**12})
    lie(job, honest_map(job), honest_packs(job), closing=honest_closing(job, counts=counts))

    with pytest.raises(Damaged, match=r"sums|more bytes"):
        job.read()


def test_a_pack_that_another_run_brought_cannot_be_claimed(job: Job) -> None:
    """The name of a stored pack is hard to learn; knowing it must not be enough."""
    theirs = PackId(job.workshop.pack_names()[0].rpartition("/")[2])
    size = job.workshop.transport.size(layout.pack(theirs))
    (mine,) = job.receipt.packs
    claimed = replace(mine, pack=theirs, size_bytes=size)
    counts = msgspec.structs.replace(job.receipt.counts, sent_bytes=size)
    lie(
        job,
        honest_map(job),
        pack_part(claimed),
        closing=honest_closing(job, counts=counts),
    )

    with pytest.raises(Damaged, match="which run"):
        job.read()


def test_a_pack_sent_under_the_name_of_a_stored_one_is_not_committed(job: Job) -> None:
    stored = job.workshop.pack_names()[0]
    theirs = PackId(stored.rpartition("/")[2])
    before = job.workshop.transport.read(stored)
    (mine,) = job.receipt.packs
    job.workshop.transport.create(layout.arriving_pack(job.run, theirs), [before])
    claimed = replace(mine, pack=theirs, size_bytes=len(before))
    counts = msgspec.structs.replace(job.receipt.counts, sent_bytes=len(before))
    lie(job, honest_map(job), pack_part(claimed), closing=honest_closing(job, counts=counts))
    arrival = job.read()
    index = job.workshop.names(layout.INDEX)

    with pytest.raises(Damaged, match="another pack of that name"):
        job.workshop.commit(job.receipt_of(arrival))

    assert job.workshop.transport.read(stored) == before
    assert job.workshop.names(layout.INDEX) == index


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(
    plaintexts=st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.builds(
                lambda disk, runs, count: map_part(disk, *runs, count=count),
                st.integers(0, 3),
                st.lists(
                    st.tuples(
                        st.integers(0, 10) | st.integers(0, 2**64 - 1),
                        st.integers(0, 3).map(lambda n: bytes(32 * n)),
                    ),
                    max_size=4,
                ),
                st.none() | st.integers(0, 2**32 - 1),
            ),
            st.builds(
                lambda head, rest: bytes([PartKind.PACKS]) + head + rest,
                st.tuples(
                    st.binary(min_size=16, max_size=16),
                    st.integers(0, 2**64 - 1),
                    st.integers(0, 2**32 - 1) | st.integers(0, 3),
                ).map(lambda t: PACK_HEAD.pack(t[0], t[1], bytes(32), bytes(16), t[2])),
                st.binary(max_size=120),
            ),
        ),
        max_size=3,
    ),
    closing=st.none() | st.binary(max_size=60),
)
def test_whatever_a_source_says_is_refused_with_a_declared_error(
    job: Job, plaintexts: list[bytes], closing: bytes | None
) -> None:
    shutil.rmtree(
        Path(job.workshop.transport.root) / layout.inbox(job.run),  # type: ignore[attr-defined]
        ignore_errors=True,
    )
    seal = job.seal()
    for number, plaintext in enumerate(plaintexts):
        job.put(seal.write(number, plaintext))
    last = closing or msgspec.json.encode(honest_closing(job, parts=len(plaintexts)))
    job.put(seal.write(LAST_PART, bytes([PartKind.CLOSING]) + last))
    scratch = job.scratch()

    with pytest.raises(LikenessError):
        job.read(scratch=scratch)

    assert list(scratch.iterdir()) == []


def test_ids_are_compared_in_files_with_the_same_result(tmp_path: Path) -> None:
    ids = [secrets.token_bytes(32) for _ in range(3000)]
    ledger = IdLedger(tmp_path / "ledger", 3000 << 19)  # as many files as it ever uses
    ledger.bring(ids[:2000])
    ledger.bring(ids[1000:2999])
    ledger.want(ids[:2999])
    ledger.want(ids[:10])
    assert ledger.lacking() is None
    assert len(list((tmp_path / "ledger").iterdir())) > 1000

    ledger.want(ids[2999:])
    assert ledger.lacking() == ids[2999]

    ledger.close()
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_the_parts_are_as_the_page_on_the_format_says() -> None:
    assert (MAP_HEAD.size, MAP_RUN.size, PACK_HEAD.size, PLACE.size) == (6, 12, 76, 40)
    assert struct.calcsize("<8sBBHI16s16s16s80sI") == 148
    assert positions_of(8 * CHUNK, CHUNK) == 8

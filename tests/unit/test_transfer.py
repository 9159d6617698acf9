"""Transfer: what is read, what is left out, what is sent; and a share that goes away."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from likeness.agent.local_dedup import ChunkState, LocalDedup
from likeness.agent.reader import FileDiskReader
from likeness.agent.transfer import SEGMENT_BYTES, DiskJob, TransferCounts, transfer
from likeness.codec.aead import Suite
from likeness.codec.hashing import chunk_id
from likeness.errors import (
    BadInput,
    DiskShrank,
    TransferBroken,
)
from likeness.model.disk import DiskFacts, Extent, Segment, Skips
from likeness.model.ids import ZERO_CHUNK, DiskId, RunId, random_name
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.documents import Counts
from likeness.store.format.maps import FlatMap
from likeness.store.format.pack import Pack
from likeness.store.format.pack_log import PackLog
from likeness.store.write.receipts import TransferReceipt
from tests.unit.workshop import CHUNK, MIB, PACK, Maker, Workshop, changed, noise, text


def counts(receipt: TransferReceipt) -> dict[str, int]:
    told = receipt.counts
    return {
        "read": told.read_bytes,
        "zero": told.zero_bytes,
        "unchanged": told.unchanged_bytes,
        "repeated": told.repeated_bytes,
        "new": told.new_bytes,
    }


# --- what a chunk is ---


def test_chunks_are_sorted_into_zero_unchanged_repeated_and_new() -> None:
    key = bytes(32)
    dedup = LocalDedup(id_key=key)
    one, other = chunk_id(b"one", id_key=key), chunk_id(b"other", id_key=key)

    assert dedup.sort(bytes(CHUNK), one) == (ChunkState.ZERO, ZERO_CHUNK)
    assert dedup.sort(b"one", one) == (ChunkState.UNCHANGED, one)
    assert dedup.sort(b"one", other) == (ChunkState.NEW, one)
    assert dedup.sort(b"one", other) == (ChunkState.REPEATED, one)
    assert dedup.sort(b"other", ZERO_CHUNK) == (ChunkState.NEW, other)
    assert dedup.sort(b"other", b"") == (ChunkState.REPEATED, other)


def test_a_distrusted_chunk_is_sent_again_once() -> None:
    key = bytes(32)
    one = chunk_id(b"one", id_key=key)
    dedup = LocalDedup(id_key=key, distrusted=frozenset([one[:16]]))

    assert dedup.sort(b"one", one) == (ChunkState.NEW, one)
    assert dedup.sort(b"one", one) == (ChunkState.REPEATED, one)


def test_whatever_an_earlier_attempt_sent_is_not_sent_again_however_much_it_was() -> None:
    each = [b"%d" % at for at in range(300)]
    sent = {chunk_id(one, id_key=bytes(32)) for one in each}
    dedup = LocalDedup(id_key=bytes(32), sent=sent, most=100)

    assert [dedup.sort(one, b"")[0] for one in each] == [ChunkState.REPEATED] * 300
    assert dedup.sort(b"new", b"")[0] is ChunkState.NEW


def test_of_many_threads_with_one_chunk_exactly_one_has_to_send_it() -> None:
    dedup = LocalDedup(id_key=bytes(32))
    found: list[ChunkState] = []
    start = threading.Barrier(8)

    def sort() -> None:
        start.wait()
        found.extend(dedup.sort(b"%d" % at, b"")[0] for at in range(500))

    threads = [threading.Thread(target=sort) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found.count(ChunkState.NEW) == 500
    assert found.count(ChunkState.REPEATED) == 7 * 500


def test_more_chunks_than_there_is_room_for_are_sent_again_and_never_taken_for_others() -> None:
    dedup = LocalDedup(id_key=bytes(32), most=100)
    each = [b"%d" % at for at in range(300)]

    first = [dedup.sort(one, b"")[0] for one in each]
    again = [dedup.sort(one, b"")[0] for one in each]

    assert first == [ChunkState.NEW] * 300
    assert again == [ChunkState.REPEATED] * 100 + [ChunkState.NEW] * 200


# --- counts ---


def test_a_first_transfer_counts_zeros_repeats_and_new_chunks(workshop: Workshop) -> None:
    one, other = noise(1, CHUNK), noise(2, CHUNK)
    disk = one + bytes(2 * CHUNK) + other + one + one + other[:1000]

    receipt = workshop.transfer(disk)

    assert counts(receipt) == {
        "read": 6 * CHUNK + 1000,
        "zero": 2 * CHUNK,
        "unchanged": 0,
        "repeated": 2 * CHUNK,
        "new": 2 * CHUNK + 1000,
    }
    assert receipt.counts.disk_bytes == len(disk)
    assert receipt.counts.sent_bytes == sum(pack.size_bytes for pack in receipt.packs)
    assert receipt.counts.sent_bytes == sum(map(len, workshop.objects.values())) - sum(
        len(data) for name, data in workshop.objects.items() if not name.startswith("in/")
    )


def test_a_second_transfer_sends_only_what_changed(workshop: Workshop) -> None:
    disk = noise(1, 20 * CHUNK)
    workshop.back_up(disk)

    receipt = workshop.transfer(changed(disk, (5 * CHUNK + 17, b"written"), (11 * CHUNK, b"here")))

    assert counts(receipt) == {
        "read": 20 * CHUNK,
        "zero": 0,
        "unchanged": 18 * CHUNK,
        "repeated": 0,
        "new": 2 * CHUNK,
    }


def test_an_unchanged_disk_sends_nothing_at_all(workshop: Workshop) -> None:
    disk = text(1, 9 * CHUNK)
    workshop.back_up(disk)

    receipt = workshop.transfer(disk)

    assert receipt.counts.sent_bytes == 0
    assert list(receipt.packs) == []
    assert workshop.names("in") == []


def test_what_two_disks_share_is_sent_once(workshop: Workshop) -> None:
    disk = noise(1, 4 * CHUNK)

    receipt = workshop.transfer(disk, disk)

    assert receipt.counts.new_bytes == receipt.counts.repeated_bytes == 4 * CHUNK


def test_holes_of_an_image_are_not_read(workshop: Workshop, tmp_path: Path) -> None:
    image = tmp_path / "sparse.raw"
    with image.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(700 * MIB)
        file.write(noise(1, CHUNK))

    receipt = workshop.transfer(image)

    assert receipt.counts.disk_bytes == 1 << 30
    assert CHUNK <= receipt.counts.read_bytes <= 2 * SEGMENT_BYTES
    assert receipt.counts.new_bytes == CHUNK


def test_ranges_known_to_be_unchanged_are_not_read_and_keep_their_chunks(
    workshop: Workshop,
) -> None:
    disk = noise(1, 5 * SEGMENT_BYTES + 12_345)
    workshop.back_up(disk)
    hidden = changed(disk, (SEGMENT_BYTES + 5, b"a change nobody tells of"))
    told = changed(hidden, (4 * SEGMENT_BYTES, b"a change that is told"))
    unchanged = (Extent(0, 4 * SEGMENT_BYTES), Extent(5 * SEGMENT_BYTES, 12_345))

    version = workshop.back_up(told, skips={0: Skips(unchanged)})

    assert version.record.counts.read_bytes == SEGMENT_BYTES
    assert version.record.counts.new_bytes == CHUNK
    expected = changed(disk, (4 * SEGMENT_BYTES, b"a change that is told"))
    assert workshop.restore(version) == expected


@pytest.mark.parametrize(
    "extents",
    [
        [(100, 2 * SEGMENT_BYTES)],
        [(0, SEGMENT_BYTES - 1), (SEGMENT_BYTES - 1, SEGMENT_BYTES + 1)],
        [(CHUNK // 2, CHUNK), (3 * CHUNK - 1, 2 * SEGMENT_BYTES)],
        [(0, 1), (1, 1), (3 * SEGMENT_BYTES, 10 * SEGMENT_BYTES)],
        [],
    ],
)
def test_ranges_that_end_inside_a_chunk_never_lose_bytes(
    workshop: Workshop, extents: list[tuple[int, int]]
) -> None:
    disk = noise(1, 4 * SEGMENT_BYTES - 777)
    workshop.back_up(disk)

    version = workshop.back_up(
        disk, skips={0: Skips(tuple(Extent(offset, length) for offset, length in extents))}
    )

    assert workshop.restore(version) == disk
    assert version.record.counts.new_bytes == 0


def test_half_an_unchanged_chunk_is_no_unchanged_chunk(workshop: Workshop, tmp_path: Path) -> None:
    """The other half was written to; that it became a hole must not bring the old bytes back."""
    half = CHUNK // 2
    workshop.back_up(noise(1, half) + bytes(SEGMENT_BYTES - half) + noise(2, CHUNK))
    image = tmp_path / "emptied.raw"
    with image.open("wb") as file:
        file.truncate(SEGMENT_BYTES)
        file.seek(SEGMENT_BYTES)
        file.write(noise(2, CHUNK))

    version = workshop.back_up(image, skips={0: Skips((Extent(half, SEGMENT_BYTES - half),))})

    assert workshop.restore(version) == image.read_bytes()


def test_a_chunk_that_is_distrusted_is_sent_again_although_nothing_changed(
    workshop: Workshop,
) -> None:
    disk = noise(1, 6 * CHUNK)
    first = workshop.back_up(disk)
    lost = chunk_id(disk[2 * CHUNK : 3 * CHUNK], id_key=workshop.store.keys.chunk_id_key)
    for name in workshop.pack_names():
        del workshop.objects[name]

    second = workshop.back_up(
        disk, distrusted=frozenset(chunk[:16] for chunk in workshop.chunks_of(first))
    )

    assert lost in workshop.chunks_of(second)
    assert second.record.counts.new_bytes == 6 * CHUNK
    assert workshop.restore(first) == disk


def test_progress_reaches_the_size_of_the_disks(workshop: Workshop, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(1, 9 * MIB))
    reader = FileDiskReader(image)
    tally = TransferCounts(reader.size_bytes)
    facts = DiskFacts(DiskId(random_name()), "d", "0", reader.size_bytes)
    run = RunId(random_name())
    with FlatMap(tmp_path / "map", 9 * 16) as chunk_map:
        transfer(
            [DiskJob(facts, reader, chunk_map)],
            run=run,
            bundle=workshop.bundle(),
            inbox=workshop.transport,
            log=PackLog(tmp_path / "log"),
            stop=StopToken(),
            tally=tally,
        )
    reader.close()

    assert tally.passed_bytes == reader.size_bytes
    assert tally.counts().read_bytes == reader.size_bytes


def test_packs_are_filled_to_their_target_and_lie_whole_in_the_inbox(
    make_workshop: Maker, suite: Suite
) -> None:
    workshop = make_workshop(suite=suite)
    receipt = workshop.transfer(noise(1, 4 * MIB))
    packs = list(receipt.packs)

    assert len(packs) > 8
    assert sum(pack.size_bytes < PACK for pack in packs) <= 1
    for pack in packs:
        name = layout.arriving_pack(receipt.run, pack.pack)
        read = Pack(workshop.objects[name], name=name, store=workshop.store.store_id)
        assert read.locations(workshop.store.keys) == pack.locations


def test_two_transfers_of_one_disk_share_no_sealed_byte(make_workshop: Maker) -> None:
    """Same content, new session key: nobody who watches the share can tell that it is the same."""
    workshop = make_workshop()
    disk = noise(1, 2 * CHUNK)
    seed = bytes(32)
    for _ in range(2):
        workshop.transfer(disk, incremental=False, bundle=workshop.bundle(seed=seed))
    packs = [data for name, data in workshop.objects.items() if name.startswith("in/")]

    pieces = [{pack[at : at + 16] for at in range(200, len(pack) - 300, 16)} for pack in packs]

    assert len(packs) == 2
    assert not pieces[0] & pieces[1]


# --- disks that go wrong ---


class BreakingReader:
    """A disk whose source stops half-way."""

    def __init__(self, size_bytes: int, breaks_at: int, problem: Exception) -> None:
        self.size_bytes = size_bytes
        self._breaks_at, self._problem = breaks_at, problem

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        for offset in range(0, self.size_bytes, segment_bytes):
            if offset >= self._breaks_at:
                raise self._problem
            yield Segment(offset, noise(offset, min(segment_bytes, self.size_bytes - offset)))

    def close(self) -> None:
        pass


class EndlessReader(BreakingReader):
    """A disk of a petabyte; only whoever stops reading it ever comes to an end."""

    def __init__(self) -> None:
        super().__init__(1 << 50, 1 << 50, ValueError())

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        data = bytes(segment_bytes)
        for offset in range(0, self.size_bytes, segment_bytes):
            yield Segment(offset, data)


ONCE = Pauses(0.0, 0.0, tries=1)


def send(
    workshop: Workshop,
    *readers: BreakingReader,
    stop: StopToken | None = None,
    pauses: Pauses = ONCE,
) -> Counts:
    jobs = []
    for reader in readers:
        facts = DiskFacts(DiskId(random_name()), "d", "0", reader.size_bytes)
        path = workshop.folder / random_name()
        jobs.append(DiskJob(facts, reader, FlatMap(path, 1 << 20)))
    return transfer(
        jobs,
        run=RunId(random_name()),
        bundle=workshop.bundle(),
        inbox=workshop.transport,
        log=PackLog(workshop.folder / random_name()),
        stop=stop or StopToken(),
        pauses=pauses,
    )


def test_a_source_that_stops_half_way_breaks_the_transfer(workshop: Workshop) -> None:
    reader = BreakingReader(20 * MIB, 8 * MIB, TransferBroken("the host went away"))

    with pytest.raises(TransferBroken, match="went away"):
        send(workshop, reader)


class CrookedReader(BreakingReader):
    """Gives pieces that begin or end inside a chunk."""

    pieces: tuple[tuple[int, int], ...] = ()

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        for offset, length in self.pieces:
            yield Segment(offset, noise(offset, length))


@pytest.mark.parametrize("piece", [(1, CHUNK - 1), (0, CHUNK - 1), (CHUNK + 512, 512)])
def test_pieces_that_are_no_whole_chunks_are_refused(
    workshop: Workshop, piece: tuple[int, int]
) -> None:
    reader = CrookedReader(20 * MIB, 20 * MIB, ValueError())
    reader.pieces = ((2 * CHUNK, CHUNK), piece)

    with pytest.raises(TransferBroken, match="no whole chunks"):
        send(workshop, reader)


def test_nothing_is_left_out_of_a_disk_without_a_last_version(workshop: Workshop) -> None:
    disk = noise(1, SEGMENT_BYTES + CHUNK)

    version = workshop.back_up(disk, skips={0: Skips((Extent(0, len(disk)),))})

    assert workshop.restore(version) == disk


def test_a_disk_that_breaks_does_not_wait_for_the_others(workshop: Workshop) -> None:
    broken = BreakingReader(20 * MIB, 8 * MIB, TransferBroken("the host went away"))

    with pytest.raises(TransferBroken, match="went away"):
        send(workshop, EndlessReader(), broken)


def test_a_disk_of_another_size_than_its_snapshot_is_refused(
    workshop: Workshop, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(1, CHUNK))
    reader = FileDiskReader(image)
    facts = DiskFacts(DiskId(random_name()), "root", "0", 2 * CHUNK)

    with (
        FlatMap(tmp_path / "map", 2) as chunk_map,
        pytest.raises(DiskShrank, match="disk root has 65536 bytes now and 131072"),
    ):
        transfer(
            [DiskJob(facts, reader, chunk_map)],
            run=RunId(random_name()),
            bundle=workshop.bundle(),
            inbox=workshop.transport,
            log=PackLog(tmp_path / "log"),
            stop=StopToken(),
        )
    reader.close()
    reader.close()


def test_a_disk_cut_short_while_it_is_read_is_found_out(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(1, 12 * MIB))
    reader = FileDiskReader(image)
    segments = reader.segments(SEGMENT_BYTES)
    next(segments)
    with image.open("r+b") as file:
        file.truncate(6 * MIB)

    with pytest.raises(DiskShrank, match="ends at byte"):
        list(segments)
    reader.close()


def test_a_disk_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        FileDiskReader(tmp_path / "none.raw")


@pytest.mark.parametrize("size", [0, 1, 511, CHUNK, SEGMENT_BYTES - 1, 2 * SEGMENT_BYTES + 3])
def test_a_reader_gives_every_byte_once_in_order(tmp_path: Path, size: int) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(noise(size, size))
    reader = FileDiskReader(image)

    segments = list(reader.segments(SEGMENT_BYTES))

    assert b"".join(segment.data for segment in segments) == noise(size, size)
    assert [segment.offset for segment in segments] == list(range(0, size, SEGMENT_BYTES))
    reader.close()

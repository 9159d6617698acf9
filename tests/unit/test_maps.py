"""Block maps: flat files at work, sealed parts in the store, chains that stay short."""

import itertools
import resource
import signal
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.codec.aead import Suite
from likeness.codec.blobs import BlobKind, write_blob
from likeness.codec.hashing import digest
from likeness.codec.keys import StoreKeys
from likeness.errors import Damaged
from likeness.model.ids import DiskId, StoreId, VersionId, random_name
from likeness.store.format.maps import (
    STRETCH,
    FlatMap,
    Run,
    decode_part,
    encode_part,
    plain_part,
    positions_of,
)
from likeness.store.read.versions import stretches
from likeness.store.write.commit import MAX_DELTAS
from tests.unit.workshop import CHUNK, KIB, Workshop, changed, noise

KEYS = StoreKeys(StoreId("5" * 32), bytes(range(32)))
DISK, VERSION = DiskId("d" * 32), VersionId("e" * 32)
IDS = st.integers(0, 5).map(lambda n: bytes([n]) * 32)
WRITES = st.lists(st.tuples(st.integers(0, 9000), st.lists(IDS, min_size=1, max_size=9)))


def flat_map(folder: Path, positions: int) -> FlatMap:
    return FlatMap(folder / random_name(), positions)


def fill(chunk_map: FlatMap, writes: list[tuple[int, list[bytes]]]) -> dict[int, bytes]:
    """Write into a map, and into a dictionary that says what must be in it."""
    model: dict[int, bytes] = {}
    for first, ids in writes:
        inside = ids[: max(chunk_map.positions - first, 0)]
        chunk_map.write(first, b"".join(inside))
        model.update(enumerate(inside, first))
    return {at: chunk for at, chunk in model.items() if any(chunk)}


def runs_as_dict(runs: list[Run]) -> dict[int, bytes]:
    return {position: bytes(chunk) for run in runs for position, chunk in run.each()}


@given(positions=st.integers(0, 9000), writes=WRITES)
def test_a_map_gives_back_what_was_written_and_zero_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, positions: int, writes: list[tuple[int, list[bytes]]]
) -> None:
    with flat_map(tmp_path_factory.getbasetemp(), positions) as chunk_map:
        model = fill(chunk_map, writes)

        runs = list(chunk_map.runs_unlike(None, 0, positions))

        assert runs_as_dict(runs) == model
        everything = b"".join(model.get(at, bytes(32)) for at in range(positions))
        assert chunk_map.ids(0, positions) == everything
        assert chunk_map.root() == digest([everything]).hex()
        assert all(a.first + a.count <= b.first for a, b in itertools.pairwise(runs))


@given(positions=st.integers(1, 9000), before=WRITES, after=WRITES)
def test_the_difference_of_two_maps_turns_one_into_the_other(
    tmp_path_factory: pytest.TempPathFactory,
    positions: int,
    before: list[tuple[int, list[bytes]]],
    after: list[tuple[int, list[bytes]]],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with flat_map(folder, positions) as old, flat_map(folder, positions) as new:
        fill(old, before)
        fill(new, before)
        fill(new, after)
        differences = list(new.runs_unlike(old, 0, positions))

        for run in differences:
            assert old.ids(run.first, run.count) != run.ids
            old.write(run.first, run.ids)

        assert old.root() == new.root()
        assert not list(old.runs_unlike(new, 0, positions))


def test_a_map_leaves_no_file_behind(tmp_path: Path) -> None:
    with flat_map(tmp_path, 10) as chunk_map:
        assert chunk_map.path.exists()
        assert chunk_map.path.stat().st_mode & 0o077 == 0
    chunk_map.close()

    assert not list(tmp_path.iterdir())


def test_a_map_that_finds_no_room_fails_and_does_not_go_on_with_half_of_it(tmp_path: Path) -> None:
    """A write that is cut short by a full disk must never look like chunks of zeros."""
    ids = noise(1, 64 * KIB)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with flat_map(tmp_path, 4096) as chunk_map:
        resource.setrlimit(resource.RLIMIT_FSIZE, (32 * KIB, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                chunk_map.write(0, ids)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("size", "positions"),
    [(0, 0), (1, 1), (CHUNK - 1, 1), (CHUNK, 1), (CHUNK + 1, 2), (10 * CHUNK, 10)],
)
def test_a_disk_has_as_many_positions_as_chunks_begin_on_it(size: int, positions: int) -> None:
    assert positions_of(size, CHUNK) == positions


@given(st.integers(0, 5 * STRETCH))
def test_stretches_cover_every_position_once(positions: int) -> None:
    cut = list(stretches(positions))

    assert sum(count for _, count in cut) == positions
    assert all(first % STRETCH == 0 and 0 < count <= STRETCH for first, count in cut)


# --- parts in the store ---


def part(runs: list[Run], *, first: int = 0, delta: bool = False, suite: Suite) -> bytes:
    plain = plain_part(runs, first)
    return encode_part(
        plain, disk=DISK, version=VERSION, first=first, delta=delta, keys=KEYS, suite=suite
    )


def decoded(
    data: bytes,
    *,
    disk: DiskId = DISK,
    version: VersionId = VERSION,
    first: int = 0,
    delta: bool = False,
    positions: int = STRETCH,
) -> list[Run]:
    return decode_part(
        data,
        disk=disk,
        version=version,
        first=first,
        delta=delta,
        positions=positions,
        keys=KEYS,
        name="maps/x",
    )


RUNS = st.lists(
    st.tuples(st.integers(0, 900), st.lists(IDS, min_size=1, max_size=5)), max_size=6
).map(lambda runs: [Run(first, b"".join(ids)) for first, ids in runs])


@given(runs=RUNS, first=st.sampled_from([0, STRETCH, 7 * STRETCH]), suite=st.sampled_from(Suite))
def test_a_part_gives_back_its_runs(runs: list[Run], first: int, suite: Suite) -> None:
    moved = [Run(first + run.first, run.ids) for run in runs]

    data = part(moved, first=first, suite=suite)

    assert decoded(data, first=first, positions=first + 1000) == moved


def test_a_part_is_refused_for_another_disk_version_stretch_or_kind(suite: Suite) -> None:
    data = part([Run(0, bytes(32))], suite=suite)

    for elsewhere in (
        {"disk": DiskId("0" * 32)},
        {"version": VersionId("0" * 32)},
        {"first": STRETCH},
        {"delta": True},
    ):
        with pytest.raises(Damaged, match="does not open for this place"):
            decoded(data, **elsewhere)


def test_a_part_never_speaks_of_positions_the_disk_does_not_have(suite: Suite) -> None:
    data = part([Run(7, bytes(96))], suite=suite)

    assert decoded(data, positions=10)
    with pytest.raises(Damaged, match="positions the disk does not have"):
        decoded(data, positions=9)


def forged_part(plain: bytes) -> bytes:
    place = bytes.fromhex(DISK) + bytes.fromhex(VERSION) + struct.pack("<QB", 0, 0)
    return write_blob(BlobKind.MAP, place, plain, keys=KEYS, suite=Suite.AEGIS_256)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\0\0\0",
        struct.pack("<I", 1),
        struct.pack("<I", 2**32 - 1),
        struct.pack("<III", 1, 0, 0),
        struct.pack("<III", 1, 0, 1),
        struct.pack("<III", 1, 0, 2**32 - 1),
        struct.pack("<III", 1, 2**32 - 1, 1) + bytes(32),
        struct.pack("<III", 1, 0, 1) + bytes(33),
        struct.pack("<I", 0) + bytes(32),
    ],
)
def test_a_part_that_says_what_cannot_be_is_refused(plain: bytes) -> None:
    with pytest.raises(Damaged):
        decoded(forged_part(plain))


# --- chains ---


def test_thirtyfive_versions_restore_and_a_new_full_map_comes_after_thirty_deltas(
    workshop: Workshop,
) -> None:
    disk = noise("disk", 6 * CHUNK + 1000)
    told = []
    versions = []
    for at in range(35):
        disk = changed(disk, ((at * 7919) % (len(disk) - 100), noise(at, 100)))
        version = workshop.back_up(disk)
        versions.append((version, disk))
        told.append(version.record.disks[0].deltas)
        parts = version.record.disks[0].parts
        assert [each.delta for each in parts] == [False] + [True] * told[-1]

    assert told == [*range(MAX_DELTAS + 1), *range(35 - MAX_DELTAS - 1)]
    for version, expected in versions:
        assert workshop.restore(version) == expected


def test_an_unchanged_disk_needs_no_map_of_its_own(workshop: Workshop) -> None:
    disk = noise(1, 5 * CHUNK)
    first, second = workshop.back_up(disk), workshop.back_up(disk)

    assert first.record.disks[0].parts == second.record.disks[0].parts
    assert second.clear.objects == ()
    assert workshop.restore(second) == disk


@pytest.mark.parametrize(
    "sizes",
    [
        (5 * CHUNK, 9 * CHUNK),
        (5 * CHUNK, 5 * CHUNK + 1),
        (5 * CHUNK + 1, 5 * CHUNK + 2),
        (9 * CHUNK, 5 * CHUNK),
        (9 * CHUNK, 9 * CHUNK - 1),
        (9 * CHUNK, 0),
        (0, 3 * CHUNK),
    ],
)
def test_a_disk_that_changed_its_size_gets_a_full_map(
    workshop: Workshop, sizes: tuple[int, int]
) -> None:
    content = noise(1, max(sizes))

    versions = [workshop.back_up(content[:size]) for size in sizes]

    for version, size in zip(versions, sizes, strict=True):
        assert workshop.restore(version) == content[:size]
        assert not any(each.delta for each in version.record.disks[0].parts)


def test_a_chunk_that_became_zero_is_zero_in_the_next_version(workshop: Workshop) -> None:
    disk = noise(1, 4 * CHUNK)
    emptied = changed(disk, (CHUNK, bytes(2 * CHUNK)))

    first, second = workshop.back_up(disk), workshop.back_up(emptied)

    assert second.record.disks[0].deltas == 1
    assert workshop.restore(first) == disk
    assert workshop.restore(second) == emptied


def test_a_map_put_together_wrongly_is_found_out_before_a_byte_is_restored(
    workshop: Workshop,
) -> None:
    workshop.back_up(noise(1, 4 * CHUNK))
    version = workshop.back_up(noise(2, 4 * CHUNK))
    disk = version.record.disks[0]
    shortened = msgspec.structs.replace(disk, parts=disk.parts[:1])
    broken = msgspec.structs.replace(version.record, disks=(shortened,))

    with pytest.raises(Damaged, match="do not give the map"):
        workshop.restore(type(version)(version.name, version.clear, broken, version.digest))

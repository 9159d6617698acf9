"""Restore: bit for bit, whatever the disk was; and never a wrong byte."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.codec.aead import Suite
from likeness.codec.slots import SlotKind
from likeness.errors import ObjectUnreadable
from likeness.model.disk import Extent
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.chunk_source import DataLost
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.index import segments
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import find_version
from likeness.transport.local import LocalTransport
from tests.unit.workshop import (
    CHUNK,
    KIB,
    MIB,
    DiskInMemory,
    Maker,
    WithBadSectors,
    Workshop,
    changed,
    flipped,
    noise,
    sha256_of,
    text,
)

TRAILER_BYTES, HEADER_BYTES = 64, 164


def sparse(folder: Path, size: int, pieces: dict[int, bytes]) -> Path:
    path = folder / f"sparse-{size}.raw"
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path


DISKS = {
    "empty": b"",
    "one byte": b"x",
    "one zero": b"\0",
    "zeros": bytes(5 * CHUNK),
    "zeros, no multiple of the chunk size": bytes(5 * CHUNK + 1),
    "a multiple of the chunk size": noise(1, 7 * CHUNK),
    "one byte less": noise(1, 7 * CHUNK - 1),
    "one byte more": noise(1, 7 * CHUNK + 1),
    "one sector": noise(1, 512),
    "incompressible": noise(2, 3 * MIB + 512),
    "compressible": text(3, 3 * MIB + 512),
    "internal duplicates": (noise(4, CHUNK) + text(5, CHUNK) + bytes(CHUNK)) * 9,
    "zeros at the start and the end": bytes(3 * CHUNK) + noise(6, CHUNK) + bytes(3 * CHUNK),
    "only the last byte": bytes(4 * CHUNK) + b"x",
    "chunks that differ in one byte": b"".join(flipped(noise(7, CHUNK), at) for at in range(20)),
    "longer than a segment": noise(8, 9 * MIB + 777),
}


@pytest.mark.parametrize("disk", DISKS.values(), ids=list(DISKS))
def test_a_disk_restores_bit_for_bit(make_workshop: Maker, disk: bytes, suite: Suite) -> None:
    workshop = make_workshop(suite=suite)

    version = workshop.back_up(disk)

    assert workshop.restore(version) == disk
    assert workshop.is_proved(version, workshop.packs_of(version))


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (1 * MIB, {0: b"first", 1 * MIB - 4: b"last"}),
        (64 * MIB, {}),
        (128 * MIB + 512, {17: b"a", 100 * MIB: noise(1, 2 * MIB)}),
        (8 << 30, {0: noise(2, 3 * CHUNK), (4 << 30) - 7: noise(3, 100), (8 << 30) - 1: b"z"}),
    ],
    ids=["1 MiB", "64 MiB", "128 MiB", "8 GiB"],
)
def test_a_sparse_disk_restores_bit_for_bit_and_stays_sparse(
    workshop: Workshop, tmp_path: Path, size: int, pieces: dict[int, bytes]
) -> None:
    image = sparse(tmp_path, size, pieces)

    restored = workshop.restore_file(workshop.back_up(image))

    assert restored.stat().st_size == size
    assert restored.stat().st_blocks * 512 <= 16 * MIB
    with restored.open("rb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            assert file.read(len(data)) == data
    if size <= 128 * MIB + 512:
        assert sha256_of(restored) == sha256_of(image)


def test_two_disks_restore_each_to_its_own(workshop: Workshop) -> None:
    disks = noise(1, 5 * CHUNK + 3), text(2, 3 * CHUNK)

    version = workshop.back_up(*disks)

    assert [workshop.restore(version, at) for at in (0, 1)] == list(disks)


@settings(max_examples=40)
@given(
    size=st.integers(0, 6 * CHUNK),
    pieces=st.lists(
        st.tuples(
            st.integers(0, 6 * CHUNK), st.binary(min_size=1, max_size=50), st.integers(1, 3000)
        ),
        max_size=6,
    ),
    more=st.lists(
        st.tuples(st.integers(0, 6 * CHUNK), st.binary(min_size=1, max_size=9)), max_size=3
    ),
    grown=st.sampled_from([0, 0, 0, 1, CHUNK, -1, -CHUNK]),
    suite=st.sampled_from(Suite),
)
def test_any_disk_restores_bit_for_bit_and_so_does_what_became_of_it(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    pieces: list[tuple[int, bytes, int]],
    more: list[tuple[int, bytes]],
    grown: int,
    suite: Suite,
) -> None:
    workshop = Workshop(tmp_path_factory.mktemp("any"), suite=suite)
    first = changed(bytes(size), *((at, piece * times) for at, piece, times in pieces))[:size]
    second = changed(first, *more)[:size]
    second = second.ljust(size + grown, b"g") if grown > 0 else second[: max(size + grown, 0)]

    versions = [workshop.back_up(first), workshop.back_up(second)]

    assert workshop.restore(versions[0]) == first
    assert workshop.restore(versions[1]) == second
    assert all(workshop.is_proved(version, workshop.packs_of(version)) for version in versions)


@pytest.mark.parametrize("chunk_bytes", [64 * KIB, 256 * KIB, 4 * MIB])
def test_every_chunk_size_restores(make_workshop: Maker, chunk_bytes: int) -> None:
    workshop = make_workshop(chunk_bytes=chunk_bytes)
    disk = noise(1, 9 * MIB + 1)

    assert workshop.restore(workshop.back_up(disk)) == disk


def test_a_store_on_a_disk_is_opened_again_and_restores(
    make_workshop: Maker, tmp_path: Path
) -> None:
    workshop = make_workshop(transport=LocalTransport(tmp_path / "store", make=True))
    disk = noise(1, 2 * MIB)
    version = workshop.back_up(disk)

    opened = open_store_with_key_file(LocalTransport(tmp_path / "store"), workshop.key_file)

    assert workshop.restore(version, store=opened) == disk


# --- what may be lost ---


def test_without_any_index_the_packs_own_tables_will_do(workshop: Workshop) -> None:
    disk = noise(1, 20 * CHUNK)
    version = workshop.back_up(disk)
    for name in list(segments(workshop.store)):
        del workshop.objects[name]

    assert workshop.restore(version) == disk


def test_one_copy_of_every_map_may_be_lost(workshop: Workshop) -> None:
    disk = noise(1, 5 * CHUNK)
    workshop.back_up(disk)
    version = workshop.back_up(changed(disk, (0, b"new")))
    for part in version.record.disks[0].parts:
        del workshop.objects[part.copies[0]]

    assert workshop.restore(version) == changed(disk, (0, b"new"))
    assert len(workshop.prove_documents(version).problems) == 2


def test_one_of_whatever_is_kept_twice_may_be_unreadable(make_workshop: Maker) -> None:
    transport = WithBadSectors()
    workshop = make_workshop(transport=transport)
    disk = noise(1, 5 * CHUNK)
    version = workshop.back_up(disk)
    part = version.record.disks[0].parts[0]
    workshop.back_up(disk, incremental=False)
    [words] = [
        name
        for name in workshop.names(layout.KEYS)
        if "/slot-" in name and f'"{SlotKind.RECOVERY_WORDS}"'.encode() in transport.objects[name]
    ]
    kept_twice = [
        *layout.FORMAT_COPIES,
        words,
        *part.copies,
        *workshop.names(layout.INDEX),
        *workshop.pack_names(),
    ]

    for name in kept_twice:
        transport.bad = {name}
        store = open_store_with_key_file(transport, workshop.key_file)
        assert workshop.restore(version, store=store) == disk, name


def test_what_cannot_be_read_is_not_called_lost(make_workshop: Maker) -> None:
    transport = WithBadSectors()
    workshop = make_workshop(transport=transport)
    version = workshop.back_up(noise(1, 3 * CHUNK))
    part = version.record.disks[0].parts[0]

    needed = (
        workshop.pack_names(),
        [*workshop.pack_names(), *workshop.names(layout.INDEX)],
        part.copies,
        [*layout.FORMAT_COPIES],
        [name for name in workshop.names(layout.KEYS) if "/slot-" in name],
    )
    for names in needed:
        transport.bad = set(names)
        with pytest.raises(ObjectUnreadable):
            workshop.restore(version, store=open_store_with_key_file(transport, workshop.key_file))
    transport.bad = {part.copies[0]}
    del transport.objects[part.copies[1]]
    with pytest.raises(ObjectUnreadable):
        workshop.restore(version)


@pytest.mark.parametrize("where", [0, 8, 9, 10, 20, 30, 50, 100, HEADER_BYTES - 1])
def test_a_pack_with_a_damaged_header_restores_by_the_second_copy_of_its_boxes(
    make_workshop: Maker, suite: Suite, where: int
) -> None:
    workshop = make_workshop(suite=suite)
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    (name,) = workshop.pack_names()
    workshop.objects[name] = flipped(workshop.objects[name], where, 1)

    assert workshop.restore(version) == disk
    (proof,) = workshop.prove(workshop.packs_of(version))
    assert "not what its index segment signed for" in proof.cause


def test_a_pack_without_its_trailer_and_table_restores_by_the_index(workshop: Workshop) -> None:
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    (name,) = workshop.pack_names()
    workshop.objects[name] = workshop.objects[name][: -TRAILER_BYTES - 104]

    assert workshop.restore(version) == disk


def test_a_chunk_that_fails_is_taken_from_another_pack(workshop: Workshop) -> None:
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    workshop.back_up(disk, incremental=False)
    for name in workshop.pack_names():
        good = workshop.objects[name]
        workshop.objects[name] = bytes(len(good))
        assert workshop.restore(version) == disk
        del workshop.objects[name]
        assert workshop.restore(version) == disk
        workshop.objects[name] = good


def test_a_chunk_that_fails_is_taken_from_a_pack_no_index_knows(workshop: Workshop) -> None:
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    (first,) = workshop.pack_names()
    (segment,) = segments(workshop.store)
    workshop.back_up(disk, incremental=False)
    for name in set(segments(workshop.store)) - {segment}:
        del workshop.objects[name]
    workshop.objects[first] = bytes(1000)

    assert workshop.restore(version) == disk


def test_what_is_lost_is_told_to_the_byte_and_nothing_is_left_at_the_target(
    workshop: Workshop, tmp_path: Path
) -> None:
    disk = noise(1, 40 * CHUNK)
    version = workshop.back_up(disk)
    name = workshop.pack_names()[0]
    del workshop.objects[name]
    target = tmp_path / "out.raw"

    with pytest.raises(DataLost, match="are in no whole pack") as lost:
        restore_disk(
            workshop.store,
            version.record.disks[0],
            FileDiskWriter(target, len(disk)),
            scratch=tmp_path,
            stop=StopToken(),
        )

    assert not target.exists()
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob("*map"))
    assert 0 < sum(extent.length for extent in lost.value.extents) < len(disk)
    assert all(e.offset % CHUNK == 0 and e.length % CHUNK == 0 for e in lost.value.extents)


def test_neighbouring_lost_chunks_are_one_range(workshop: Workshop) -> None:
    disk = noise(1, 3 * CHUNK) + bytes(CHUNK) + noise(2, CHUNK // 2)
    version = workshop.back_up(disk)
    for name in workshop.pack_names():
        workshop.objects[name] = b""

    with pytest.raises(DataLost) as lost:
        workshop.restore(version)
    assert lost.value.extents == (Extent(0, 3 * CHUNK), Extent(4 * CHUNK, CHUNK // 2))


def test_swapped_packs_are_found_out_and_each_gives_what_is_in_it(workshop: Workshop) -> None:
    disk = noise(1, 20 * CHUNK)
    version = workshop.back_up(disk)
    one, other = workshop.pack_names()[:2]
    objects = workshop.objects
    objects[one], objects[other] = objects[other], objects[one]

    assert workshop.restore(version) == disk


def spoilt_index_and_table(objects: dict[str, bytes]) -> None:
    """No index segment, and no pack that ends as a pack does."""
    for name in list(objects):
        if name.startswith("index/"):
            del objects[name]
        if name.startswith("packs/"):
            objects[name] = objects[name][:-70]


def without_a_beginning(objects: dict[str, bytes]) -> None:
    """One pack has lost both copies of its session's key, which other packs of the run have."""
    name = next(name for name in objects if name.startswith("packs/"))
    objects[name] = bytes(164) + objects[name][164:-70]


def under_another_name(objects: dict[str, bytes]) -> None:
    name = next(name for name in objects if name.startswith("packs/"))
    objects[f"packs/ab/ab{'0' * 30}"] = objects.pop(name)


def back_in_an_inbox(objects: dict[str, bytes]) -> None:
    name = next(name for name in objects if name.startswith("packs/"))
    objects[f"in/{'1' * 32}/{name[-32:]}"] = objects.pop(name)


@pytest.mark.parametrize(
    "spoil", [spoilt_index_and_table, without_a_beginning, under_another_name, back_in_an_inbox]
)
def test_whatever_is_sealed_whole_somewhere_is_restored_and_said(
    workshop: Workshop, spoil: Callable[[dict[str, bytes]], None]
) -> None:
    disk = noise(2, 20 * CHUNK)
    version = workshop.back_up(disk)
    spoil(workshop.objects)
    said: list[str] = []
    target = DiskInMemory(len(disk))

    restore_disk(
        workshop.store,
        version.record.disks[0],
        target,
        scratch=workshop.folder,
        stop=StopToken(),
        say=said.append,
    )

    assert target.whole == disk
    assert any("salvaged" in each or "own tables" in each for each in said)


def test_a_block_map_and_a_record_are_found_under_other_names(workshop: Workshop) -> None:
    disk = noise(3, 5 * CHUNK)
    version = workshop.back_up(disk)
    objects = workshop.objects
    one, other = version.record.disks[0].parts[0].copies
    objects[f"{one[:-32]}{'2' * 32}"] = objects.pop(one)
    del objects[other]
    objects[f"versions/{'3' * 32}/{'4' * 16}-{'5' * 32}"] = objects.pop(version.name)

    found = find_version(workshop.store, version.version[:8])

    assert found == version
    assert workshop.restore(found) == disk

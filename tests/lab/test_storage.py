"""Layers, extents and change logs, held against plain byte arrays."""

import random
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.storage.changes import BLOCK_BYTES, ChangeLog, bitmap_bytes, changed_blocks
from lab.storage.disk import Disk
from lab.storage.extents import ExtentMap, gaps_between

SPAN = 200
KIB = 1 << 10


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(
    puts=st.lists(
        st.tuples(st.integers(0, SPAN), st.integers(0, SPAN), st.booleans()), max_size=40
    ),
    cut=st.tuples(st.integers(0, SPAN), st.integers(0, SPAN)),
)
def test_an_extent_map_says_for_every_byte_which_write_was_last(
    puts: list[tuple[int, int, bool]], cut: tuple[int, int]
) -> None:
    extents, plain = ExtentMap(), [False] * SPAN
    for first, second, zero in puts:
        start, end = sorted((first, second))
        if zero:
            extents.put(start, end, None)
            plain[start:end] = [True] * (end - start)
    segments = list(extents)
    assert all(s.start < s.end for s in segments)
    assert all(a.end < b.start for a, b in pairwise(segments))
    low, high = sorted(cut)
    held = {position for s in extents.cut(low, high) for position in range(s.start, s.end)}
    missing = {p for a, b in gaps_between(extents.cut(low, high), low, high) for p in range(a, b)}
    assert held == {position for position in range(low, high) if plain[position]}
    assert held | missing == set(range(low, high))


class Model:
    """A disk beside a plain copy of what it must hold."""

    def __init__(self, disk: Disk, content: bytearray) -> None:
        self.disk, self.content = disk, content

    def write(self, offset: int, data: bytes) -> None:
        self.disk.write(offset, data)
        self.content[offset : offset + len(data)] = data

    def branch(self) -> "Model":
        return Model(self.disk.branch(), bytearray(self.content))

    def check(self) -> None:
        assert self.disk.read(0, self.disk.size) == self.content
        parts = self.disk.segments(0, self.disk.size)
        assert [s.start for s in parts[1:]] == [s.end for s in parts[:-1]]
        assert (parts[0].start, parts[-1].end) == (0, self.disk.size)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_snapshots_hold_still_whatever_is_written_folded_or_dropped_later(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "image.raw"
        original = chance.randbytes(chance.randrange(1, 300 * KIB))
        image.write_bytes(original)
        models = [Model(Disk.over_image(image, folder), bytearray(original))]
        for _ in range(40):
            model = chance.choice(models)
            action = chance.random()
            if action < 0.6:
                offset = chance.randrange(model.disk.size)
                longest = model.disk.size - offset
                length = chance.randrange(longest + 1)
                model.write(offset, chance.choice((bytes, chance.randbytes))(length))
            elif action < 0.8:
                models.append(model.branch())
            elif len(models) > 1 and action < 0.9:
                models.remove(model)
                model.disk.drop()
            else:
                layer = model.disk.top
                while layer is not None:
                    layer.fold_parent()
                    layer = layer.parent  # type: ignore[assignment]
        for model in models:
            model.check()
        assert image.read_bytes() == original


def test_a_disk_larger_than_any_memory_costs_nothing(folder: Path) -> None:
    disk = Disk.empty(1 << 43, folder)
    disk.write((1 << 43) - 5, b"hello")
    disk.write(1 << 40, b"world")
    snapshot = disk.branch()
    disk.write(1 << 40, b"after")
    assert snapshot.read((1 << 40) - 1, 7) == b"\0world\0"
    assert disk.read((1 << 43) - 5, 5) == b"hello"
    assert len(disk.segments(0, 1 << 43)) == 4


def test_a_write_outside_the_disk_is_refused(folder: Path) -> None:
    disk = Disk.empty(100, folder)
    for offset, data in ((-1, b"a"), (100, b"a"), (99, b"ab")):
        with pytest.raises(ValueError, match="do not fit"):
            disk.write(offset, data)


def test_overlays_have_no_name_on_disk(folder: Path) -> None:
    disk = Disk.empty(1 << 20, folder)
    disk.write(0, b"data")
    assert list(folder.iterdir()) == []


def test_a_dropped_tree_forgets_every_layer(folder: Path) -> None:
    disk = Disk.empty(1 << 20, folder)
    root = disk.top
    first, second = disk.branch(), disk.branch()
    assert root.children == 2
    for each in (first, second, disk):
        each.drop()
    assert root.children == 0


# -- change logs -----------------------------------------------------------------------------------


def bits(bitmap: bytes) -> set[int]:
    return {i for i in range(len(bitmap) * 8) if bitmap[i // 8] & (0x80 >> (i % 8))}


def test_the_first_block_is_the_highest_bit_of_the_first_byte() -> None:
    log = ChangeLog(16 * BLOCK_BYTES)
    log.mark(0, 1)
    assert bytes(log.bitmap) == b"\x80\x00"
    log.mark(9 * BLOCK_BYTES, 1)
    assert bytes(log.bitmap) == b"\x80\x40"


def test_a_write_across_a_boundary_marks_both_blocks() -> None:
    log = ChangeLog(16 * BLOCK_BYTES)
    log.mark(3 * BLOCK_BYTES - 1, 2)
    assert bits(bytes(log.bitmap)) == {2, 3}


@given(first=st.integers(0, 999), count=st.integers(1, 1000), shift=st.integers(0, BLOCK_BYTES - 1))
def test_long_writes_mark_exactly_the_blocks_they_touch(first: int, count: int, shift: int) -> None:
    log = ChangeLog(2001 * BLOCK_BYTES)
    log.mark(first * BLOCK_BYTES + shift, count * BLOCK_BYTES)
    last = first + count - (0 if shift else 1)
    assert bits(bytes(log.bitmap)) == set(range(first, last + 1))


@pytest.mark.parametrize(("size", "length"), [(0, 0), (1, 1), (8 << 16, 1), ((8 << 16) + 1, 2)])
def test_the_bitmap_has_one_bit_per_started_block(size: int, length: int) -> None:
    assert bitmap_bytes(size) == length


def test_a_chain_gives_the_or_of_the_logs_after_its_base() -> None:
    size = 64 * BLOCK_BYTES
    logs = [ChangeLog(size)]
    for block in (1, 2, 3):
        logs.append(logs[-1].begin_next())
        logs[-1].mark(block * BLOCK_BYTES, 1)
    first, second, third, live = logs
    assert bits(changed_blocks(first, second) or b"") == {1}
    assert bits(changed_blocks(first, live) or b"") == {1, 2, 3}
    assert bits(changed_blocks(second, third) or b"") == {2}
    assert changed_blocks(third, second) is None
    assert changed_blocks(second, second) is None
    assert changed_blocks(ChangeLog(size), live) is None
    second.leave()
    assert bits(changed_blocks(first, third) or b"") == {1, 2}
    third.consistent = False
    with pytest.raises(ValueError, match="inconsistent"):
        changed_blocks(first, live)


def test_a_grown_disk_has_a_longer_bitmap_whose_new_blocks_count_as_written() -> None:
    first = ChangeLog(8 * BLOCK_BYTES)
    live = first.begin_next()
    live.mark(0, 1)
    live.grow(16 * BLOCK_BYTES)
    bitmap = changed_blocks(first, live)
    assert bitmap is not None
    assert bits(bitmap) == {0, *range(8, 16)}

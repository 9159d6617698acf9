"""What is written over a disk: all that may differ, and no more."""

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

from likeness.model.disk import Extent
from likeness.model.ids import CHUNK_ID_BYTES
from likeness.store.format.maps import FlatMap
from likeness.store.read.differences import unlike

CHUNK = 4096
SIZE = 200 * CHUNK - 100


def flat(path: Path, ids: list[bytes]) -> FlatMap:
    chunk_map = FlatMap(path, len(ids))
    chunk_map.write(0, b"".join(ids))
    return chunk_map


def test_what_is_unlike_and_what_was_touched_is_named_in_whole_chunks(tmp_path: Path) -> None:
    dice = random.Random(5)
    wanted = [bytes([dice.randrange(3)]) * CHUNK_ID_BYTES for _ in range(200)]
    known = [bytes([dice.randrange(3)]) * CHUNK_ID_BYTES for _ in range(200)]
    touched = (Extent(10 * CHUNK + 1, 2 * CHUNK), Extent(SIZE - 10, 10))
    with flat(tmp_path / "a", wanted) as a, flat(tmp_path / "b", known) as b:
        facts: Any = {"size_bytes": SIZE, "chunk_bytes": CHUNK}
        found = list(unlike(a, b, **facts, touched=touched))
        assert list(unlike(a, None, **facts)) == [Extent(0, SIZE)]
        assert list(unlike(a, a, **facts)) == []
    positions = {at for e in found for at in range(e.offset // CHUNK, -(-e.end // CHUNK))}
    assert positions == {n for n in range(200) if wanted[n] != known[n]} | {10, 11, 12, 199}
    assert max(extent.end for extent in found) == SIZE
    assert all(one.end < two.offset for one, two in pairwise(found))


def test_a_map_of_another_length_says_nothing(tmp_path: Path) -> None:
    with (
        flat(tmp_path / "a", [bytes(CHUNK_ID_BYTES)] * 3) as a,
        flat(tmp_path / "b", [bytes(CHUNK_ID_BYTES)] * 2) as b,
    ):
        assert list(unlike(a, b, size_bytes=3, chunk_bytes=1)) == [Extent(0, 3)]

"""Where the chunks of a disk lie, by the catalog."""

import numpy as np
import pytest

from catalog import locations_of_disk as module
from catalog.connection import CatalogLocation
from catalog.locations_of_disk import locations_of_disk
from likeness.model.ids import ChunkId
from tests.catalog.history import CHUNKS, History
from tests.catalog.scenes import disk


def lived(history: History) -> dict[int, ChunkId]:
    """Nights of one VM with others between them; its chunks by position, as they are by now."""
    held: dict[int, ChunkId] = {}
    for night in range(4):
        held |= {night: CHUNKS[3 * night], night + 6: CHUNKS[3 * night + 1]}
        history.back_up("web", {0: held})
        history.back_up(f"other{night}", {0: {0: CHUNKS[3 * night + 2]}})
    return held


@pytest.mark.parametrize("stretches", [1, 2, 64])
def test_a_disk_of_many_packs_is_located_as_one_of_few(
    catalog: CatalogLocation, monkeypatch: pytest.MonkeyPatch, stretches: int
) -> None:
    history = History(catalog)
    held = lived(history)
    last = history.last["web"].record
    monkeypatch.setattr(module, "MANY_PACKS", 1)
    monkeypatch.setattr(module, "_STRETCHES", stretches)

    found = locations_of_disk(history.catalog, last.version, disk("web"))

    assert found.positions.tolist() == sorted(held)
    for at, position in enumerate(found.positions.tolist()):
        receipt = history.packs[found.packs[int(found.pack[at])]]
        (there,) = [each for each in receipt.locations if each.chunk == held[position]]
        assert (there.offset, there.length) == (int(found.offset[at]), int(found.length[at]))


@pytest.mark.parametrize(
    ("stretches", "wanted"),
    [
        (64, [(1, 2), (5, 5), (9, 11), (40, 40)]),
        (3, [(1, 5), (9, 11), (40, 40)]),
        (2, [(1, 11), (40, 40)]),
        (1, [(1, 40)]),
    ],
)
def test_the_widest_gaps_are_left_out(
    monkeypatch: pytest.MonkeyPatch, stretches: int, wanted: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(module, "_STRETCHES", stretches)
    numbers = np.array([1, 2, 5, 9, 10, 11, 40])
    assert module._stretches(numbers) == wanted

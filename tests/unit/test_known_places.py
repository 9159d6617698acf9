"""Places that a catalog knows spare reading the index; where they are wrong the index is asked."""

from pathlib import Path

import numpy as np
import pytest

from likeness.errors import LikenessError
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.read.disk_view import first_whole_map
from likeness.store.read.locating import DiskChunks, Locations, Numbers, locate
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version
from tests.unit.workshop import CHUNK, DiskInMemory, Workshop, noise

DISK = noise("disk", 6 * CHUNK) + bytes(2 * CHUNK) + noise("disk", 2 * CHUNK) + b"end"


def located(workshop: Workshop, version: Version, folder: Path) -> Locations:
    """As a catalog would know them: by position."""
    disk, problems = version.record.disks[0], list[LikenessError]()
    with first_whole_map([workshop.store], disk, folder / "map") as chunk_map:
        chunks = DiskChunks(chunk_map)
        found, _ = locate(workshop.store, chunks, problem=problems.append)
        at = np.flatnonzero(chunks.at != DiskChunks.ZERO)
        _, first = np.unique(chunks.at[at], return_index=True)
        positions = at[first].astype(np.uint32)
        beyond = np.append(positions, np.uint32(4_000_000_000))

        def more(values: Numbers) -> Numbers:
            return np.append(values, np.uint32(0)).astype(np.uint32)

        return Locations.known(
            chunks, beyond, found.packs, more(found.pack), more(found.offset), more(found.length)
        )


def restored(
    workshop: Workshop, version: Version, known: Locations | None, said: list[str]
) -> bytes | None:
    disk = version.record.disks[0]
    target = DiskInMemory(disk.size_bytes)
    restore_disk(
        workshop.store,
        disk,
        target,
        scratch=workshop.folder,
        stop=StopToken(),
        say=said.append,
        locator=lambda _: known,
    )
    return target.whole


def test_what_is_known_needs_no_index(workshop: Workshop, tmp_path: Path) -> None:
    version, said = workshop.back_up(DISK), list[str]()
    known = located(workshop, version, tmp_path)
    for name in workshop.names(layout.INDEX):
        del workshop.objects[name]

    assert restored(workshop, version, known, said) == DISK
    assert said == []


@pytest.mark.parametrize("how", ["elsewhere", "shorter", "another pack", "some unknown", "nothing"])
def test_what_is_out_of_date_is_found_by_the_index(
    workshop: Workshop, tmp_path: Path, how: str
) -> None:
    version, said = workshop.back_up(DISK), list[str]()
    known = located(workshop, version, tmp_path)
    if how == "elsewhere":
        known.offset += np.uint32(7)
    if how == "shorter":
        known.length -= np.uint32(1)
    if how == "another pack":
        known.packs[0] = "0" * 32  # type: ignore[call-overload]
    if how == "some unknown":
        known.pack[1:3] = Locations.NOWHERE

    assert restored(workshop, version, None if how == "nothing" else known, said) == DISK
    assert said == []

"""Data that is lost for good: the restore fails, or says byte by byte where its zeros are."""

import json
from pathlib import Path

import pytest

from likeness.errors import BadInput, ObjectUnreadable
from likeness.model.disk import Extent
from likeness.stopping import StopToken
from likeness.store.read.chunk_source import DataLost
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version
from tests.unit.workshop import CHUNK, DiskInMemory, WithBadSectors, Workshop, noise

LOST = (Extent(0, 3 * CHUNK), Extent(4 * CHUNK, CHUNK // 2))


def all_lost(workshop: Workshop) -> tuple[Version, bytes]:
    """A version all of whose data is gone, and what is left of its disk: zeros."""
    version = workshop.back_up(noise(1, 3 * CHUNK) + bytes(CHUNK) + noise(2, CHUNK // 2))
    for name in workshop.pack_names():
        workshop.objects[name] = b""
    return version, bytes(4 * CHUNK + CHUNK // 2)


def restored(
    workshop: Workshop, version: Version, target: FileDiskWriter | DiskInMemory, *, accept: bool
) -> DataLost | None:
    return restore_disk(
        workshop.store,
        version.record.disks[0],
        target,
        scratch=workshop.folder,
        stop=StopToken(),
        accept_damage=accept,
    )


def test_accepted_damage_is_zeros_with_a_map_beside_the_image(
    workshop: Workshop, tmp_path: Path
) -> None:
    version, left = all_lost(workshop)
    image = tmp_path / "out.raw"

    lost = restored(workshop, version, FileDiskWriter(image, len(left)), accept=True)

    assert lost is not None
    assert lost.extents == LOST
    assert image.read_bytes() == left
    told = json.loads((tmp_path / "out.raw.damage.json").read_text())
    assert told["lost"] == [{"offset": e.offset, "length": e.length} for e in LOST]
    assert told["lost_bytes"] == sum(extent.length for extent in LOST)
    assert (told["image"], told["size_bytes"]) == ("out.raw", len(left))
    assert told["cause"]
    with pytest.raises(BadInput, match="exists already"):
        FileDiskWriter(tmp_path / "out.raw", 1)
    image.unlink()
    with pytest.raises(BadInput, match=r"damage\.json exists already"):
        FileDiskWriter(image, 1)


def test_damage_that_is_not_accepted_leaves_neither_image_nor_map(
    workshop: Workshop, tmp_path: Path
) -> None:
    version, left = all_lost(workshop)

    with pytest.raises(DataLost, match="2 ranges, the first at byte 0"):
        restored(workshop, version, FileDiskWriter(tmp_path / "out.raw", len(left)), accept=False)

    assert list(tmp_path.glob("out.raw*")) == []


def test_a_whole_disk_has_no_map_although_damage_would_be_accepted(
    workshop: Workshop, tmp_path: Path
) -> None:
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    image = tmp_path / "out.raw"

    assert restored(workshop, version, FileDiskWriter(image, len(disk)), accept=True) is None

    assert image.read_bytes() == disk
    assert list(tmp_path.glob("*.json")) == []


def test_an_object_on_bad_sectors_is_damage_that_can_be_accepted(tmp_path: Path) -> None:
    transport = WithBadSectors()
    workshop = Workshop(tmp_path, transport=transport)
    disk = noise(1, 3 * CHUNK)
    version = workshop.back_up(disk)
    transport.bad.update(workshop.pack_names())
    target = DiskInMemory(len(disk))

    with pytest.raises(ObjectUnreadable):
        restored(workshop, version, DiskInMemory(len(disk)), accept=False)
    lost = restored(workshop, version, target, accept=True)

    assert lost is not None
    assert target.lost == lost.extents == (Extent(0, len(disk)),)
    assert target.whole == bytes(len(disk))

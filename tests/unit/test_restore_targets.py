"""Where a restored disk is written: never over anything, and only what there is room for."""

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from likeness.codec.buffers import Buffer
from likeness.errors import BadInput, Stopped
from likeness.model.disk import Extent
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.read.direct_writing import DirectWriter
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
from tests.unit.workshop import (
    CHUNK,
    KIB,
    Workshop,
    noise,
)

TRAILER_BYTES, HEADER_BYTES = 64, 164


# --- targets ---


def test_a_restore_never_overwrites_a_file(workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(b"somebody's")

    with pytest.raises(BadInput, match="exists already"):
        FileDiskWriter(target, 10)
    assert target.read_bytes() == b"somebody's"


def test_two_restores_never_write_one_image(workshop: Workshop, tmp_path: Path) -> None:
    disk = noise("disk", 6 * CHUNK)
    version = workshop.back_up(disk)
    target = tmp_path / "disk.raw"
    refusals: list[str] = []

    def begin_another(_bytes: int) -> None:
        try:
            FileDiskWriter(target, len(disk)).abandon()
        except BadInput as refusal:
            refusals.append(str(refusal))

    writer = FileDiskWriter(target, len(disk))
    restore_disk(
        workshop.store,
        version.record.disks[0],
        writer,
        scratch=tmp_path,
        stop=StopToken(),
        progress=begin_another,
    )

    assert target.read_bytes() == disk
    assert "another restore is writing" in refusals[0]


def test_what_a_restore_that_died_left_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "disk.raw.partial").write_bytes(b"left" * 100)
    writer = FileDiskWriter(tmp_path / "disk.raw", 10)
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]
    assert (tmp_path / "disk.raw").read_bytes() == bytes(10)


def test_an_image_that_is_finished_while_another_restore_begins_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "disk.raw"
    first = FileDiskWriter(target, 100)
    first.write(0, b"a" * 100)
    lock, begun = fcntl.flock, count()

    def late(handle: int, how: int) -> None:
        if next(begun) == 0:
            first.finish()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BadInput, match="exists already"):
        FileDiskWriter(target, 100)

    assert target.read_bytes() == b"a" * 100
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_appears_during_a_restore_is_not_written_over(tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    writer = FileDiskWriter(target, 10)
    target.write_bytes(b"somebody's")

    with pytest.raises(BadInput, match="exists already"):
        writer.finish()
    writer.abandon()

    assert target.read_bytes() == b"somebody's"
    assert list(tmp_path.iterdir()) == [target]


def test_an_image_under_a_name_that_is_too_long_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="File name too long; make room or choose another place"):
        FileDiskWriter(tmp_path / ("x" * 300), 10)


def test_an_image_is_its_owners_alone_and_has_its_name_only_when_it_is_whole(
    tmp_path: Path,
) -> None:
    target = tmp_path / "deep" / "disk.raw"
    writer = FileDiskWriter(target, 100)
    writer.write(50, b"x")
    assert not target.exists()
    writer.finish()

    assert target.read_bytes() == bytes(50) + b"x" + bytes(49)
    assert target.stat().st_mode & 0o077 == 0


def test_room_is_set_aside_for_data_and_not_for_holes(workshop: Workshop, tmp_path: Path) -> None:
    disk = noise(1, 3 * CHUNK) + bytes(50 * CHUNK) + noise(2, 2 * CHUNK) + noise(3, 100)
    version = workshop.back_up(disk)
    told: list[tuple[list[Extent], int]] = []

    class Looking(FileDiskWriter):
        def reserve(self, extents: Iterable[Extent], total_bytes: int) -> None:
            wanted = list(extents)
            super().reserve(wanted, total_bytes)
            (partial,) = tmp_path.glob("*.partial")
            told.append((wanted, partial.stat().st_blocks * 512))

    restore_disk(
        workshop.store,
        version.record.disks[0],
        Looking(tmp_path / "out.raw", len(disk)),
        scratch=tmp_path,
        stop=StopToken(),
    )

    (wanted, room) = told[0]
    assert wanted == [Extent(0, 3 * CHUNK), Extent(53 * CHUNK, 2 * CHUNK + 100)]
    assert room == 0 or 5 * CHUNK < room < 10 * CHUNK  # some file systems set nothing aside
    assert (tmp_path / "out.raw").read_bytes() == disk
    assert (tmp_path / "out.raw").stat().st_blocks * 512 < 10 * CHUNK


def test_data_is_written_directly_however_little_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: write(to, data[: 12 * KIB], at))
    writer = DirectWriter(os.open(tmp_path / "image", os.O_WRONLY | os.O_CREAT))
    long, short = noise(1, 64 * KIB), noise(2, 4 * KIB)

    assert writer.takes(8 * KIB, long)
    assert not writer.takes(8 * KIB + 1, long)
    assert not writer.takes(8 * KIB, long + b"x")
    writer.write(72 * KIB, short)
    writer.write(8 * KIB, long)
    writer.write(76 * KIB, short)
    writer.close()

    assert (tmp_path / "image").read_bytes() == bytes(8 * KIB) + long + short + short


def test_what_the_file_system_does_not_write_directly_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused = os.pwrite, list[int]()

    def grudging(to: int, data: Buffer, at: int) -> int:
        if fcntl.fcntl(to, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(at)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(to, data, at)

    monkeypatch.setattr(os, "pwrite", grudging)
    first, second = noise(1, 8 * KIB), noise(2, 96 * KIB)
    writer = FileDiskWriter(tmp_path / "disk.raw", 128 * KIB + 3)
    writer.write(4 * KIB, first)
    writer.write(32 * KIB, second)
    writer.write(128 * KIB, b"end")
    writer.finish()

    assert len(refused) <= 1  # not even once where it is not tried, and never again
    whole = (bytes(4 * KIB) + first).ljust(32 * KIB, b"\0") + second + b"end"
    assert (tmp_path / "disk.raw").read_bytes() == whole


def test_a_disk_too_large_for_the_place_does_not_fill_it(tmp_path: Path) -> None:
    writer = FileDiskWriter(tmp_path / "disk.raw", 1 << 40)
    writer.reserve([Extent(0, 1 << 60)], 1 << 60)
    (partial,) = tmp_path.glob("*.partial")

    assert partial.stat().st_blocks == 0
    writer.abandon()


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1])
def test_an_image_no_file_system_can_hold_gets_a_sentence(size: int) -> None:
    with TemporaryDirectory(dir="/var/tmp") as folder:  # one in memory can hold anything
        with pytest.raises(BadInput, match="cannot be written: File too large; make room"):
            FileDiskWriter(Path(folder) / "disk.raw", size)
        assert not list(Path(folder).iterdir())


def test_a_restore_that_finds_no_room_gets_a_sentence(tmp_path: Path) -> None:
    writer = FileDiskWriter(tmp_path / "disk.raw", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 * KIB, before[1]))
    try:
        with pytest.raises(BadInput, match="make room or choose another place"):
            writer.write(0, bytes(64 * KIB))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.abandon()
    writer.abandon()


def test_a_restore_stops_when_it_is_asked_to(workshop: Workshop, tmp_path: Path) -> None:
    version = workshop.back_up(noise(1, 10 * CHUNK))
    stop = StopToken()
    stop.stop()

    with pytest.raises(Stopped):
        restore_disk(
            workshop.store,
            version.record.disks[0],
            FileDiskWriter(tmp_path / "out.raw", 10 * CHUNK),
            scratch=tmp_path,
            stop=stop,
        )
    assert not (tmp_path / "out.raw").exists()


def test_progress_of_a_restore_adds_up_to_the_disk(workshop: Workshop, tmp_path: Path) -> None:
    disk = noise(1, 5 * CHUNK) + bytes(7 * CHUNK) + noise(1, 100)
    version = workshop.back_up(disk)
    told: list[int] = []

    restore_disk(
        workshop.store,
        version.record.disks[0],
        FileDiskWriter(tmp_path / "out.raw", len(disk)),
        scratch=tmp_path,
        stop=StopToken(),
        progress=told.append,
    )

    assert sum(told) == len(disk)
    assert layout.PACKS == "packs"

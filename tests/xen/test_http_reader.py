"""Reading a frozen disk as one stream: every byte, or an error."""

import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likeness.errors import DiskShrank, Stopped, TransferBroken
from likeness.model.disk import Extent, Skips
from likeness.stopping import StopToken
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.pieces import pieces_to_read
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk
from tests.xen.conftest import MIB, Stage, read_all
from tests.xen.passage import Passage

KIB = 1 << 10


@pytest.fixture
def disk(stage: Stage) -> SnapshotDisk:
    return stage.snapshot().disks[0]


@pytest.mark.parametrize("segment_bytes", [64 * KIB, MIB, 4 * MIB])
def test_a_disk_comes_whole_in_segments_of_the_size_asked_for(
    stage: Stage, disk: SnapshotDisk, segment_bytes: int
) -> None:
    reader = HttpDiskReader(stage.xen, disk)
    with closing(reader):
        segments = list(reader.segments(segment_bytes))

    assert b"".join(segment.data for segment in segments) == stage.web
    assert [s.offset for s in segments] == list(range(0, len(stage.web), segment_bytes))
    assert {len(s.data) for s in segments[:-1]} <= {segment_bytes}
    assert reader.read_bytes == len(stage.web)


def test_what_is_to_be_skipped_is_left_out_and_nothing_else(
    stage: Stage, disk: SnapshotDisk
) -> None:
    skip = Skips((Extent(0, 64 * KIB), Extent(MIB - 64 * KIB, MIB)))

    content = read_all(HttpDiskReader(stage.xen, disk), skip=skip)

    expected = bytearray(stage.web)
    for extent in skip.unchanged:
        expected[extent.offset : extent.end] = bytes(extent.length)
    assert content == bytes(expected)


def test_an_empty_disk_gives_nothing(stage: Stage, disk: SnapshotDisk) -> None:
    empty = replace(disk, facts=replace(disk.facts, size_bytes=0))

    assert list(HttpDiskReader(stage.xen, empty).segments(MIB)) == []


def test_the_session_travels_in_a_cookie_and_in_no_address(
    stage: Stage, disk: SnapshotDisk
) -> None:
    passage = Passage(urlsplit(stage.server.url).port or 0)
    with XenSession.login(
        passage.url, username=stage.server.username, password=stage.server.password
    ) as xen:
        session = xen.ref.encode()
        assert read_all(HttpDiskReader(xen, disk)) == stage.web
    passage.close()

    heads = [data for data in passage.sent if data.startswith(b"GET /export_raw_vdi")]
    assert len(heads) == 1
    assert session not in heads[0].split(b"\r\n")[0]
    assert b"session_id=" + session in heads[0]


def test_a_stream_that_ends_early_is_a_broken_transfer(stage: Stage, disk: SnapshotDisk) -> None:
    stage.pool.faults.fail_export("short", after_bytes=MIB + 5)

    with pytest.raises(TransferBroken, match=r"sent 1,048,581 of 3,146,240 bytes"):
        read_all(HttpDiskReader(stage.xen, disk))

    assert read_all(HttpDiskReader(stage.xen, disk)) == stage.web


def test_an_error_inside_the_body_is_a_broken_transfer_with_its_reason(
    stage: Stage, disk: SnapshotDisk
) -> None:
    stage.pool.faults.fail_export("second-answer", after_bytes=2 * MIB)

    with pytest.raises(TransferBroken, match="VDI_IO_ERROR"):
        read_all(HttpDiskReader(stage.xen, disk))


def test_a_disk_that_holds_the_text_of_an_error_is_read_like_any_other(stage: Stage) -> None:
    trap = b"HTTP/1.1 500 Internal Server Error\r\n\r\n" * 1000
    stage.pool.write("web-1", 0, 0, trap)
    disk = stage.snapshot().disks[0]

    assert read_all(HttpDiskReader(stage.xen, disk)).startswith(trap)


def test_a_session_that_ends_during_the_transfer_breaks_it_and_the_next_one_works(
    stage: Stage, disk: SnapshotDisk
) -> None:
    stage.pool.faults.fail_export("session", after_bytes=MIB)

    with pytest.raises(TransferBroken):
        read_all(HttpDiskReader(stage.xen, disk))

    assert read_all(HttpDiskReader(stage.xen, disk)) == stage.web


def test_a_task_that_failed_takes_back_a_stream_that_came_whole(
    stage: Stage, disk: SnapshotDisk
) -> None:
    stage.pool.faults.fail("task.get_record", "INTERNAL_ERROR", "lost", times=0)

    with pytest.raises(TransferBroken, match="took it back"):
        read_all(HttpDiskReader(stage.xen, disk))


def test_a_stream_that_stalls_is_given_up(stage: Stage, disk: SnapshotDisk) -> None:
    stage.pool.faults.fail_export("stall", after_bytes=MIB)

    with pytest.raises(TransferBroken, match="no data came"):
        read_all(HttpDiskReader(stage.xen, disk, idle_seconds=0.5))


def test_stopping_ends_a_stream_that_stalls(stage: Stage, disk: SnapshotDisk) -> None:
    stage.pool.faults.fail_export("stall", after_bytes=MIB)
    stop = StopToken()
    timer = threading.Timer(0.2, stop.stop)
    timer.start()

    with pytest.raises(Stopped):
        read_all(HttpDiskReader(stage.xen, disk, stop=stop))
    timer.join()


def test_a_disk_that_is_smaller_than_announced_has_shrunk(stage: Stage, disk: SnapshotDisk) -> None:
    larger = replace(disk, facts=replace(disk.facts, size_bytes=disk.facts.size_bytes + 512))

    with pytest.raises(DiskShrank, match="smaller than it was"):
        read_all(HttpDiskReader(stage.xen, larger))


def test_a_host_that_sends_more_than_the_disk_holds_is_not_believed(
    stage: Stage, disk: SnapshotDisk
) -> None:
    smaller = replace(disk, facts=replace(disk.facts, size_bytes=disk.facts.size_bytes - 512))

    with pytest.raises(TransferBroken, match="more than"):
        read_all(HttpDiskReader(stage.xen, smaller))


def test_a_frozen_disk_that_is_gone_is_a_broken_transfer(stage: Stage, disk: SnapshotDisk) -> None:
    stage.xen.call("VDI.destroy", disk.ref)

    with pytest.raises(TransferBroken):
        read_all(HttpDiskReader(stage.xen, disk))


def test_a_session_that_ended_before_the_transfer_is_begun_again(
    stage: Stage, disk: SnapshotDisk
) -> None:
    stage.pool.sessions.end_all()

    assert read_all(HttpDiskReader(stage.xen, disk)) == stage.web


def test_a_session_that_ends_just_before_the_transfer_is_begun_again(
    stage: Stage, disk: SnapshotDisk
) -> None:
    real = stage.xen.call
    ended: list[object] = []

    def ending(method: str, *params: Any, **more: Any) -> Any:
        answer = real(method, *params, **more)
        if method == "task.create" and not ended:
            ended.append(stage.pool.sessions.end_all())
        return answer

    stage.xen.call = ending  # type: ignore[method-assign]
    assert read_all(HttpDiskReader(stage.xen, disk)) == stage.web
    assert ended


def test_a_pool_that_accepts_no_session_for_disks_is_given_up(
    stage: Stage, disk: SnapshotDisk
) -> None:
    real = stage.xen.call

    def ending(method: str, *params: Any, **more: Any) -> Any:
        answer = real(method, *params, **more)
        if method == "task.create":
            stage.pool.sessions.end_all()
        return answer

    stage.xen.call = ending  # type: ignore[method-assign]
    with pytest.raises(TransferBroken, match="accepts no session"):
        read_all(HttpDiskReader(stage.xen, disk))


def test_leaving_a_disk_half_read_leaves_no_task_pending(stage: Stage, disk: SnapshotDisk) -> None:
    reader = HttpDiskReader(stage.xen, disk)
    segments = reader.segments(64 * KIB)
    assert isinstance(segments, Generator)
    next(segments)
    segments.close()
    reader.close()
    reader.close()

    assert reader.read_bytes < len(stage.web)


extents = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 80)), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 300), segment=st.integers(1, 64), raw=extents)
def test_pieces_cover_exactly_what_is_not_skipped(
    size: int, segment: int, raw: list[tuple[int, int]]
) -> None:
    skips, end = [], 0
    for offset, length in sorted(raw):
        if offset >= end:
            skips.append(Extent(offset, length))
            end = offset + length

    pieces = list(pieces_to_read(size, segment, Skips(tuple(skips))))

    skipped = {byte for extent in skips for byte in range(extent.offset, extent.end)}
    covered = [byte for piece in pieces for byte in range(piece.offset, piece.end)]
    assert covered == [byte for byte in range(size) if byte not in skipped]
    assert all(p.length and p.offset // segment == (p.end - 1) // segment for p in pieces)

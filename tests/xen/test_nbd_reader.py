"""Reading by NBD: only what is needed, in any order, and on after a broken connection."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from likeness.errors import BadInput, DiskShrank, Stopped, TransferBroken
from likeness.model.disk import Extent, Segment, Skips
from likeness.stopping import StopToken
from likeness.xen.nbd import READ_LIMIT
from likeness.xen.nbd_reader import NbdDiskReader, NotOffered
from likeness.xen.reading import Way, open_reader
from likeness.xen.snapshots import SnapshotDisk
from tests.xen.conftest import MIB, Stage, read_all
from tests.xen.nbd_server import Manners, NbdServer
from tests.xen.tls_front import self_signed

KIB = 1 << 10


@pytest.fixture
def disk(stage: Stage) -> SnapshotDisk:
    return stage.snapshot().disks[0]


def offer(stage: Stage, server: NbdServer, purpose: str, pem: Path | None) -> None:
    """Let the pool say that its disks are to be had from this server."""
    db = stage.pool.db
    stage.pool.hosts.nbd_port = server.port
    name_certificate(stage, "" if pem is None else _certificate(pem))
    for network in db.where("network", bridge="xenbr0"):
        db.put("network", network, purpose=[purpose])
        for pif in db.get("network", network, "PIFs"):
            db.put("PIF", pif, IP="127.0.0.1")


def name_certificate(stage: Stage, pem: str) -> None:
    """What the pool says its hosts' certificates are."""
    for host in stage.pool.db.refs("host"):
        stage.pool.certificates[host] = pem


@pytest.fixture
def server(stage: Stage, disk: SnapshotDisk, tmp_path: Path) -> Generator[NbdServer, None, None]:
    pem = self_signed(tmp_path)
    with NbdServer({disk.uuid: stage.web}, pem) as server:
        offer(stage, server, "nbd", pem)
        yield server


@pytest.mark.parametrize("segment_bytes", [64 * KIB, MIB, 4 * MIB])
def test_a_disk_comes_whole_and_in_order(
    stage: Stage, server: NbdServer, disk: SnapshotDisk, segment_bytes: int
) -> None:
    reader = NbdDiskReader(stage.xen, disk)
    with closing(reader):
        segments = list(reader.segments(segment_bytes))

    assert b"".join(segment.data for segment in segments) == stage.web
    assert [s.offset for s in segments] == list(range(0, len(stage.web), segment_bytes))
    assert reader.read_bytes == len(stage.web)
    assert max(length for _, length in server.seen.reads) <= READ_LIMIT
    assert server.seen.connections == 1


def test_only_what_changed_crosses_the_wire(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    skip = Skips((Extent(0, MIB), Extent(MIB + 128 * KIB, len(stage.web))))

    reader = NbdDiskReader(stage.xen, disk)
    content = read_all(reader, skip=skip)

    assert content[MIB : MIB + 128 * KIB] == stage.web[MIB : MIB + 128 * KIB]
    assert server.seen.reads == [(MIB, 128 * KIB)]
    assert reader.read_bytes == 128 * KIB


def test_answers_may_come_in_any_order(stage: Stage, server: NbdServer, disk: SnapshotDisk) -> None:
    server.manners = Manners(reversed_answers=True)

    assert read_all(NbdDiskReader(stage.xen, disk), 64 * KIB) == stage.web


def test_requests_are_sent_ahead(stage: Stage, server: NbdServer, disk: SnapshotDisk) -> None:
    server.manners = Manners(stall=True)
    stop = StopToken()
    with closing(NbdDiskReader(stage.xen, disk, stop=stop)) as reader:
        segments = reader.segments(64 * KIB)
        waiting = threading.Thread(target=lambda: list_until_stopped(segments))
        waiting.start()
        soon(lambda: len(server.seen.reads) == 32)
        stop.stop()
        waiting.join(10.0)

    assert len(server.seen.reads) == 32


def test_a_broken_connection_is_replaced_and_reading_goes_on(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(break_after=MIB, breaks=2)

    assert read_all(NbdDiskReader(stage.xen, disk), 64 * KIB) == stage.web
    assert server.seen.connections == 3


def test_a_server_that_always_breaks_off_is_given_up(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(break_after=0, breaks=100)

    with pytest.raises(TransferBroken, match=r"disk 0 \(web-1 0\)"):
        read_all(NbdDiskReader(stage.xen, disk), 64 * KIB)


def test_a_range_that_cannot_be_read_is_a_broken_transfer(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(error_at=128 * KIB)

    with pytest.raises(TransferBroken, match="error 5"):
        read_all(NbdDiskReader(stage.xen, disk), 64 * KIB)


def test_a_server_that_stalls_is_given_up(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(stall=True)

    with pytest.raises(TransferBroken, match="sent nothing"):
        read_all(NbdDiskReader(stage.xen, disk, idle_seconds=0.3))


def test_stopping_ends_waiting_for_a_server_that_stalls(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(stall=True)
    stop = StopToken()
    timer = threading.Timer(0.3, stop.stop)
    timer.start()

    with pytest.raises(Stopped):
        read_all(NbdDiskReader(stage.xen, disk, stop=stop))
    timer.join()


def test_a_disk_that_shrank_is_not_read(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    server.manners = Manners(shorter_by=512)

    with pytest.raises(DiskShrank, match=r"has 3,145,728 bytes now"):
        NbdDiskReader(stage.xen, disk)


def test_closing_says_goodbye_so_that_the_host_lets_go(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    reader = NbdDiskReader(stage.xen, disk)
    reader.close()
    reader.close()

    soon(lambda: server.seen.goodbyes > 0)
    assert server.seen.goodbyes == 1


def test_a_certificate_the_pool_did_not_name_is_refused_before_the_session_is_sent(
    stage: Stage, server: NbdServer, disk: SnapshotDisk, tmp_path: Path
) -> None:
    name_certificate(stage, _certificate(self_signed(tmp_path, "another")))

    with pytest.raises(NotOffered, match="never confirmed"):
        NbdDiskReader(stage.xen, disk)
    assert server.seen.exports == []


def test_the_session_is_in_no_message(stage: Stage, server: NbdServer, disk: SnapshotDisk) -> None:
    server.disks.clear()

    with pytest.raises(NotOffered) as refused:
        NbdDiskReader(stage.xen, disk)

    assert stage.xen.ref not in str(refused.value)


def test_without_encryption_only_this_machine_is_read_from(
    stage: Stage, disk: SnapshotDisk
) -> None:
    with NbdServer({disk.uuid: stage.web}) as server:
        offer(stage, server, "insecure_nbd", None)
        assert read_all(NbdDiskReader(stage.xen, disk)) == stage.web


def test_nbd_is_chosen_where_it_answers(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    opened = open_reader(stage.xen, disk)

    assert opened.way is Way.NBD
    assert read_all(opened.reader) == stage.web


def test_http_is_chosen_where_the_pool_offers_no_nbd_and_the_reason_is_told(
    stage: Stage, disk: SnapshotDisk
) -> None:
    opened = open_reader(stage.xen, disk)

    assert opened.way is Way.HTTP
    assert "no network of the pool has the purpose nbd" in opened.reason
    assert read_all(opened.reader) == stage.web
    with pytest.raises(BadInput, match="no network"):
        open_reader(stage.xen, disk, way=Way.NBD)


def test_http_is_chosen_where_nbd_does_not_answer(
    stage: Stage, server: NbdServer, disk: SnapshotDisk
) -> None:
    with server:
        pass

    opened = open_reader(stage.xen, disk)
    assert opened.way is Way.HTTP
    assert "does not answer" in opened.reason


def test_http_can_be_asked_for(stage: Stage, server: NbdServer, disk: SnapshotDisk) -> None:
    assert open_reader(stage.xen, disk, way=Way.HTTP).way is Way.HTTP
    assert server.seen.connections == 0


def test_an_empty_disk_gives_nothing(stage: Stage, server: NbdServer, disk: SnapshotDisk) -> None:
    server.disks[disk.uuid] = b""
    empty = replace(disk, facts=replace(disk.facts, size_bytes=0))

    with closing(NbdDiskReader(stage.xen, empty)) as reader:
        assert list(reader.segments(MIB)) == []


def soon(condition: Callable[[], bool]) -> None:
    """Wait until something has happened on the other side, but not for ever."""
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.05)


def list_until_stopped(segments: Iterator[Segment]) -> None:
    with pytest.raises(Stopped):
        list(segments)


def _certificate(pem: Path) -> str:
    text = pem.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]

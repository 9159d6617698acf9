"""A host that answers disk requests as no host should is told from one that works."""

from collections.abc import Generator
from urllib.parse import urlsplit

import pytest

from likeness.errors import HostRefused, LikenessError, TransferBroken
from likeness.model.disk import Segment
from likeness.stopping import StopToken
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.restoring import write_disk
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk
from tests.xen.conftest import MIB, Stage, empty_disk, read_all
from tests.xen.passage import Passage


@pytest.fixture
def passage(stage: Stage) -> Generator[Passage, None, None]:
    passage = Passage(urlsplit(stage.server.url).port or 0)
    yield passage
    passage.close()


@pytest.fixture
def xen(stage: Stage, passage: Passage) -> Generator[XenSession, None, None]:
    with XenSession.login(
        passage.url, username=stage.server.username, password=stage.server.password
    ) as xen:
        yield xen


@pytest.fixture
def disk(stage: Stage) -> SnapshotDisk:
    return stage.snapshot().disks[0]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"", TransferBroken, "hung up without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", TransferBroken, "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n", TransferBroken, "hung up without an answer"),
        (b"x" * 100_000, TransferBroken, "gave no HTTP answer"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", TransferBroken, "HTTP 404"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", HostRefused, "does not let this account"),
        (b"HTTP/1.1 302 Found\r\nLocation: /export_raw_vdi\r\n\r\n", TransferBroken, "without end"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://evil.example/\r\n\r\n", HostRefused, "no host"),
        (b"HTTP/1.1 200 OK\r\n\r\nshort", TransferBroken, "5 of 3,146,240 bytes"),
    ],
)
def test_an_answer_that_is_none_is_never_taken_for_a_disk(
    xen: XenSession,
    passage: Passage,
    disk: SnapshotDisk,
    answer: bytes,
    kind: type[LikenessError],
    words: str,
) -> None:
    passage.instead[b"GET /export_raw_vdi"] = answer
    # Nobody completes the task of a request that never arrived.
    reader = HttpDiskReader(xen, disk, idle_seconds=2.0, task_seconds=0.2)

    with pytest.raises(kind, match=words):
        read_all(reader)

    passage.instead.clear()
    assert len(read_all(HttpDiskReader(xen, disk))) == disk.facts.size_bytes


def test_a_session_that_ended_before_a_write_is_begun_again_for_the_next_try(
    stage: Stage, xen: XenSession, passage: Passage
) -> None:
    disk = empty_disk(xen, 8 * MIB, stage.owner)
    passage.instead[b"PUT /import_raw_vdi"] = b"HTTP/1.1 401 Unauthorized\r\n\r\n"

    with pytest.raises(TransferBroken, match="session had ended"):
        write_disk(xen, disk, [Segment(0, b"x")], stop=StopToken())

    passage.instead.clear()
    assert write_disk(xen, disk, [Segment(0, b"x")]) == 1

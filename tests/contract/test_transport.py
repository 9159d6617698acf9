"""What every transport promises, tried on each of them."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from likeness.errors import NameTaken, ObjectMissing, ObjectUnreadable, ShareFull, ShareRefused
from likeness.transport.base import Entry, Transport
from likeness.transport.local import LocalTransport
from tests.s3.server import S3Server
from tests.smb.server import SmbServer
from tests.support.faulty import FaultyTransport
from tests.support.memory import MemoryTransport

MIB = 1 << 20
AROUND_EVERY_LIMIT = [0, 1, 64 * 1024, 64 * 1024 + 1, MIB, MIB + 1, 9 * MIB + 12_345]


@pytest.fixture(scope="module")
def smb_server() -> Generator[SmbServer, None, None]:
    server = SmbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def s3_server() -> Generator[S3Server, None, None]:
    server = S3Server()
    try:
        server.start()
        yield server
    finally:
        server.stop()


def make_s3(request: pytest.FixtureRequest, folder: Path) -> Transport:
    server: S3Server = request.getfixturevalue("s3_server")
    return server.transport(server.bucket(), f"contract/{folder.name}")


def make_memory(_: pytest.FixtureRequest, __: Path) -> Transport:
    return MemoryTransport()


def make_local(_: pytest.FixtureRequest, folder: Path) -> Transport:
    return LocalTransport(folder / "store", make=True)


def make_smb(request: pytest.FixtureRequest, folder: Path) -> Transport:
    server: SmbServer = request.getfixturevalue("smb_server")
    return server.transport(path=f"contract/{folder.name}")


def make_faulty(_: pytest.FixtureRequest, __: Path) -> Transport:
    return FaultyTransport(MemoryTransport())


Maker = Callable[[pytest.FixtureRequest, Path], Transport]


@pytest.fixture(
    params=[
        pytest.param(make_memory, id="memory"),
        pytest.param(make_local, id="local"),
        pytest.param(make_smb, id="smb", marks=pytest.mark.smb),
        pytest.param(make_s3, id="s3"),
        pytest.param(make_faulty, id="faulty without a fault"),
    ]
)
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    maker: Maker = request.param
    made = maker(request, tmp_path)
    yield made
    made.close()


def names(transport: Transport, folder: str) -> list[str]:
    return [entry.name for entry in transport.entries(folder)]


# --- create and read ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", AROUND_EVERY_LIMIT)
def test_what_was_created_is_read_back_whatever_its_size(transport: Transport, size: int) -> None:
    data = os.urandom(size)

    transport.create("packs/3f/object", [data])

    assert transport.read("packs/3f/object") == data
    assert transport.size("packs/3f/object") == size


def test_parts_are_joined_in_order_however_they_are_cut(transport: Transport) -> None:
    data = os.urandom(5 * MIB + 77)
    cuts = [0, 0, 1, 1000, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB, len(data)]
    parts = [data[start:end] for start, end in pairwise(cuts)]

    transport.create("packs/joined", parts)

    assert transport.read("packs/joined") == data


def test_many_small_parts_are_joined(transport: Transport) -> None:
    parts = [bytes([number % 256]) * (number % 7) for number in range(5000)]

    transport.create("packs/many", parts)

    assert transport.read("packs/many") == b"".join(parts)


@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]], ids=["no part", "one", "two"])
def test_an_empty_object_is_an_object(transport: Transport, parts: list[bytes]) -> None:
    transport.create("empty", parts)

    assert transport.read("empty") == b""
    assert transport.size("empty") == 0
    assert names(transport, "") == ["empty"]


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_name_that_is_taken_keeps_its_object(transport: Transport, size: int) -> None:
    transport.create("packs/a", [b"first"])

    with pytest.raises(NameTaken) as told:
        transport.create("packs/a", [bytes(size)])

    assert told.value.name == "packs/a"
    assert transport.read("packs/a") == b"first"


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 1),
        (3, 4),
        (MIB - 1, 2),
        (1, 3 * MIB),
        (2 * MIB, None),
        (4 * MIB, None),
        (4 * MIB, 10),
        (4 * MIB - 3, 10),
        (9 * MIB, 10),
        (9 * MIB, None),
        (0, 100 * MIB),
    ],
)
def test_a_range_is_what_a_slice_would_be(
    transport: Transport, offset: int, length: int | None
) -> None:
    data = os.urandom(4 * MIB)
    transport.create("packs/a", [data])

    wanted = data[offset:] if length is None else data[offset : offset + length]
    assert transport.read("packs/a", offset, length) == wanted


@pytest.mark.parametrize("name", ["missing", "nowhere/missing", "here/missing", "here"])
def test_a_missing_object_is_said_to_be_missing(transport: Transport, name: str) -> None:
    transport.create("here/present", [b"1"])

    for ask in (transport.read, transport.size):
        with pytest.raises(ObjectMissing) as told:
            ask(name)
        assert told.value.name == name
    with pytest.raises(ObjectMissing):
        transport.read(name, 0, 0)


@pytest.mark.parametrize("name", ["/etc/object", "../object", "packs/../../object", ".."])
def test_a_name_that_leads_out_of_the_store_is_refused(transport: Transport, name: str) -> None:
    transport.create("packs/here", [b"1"])

    for ask in (
        lambda: transport.create(name, [b"1"]),
        lambda: transport.read(name),
        lambda: transport.size(name),
        lambda: transport.rename("packs/here", name),
        lambda: transport.rename(name, "packs/there"),
        lambda: transport.delete(name),
    ):
        with pytest.raises(ShareRefused, match="no name inside a data store"):
            ask()


# --- listing -----------------------------------------------------------------------------------


def test_entries_come_sorted_by_their_whole_name_with_sizes(transport: Transport) -> None:
    sizes = {
        "packs/aa/2": 2,
        "packs/aa/1": 1,
        "packs/aa.old": 5,
        "packs/aa-1/x": 3,
        "packs/b": 7,
        "format": 4,
        "packs/aa0": 6,
    }
    for name, size in sizes.items():
        transport.create(name, [bytes(size)])

    assert list(transport.entries("")) == [Entry(name, sizes[name]) for name in sorted(sizes)]
    assert names(transport, "packs/aa") == ["packs/aa/1", "packs/aa/2"]
    assert list(transport.entries("", deep=False)) == [Entry("format", 4)]
    assert [entry.name for entry in transport.entries("packs", deep=False)] == [
        *("packs/aa.old", "packs/aa0", "packs/b")
    ]


def test_entries_of_a_folder_that_does_not_exist_are_none(transport: Transport) -> None:
    assert names(transport, "") == []
    assert names(transport, "nowhere") == []
    assert names(transport, "nowhere/deeper") == []


def test_a_folder_with_hundreds_of_objects_is_listed_whole(transport: Transport) -> None:
    wanted = [f"packs/{number:064d}" for number in range(200)]
    for name in reversed(wanted):
        transport.create(name, [b"x"])

    assert names(transport, "packs") == wanted


def test_folders_are_those_directly_inside(transport: Transport) -> None:
    for name in ("in/b/1", "in/a/deeper/2", "in/file", "other/3"):
        transport.create(name, [b""])

    assert transport.folders("") == ["in", "other"]
    assert transport.folders("in") == ["a", "b"]
    assert transport.folders("in/a") == ["deeper"]
    assert transport.folders("in/b") == []
    assert transport.folders("nowhere") == []
    for folder in ("", "in", "in/a", "in/b", "nowhere"):
        seen = transport.listing(folder)
        assert list(seen.files) == list(transport.entries(folder, deep=False))
        assert list(seen.folders) == transport.folders(folder)


# --- rename and delete -------------------------------------------------------------------------


def test_a_renamed_object_is_found_under_its_new_name_alone(transport: Transport) -> None:
    transport.create("in/run/pack", [b"bytes"])

    transport.rename("in/run/pack", "packs/3f/pack")

    assert transport.read("packs/3f/pack") == b"bytes"
    assert names(transport, "") == ["packs/3f/pack"]


def test_a_rename_replaces_nothing(transport: Transport) -> None:
    transport.create("in/pack", [b"new"])
    transport.create("packs/pack", [b"old"])

    with pytest.raises(NameTaken) as told:
        transport.rename("in/pack", "packs/pack")

    assert told.value.name == "packs/pack"
    assert transport.read("packs/pack") == b"old"
    assert transport.read("in/pack") == b"new"


@pytest.mark.parametrize("name", ["missing", "nowhere/missing"])
def test_a_missing_object_is_not_renamed(transport: Transport, name: str) -> None:
    with pytest.raises(ObjectMissing) as told:
        transport.rename(name, "packs/pack")

    assert told.value.name == name
    assert names(transport, "") == []


def test_a_deleted_object_is_gone_and_may_be_deleted_again(transport: Transport) -> None:
    transport.create("packs/a", [b"1"])
    transport.create("packs/b", [b"2"])

    transport.delete("packs/a")
    transport.delete("packs/a")
    transport.delete("nowhere/a")

    assert names(transport, "") == ["packs/b"]
    with pytest.raises(ObjectMissing):
        transport.read("packs/a")


def test_only_an_empty_folder_is_deleted(transport: Transport) -> None:
    transport.create("in/full/1", [b"1"])
    transport.create("in/empty/1", [b"1"])
    transport.delete("in/empty/1")

    for folder in ("in/full", "in/empty", "in/nowhere", "nowhere"):
        transport.delete_folder(folder)

    assert transport.folders("in") == ["full"]
    assert transport.read("in/full/1") == b"1"


def test_a_deleted_folder_is_made_again_when_needed(transport: Transport) -> None:
    transport.create("in/run/1", [b"1"])
    transport.delete("in/run/1")
    transport.delete_folder("in/run")

    transport.create("in/run/2", [b"2"])

    assert names(transport, "in") == ["in/run/2"]


# --- the whole ---------------------------------------------------------------------------------


def test_there_is_room_and_it_is_told_in_bytes(transport: Transport) -> None:
    space = transport.space()

    assert 0 < space.free_bytes <= space.total_bytes


def test_of_many_who_create_one_name_exactly_one_succeeds(transport: Transport) -> None:
    at_once = threading.Barrier(8)

    def attempt(number: int) -> int | None:
        at_once.wait()
        try:
            transport.create("packs/contested", [bytes([number]) * 100_000])
        except NameTaken:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        winners = [number for number in threads.map(attempt, range(8)) if number is not None]

    assert len(winners) == 1
    assert transport.read("packs/contested") == bytes(winners) * 100_000


def test_sixteen_threads_at_once_do_not_disturb_each_other(transport: Transport) -> None:
    def work(number: int) -> list[bytes]:
        read = []
        for turn in range(3):
            name = f"packs/{turn}/{number:02d}"
            transport.create(name, [bytes([number]) * 70_000, bytes([turn]) * 1_000_000])
            read.append(transport.read(name))
            transport.rename(name, f"kept/{number:02d}/{turn}")
        return read

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(work, range(16)))

    for number, read in enumerate(results):
        assert read == [bytes([number]) * 70_000 + bytes([t]) * 1_000_000 for t in range(3)]
    assert names(transport, "packs") == []
    assert names(transport, "kept") == [f"kept/{n:02d}/{t}" for n in range(16) for t in range(3)]


def test_closing_twice_is_harmless(transport: Transport) -> None:
    transport.create("a", [b"1"])

    transport.close()
    transport.close()


@pytest.mark.needs("mount")
def test_a_full_disk_gives_back_the_room_of_what_it_could_not_take(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: a small file system cannot be mounted")
    small = ["mount", "-t", "tmpfs", "-o", f"size={4 * MIB}", "tmpfs", str(tmp_path)]
    subprocess.run(small, check=True)
    try:
        transport = LocalTransport(tmp_path)
        transport.create("kept", [bytes(MIB)])

        with pytest.raises(ShareFull, match="no room left for packs/3f/new"):
            transport.create("packs/3f/new", [bytes(MIB)] * 5)

        assert names(transport, "") == ["kept"]
        transport.create("packs/3f/newer", [bytes(2 * MIB)])
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_link_that_leads_nowhere_hides_nothing_else(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path)
    transport.create("packs/3f/here", [b"1"])
    (tmp_path / "packs" / "dangling").symlink_to("nowhere")
    (tmp_path / "packs" / "to itself").symlink_to("to itself")

    assert names(transport, "") == ["packs/3f/here"]
    assert transport.folders("packs") == ["3f"]


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_an_object_holds_nobody_up(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path)
    os.mkfifo(tmp_path / "pipe")

    for ask in (transport.read, transport.size):
        with pytest.raises(ObjectMissing):
            ask("pipe")


def test_an_object_that_the_disk_does_not_give_is_told_from_a_share_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_sector(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    transport = LocalTransport(tmp_path)
    transport.create("here", [b"1"])
    monkeypatch.setattr(os, "pread", bad_sector)

    with pytest.raises(ObjectUnreadable, match="here: Input/output error"):
        transport.read("here")

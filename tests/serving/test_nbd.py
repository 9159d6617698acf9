"""A disk over NBD, as qemu's tools and a client of our own see it."""

import json
import random
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from likeness.errors import BadInput, ObjectUnreadable
from likeness.serving.exports import Overlay
from likeness.serving.nbd import NbdServer

needs_qemu = pytest.mark.needs("qemu-img", "qemu-io")
SIZE = (3 << 20) + 512


class InMemory:
    """A disk that cannot be read in one place."""

    def __init__(self, data: bytes, unreadable: range = range(0)) -> None:
        self.data, self.unreadable = data, unreadable

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        if any(at in self.unreadable for at in (offset, offset + length - 1)):
            raise ObjectUnreadable("bad sector")
        return self.data[offset : offset + length]


@pytest.fixture(scope="module")
def data() -> bytes:
    return random.Random(3).randbytes(SIZE)


@pytest.fixture
def server(data: bytes, tmp_path: Path) -> Iterator[NbdServer]:
    with NbdServer({"disk-1": InMemory(data)}, socket_path=tmp_path / "nbd") as server:
        yield server


def run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def copied(server: NbdServer, path: Path) -> subprocess.CompletedProcess[str]:
    return run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri("disk-1"), path)


@needs_qemu
def test_qemu_reads_the_whole_disk(server: NbdServer, data: bytes, tmp_path: Path) -> None:
    done = run(
        "qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri("disk-1"), tmp_path / "copy.raw"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.raw").read_bytes()[: len(data)] == data


@needs_qemu
def test_a_disk_without_an_overlay_is_not_written_to(server: NbdServer) -> None:
    done = run("qemu-io", "-f", "raw", "-c", "write 0 4k", server.uri("disk-1"))
    assert done.returncode != 0 or "read-only" in (done.stderr + done.stdout).lower()


@needs_qemu
def test_an_overlay_takes_writes_and_leaves_what_is_below(data: bytes, tmp_path: Path) -> None:
    below = InMemory(data)
    overlay = Overlay(below, tmp_path / "overlay")
    with NbdServer({"disk-1": overlay}) as server:
        commands = ["-c", "write -P 0xab 1000 5000", "-c", "write -z 8k 64k", "-c", "flush"]
        done = run("qemu-io", "-f", "raw", *commands, server.uri("disk-1"))
        assert done.returncode == 0, done.stderr
        run(
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            server.uri("disk-1"),
            tmp_path / "copy.raw",
        )
    wanted = bytearray(data)
    wanted[1000:6000] = b"\xab" * 5000
    wanted[8192 : 8192 + 65536] = bytes(65536)
    assert (tmp_path / "copy.raw").read_bytes()[: len(data)] == bytes(wanted)
    assert below.data == data
    overlay.close()
    assert list(tmp_path.glob("overlay*")) == []


def test_random_writes_through_an_overlay_read_back(data: bytes, tmp_path: Path) -> None:
    dice, wanted = random.Random(11), bytearray(data)
    overlay = Overlay(InMemory(data), tmp_path / "overlay")
    for _ in range(300):
        offset = dice.randrange(SIZE)
        piece = dice.randbytes(min(dice.choice((1, 511, 4096, 9000, 100_000)), SIZE - offset))
        overlay.write(offset, piece)
        wanted[offset : offset + len(piece)] = piece
        at = dice.randrange(SIZE)
        assert overlay.read(at, min(50_000, SIZE - at)) == bytes(wanted[at : at + 50_000])
    assert overlay.read(0, SIZE) == bytes(wanted)
    overlay.close()


class Sparse(InMemory):
    """A disk that knows where it is zeros, and counts what is read of it."""

    read_bytes = 0

    def is_zero(self, offset: int, length: int) -> bool:
        return not any(self.data[offset : offset + length])

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return super().read(offset, length)


@needs_qemu
def test_clients_are_told_where_zeros_are_and_do_not_read_them(data: bytes, tmp_path: Path) -> None:
    chunk = 256 << 10
    sparse = Sparse(data[:chunk] + bytes(40 * chunk) + data[:chunk] + bytes(9 * chunk))
    overlay = Overlay(sparse, tmp_path / "overlay")
    with NbdServer({"plain": sparse, "over": overlay}) as server:
        plain = json.loads(run("qemu-img", "map", "--output=json", server.uri("plain")).stdout)
        done = run("qemu-img", "convert", "-O", "raw", server.uri("plain"), tmp_path / "copy.raw")
        run("qemu-io", "-f", "raw", "-c", f"write -P 7 {5 * chunk} 4k", server.uri("over"))
        written = json.loads(run("qemu-img", "map", "--output=json", server.uri("over")).stdout)
    overlay.close()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy.raw").read_bytes() == sparse.data
    assert [(e["start"] // chunk, e["length"] // chunk, e["zero"]) for e in plain] == [
        (0, 1, False), (1, 40, True), (41, 1, False), (42, 9, True)
    ]  # fmt: skip
    assert [e["start"] // chunk for e in written if not e["zero"]] == [0, 5, 41]
    assert sparse.read_bytes < 4 * chunk


class Client:
    """Just enough of a client to ask for things that well-behaved ones never do."""

    def __init__(self, server: NbdServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        assert self.receive(18)[:8] == b"NBDMAGIC"
        self.socket.sendall(struct.pack(">I", 3))

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return data

    def option(self, option: int, data: bytes) -> list[int]:
        self.socket.sendall(struct.pack(">QII", 0x49484156454F5054, option, len(data)) + data)
        kinds: list[int] = []
        while not kinds or kinds[-1] in (2, 3):
            _, _, kind, length = struct.unpack(">QIII", self.receive(20))
            self.receive(length)
            kinds.append(kind)
        return kinds

    def go(self, name: bytes = b"") -> list[int]:
        return self.option(7, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))

    def request(self, command: int, offset: int, length: int, data: bytes = b"") -> int:
        frame = struct.pack(">IHHQQI", 0x25609513, 0, command, 77, offset, length)
        self.socket.sendall(frame + data)
        magic, error, handle = struct.unpack(">IIQ", self.receive(16))
        assert (magic, handle) == (0x67446698, 77)
        if command == 0 and not error:
            self.receive(length)
        return int(error)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def client(data: bytes) -> Iterator[Client]:
    with NbdServer({"disk-1": InMemory(data, range(4096, 8192))}) as server:
        client = Client(server)
        yield client
        client.close()


def test_what_cannot_be_read_is_an_error_and_the_connection_lives(client: Client) -> None:
    assert client.go() == [3, 3, 1]
    assert client.request(0, 4096, 4096) == 5
    assert client.request(0, 0, 4096) == 0


@pytest.mark.parametrize(
    ("command", "offset", "length", "error"),
    [(0, SIZE - 100, 200, 22), (0, 1 << 63, 10, 22), (1, 0, 4, 1), (9, 0, 0, 1), (4, 0, 4096, 1)],
)
def test_what_cannot_be_is_refused(
    client: Client, command: int, offset: int, length: int, error: int
) -> None:
    client.go(b"disk-1")
    assert client.request(command, offset, length, b"data" if command == 1 else b"") == error
    assert client.request(0, 0, 512) == 0


def test_an_unknown_name_or_option_is_refused_and_talk_goes_on(client: Client) -> None:
    assert client.go(b"disk-9") == [(1 << 31) + 6]
    assert client.option(99, b"") == [(1 << 31) + 1]
    assert client.option(3, b"") == [2, 1]
    assert client.go() == [3, 3, 1]


def test_closing_hangs_up_and_leaves_no_socket(data: bytes, tmp_path: Path) -> None:
    server = NbdServer({"disk-1": InMemory(data)}, socket_path=tmp_path / "nbd")
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(tmp_path / "nbd"))
        assert (tmp_path / "nbd").stat().st_mode & 0o077 == 0
        server.close()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_said(data: bytes) -> None:
    with NbdServer({"disk-1": InMemory(data)}) as server, pytest.raises(BadInput, match="port"):
        NbdServer({"disk-1": InMemory(data)}, port=server.port)

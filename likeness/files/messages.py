"""What the process that reads a guest's file systems and the one that started it say to each other.

Each message is its length in four bytes, then MessagePack. Names are bytes: a guest's names need
not be text.
"""

import socket
import struct
from typing import TypeVar

import msgspec

MAX_READ = 1 << 20
_MAX_FRAME = 4 << 20
_LENGTH = struct.Struct(">I")


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To the reader: do this. `name` is what `find` looks for."""

    action: str
    volume: bytes = b""
    path: tuple[bytes, ...] = ()
    name: str = ""


class Got(msgspec.Struct, frozen=True, tag=True):
    """To the reader: the bytes it needed; `lost` if the store has them no more."""

    data: bytes
    lost: bool = False


class Disk(msgspec.Struct, frozen=True, tag=True):
    """To the reader, at the start: a disk it may read, and what its volumes are named by."""

    position: str
    size_bytes: int


class Need(msgspec.Struct, frozen=True, tag=True):
    """From the reader: give me these bytes of a disk."""

    disk: int
    offset: int
    length: int


class Volume(msgspec.Struct, frozen=True, tag=True):
    """From the reader: a place where a file system is or could be; `kind` is empty if none is."""

    name: bytes
    disks: tuple[int, ...]
    size_bytes: int
    kind: str
    note: str = ""


class FileEntry(msgspec.Struct, frozen=True, tag=True):
    """From the reader: something with a name; `path` is what leads to it, itself last."""

    path: tuple[bytes, ...]
    kind: str  # file, folder, link or other
    size_bytes: int
    mode: int
    modified_ns: int
    accessed_ns: int
    target: bytes = b""


class Data(msgspec.Struct, frozen=True, tag=True):
    """From the reader: the next bytes of the file that was named last."""

    data: bytes


class Hole(msgspec.Struct, frozen=True, tag=True):
    """From the reader: as many zeros follow that take no room."""

    length: int


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """From the reader: this one thing could not be read; whatever came of it is not whole."""

    path: tuple[bytes, ...]
    cause: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """From the reader: that was all; `refused` says why, if nothing could be done."""

    refused: str = ""


class Lacking(msgspec.Struct, frozen=True, tag=True):
    """From the reader: this library is not installed."""

    module: str


FromReader = Need | Volume | FileEntry | Data | Hole | Trouble | Done | Lacking
ToReader = Ask | Got | Disk | Done
M = TypeVar("M")


class Channel:
    """One end of the pair of sockets."""

    def __init__(self, end: socket.socket) -> None:
        """Speak over a connected socket."""
        self._end = end
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: FromReader | ToReader) -> None:
        """Say one thing."""
        body = self._encoder.encode(message)
        self._end.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self, decoder: "msgspec.msgpack.Decoder[M]") -> M:
        """Hear one thing.

        Raises:
            EOFError: The other end is gone.
            ValueError: It says what nobody may say.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > _MAX_FRAME:
            raise ValueError("a message longer than any may be")
        return decoder.decode(self._exactly(length))

    def _exactly(self, length: int) -> bytearray:
        whole = bytearray(length)
        view, done = memoryview(whole), 0
        while done < length:
            count = self._end.recv_into(view[done:])
            if not count:
                raise EOFError
            done += count
        return whole

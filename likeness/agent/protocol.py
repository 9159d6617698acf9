"""What controller and agent say to each other; docs/agent.md has it in words.

Frames in both directions: kind u8 | length u32 | payload, integers little-endian. What is short
is JSON; what grows with a disk is binary and comes in pieces: neither side holds a map in memory.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from heapq import nlargest
from itertools import islice
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import DecodeError, Meta, Struct, json

from likeness.codec.records import Check
from likeness.errors import BadInput
from likeness.model.disk import Extent
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId
from likeness.store.format.documents import Count, Counts, Document, Hex32, Hex64, Text
from likeness.store.format.maps import FlatMap, Run

PROTOCOL = 3
"""Raised by every change that an agent or a controller of before would misread."""
MAX_FRAME_BYTES = 32 << 20
ALIVE_SECONDS = 5.0
"""How often the controller says that it is there, and the agent how far it is at the latest."""
SILENCE_SECONDS = 20
"""An agent that hears nothing for so long ends."""
AGENT_PACK_BYTES = 6 << 20
"""When a pack is full: several are in memory at once, and a delegate has little of it (150 MB)."""
DISTRUSTED_BYTES = 16
MAX_SKIPS = 1 << 17
"""Ranges of a disk that need not be read: 16 MB in the agent. What is read in vain is not sent."""
_HEAD = struct.Struct("<BI")
HEAD_BYTES = _HEAD.size
_RUN = struct.Struct("<HQ")
_DISK = struct.Struct("<H")
_EXTENT = struct.Struct("<QQ")
_PIECE = 1 << 14
_FILE_PIECE = 1 << 20
_STRETCH = 1 << 12
_MAX_DISKS = 1024
_T = TypeVar("_T")
_D = TypeVar("_D", bound=Document)


class FrameKind(IntEnum):
    """What a frame is; below 64 from the controller, above from the agent."""

    HEADER = 1
    PREVIOUS = 2
    SKIP = 3
    DISTRUSTED = 4
    SENT = 5
    GO = 6
    ALIVE = 7
    KNOWN = 8
    HELLO = 65
    PROGRESS = 66
    LOG = 67
    RECEIPT = 68
    MAP = 69
    END = 70
    ERROR = 71
    FOUND = 72
    FROZEN = 73
    RELIED_ON = 74


class OrderedDisk(Document, frozen=True):
    """A disk to read.

    Attributes:
        path: A device or file where the agent runs.
        previous: Whether its ids in the VM's last version follow.
    """

    disk: Hex32
    name: Text
    position: Text
    path: Text
    size_bytes: Count
    previous: bool


class GuestOrder(Document, frozen=True):
    """What an agent inside the guest does besides: it freezes the disks itself.

    Attributes:
        look: Only tell which disks there are.
        disks: Paths of those that are meant; empty for all.
        before: A command run before they are frozen.
        after: A command run once they are.
        script_seconds: How long each of the two may take.
        mark: Names snapshots in the guest, so that what a dead agent left is known.
    """

    look: bool = False
    disks: tuple[Text, ...] = ()
    before: Text = ""
    after: Text = ""
    script_seconds: Count = 60
    mark: Text = ""


class Header(Document, frozen=True):
    """The first frame: what to do. Nothing in it opens a stored byte.

    Attributes:
        scope: Whose chunk ids the chunk id key makes; stands in every pack.
        check: Which records it opens again before it sends them.
        trial: Name of an object to create in the inbox before anything else, to see that it can be
            done from there; empty for none.
        nice: Added to the agent's niceness.
        bytes_per_second: How fast disks are read at most; 0 for as fast as it goes.
        silence_seconds: An agent that hears nothing for so long ends.
        memory_mib: How much memory it may take; 0 for what its threads need.
        io_class: How its reads and writes wait for others': *idle*, *best-effort* or empty.
        guest: Set where the agent runs inside the VM that it reads.
    """

    protocol: Count
    run: Hex32
    store: Hex32
    box: Hex64
    chunk_id_key: Hex64
    scope: Hex32
    chunk_bytes: Count
    suite: Count
    level: Count
    seed: Hex64
    pack_bytes: Count
    workers: Count
    place: Text
    username: Text
    password: Text
    encrypt: bool
    disks: Annotated[tuple[OrderedDisk, ...], Meta(max_length=_MAX_DISKS)]
    trial: Text = ""
    check: Check = Check.ALL
    nice: Count = 10
    bytes_per_second: Count = 0
    silence_seconds: Count = SILENCE_SECONDS
    memory_mib: Count = 0
    io_class: Text = ""
    guest: GuestOrder | None = None

    def __repr__(self) -> str:
        return f"Header({self.run}, {len(self.disks)} disks)"


class Hello(Document, frozen=True):
    """The agent's first frame."""

    protocol: Count
    release: Text


class FoundDisk(Document, frozen=True):
    """A disk that a guest has."""

    path: Text
    name: Text
    position: Text
    size_bytes: Count


class Found(Document, frozen=True):
    """All disks of a guest that are meant."""

    disks: Annotated[tuple[FoundDisk, ...], Meta(max_length=_MAX_DISKS)]


class Frozen(Document, frozen=True):
    """How a guest's disks were read; told after the last byte.

    Attributes:
        consistency: *standard* if all is of one moment, *unfrozen* if not.
        note: What was frozen and how, and what became of the scripts.
        seconds: How long its snapshots were there.
    """

    consistency: Text
    note: Text
    seconds: float


class Progress(Document, frozen=True):
    """How far it is."""

    passed_bytes: Count
    counts: Counts


class Log(Document, frozen=True):
    """Something to be told."""

    message: Text


class End(Document, frozen=True):
    """All is done: every pack is durable, and the map is told.

    Attributes:
        roots: Of the disks' maps, in the order of the header.
        packs: How many were sent by this attempt.
        cpu_seconds: Of the agent's process.
        peak_bytes: The most memory it had.
    """

    roots: Annotated[tuple[Hex64, ...], Meta(max_length=_MAX_DISKS)]
    packs: Count
    counts: Counts
    cpu_seconds: float
    peak_bytes: Count


class Failure(Document, frozen=True):
    """It cannot be done.

    Attributes:
        type: An error of `likeness.errors`, or empty.
        retry: Whether another attempt may help.
    """

    type: Text
    message: Text
    retry: bool


def frame(kind: FrameKind, payload: bytes = b"") -> bytes:
    """A frame's bytes."""
    return _HEAD.pack(kind, len(payload)) + payload


def head_of(data: bytes) -> tuple[FrameKind, int]:
    """Kind and length of the frame that begins with these bytes.

    Raises:
        BadInput: No frame begins so.
    """
    kind, length = _HEAD.unpack(data)
    if kind not in FrameKind.__members__.values() or length > MAX_FRAME_BYTES:
        raise BadInput(
            "the other side does not speak the agent's language; see that nothing else, such as a"
            " login script, writes to its output"
        )
    return FrameKind(kind), length


class _Version(Struct):
    protocol: int


def opening(payload: bytes, kind: type[_D], *, of: str) -> _D:
    """The first thing the other side says; its version is looked at before anything else.

    Raises:
        BadInput: It speaks another version, or is no agent or controller at all.
    """
    try:
        theirs = json.decode(payload, type=_Version).protocol
        if theirs == PROTOCOL:
            return json.decode(payload, type=kind)
    except (DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise BadInput(f"the {of} does not say what it is ({cause}); install it anew") from cause
    raise BadInput(
        f"the {of} speaks version {theirs} of the agent's protocol and the other side version"
        f" {PROTOCOL}; install the same release on both"
    )


def map_frames(kind: FrameKind, disk: int, runs: Iterable[Run]) -> Iterator[bytes]:
    """Runs of a map as frames."""
    for run in runs:
        for at in range(0, run.count, _PIECE):
            ids = run.ids[at * CHUNK_ID_BYTES : (at + _PIECE) * CHUNK_ID_BYTES]
            yield frame(kind, _RUN.pack(disk, run.first + at) + ids)


def runs_between(new: FlatMap, base: FlatMap | None) -> Iterator[Run]:
    """All runs of a map that differ from another one, or from zero."""
    yield from runs_within(new, new.positions, base)


def runs_within(new: FlatMap, positions: int, base: FlatMap | None = None) -> Iterator[Run]:
    """The same of the first so many positions: a disk may have become smaller."""
    end = min(new.positions, positions)
    for first in range(0, end, _STRETCH):
        yield from new.runs_unlike(base, first, min(_STRETCH, end - first))


def take_run(payload: bytes, maps: "list[FlatMap | None]") -> None:
    """Write a run that came into the map it is of.

    Raises:
        BadInput: There is no such disk, or it has no such positions.
    """
    disk, first = _RUN.unpack_from(payload) if len(payload) >= _RUN.size else (len(maps), 0)
    ids = payload[_RUN.size :]
    target = maps[disk] if disk < len(maps) else None
    count, rest = divmod(len(ids), CHUNK_ID_BYTES)
    if target is None or rest or first + count > target.positions:
        raise BadInput("a map speaks of positions that its disk does not have; run the job again")
    target.write(first, ids)


def file_frames(kind: FrameKind, path: Path) -> Iterator[bytes]:
    """A file as frames, in its order."""
    with path.open("rb") as file:
        while piece := file.read(_FILE_PIECE):
            yield frame(kind, piece)


def skip_frames(disk: int, extents: Sequence[Extent], *, most: int = MAX_SKIPS) -> Iterator[bytes]:
    """Ranges that need not be read, as frames; of too many the longest."""
    longest = nlargest(most, extents, key=lambda each: each.length)
    for piece in _pieces(sorted(longest, key=lambda each: each.offset)):
        body = b"".join(_EXTENT.pack(each.offset, each.length) for each in piece)
        yield frame(FrameKind.SKIP, _DISK.pack(disk) + body)


def read_skips(payload: bytes, disks: int) -> tuple[int, list[Extent]]:
    """The ranges in a frame, and whose they are.

    Raises:
        BadInput: It is no such frame.
    """
    (disk,) = _DISK.unpack_from(payload) if len(payload) >= _DISK.size else (disks,)
    body = payload[_DISK.size :]
    if disk >= disks or len(body) % _EXTENT.size:
        raise BadInput("ranges to leave out are of no disk that was ordered")
    return disk, [Extent(offset, length) for offset, length in _EXTENT.iter_unpack(body)]


def joined_frames(kind: FrameKind, each: Iterable[bytes]) -> Iterator[bytes]:
    """Ids of one length, many to a frame."""
    for piece in _pieces(each):
        yield frame(kind, b"".join(piece))


def split(payload: bytes | bytearray, length: int) -> Iterator[ChunkId]:
    """The ids of such a frame.

    Raises:
        BadInput: They are of another length.
    """
    if len(payload) % length:
        raise BadInput("a list of ids is cut short")
    return (ChunkId(bytes(payload[at : at + length])) for at in range(0, len(payload), length))


def _pieces(each: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(each)
    while piece := list(islice(iterator, _PIECE)):
        yield piece

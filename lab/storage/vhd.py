"""VHD: the format disks travel in when only what is allocated, or changed, shall travel.

A dynamic file is footer copy, header, block table, blocks, footer; all numbers are big-endian. A
block is a bitmap of its sectors, then 2 MiB of data. A differencing file names its parent and marks
only the sectors that differ from it.
"""

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.storage.disk import Disk
from lab.storage.extents import Segment
from lab.storage.layers import Layer

SECTOR = 512
BLOCK_BYTES = 2 << 20
BLOCK_SECTORS = BLOCK_BYTES // SECTOR
BITMAP_BYTES = BLOCK_SECTORS // 8
HEADER_BYTES = 1024
TABLE_OFFSET = SECTOR + HEADER_BYTES
UNUSED = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
EPOCH_2000 = 946_684_800
MAX_VHD_BYTES = 2040 << 30

_FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sB427x")
_HEADER = struct.Struct(">8sQQIIII16sI4x512s192s256x")

Read = Callable[[int], bytes]


class BadVhd(ValueError):
    """The bytes are no VHD that can be taken."""


@dataclass(frozen=True)
class VhdPlan:
    """What goes into a file: which sectors of which blocks.

    Attributes:
        size: Bytes of the disk, a multiple of a sector.
        blocks: For every block that travels, its changed byte ranges; None means all of it.
        parent: Uuid of the disk it differs from, or empty.
    """

    size: int
    blocks: dict[int, list[tuple[int, int]] | None]
    parent: str = ""

    @property
    def table_entries(self) -> int:
        """How many blocks the disk has."""
        return -(-self.size // BLOCK_BYTES)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


# -- planning --------------------------------------------------------------------------------------


def plan_full(disk: Disk) -> VhdPlan:
    """Take every block that holds data; what reads as a hole stays out."""
    blocks: dict[int, list[tuple[int, int]] | None] = {}
    for start, end in _data_ranges(disk.segments(0, disk.size)):
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            blocks[block] = None
    return VhdPlan(_round_up(disk.size, SECTOR), dict(sorted(blocks.items())))


def _data_ranges(segments: list[Segment]) -> Iterator[tuple[int, int]]:
    for start, end, file in segments:
        if file is not None:
            yield from file.data_ranges(start, end)


def plan_difference(disk: Disk, base: Disk, base_uuid: str) -> VhdPlan:
    """Take the sectors written on either way from the layers both disks share."""
    shared = set(map(id, disk.top.chain())) & set(map(id, base.top.chain()))
    ranges: list[tuple[int, int]] = []
    for layer in [*disk.top.chain(), *base.top.chain()]:
        if id(layer) not in shared:
            ranges.extend(_layer_ranges(layer))
    blocks: dict[int, list[tuple[int, int]] | None] = {}
    for start, end in ranges:
        low = start // SECTOR * SECTOR
        high = min(_round_up(end, SECTOR), _round_up(disk.size, SECTOR))
        for block in range(low // BLOCK_BYTES, -(-high // BLOCK_BYTES)):
            first, last = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
            known = blocks.setdefault(block, [])
            if known is not None:
                known.append((max(low, first), min(high, last)))
    return VhdPlan(_round_up(disk.size, SECTOR), dict(sorted(blocks.items())), base_uuid)


def _layer_ranges(layer: Layer) -> Iterator[tuple[int, int]]:
    with layer.lock:
        yield from [(segment.start, segment.end) for segment in layer.extents]
    if layer.image is not None:
        yield from layer.image.data_ranges(0, layer.image.size)


# -- writing ---------------------------------------------------------------------------------------


def write_vhd(disk: Disk, plan: VhdPlan, disk_uuid: str, seconds: float) -> Iterator[bytes]:
    """Yield the bytes of a file.

    Args:
        disk: Where the data comes from.
        plan: What of it travels.
        disk_uuid: Uuid to write into the footer.
        seconds: Time stamp, in seconds since 1970.
    """
    stamp = max(0, int(seconds) - EPOCH_2000)
    footer = _footer(plan, uuid.UUID(disk_uuid).bytes, stamp)
    table_bytes = _round_up(plan.table_entries * 4, SECTOR)
    yield footer + _header(plan, stamp)
    first = (TABLE_OFFSET + table_bytes) // SECTOR
    step = (BITMAP_BYTES + BLOCK_BYTES) // SECTOR
    table = bytearray(b"\xff" * table_bytes)
    for number, block in enumerate(plan.blocks):
        struct.pack_into(">I", table, block * 4, first + number * step)
    yield bytes(table)
    for block, ranges in plan.blocks.items():
        start = block * BLOCK_BYTES
        data = disk.read(start, min(BLOCK_BYTES, max(0, disk.size - start)))
        yield _bitmap(start, ranges) + data.ljust(BLOCK_BYTES, b"\0")
    yield footer


def vhd_bytes(plan: VhdPlan) -> int:
    """How long the file of a plan is."""
    table = _round_up(plan.table_entries * 4, SECTOR)
    blocks = len(plan.blocks) * (BITMAP_BYTES + BLOCK_BYTES)
    return TABLE_OFFSET + table + blocks + SECTOR


def _bitmap(start: int, ranges: list[tuple[int, int]] | None) -> bytes:
    if ranges is None:
        return b"\xff" * BITMAP_BYTES
    bits = 0
    for low, high in ranges:
        first, last = (low - start) // SECTOR, (high - start) // SECTOR
        bits |= ((1 << (last - first)) - 1) << (BLOCK_SECTORS - last)
    return bits.to_bytes(BITMAP_BYTES, "big")


def _checksum(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def _geometry(size: int) -> bytes:
    """Cylinders, heads and sectors per track, as the format's description computes them."""
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads = 255, 16
        return struct.pack(">HBB", sectors // per_track // heads, heads, per_track)
    per_track = 17
    tracks = sectors // per_track
    heads = max(4, -(-tracks // 1024))
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        per_track, heads = 63, 16
        tracks = sectors // per_track
    return struct.pack(">HBB", tracks // heads, heads, per_track)


def _footer(plan: VhdPlan, unique: bytes, stamp: int) -> bytes:
    kind = DIFFERENCING if plan.parent else DYNAMIC
    geometry = int.from_bytes(_geometry(plan.size), "big")

    def pack(checksum: int) -> bytes:
        return _FOOTER.pack(
            b"conectix", 2, 0x00010000, SECTOR, stamp, b"tap\0", 0x00010003, b"\0\0\0\0",
            plan.size, plan.size, geometry, kind, checksum, unique, 0,
        )  # fmt: skip

    return pack(_checksum(pack(0)))


def _header(plan: VhdPlan, stamp: int) -> bytes:
    name = f"{plan.parent}.vhd" if plan.parent else ""
    unique = uuid.UUID(plan.parent).bytes if plan.parent else bytes(16)

    def pack(checksum: int) -> bytes:
        return _HEADER.pack(
            b"cxsparse", 0xFFFFFFFFFFFFFFFF, TABLE_OFFSET, 0x00010000, plan.table_entries,
            BLOCK_BYTES, checksum, unique, stamp if plan.parent else 0,
            name.encode("utf-16-be"), b"",
        )  # fmt: skip

    return pack(_checksum(pack(0)))


# -- reading ---------------------------------------------------------------------------------------


def read_vhd(read: Read, length: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield offset and data of every run of sectors a file marks, reading it front to back once.

    The first item is the size of the disk, with no data. A fixed file has no more than a footer at
    its end, so it can be read only where the length is known.

    Args:
        read: Returns exactly as many bytes as asked for, or fewer at the end.
        length: Bytes of the whole file, if known.

    Raises:
        BadVhd: No VHD, or it ends early.
    """
    stream = _Stream(read)
    begin = stream.take(SECTOR)
    footer = _FOOTER.unpack(begin)
    if footer[0] != b"conectix" and length is not None and length % SECTOR == 0:
        yield from _read_fixed(stream, begin, length - SECTOR)
        return
    if footer[0] != b"conectix" or footer[11] not in (DYNAMIC, DIFFERENCING):
        raise BadVhd("neither a dynamic nor a differencing VHD")
    size, header_at = footer[9], footer[3]
    yield size, b""
    stream.skip_to(header_at)
    header = _HEADER.unpack(stream.take(HEADER_BYTES))
    if header[0] != b"cxsparse" or header[5] % SECTOR or not 0 < header[5] <= 64 << 20:
        raise BadVhd("the header is damaged")
    table_at, entries, block_bytes = header[2], header[4], header[5]
    stream.skip_to(table_at)
    table = struct.unpack(f">{entries}I", stream.take(entries * 4))
    placed = sorted((at, block) for block, at in enumerate(table) if at != UNUSED)
    bitmap_bytes = _round_up(-(-block_bytes // SECTOR // 8), SECTOR)
    for at, block in placed:
        stream.skip_to(at * SECTOR)
        bitmap, data = stream.take(bitmap_bytes), stream.take(block_bytes)
        for first, last in _runs(bitmap, block_bytes // SECTOR):
            low = block * block_bytes + first * SECTOR
            high = min(block * block_bytes + last * SECTOR, size)
            if low < high:
                yield low, data[first * SECTOR : first * SECTOR + high - low]


def _read_fixed(stream: "_Stream", first: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Take the data as it comes; only what stands at the end tells that it was a VHD."""
    yield size, b""
    yield 0, first
    position = SECTOR
    while position < size:
        data = stream.take(min(BLOCK_BYTES, size - position))
        yield position, data
        position += len(data)
    footer = _FOOTER.unpack(stream.take(SECTOR))
    if (footer[0], footer[11]) != (b"conectix", FIXED):
        raise BadVhd("no VHD")


def _runs(bitmap: bytes, sectors: int) -> Iterator[tuple[int, int]]:
    if bitmap[: sectors // 8] == b"\xff" * (sectors // 8) and sectors % 8 == 0:
        yield 0, sectors
        return
    bits = "".join(f"{byte:08b}" for byte in bitmap)[:sectors]
    first = bits.find("1")
    while first >= 0:
        last = bits.find("0", first)
        last = sectors if last < 0 else last
        yield first, last
        first = bits.find("1", last)


class _Stream:
    def __init__(self, read: Read) -> None:
        self._read = read
        self._position = 0

    def take(self, length: int) -> bytes:
        data = self._read(length)
        if len(data) < length:
            raise BadVhd("the data ends early")
        self._position += length
        return data

    def skip_to(self, position: int) -> None:
        if position < self._position:
            raise BadVhd("the parts are in an order that cannot be streamed")
        while self._position < position:
            self.take(min(position - self._position, BLOCK_BYTES))

"""Block status over NBD: which ranges of a disk are zeros, so that clients need not read them."""

import struct
from collections.abc import Iterator

from likeness.serving.exports import Export

ALLOCATION = b"base:allocation"
CONTEXT = 1
"""The number that stands for `ALLOCATION` once it was agreed on."""

STRUCTURED_MAGIC = 0x668E33EF
DONE = 1
DATA, HOLE, STATUS, ERROR = 1, 2, 5, (1 << 15) + 1
_CHUNK = struct.Struct(">IHHQI")
_HOLE_AND_ZERO = 3
_STEP_BYTES = 256 << 10
_MAX_BYTES = 8 << 30
_MAX_RANGES = 4096


def queries_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The export's name and the contexts that an option asks for.

    Raises:
        struct.error: It is cut off.
    """
    (length,) = struct.unpack_from(">I", data)
    name, at = data[4 : 4 + length], 4 + length
    (count,) = struct.unpack_from(">I", data, at)
    at, found = at + 4, []
    for _ in range(min(count, 64)):
        (length,) = struct.unpack_from(">I", data, at)
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return name, found


def is_asked_for(queries: list[bytes], *, listing: bool) -> bool:
    """Whether `ALLOCATION` is among what is asked for; a list may name the beginning only."""
    return (listing and (not queries or b"base:" in queries)) or ALLOCATION in queries


def chunk(kind: int, handle: int, payload: bytes) -> bytes:
    """The only chunk of a structured reply."""
    return _CHUNK.pack(STRUCTURED_MAGIC, DONE, kind, handle, len(payload)) + payload


def is_zero(export: Export, offset: int, length: int) -> bool:
    """Whether a range is zeros for certain; nothing is read to find out."""
    asked = getattr(export, "is_zero", None)
    return bool(asked and asked(offset, length))


def status(export: Export, offset: int, length: int, *, only_one: bool) -> bytes:
    """What a status reply says of a range, or of its beginning where it is very long."""
    ranges: list[list[int]] = []
    for part, zero in _parts(export, offset, min(length, _MAX_BYTES)):
        flags = _HOLE_AND_ZERO if zero else 0
        if ranges and ranges[-1][1] == flags and ranges[-1][0] + part < 1 << 32:
            ranges[-1][0] += part
            continue
        if len(ranges) == (1 if only_one else _MAX_RANGES):
            break
        ranges.append([part, flags])
    return struct.pack(">I", CONTEXT) + b"".join(struct.pack(">II", *each) for each in ranges)


def _parts(export: Export, offset: int, length: int) -> Iterator[tuple[int, bool]]:
    end = offset + length
    while offset < end:
        upto = min((offset // _STEP_BYTES + 1) * _STEP_BYTES, end)
        yield upto - offset, is_zero(export, offset, upto - offset)
        offset = upto

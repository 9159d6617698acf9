"""Where the chunks of a pack lie, packed: what is known of a million chunks is a few buffers."""

import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from likeness.model.ids import CHUNK_ID_BYTES, ChunkId

_PLACE = struct.Struct(f"<{CHUNK_ID_BYTES}sII")
_IN_TABLE = struct.Struct(f"<{CHUNK_ID_BYTES}sQI")
LOCATION_BYTES = _PLACE.size


@dataclass(frozen=True, slots=True)
class Location:
    """Where a chunk's record lies in its pack."""

    chunk: ChunkId
    offset: int
    length: int


class PackLocations(Sequence[Location]):
    """The places of one pack, in order; each is made when it is asked for.

    Packed, little-endian, as in index segments and receipts: chunk id 32 | offset u32 | length u32.
    """

    __slots__ = ("packed",)

    def __init__(self, packed: bytes = b"") -> None:
        """Take packed places as they are.

        Raises:
            ValueError: The last one is cut short.
        """
        if len(packed) % LOCATION_BYTES:
            raise ValueError("places are cut short")
        self.packed = packed

    @classmethod
    def of(cls, locations: Iterable[Location]) -> "PackLocations":
        """Pack some places; those that are packed already are given back."""
        if isinstance(locations, cls):
            return locations
        return cls(b"".join(_PLACE.pack(p.chunk, p.offset, p.length) for p in locations))

    @classmethod
    def from_table(cls, plain: bytes) -> "PackLocations":
        """The places in a pack's own table, whose offsets are u64.

        Raises:
            ValueError: It is cut short, or an offset lies beyond any pack.
        """
        try:
            each = _IN_TABLE.iter_unpack(plain)
            return cls(b"".join(_PLACE.pack(*entry) for entry in each))
        except struct.error as cause:
            raise ValueError("a table says what cannot be") from cause

    def as_table(self) -> bytes:
        """A pack's own table of these."""
        return b"".join(_IN_TABLE.pack(*entry) for entry in _PLACE.iter_unpack(self.packed))

    def chunks(self) -> Iterator[ChunkId]:
        """The chunk ids alone, in order."""
        for at in range(0, len(self.packed), LOCATION_BYTES):
            yield ChunkId(self.packed[at : at + CHUNK_ID_BYTES])

    def only(self, chunks: Container[bytes]) -> "PackLocations":
        """Those of some chunks."""
        each = (
            self.packed[at : at + LOCATION_BYTES]
            for at in range(0, len(self.packed), LOCATION_BYTES)
        )
        return PackLocations(b"".join(one for one in each if one[:CHUNK_ID_BYTES] in chunks))

    def __len__(self) -> int:
        return len(self.packed) // LOCATION_BYTES

    def __iter__(self) -> Iterator[Location]:
        for chunk, offset, length in _PLACE.iter_unpack(self.packed):
            yield Location(ChunkId(chunk), offset, length)

    @overload
    def __getitem__(self, at: int) -> Location: ...
    @overload
    def __getitem__(self, at: slice) -> "PackLocations": ...
    def __getitem__(self, at: int | slice) -> "Location | PackLocations":
        if isinstance(at, slice):
            return PackLocations.of([self[each] for each in range(*at.indices(len(self)))])
        begin = range(len(self))[at] * LOCATION_BYTES
        chunk, offset, length = _PLACE.unpack_from(self.packed, begin)
        return Location(ChunkId(chunk), offset, length)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackLocations):
            return self.packed == other.packed
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"PackLocations({len(self)})"

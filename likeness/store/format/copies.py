"""Copies: where a data block may be relied on, as whoever remembers all packs tells it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from likeness.model.ids import ChunkId, PackId


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a data block is held too, by a pack that was proved not long ago."""

    pack: PackId
    size_bytes: int


Copies = Callable[[Collection[ChunkId]], Mapping[ChunkId, Copy]]
"""Tells where data blocks may be relied on instead; those without such a place are left out."""


def no_copies(_chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
    """Rely on no other pack."""
    return {}

"""Ledger: which data blocks were proved, kept in local files, so that no memory need hold them all.

32 bytes a block: for a store of 10 TiB about 1.3 GiB, at 256 KiB a block.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, random_name

MAX_IN_MIND = 1 << 20
"""Block ids held in memory in one turn: about 100 MB."""
_BUFFER_BYTES = 1 << 16
_FIRST_BYTES = range(256)


class Ledger:
    """Ids of data blocks, by their first byte."""

    def __init__(self, folder: Path) -> None:
        """Keep them in new files in `folder`."""
        self._folder, self._name = folder, random_name()
        self._buffers: dict[int, bytearray] = defaultdict(bytearray)
        self._counts = [0] * len(_FIRST_BYTES)

    def add(self, chunks: Iterable[ChunkId]) -> None:
        """Enter blocks; entering one again does no harm."""
        for chunk in chunks:
            buffer = self._buffers[chunk[0]]
            buffer += chunk
            self._counts[chunk[0]] += 1
            if len(buffer) >= _BUFFER_BYTES:
                with self._path(chunk[0]).open("ab") as file:
                    file.write(buffer)
                buffer.clear()

    def turns(self, most: int = MAX_IN_MIND) -> Iterator[tuple[frozenset[int], set[bytes]]]:
        """First bytes, and every block that begins with one of them; all blocks in few turns."""
        firsts: list[int] = []
        counted = 0
        for first in _FIRST_BYTES:
            if firsts and counted + self._counts[first] > most:
                yield frozenset(firsts), self._blocks(firsts)
                firsts, counted = [], 0
            firsts.append(first)
            counted += self._counts[first]
        yield frozenset(firsts), self._blocks(firsts)

    def _blocks(self, firsts: Iterable[int]) -> set[bytes]:
        found: set[bytes] = set()
        for first in filter(self._counts.__getitem__, firsts):
            path = self._path(first)
            kept = path.read_bytes() if path.exists() else b""
            for data in (kept, bytes(self._buffers[first])):
                ends = range(0, len(data), CHUNK_ID_BYTES)
                found.update(data[at : at + CHUNK_ID_BYTES] for at in ends)
        return found

    def _path(self, first: int) -> Path:
        return self._folder / f"{self._name}-{first:02x}.ledger"

"""Relied on: chunks of a transfer that were not sent, since the store had them already.

They may be many, so they are written to a local file as they are found. The commit asks for each of
them once more: what others brought may have been given up meanwhile.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from likeness.model.ids import CHUNK_ID_BYTES, ChunkId

_AT_ONCE = 1 << 12


class TakesReliedOn(Protocol):
    """Takes chunk ids as they are found, from many threads."""

    def add(self, chunk: ChunkId) -> None:
        """Note a chunk that was not sent."""


class ReliedOn:
    """Chunk ids in a local file."""

    def __init__(self, path: Path) -> None:
        """Begin an empty list at `path`."""
        self._path, self._lock = path, threading.Lock()
        self._path.touch(mode=0o600, exist_ok=False)
        self._waiting: list[ChunkId] = []
        self.chunks = 0

    def add(self, chunk: ChunkId) -> None:
        """See `TakesReliedOn.add`."""
        with self._lock:
            self._waiting.append(chunk)
            self.chunks += 1
            if len(self._waiting) == _AT_ONCE:
                self._write()

    def _write(self) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(self._waiting))
        self._waiting = []

    def __iter__(self) -> Iterator[ChunkId]:
        """Every chunk that was noted so far."""
        with self._lock:
            self._write()
        with self._path.open("rb") as file:
            while piece := file.read(_AT_ONCE * CHUNK_ID_BYTES):
                for at in range(0, len(piece), CHUNK_ID_BYTES):
                    yield ChunkId(piece[at : at + CHUNK_ID_BYTES])

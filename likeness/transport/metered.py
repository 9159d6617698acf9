"""A transport that counts what is read of packs, so that progress moves inside a pack too."""

import threading
from collections.abc import Iterator, Sequence

from likeness.clock import stopwatch
from likeness.transport.base import Entry, Space, Transport

_PIECE_BYTES = 1 << 20
_PATIENCE_SECONDS = 1.0


class MeteredTransport:
    """Passes everything on, and counts. Once a read took long, long ones are read in pieces."""

    def __init__(self, inner: Transport, *, folder: str) -> None:
        """Count what is read in `folder`."""
        self._inner, self._prefix = inner, f"{folder}/"
        self._counting = threading.Lock()
        self._slow = False
        self.read_bytes = 0
        self.all_read_bytes = 0

    def __repr__(self) -> str:
        return repr(self._inner)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        if not self._slow or length is None or length <= _PIECE_BYTES:
            return self._read(name, offset, length)
        pieces = []
        for start in range(offset, offset + length, _PIECE_BYTES):
            wanted = min(_PIECE_BYTES, offset + length - start)
            pieces.append(self._read(name, start, wanted))
            if len(pieces[-1]) < wanted:
                break
        return b"".join(pieces)

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        begun = stopwatch()
        data = self._inner.read(name, offset, length)
        self._slow = self._slow or stopwatch() - begun > _PATIENCE_SECONDS
        with self._counting:
            self.all_read_bytes += len(data)
            if name.startswith(self._prefix):
                self.read_bytes += len(data)
        return data

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`."""
        self._inner.create(name, parts)

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        return self._inner.size(name)

    def entries(self, folder: str) -> Iterator[Entry]:
        """See `Transport.entries`."""
        return self._inner.entries(folder)

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        return self._inner.folders(folder)

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`."""
        self._inner.rename(name, new_name)

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        self._inner.delete(name)

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        self._inner.delete_folder(folder)

    def space(self) -> Space:
        """See `Transport.space`."""
        return self._inner.space()

    def close(self) -> None:
        """See `Transport.close`."""
        self._inner.close()

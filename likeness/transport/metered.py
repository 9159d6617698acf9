"""A transport that counts what is read of packs, so that progress moves inside a pack too."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from likeness.clock import stopwatch
from likeness.transport.base import Entry, Space, Transport

_LEAST_PIECE_BYTES = 1 << 18
_SECONDS_A_PIECE = 1.0


class MeteredTransport:
    """Passes everything on, and counts.

    Long reads are made in pieces that take about a second each, from 256 KiB upwards: over a slow
    link they move all the time, over a quick one they are whole.
    """

    def __init__(self, inner: Transport, *, folder: str) -> None:
        """Count what is read in `folder`."""
        self._inner, self._prefix = inner, f"{folder}/"
        self._counting = threading.Lock()
        self._piece_bytes = _LEAST_PIECE_BYTES
        self.read_bytes = 0
        self.all_read_bytes = 0

    def __repr__(self) -> str:
        return repr(self._inner)

    def __str__(self) -> str:
        return str(self._inner)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        if length is None:
            return self._read(name, offset, length)
        pieces: list[bytes] = []
        start, end = offset, offset + length
        while not pieces or start < end:
            wanted = min(self._piece_bytes, end - start)
            pieces.append(self._read(name, start, wanted))
            start += wanted
            if len(pieces[-1]) < wanted:
                break
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        begun = stopwatch()
        data = self._inner.read(name, offset, length)
        took = max(stopwatch() - begun, 0.001)
        with self._counting:
            if len(data) >= _LEAST_PIECE_BYTES:
                at_this_speed = int(len(data) / took * _SECONDS_A_PIECE)
                most = 8 * self._piece_bytes  # one quick answer proves little
                self._piece_bytes = max(min(at_this_speed, most), _LEAST_PIECE_BYTES)
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

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        return self._inner.entries(folder, deep=deep)

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

    def again(self) -> AbstractContextManager[Transport]:
        """See `Transport.again`; second looks are no progress, and not counted."""
        return self._inner.again()

    def close(self) -> None:
        """See `Transport.close`."""
        self._inner.close()

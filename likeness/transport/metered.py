"""A transport that counts what is read of packs, so that progress moves inside a pack too."""

import threading

from likeness.clock import stopwatch
from likeness.transport.base import Transport
from likeness.transport.passing import PassingTransport

_LEAST_PIECE_BYTES = 1 << 18
_SECONDS_A_PIECE = 1.0


class MeteredTransport(PassingTransport):
    """Passes everything on, and counts; a second look is no progress, and not counted.

    Long reads are made in pieces that take about a second each, from 256 KiB upwards: over a slow
    link they move all the time, over a quick one they are whole.
    """

    def __init__(self, inner: Transport, *, folder: str) -> None:
        """Count what is read in `folder`."""
        super().__init__(inner)
        self._prefix = f"{folder}/"
        self._counting = threading.Lock()
        self._piece_bytes = _LEAST_PIECE_BYTES
        self.read_bytes = 0
        self.all_read_bytes = 0

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

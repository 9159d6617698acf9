"""A cap on how fast disks are read, shared by everybody who reads for one job."""

import threading

from likeness.clock import stopwatch
from likeness.stopping import StopToken

_BURST_SECONDS = 0.25
_MAX_WAIT = 0.5


class BandwidthCap:
    """Hands out bytes at a steady rate; shared by threads.

    A quarter of a second's worth may pass at once, so that short pauses are made up for and the
    rate over a few seconds stays within a tenth of what was asked for.
    """

    def __init__(self, bytes_per_second: float) -> None:
        if bytes_per_second <= 0:
            raise ValueError("a bandwidth cap is a positive number of bytes a second")
        self._rate = float(bytes_per_second)
        self._left = self._rate * _BURST_SECONDS
        self._filled_at = stopwatch()
        self._lock = threading.Lock()

    def take(self, count: int, *, stop: StopToken) -> None:
        """Wait until `count` more bytes may be read.

        Raises:
            Stopped: Somebody asked to stop.
        """
        wait = self.owed(count, now=stopwatch())
        while wait > 0:
            stop.wait(min(wait, _MAX_WAIT))
            stop.check()
            wait -= _MAX_WAIT

    def owed(self, count: int, *, now: float) -> float:
        """Book `count` bytes at a moment.

        Args:
            count: Bytes that are about to be read.
            now: Seconds, as `likeness.clock.stopwatch` tells them.

        Returns:
            Seconds to wait before reading them.
        """
        with self._lock:
            since = max(0.0, now - self._filled_at)
            self._left = min(self._left + since * self._rate, self._rate * _BURST_SECONDS) - count
            self._filled_at = max(now, self._filled_at)
            return -self._left / self._rate if self._left < 0 else 0.0

"""Pauses between attempts, while hosts of a pool do not answer."""

from likeness.clock import stopwatch
from likeness.errors import Stopped
from likeness.stopping import StopToken

_LONGEST_PAUSE = 5.0


class GrowingPauses:
    """Pauses that grow, until they have used up what was allowed."""

    def __init__(self, seconds: float, stop: StopToken) -> None:
        """Begin to count; `stop` ends a pause early."""
        self._ends_at = stopwatch() + seconds
        self._pause = 0.1
        self._stop = stop
        self.logged_in_again = False

    def pause(self) -> bool:
        """Wait before another attempt; False when there shall be none.

        Raises:
            Stopped: Somebody asked to stop.
        """
        left = self._ends_at - stopwatch()
        if left <= 0:
            return False
        if self._stop.wait(min(self._pause, left)):
            raise Stopped("stopped on request while waiting for a host of the pool to answer")
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return True

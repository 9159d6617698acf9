"""How a run is asked to stop: one token that every loop looks at."""

import threading

from likeness.errors import Stopped


class StopToken:
    """Raised once by whoever cancels, looked at by every loop that moves data."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def stop(self) -> None:
        """Ask everybody who holds this token to stop; safe to repeat."""
        self._asked.set()

    @property
    def stopped(self) -> bool:
        """Whether somebody asked."""
        return self._asked.is_set()

    def check(self) -> None:
        """Return at once, or leave.

        Raises:
            Stopped: Somebody asked to stop.
        """
        if self._asked.is_set():
            raise Stopped("stopped on request; what was begun is being cleaned up")

    def wait(self, seconds: float) -> bool:
        """Sleep, but wake at once when somebody asks; say whether somebody did."""
        return self._asked.wait(seconds)

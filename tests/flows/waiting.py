"""Waiting for something to become true, with a deadline that only a hang reaches."""

import time
from collections.abc import Callable

TIMEOUT_SECONDS = 90.0


def wait_until(
    true: Callable[[], object], what: str, *, seconds: float = TIMEOUT_SECONDS, pause: float = 0.02
) -> None:
    """Return as soon as `true()` is; fail if it never becomes so."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(pause)

"""Time as an argument, so that ages and windows can be tested without waiting."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present moment, aware, in UTC."""


def system_clock() -> datetime:
    """The machine's own clock."""
    return datetime.now(UTC)  # the one place that asks the machine


def cpu_stopwatch() -> float:
    """Seconds that the calling thread has kept a processor busy."""
    return time.thread_time()


def stopwatch() -> float:
    """Seconds since some fixed moment: for durations, untouched by changes of the clock."""
    return time.monotonic()

"""Time as an argument, so that ages and windows can be tested without waiting."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Gives the present moment, aware, in UTC."""


def system_clock() -> datetime:
    """The machine's own clock."""
    return datetime.now(UTC)  # the one place that asks the machine


def utc_and_local(at: datetime) -> str:
    """A moment for people, to the minute: in UTC, and beside it in this machine's own zone."""
    said, here = f"{at:%Y-%m-%d %H:%M} UTC", at.astimezone()
    if here.utcoffset() == timedelta(0):
        return said
    day = "" if here.date() == at.date() else f"{here:%Y-%m-%d} "
    return f"{said} ({day}{here:%H:%M %Z})"


def cpu_stopwatch() -> float:
    """Seconds that the calling thread has kept a processor busy."""
    return time.thread_time()


def stopwatch() -> float:
    """Seconds since some fixed moment: for durations, untouched by changes of the clock."""
    return time.monotonic()

"""Trying again while something still holds an object, which usually lasts seconds."""

import time
from collections.abc import Callable, Iterator

from likeness.xen.failures import IN_USE, Refusal

TRIES = 14
PAUSE_SECONDS = 5.0
_FIRST_PAUSE = 0.25


def attempts(tries: int, pause_seconds: float) -> Iterator[int]:
    """Count attempts from 1, with pauses between them that grow to `pause_seconds`.

    With the defaults the last attempt comes about 50 seconds after the first, and a host that
    lets go at once, as most do, is not kept waiting.
    """
    pause = min(_FIRST_PAUSE, pause_seconds)
    for attempt in range(1, tries + 1):
        yield attempt
        if attempt < tries:
            time.sleep(pause)
            pause = min(pause * 2, pause_seconds)


def until_free(
    step: Callable[[], object], *, tries: int = TRIES, pause_seconds: float = PAUSE_SECONDS
) -> None:
    """Do a step that the pool refuses as long as its object is in use.

    Raises:
        Refusal: It was still in use at the last try, or was refused for another reason.
    """
    for attempt in attempts(tries, pause_seconds):
        try:
            step()
        except Refusal as refusal:
            if refusal.code not in IN_USE or attempt == tries:
                raise
        else:
            return

"""Trying again: how often, and with which pauses; the one place where attempts are counted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_always,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    stop_never,
    wait_exponential,
    wait_random,
)

from likeness.errors import Stopped
from likeness.stopping import StopToken

_T = TypeVar("_T")
Wait = Callable[[float], None]
"""Waits so many seconds; raises what shall end all attempts."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """What lies between attempts.

    Attributes:
        first_seconds: The first pause; each is twice the one before.
        max_seconds: No pause is longer.
        tries: Attempts in all; none: as many as the time allows.
        random: Each is anything between first and longest, so that no two wait in step.
    """

    first_seconds: float
    max_seconds: float
    tries: int | None = None
    random: bool = False


class Attempts:
    """Counts attempts from 1, and waits between them.

    Attributes:
        number: Of the attempt under way.
    """

    def __init__(
        self, pauses: Pauses, *, seconds: float | None = None, wait: Wait = time.sleep
    ) -> None:
        """Begin the first attempt.

        Args:
            pauses: Between attempts.
            seconds: No attempt begins later; the last pause is cut to what is left.
            wait: See `unless_stopped`.
        """
        self._numbers = _counted(pauses, seconds, wait)
        self.number = next(self._numbers)

    def again(self) -> bool:
        """Wait before another attempt; at once False when there shall be none."""
        following = next(self._numbers, None)
        self.number = following or self.number
        return following is not None

    def __iter__(self) -> Iterator[int]:
        """The number of each attempt, for a loop that ends when there shall be no more."""
        yield self.number
        while self.again():
            yield self.number


def until_done(
    step: Callable[[], _T], attempts: Attempts, *, passing: Callable[[Exception], bool]
) -> _T:
    """Do a step until it does not fail any more for a reason that passes.

    Raises:
        Exception: What the last attempt raised.
    """
    while True:
        try:
            return step()
        except Exception as problem:
            if not passing(problem) or not attempts.again():
                raise


def unless_stopped(stop: StopToken, doing: str) -> Wait:
    """A wait that a stop token ends: `Stopped`, while doing something."""

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise Stopped(f"stopped on request while {doing}")

    return wait


def _counted(pauses: Pauses, seconds: float | None, wait: Wait) -> Iterator[int]:
    first, longest = min(pauses.first_seconds, pauses.max_seconds), pauses.max_seconds
    pause = wait_random(first, longest) if pauses.random else wait_exponential(first, longest)

    def length(state: RetryCallState) -> float:
        if seconds is None:
            return pause(state)
        return max(min(pause(state), seconds - (state.seconds_since_start or 0.0)), 0.0)

    retrying = Retrying(
        wait=length,
        stop=stop_any(
            stop_after_attempt(pauses.tries) if pauses.tries else stop_never,
            stop_after_delay(seconds) if seconds is not None else stop_never,
        ),
        sleep=wait,
        retry=retry_always,
        retry_error_callback=lambda _: None,  # whoever counts says why it was in vain
    )
    for attempt in retrying:
        yield attempt.retry_state.attempt_number
        attempt.retry_state.set_result(None)

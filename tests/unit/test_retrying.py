"""Attempts are counted, and the pauses between them are those that were asked for."""

import pytest

from likeness.errors import Stopped
from likeness.retrying import Attempts, Pauses, unless_stopped, until_done
from likeness.stopping import StopToken


def test_pauses_grow_to_the_longest_and_end_after_the_last_try() -> None:
    waited: list[float] = []

    numbers = list(Attempts(Pauses(1.0, 5.0, tries=6), wait=waited.append))

    assert numbers == [1, 2, 3, 4, 5, 6]
    assert waited == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_without_time_there_is_one_attempt_and_the_last_pause_is_cut() -> None:
    waited: list[float] = []

    assert list(Attempts(Pauses(1.0, 5.0), seconds=0.0, wait=waited.append)) == [1]
    assert waited == []
    cut = Attempts(Pauses(3600.0, 3600.0), seconds=600.0, wait=waited.append)
    assert cut.again()
    assert waited[0] <= 600.0


def test_random_pauses_lie_between_the_first_and_the_longest() -> None:
    waited: list[float] = []

    for _ in Attempts(Pauses(2.0, 3.0, tries=50, random=True), wait=waited.append):
        pass

    assert all(2.0 <= pause <= 3.0 for pause in waited)
    assert len(set(waited)) > 1


def test_what_passes_is_tried_again_and_nothing_else() -> None:
    left: list[Exception] = [ValueError("busy"), ValueError("busy")]

    def step() -> str:
        if left:
            raise left.pop()
        return "done"

    def attempts() -> Attempts:
        return Attempts(Pauses(0.0, 0.0, tries=3))

    def passes(problem: Exception) -> bool:
        return str(problem) == "busy"

    assert until_done(step, attempts(), passing=passes) == "done"
    left += [ValueError("busy"), KeyError("broken")]
    with pytest.raises(KeyError):
        until_done(step, attempts(), passing=passes)
    left = [ValueError("busy") for _ in range(4)]
    with pytest.raises(ValueError, match="busy"):
        until_done(step, attempts(), passing=passes)
    assert len(left) == 1


def test_a_stop_token_ends_a_pause_and_all_attempts() -> None:
    stop = StopToken()
    attempts = Attempts(Pauses(3600.0, 3600.0), wait=unless_stopped(stop, "a host was silent"))
    stop.stop()

    with pytest.raises(Stopped, match="while a host was silent"):
        attempts.again()

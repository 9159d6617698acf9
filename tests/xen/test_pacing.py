"""A bandwidth cap holds, whoever reads and however many do."""

import itertools
import random
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.clock import stopwatch
from likeness.errors import Stopped
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.xen.http_reader import HttpDiskReader
from tests.xen.conftest import MIB, Stage, read_all

KIB = 1 << 10


def passed(cap: BandwidthCap, *, begin: float, seconds: float, pieces: Iterator[int]) -> int:
    """How many bytes get through in so much time, by somebody who always wants more."""
    now, total = begin, 0
    for piece in pieces:
        now += cap.owed(piece, now=now)
        if now > begin + seconds:
            break
        total += piece
    return total


@given(rate=st.integers(MIB, 1 << 30), share=st.integers(1, 100), seed=st.integers(0, 1000))
def test_over_a_minute_the_rate_is_the_cap_within_a_tenth(rate: int, share: int, seed: int) -> None:
    cap, dice = BandwidthCap(rate), random.Random(seed)
    pieces = (dice.randint(1, rate // share) for _ in itertools.count())

    total = passed(cap, begin=stopwatch(), seconds=60.0, pieces=pieces)

    assert 0.9 * rate * 60 <= total <= 1.1 * rate * 60


def test_what_was_not_used_is_not_saved_up() -> None:
    cap, begin = BandwidthCap(MIB), stopwatch()

    later = passed(cap, begin=begin + 3600, seconds=10.0, pieces=itertools.repeat(KIB))

    assert later <= 1.1 * 10 * MIB


def test_threads_share_one_cap() -> None:
    cap, began = BandwidthCap(4 * MIB), stopwatch()

    def take() -> None:
        for _ in range(16):
            cap.take(64 * KIB, stop=StopToken())

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stopwatch() - began >= 0.7  # 4 MiB together, a quarter second's worth of it at once


def test_waiting_for_the_cap_ends_when_somebody_asks_to_stop() -> None:
    cap, stop = BandwidthCap(1.0), StopToken()
    stop.stop()

    with pytest.raises(Stopped):
        cap.take(1000, stop=stop)


def test_a_cap_is_a_positive_rate() -> None:
    with pytest.raises(ValueError, match="positive"):
        BandwidthCap(0)


def test_a_reader_keeps_to_the_cap_and_still_gives_everything(stage: Stage) -> None:
    disk = stage.snapshot().disks[0]
    began = stopwatch()

    content = read_all(
        HttpDiskReader(stage.xen, disk, cap=BandwidthCap(4 * MIB)), segment_bytes=256 * KIB
    )

    assert content == stage.web
    assert stopwatch() - began >= 0.4  # 3 MiB at 4 MiB a second, a quarter second's worth at once

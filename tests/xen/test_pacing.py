"""A bandwidth cap holds, whoever reads and however many do."""

import threading

import pytest

from likeness.clock import stopwatch
from likeness.errors import Stopped
from likeness.stopping import StopToken
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.pacing import BandwidthCap
from tests.xen.conftest import MIB, Stage, read_all

KIB = 1 << 10


def passed_in(cap: BandwidthCap, seconds: float, threads: int) -> int:
    """How many bytes get through in so much time."""
    ends_at = stopwatch() + seconds
    counts = [0] * threads

    def take(number: int) -> None:
        while True:
            cap.take(16 * KIB, stop=StopToken())
            if stopwatch() > ends_at:
                return
            counts[number] += 16 * KIB

    workers = [threading.Thread(target=take, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts)


@pytest.mark.parametrize("threads", [1, 4])
def test_no_more_passes_than_the_cap_allows_and_hardly_less(threads: int) -> None:
    rate, seconds = 8 * MIB, 3.0

    passed = passed_in(BandwidthCap(rate), seconds, threads)

    assert passed <= 1.1 * rate * seconds
    assert passed >= 0.8 * rate * seconds  # a busy machine may be late, never early


def test_what_was_not_used_is_not_saved_up() -> None:
    cap = BandwidthCap(MIB)
    threading.Event().wait(1.0)

    assert passed_in(cap, 1.0, 1) <= 1.4 * MIB


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

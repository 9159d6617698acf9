"""A share that goes away, is full or slow while disks are sent to it, and several VMs at once."""

import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from likeness.errors import (
    ShareFull,
    ShareUnreachable,
    Stopped,
    TransferBroken,
)
from likeness.model.disk import Segment, Skips
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.documents import Counts
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.test_transfer import BreakingReader, EndlessReader, send
from tests.unit.workshop import CHUNK, MIB, Maker, Workshop, noise

# --- a share that goes away ---


def test_a_share_that_is_away_for_a_moment_gets_the_pack_again_under_a_new_name(
    workshop: Workshop,
) -> None:
    disk = noise(1, 4 * MIB)
    away = FaultyTransport(workshop.transport, at=3, fault=Fault.TORN_WRITE, counting=CHANGING)

    receipt = workshop.transfer(disk, inbox=away)
    sent = [operation.name for operation in away.operations]
    torn = sent[2]

    assert len(set(sent)) == len(sent), "no name is used twice"
    acknowledged = {layout.arriving_pack(receipt.run, pack.pack) for pack in receipt.packs}
    assert acknowledged == set(sent) - {torn}
    assert workshop.restore(workshop.commit(receipt)) == disk
    assert workshop.names("in") == [torn], "left for the sweep"


def test_a_pack_whose_answer_was_lost_counts_once(workshop: Workshop) -> None:
    away = FaultyTransport(workshop.transport, at=1, fault=Fault.RAISE_AFTER, counting=CHANGING)

    receipt = workshop.transfer(noise(1, CHUNK), inbox=away)

    assert len(list(receipt.packs)) == 1
    assert len(workshop.names("in")) == 2


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_share_that_is_away_for_good_ends_the_transfer_with_its_error(
    workshop: Workshop, at: int
) -> None:
    away = FaultyTransport(workshop.transport, at=at, for_good=True)

    with pytest.raises(ShareUnreachable, match="injected"):
        workshop.transfer(noise(1, 4 * MIB), inbox=away)


def test_a_full_share_ends_the_transfer_at_once(workshop: Workshop) -> None:
    full = MemoryTransport(capacity_bytes=MIB)

    with pytest.raises(ShareFull, match="no room"):
        workshop.transfer(noise(1, 4 * MIB), inbox=full, pauses=Pauses(60.0, 60.0, tries=2))


def test_a_transfer_stops_when_it_is_asked_to(workshop: Workshop) -> None:
    stop = StopToken()
    threading.Timer(0.3, stop.stop).start()

    with pytest.raises(Stopped):
        send(workshop, EndlessReader(), stop=stop)


def test_a_transfer_stops_while_it_waits_for_the_share(workshop: Workshop) -> None:
    stop = StopToken()
    away = FaultyTransport(workshop.transport, at=1, for_good=True)
    threading.Timer(0.3, stop.stop).start()

    with pytest.raises(Stopped):
        workshop.transfer(
            noise(1, CHUNK), inbox=away, stop=stop, pauses=Pauses(3600.0, 3600.0, tries=2)
        )


class ShareAtRest(MemoryTransport):
    """A share that takes nothing until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self.asked.set()
        self.go_on.wait(60)
        super().create(name, parts)


class CountingReader(BreakingReader):
    """Counts the segments that were taken from it."""

    taken = 0

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        for segment in super().segments(segment_bytes, skip=skip):
            self.taken += 1
            yield segment


def test_a_transfer_that_is_lost_does_not_wait_for_the_share(workshop: Workshop) -> None:
    workshop.transport = FaultyTransport(workshop.transport, at=1, for_good=True)
    reader = BreakingReader(8 * MIB, 4 * MIB, TransferBroken("the host went away"))
    found: list[Exception] = []

    def go() -> None:
        try:
            send(workshop, reader, pauses=Pauses(3600.0, 3600.0, tries=2))
        except TransferBroken as problem:
            found.append(problem)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(30)

    assert found


def test_a_slow_share_holds_the_transfer_back_instead_of_filling_memory(
    workshop: Workshop,
) -> None:
    slow, reader = ShareAtRest(), CountingReader(128 * MIB, 128 * MIB, ValueError())
    workshop.transport = slow
    done: list[Counts] = []
    thread = threading.Thread(target=lambda: done.append(send(workshop, reader)))
    thread.start()
    assert slow.asked.wait(30)
    thread.join(1.5)
    taken_while_at_rest = reader.taken
    slow.go_on.set()
    thread.join(60)

    assert done, "it goes on when the share does"
    assert taken_while_at_rest <= 10
    assert reader.taken == 32


# --- several VMs at once ---


class MeetingReader(BreakingReader):
    """Waits, once its segments were given to be sealed, until all the others are that far."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__(8 * MIB, 8 * MIB, ValueError())
        self._meeting = meeting

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        yield from super().segments(segment_bytes, skip=skip)
        self._meeting.wait(60)


def test_many_vms_at_once_share_one_pool_of_threads(make_workshop: Maker) -> None:
    def sealers() -> set[threading.Thread]:
        return {each for each in threading.enumerate() if each.name.startswith("sealer")}

    started: list[set[threading.Thread]] = []
    before = sealers()
    meeting = threading.Barrier(6, action=lambda: started.append(sealers() - before))
    transfers = [
        threading.Thread(target=send, args=(make_workshop(), MeetingReader(meeting)))
        for _ in range(6)
    ]
    for each in transfers:
        each.start()
    for each in transfers:
        each.join(60)

    assert len(started) == 1
    assert len(started[0]) <= (os.cpu_count() or 1)


def test_a_share_that_stands_still_holds_up_its_own_vm_and_no_other(make_workshop: Maker) -> None:
    slow, other = make_workshop(), make_workshop()
    slow.transport = at_rest = ShareAtRest()
    reader = BreakingReader(64 * MIB, 64 * MIB, ValueError())
    stuck = threading.Thread(target=send, args=(slow, reader))
    stuck.start()
    assert at_rest.asked.wait(60)

    done = send(other, BreakingReader(16 * MIB, 16 * MIB, ValueError()))
    still_stuck = stuck.is_alive()
    at_rest.go_on.set()
    stuck.join(60)

    assert done.new_bytes == 16 * MIB
    assert still_stuck
    assert not stuck.is_alive()

"""Heads: a chain that shows what was lost, and that goes on whatever happened to it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from likeness.codec.hashing import digest
from likeness.errors import Damaged, ShareUnreachable
from likeness.model.ids import VersionId, VmId, random_name
from likeness.store.format import layout
from likeness.store.read.versions import record_names
from likeness.store.write.heads import FULL_EVERY, read_head_state, versions_digest, write_head
from tests.support.faulty import Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Maker, WithSomethingEndless, Workshop, flipped, noise


def head(number: int) -> str:
    return layout.numbered(layout.HEADS, number)


def jobs(workshop: Workshop, count: int) -> None:
    """So many jobs, each bringing one version of a VM of its own and writing a head."""
    for at in range(count):
        workshop.back_up(noise(at, 100), vm=VmId(random_name()))
        write_head(workshop.store, clock=workshop.clock)


def test_a_head_says_what_the_store_holds(workshop: Workshop) -> None:
    workshop.back_up(noise(1, CHUNK))

    written = write_head(workshop.store, clock=workshop.clock)

    assert written.number == 1
    assert not written.problem
    names = record_names(workshop.store, workshop.vm)
    assert written.vms == {workshop.vm: (1, versions_digest(names))}
    control = [n for folder in ("keys", "owner", "index") for n in workshop.names(folder)]
    assert set(written.objects) == set(control)
    assert read_head_state(workshop.store) == written
    assert written.short == f"head 1 {written.digest[:8]}"


def test_no_head_is_written_when_nothing_changed(workshop: Workshop) -> None:
    jobs(workshop, 1)

    again = write_head(workshop.store, clock=workshop.clock)

    assert again.number == 1
    assert workshop.names("heads") == [head(1)]


def test_a_chain_of_heads_gives_the_present_state(workshop: Workshop) -> None:
    jobs(workshop, FULL_EVERY + 6)

    head_state = read_head_state(workshop.store)

    assert head_state.number == FULL_EVERY + 6
    assert len(head_state.vms) == FULL_EVERY + 6
    assert set(workshop.names("index")) <= set(head_state.objects)
    first, full = (len(workshop.objects[head(at)]) for at in (2, FULL_EVERY + 1))
    assert full > 10 * first, "every 64th says everything"


def test_old_heads_are_not_needed_after_a_full_one(workshop: Workshop) -> None:
    jobs(workshop, FULL_EVERY + 2)
    before = read_head_state(workshop.store)
    del workshop.objects[head(3)]

    assert read_head_state(workshop.store) == before


def test_a_version_or_index_that_is_taken_away_shows_in_the_next_head(workshop: Workshop) -> None:
    jobs(workshop, 2)
    before = read_head_state(workshop.store)
    gone = workshop.names("versions")[0], workshop.names("index")[0]
    for name in gone:
        del workshop.objects[name]

    after = write_head(workshop.store, clock=workshop.clock)

    vm = VmId(gone[0].split("/")[1])
    assert before.vms[vm][0] == 1
    assert after.vms[vm][0] == 0
    assert set(before.objects) - set(after.objects) == {gone[1]}
    assert after.problem.endswith(f"gone or replaced, of VM {vm}")
    assert read_head_state(workshop.store) == replace(after, problem="")


@pytest.mark.parametrize("at", [1, FULL_EVERY], ids=["the next", "one that says everything"])
def test_versions_that_went_are_told_by_the_head_that_is_written_then_and_once(
    workshop: Workshop, at: int
) -> None:
    jobs(workshop, at - 1)
    workshop.back_up(noise(1, CHUNK))
    second = workshop.back_up(noise(2, CHUNK))
    assert not write_head(workshop.store, clock=workshop.clock).problem
    del workshop.objects[second.name]
    workshop.back_up(noise(3, CHUNK))

    after = write_head(workshop.store, clock=workshop.clock)
    workshop.back_up(noise(4, CHUNK))

    assert after.vms[workshop.vm][0] == 2, "as many as before"
    assert after.problem == (
        f"version records that head {at} told of are gone or replaced, of VM {workshop.vm}"
    )
    assert not write_head(workshop.store, clock=workshop.clock).problem


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "delete", "another head"])
def test_a_head_that_is_spoilt_is_noticed_and_the_chain_goes_on(
    workshop: Workshop, number: int, how: str
) -> None:
    jobs(workshop, 4)
    good = workshop.objects.pop(head(number))
    if how != "delete":
        workshop.objects[head(number)] = {
            "flip": flipped(good, 40),
            "cut": good[:-20],
            "empty": b"",
            "another head": workshop.objects.get(head(2), good) if number != 2 else b"ADSDOC01",
        }[how]
    rolled_back = (number, how) == (4, "delete")
    if not rolled_back:
        with pytest.raises(Damaged):
            read_head_state(workshop.store)

    workshop.back_up(noise(99, 100))
    repaired = write_head(workshop.store, clock=workshop.clock)

    assert bool(repaired.problem) is not rolled_back
    assert repaired.number == (4 if rolled_back else FULL_EVERY + 1)
    assert len(repaired.vms) == 5
    found = read_head_state(workshop.store)
    assert (found.vms, found.objects, found.digest) == (
        repaired.vms,
        repaired.objects,
        repaired.digest,
    )
    workshop.back_up(noise(98, 100))
    assert write_head(workshop.store, clock=workshop.clock).problem == ""


def test_a_store_set_back_as_a_whole_is_seen_by_whoever_wrote_the_head_down(
    workshop: Workshop,
) -> None:
    jobs(workshop, 2)
    before = dict(workshop.objects)
    jobs(workshop, 1)
    noted = read_head_state(workshop.store)
    workshop.objects.clear()
    workshop.objects.update(before)

    found = read_head_state(workshop.store)
    assert found.number < noted.number

    jobs(workshop, 1)
    forked = read_head_state(workshop.store)
    assert forked.number == noted.number
    assert forked.digest != noted.digest


@pytest.mark.parametrize("fault", [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_a_head_that_was_not_acknowledged_does_not_break_the_chain(
    workshop: Workshop, fault: Fault
) -> None:
    jobs(workshop, 2)
    workshop.back_up(noise(7, 100))
    workshop.store.transport = FaultyTransport(
        workshop.transport, at=1, fault=fault, counting={"create"}
    )
    with pytest.raises(ShareUnreachable):
        write_head(workshop.store, clock=workshop.clock)

    head_state = write_head(workshop.store, clock=workshop.clock)

    assert len(head_state.vms) == 3
    assert read_head_state(workshop.store).vms == head_state.vms
    assert bool(head_state.problem) is (fault is Fault.TORN_WRITE)


class CrowdedTransport(MemoryTransport):
    """A share on which another job writes a head just before ours."""

    other_job: Callable[[], object] | None = None

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        if name.startswith("heads/") and self.other_job is not None:
            other_job, self.other_job = self.other_job, None
            other_job()
        super().create(name, parts)


def test_two_jobs_that_end_together_both_get_their_head(make_workshop: Maker) -> None:
    share = CrowdedTransport()
    workshop = make_workshop(transport=share)
    jobs(workshop, 2)
    workshop.back_up(noise(8, 100))

    def other_job() -> None:
        workshop.back_up(noise(9, 100), vm=VmId(random_name()))
        write_head(workshop.store, clock=workshop.clock)

    share.other_job = other_job
    head_state = write_head(workshop.store, clock=workshop.clock)

    assert not head_state.problem
    assert len(head_state.vms) == 4
    assert read_head_state(workshop.store) == head_state


def test_an_object_that_is_just_being_written_waits_for_the_next_head(workshop: Workshop) -> None:
    jobs(workshop, 1)
    workshop.back_up(noise("more", CHUNK))
    newest = (set(workshop.names("index")) - set(read_head_state(workshop.store).objects)).pop()
    whole = workshop.objects[newest]
    workshop.objects[newest] = whole[: len(whole) // 2]

    early = write_head(workshop.store, clock=workshop.clock)
    workshop.objects[newest] = whole
    late = write_head(workshop.store, clock=workshop.clock)

    assert newest not in early.objects
    assert late.objects[newest] == digest([whole]).hex()


@pytest.mark.parametrize("folder", [layout.INDEX, layout.SWEPT])
def test_something_endless_that_a_stranger_put_there_is_in_no_head(
    make_workshop: Maker, folder: str
) -> None:
    transport = WithSomethingEndless()
    workshop = make_workshop(transport=transport)
    name = layout.index_segment("ab" * 16) if folder == layout.INDEX else f"gc/{'0' * 15}1"
    transport.put_something_endless(name)

    assert name not in write_head(workshop.store, clock=workshop.clock).objects


def test_an_object_that_goes_while_a_head_is_written_is_not_in_it(make_workshop: Maker) -> None:
    class Going(MemoryTransport):
        def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if "/slot-" in name:
                self.delete(name)
            return super().read(name, offset, length)

    workshop = make_workshop(transport=Going())

    written = write_head(workshop.store, clock=workshop.clock)

    assert written.number == 1
    assert not [name for name in written.objects if "/slot-" in name]


def test_a_head_that_says_everything_keeps_to_what_was_said_before(workshop: Workshop) -> None:
    jobs(workshop, FULL_EVERY)
    before = read_head_state(workshop.store).objects
    name = workshop.names("index")[0]
    whole = workshop.objects[name]
    workshop.objects[name] = flipped(whole, len(whole) // 2)
    workshop.back_up(noise("more", CHUNK))

    full = write_head(workshop.store, clock=workshop.clock)

    assert full.number == FULL_EVERY + 1
    assert full.objects.items() > before.items()


def test_a_head_of_another_place_in_the_chain_is_refused(workshop: Workshop) -> None:
    jobs(workshop, 3)
    workshop.objects[head(3)] = workshop.objects[head(2)]

    with pytest.raises(Damaged, match="not signed as head"):
        read_head_state(workshop.store)


def test_a_store_without_heads_is_at_its_beginning(workshop: Workshop) -> None:
    assert read_head_state(workshop.store).number == 0


def test_no_head_tells_of_a_record_that_was_only_begun(workshop: Workshop) -> None:
    other = VmId(random_name())
    workshop.back_up(noise(1, 100), vm=other)
    begun = layout.version_record(other, 2, VersionId(random_name()))
    workshop.objects[begun] = b""

    jobs(workshop, 1)
    assert read_head_state(workshop.store).vms[other][0] == 1

    workshop.back_up(noise(2, 100), vm=other)
    jobs(workshop, 1)
    assert begun not in workshop.objects
    assert read_head_state(workshop.store).vms[other][0] == 2
    assert not read_head_state(workshop.store).problem


@pytest.fixture
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that tell of three things at most."""
    monkeypatch.setattr("likeness.store.write.heads.MAX_OBJECTS", 3)
    monkeypatch.setattr("likeness.store.write.heads.MAX_VMS", 3)


@pytest.mark.usefixtures("small_heads")
def test_what_is_too_much_for_one_head_goes_on_in_the_next(workshop: Workshop) -> None:
    for at in range(10):
        workshop.back_up(noise(at, 100), vm=VmId(random_name()))

    written = write_head(workshop.store, clock=workshop.clock)

    assert read_head_state(workshop.store) == written
    control = [n for folder in ("keys", "owner", "index") for n in workshop.names(folder)]
    assert set(written.objects) == set(control)
    assert len(written.vms) == 10
    assert written.number == -(-len(control) // 3)
    assert write_head(workshop.store, clock=workshop.clock).number == written.number


@pytest.mark.usefixtures("small_heads")
def test_a_full_head_in_several_keeps_to_what_was_said_before(workshop: Workshop) -> None:
    while read_head_state(workshop.store).number < FULL_EVERY:
        jobs(workshop, 1)
    said = read_head_state(workshop.store).objects
    changed = sorted(name for name in said if name.startswith("index/"))[-1]
    workshop.objects[changed] = workshop.objects[workshop.names("index")[0]]
    workshop.objects[workshop.names("index")[1]] = b"nothing whole"

    jobs(workshop, 1)

    now = read_head_state(workshop.store)
    assert now.number > FULL_EVERY + 10, "it took several"
    assert {name: now.objects.get(name) for name in said} == said
    assert len(now.vms) == len({name.split("/")[1] for name in workshop.names("versions")})


@pytest.mark.usefixtures("small_heads")
def test_a_loss_is_told_once_though_it_takes_several_heads(workshop: Workshop) -> None:
    jobs(workshop, 2)
    del workshop.objects[workshop.names("versions")[0]]
    for at in range(7):
        workshop.back_up(noise(at, 100), vm=VmId(random_name()))

    assert "are gone" in write_head(workshop.store, clock=workshop.clock).problem
    assert not write_head(workshop.store, clock=workshop.clock).problem

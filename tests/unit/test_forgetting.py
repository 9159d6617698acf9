"""Forgetting: what went on purpose is no loss, what vanished is one, and both can be told apart."""

from datetime import timedelta

import pytest

from likeness.errors import BadInput, ObjectMissing
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.proving_versions import VersionsProof
from likeness.store.check.recorded import recorded_versions
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import Version, last_version, record_names
from likeness.store.write.forgetting import finish_moves, forget_versions, take_back
from likeness.store.write.heads import write_head
from likeness.store.write.holding import pin, unpin
from likeness.transport.metered import MeteredTransport
from tests.unit.workshop import CHUNK, Workshop, changed, noise

DISK = noise(1, 9 * CHUNK)


def history(workshop: Workshop, nights: int = 3) -> list[Version]:
    """Each night one chunk differs, and only that night has it so."""
    nightly = (noise(f"night {night}", CHUNK) for night in range(nights))
    return [workshop.back_up(changed(DISK, (0, chunk))) for chunk in nightly]


def damage(workshop: Workshop) -> list[str]:
    """What every checker says of damage and lost spares."""
    stop = StopToken()
    recorded = recorded_versions(workshop.store)
    proof = VersionsProof(workshop.store, workshop.folder, workshop.clock, stop)
    found = [
        *audit_presence(workshop.store, stop=stop),
        *recorded.told,
        *scrub_frames(workshop.transport, stop=stop),
        *scrub_signatures(workshop.store, stop=stop),
        *proof.prove(recorded.versions),
    ]
    return [str(each) for each in found if each.weight is not Weight.NOTICE]


def forget(workshop: Workshop, *versions: Version, even_last: bool = False) -> dict[str, str]:
    """Those that stay, with the reason."""
    names = [version.name for version in versions]
    return forget_versions(
        workshop.store, names, reason="a test", clock=workshop.clock, even_last=even_last
    ).kept


def test_a_statement_is_read_once_however_often_the_gate_is_held(workshop: Workshop) -> None:
    versions = history(workshop, 4)
    for version in versions[:3]:
        assert forget(workshop, version) == {}
    store = open_store_with_key_file(workshop.transport, workshop.key_file)
    reads = MeteredTransport(workshop.transport, folder=layout.FORGETS)

    stated = [workshop.objects[name] for name in workshop.names(layout.FORGETS)]

    for _ in range(3):
        finish_moves(store.over(reads))

    assert reads.read_bytes == sum(map(len, stated))


def test_a_forgotten_version_is_neither_lost_nor_damage_and_a_stolen_one_is(
    workshop: Workshop,
) -> None:
    one, two, three = history(workshop)
    write_head(workshop.store, clock=workshop.clock)

    assert forget(workshop, two) == {}

    assert record_names(workshop.store, workshop.vm) == [one.name, three.name]
    assert damage(workshop) == [], "the newest head told of it before"
    assert write_head(workshop.store, clock=workshop.clock).problem == ""
    assert damage(workshop) == [], "and the newest head tells of it no more"
    assert workshop.restore(one) != workshop.restore(three)
    four = workshop.back_up(noise(4, 9 * CHUNK))
    assert damage(workshop) == []

    workshop.transport.delete(one.name)

    assert any("not the same" in said for said in damage(workshop))
    assert "told of are gone" in write_head(workshop.store, clock=workshop.clock).problem
    assert four.sequence == 4


def test_what_was_taken_back_is_missed_again_when_it_vanishes(workshop: Workshop) -> None:
    one, two, _ = history(workshop)
    forget(workshop, one, two)
    write_head(workshop.store, clock=workshop.clock)

    take_back(workshop.store, two.name, reason="", clock=workshop.clock)

    assert damage(workshop) == []
    write_head(workshop.store, clock=workshop.clock)
    assert damage(workshop) == []
    assert workshop.restore(two)
    workshop.transport.delete(two.name)
    assert any("not the same" in said for said in damage(workshop))


@pytest.mark.parametrize("back", [False, True])
def test_a_crash_between_word_and_deed_is_made_good(workshop: Workshop, *, back: bool) -> None:
    one, *_ = history(workshop)
    write_head(workshop.store, clock=workshop.clock)
    forget(workshop, one)
    if back:
        take_back(workshop.store, one.name, reason="", clock=workshop.clock)
        workshop.transport.rename(one.name, layout.forgotten_record(one.name))
    else:
        workshop.transport.rename(layout.forgotten_record(one.name), one.name)
        assert damage(workshop) == []
        write_head(workshop.store, clock=workshop.clock)
        assert damage(workshop) == []

    finish_moves(workshop.store)

    assert (one.name in record_names(workshop.store, workshop.vm)) is back
    assert damage(workshop) == []


def test_the_last_version_that_can_be_read_stays_unless_that_is_meant(
    workshop: Workshop,
) -> None:
    one, two, three = history(workshop)
    workshop.objects[three.name] = b"damaged"

    kept = forget(workshop, one, two, three)

    assert kept == {two.name: "it is the last version of its VM that can be read"}
    assert record_names(workshop.store, workshop.vm) == [two.name]
    assert forget(workshop, two, even_last=True) == {}
    assert last_version(workshop.store, workshop.vm) is None
    assert workshop.back_up(DISK).sequence == 4, "no number is used twice"


def test_pins_hold_until_they_end_and_locks_cannot_be_lifted(workshop: Workshop) -> None:
    one, two, _ = history(workshop)
    soon = workshop.clock() + timedelta(hours=1)
    pin(workshop.store, one.name, note="audit of 2031", until=None, clock=workshop.clock)
    pin(workshop.store, two.name, note="law", until=soon, clock=workshop.clock, locked=True)
    unpin(workshop.store, two.name, note="", clock=workshop.clock)
    with pytest.raises(BadInput, match="without an end"):
        pin(workshop.store, two.name, note="", until=None, clock=workshop.clock, locked=True)
    with pytest.raises(ObjectMissing):
        pin(workshop.store, f"{one.name[:-1]}x", note="", until=None, clock=workshop.clock)

    kept = forget(workshop, one, two)

    assert kept[one.name] == "it is pinned: audit of 2031"
    assert kept[two.name].startswith("it is locked until 2031-05-06")
    assert damage(workshop) == []
    unpin(workshop.store, one.name, note="over", clock=workshop.clock)
    assert list(forget(workshop, one, two)) == [two.name]
    workshop.clock._now += timedelta(hours=2)
    assert forget(workshop, two) == {}

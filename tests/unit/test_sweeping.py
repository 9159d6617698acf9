"""Sweeping: what goes is needed by nobody, whatever the catalog believes."""

import pytest

from likeness.errors import ShareUnreachable
from likeness.model.ids import PackId, VmId, random_name
from likeness.store.format import layout
from likeness.store.prune.sweeping import (
    DeletedPacks,
    Holders,
    delete_redundant_packs,
    sweep_inboxes,
)
from likeness.store.read.versions import Version
from tests.support.faulty import FaultyTransport
from tests.unit.workshop import CHUNK, Workshop, noise

DISK = noise(1, 9 * CHUNK)


def test_inboxes_of_dead_runs_are_emptied_and_those_of_live_ones_are_left(
    workshop: Workshop,
) -> None:
    dead, live = workshop.transfer(noise(1, 9 * CHUNK)), workshop.transfer(noise(2, 9 * CHUNK))
    size = dead.counts.sent_bytes
    workshop.transport.create("in/notes.txt", [b"not ours"])

    swept = sweep_inboxes(workshop.store, lambda run: run == live.run)

    assert swept.freed_bytes == size
    assert swept.objects == dead.packs.packs
    assert workshop.transport.folders("in") == [live.run]
    assert "in/notes.txt" in workshop.objects
    assert sweep_inboxes(workshop.store, lambda run: run == live.run).objects == 0
    workshop.commit(live)


def twins(workshop: Workshop) -> tuple[Version, set[PackId], Version, set[PackId]]:
    """Two VMs with the same disk, and the packs that each brought."""
    first = workshop.back_up(DISK)
    brought = workshop.packs_of(first)
    second = workshop.back_up(DISK, vm=VmId(random_name()))
    return first, brought, second, workshop.packs_of(second) - brought


def test_packs_are_given_back_after_a_signed_word(workshop: Workshop) -> None:
    first, _, second, packs = twins(workshop)
    size = sum(len(workshop.objects[layout.pack(pack)]) for pack in packs)

    given = workshop.delete_redundant(packs)
    again = workshop.delete_redundant(packs)

    assert (set(given.packs), given.freed_bytes, given.kept) == (packs, size, ())
    assert (set(again.packs), again.freed_bytes) == (packs, 0)
    assert not {layout.pack(pack) for pack in packs} & set(workshop.pack_names())
    assert workshop.names("gc") == ["gc/0000000000000001", "gc/0000000000000002"]
    assert workshop.delete_redundant([]) == DeletedPacks()
    for version in (first, second):
        assert workshop.restore(version) == DISK


def test_nothing_is_deleted_when_the_signed_word_cannot_be_written(workshop: Workshop) -> None:
    *_, packs = twins(workshop)
    before = dict(workshop.objects)
    workshop.store.transport = FaultyTransport(workshop.transport, at=1, counting={"create"})

    with pytest.raises(ShareUnreachable):
        workshop.delete_redundant(packs)
    assert workshop.objects == before


@pytest.mark.parametrize("how", ["missing", "cut short"])
def test_a_pack_stays_when_what_holds_its_chunks_is_not_whole(workshop: Workshop, how: str) -> None:
    _, brought, second, packs = twins(workshop)
    lost = layout.pack(min(brought))
    if how == "missing":
        del workshop.objects[lost]
    else:
        workshop.objects[lost] = workshop.objects[lost][:-1]
    affected = {pack for pack, held in workshop.holders(packs).items() if min(brought) in held}

    given = workshop.delete_redundant(packs)

    assert affected
    assert set(given.kept) == affected
    assert set(given.packs) == packs - affected
    assert workshop.restore(second) == DISK


def test_packs_that_hold_each_others_chunks_do_not_both_go(workshop: Workshop) -> None:
    first, brought, second, packs = twins(workshop)
    confused = workshop.holders(packs) | workshop.holders(brought)

    given = delete_redundant_packs(
        workshop.store, lambda: confused, reason="", clock=workshop.clock
    )

    assert given.packs == ()
    assert set(given.kept) == brought | packs
    assert workshop.names("gc") == []
    for version in (first, second):
        assert workshop.restore(version) == DISK


def test_a_pack_that_nothing_is_said_to_hold_stays(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    packs = workshop.packs_of(version)

    given = workshop.delete_redundant(packs)

    assert (given.packs, set(given.kept)) == ((), packs)
    assert workshop.restore(version) == DISK


def test_what_may_go_is_asked_before_the_listing_and_again_right_before_the_first_word(
    workshop: Workshop,
) -> None:
    *_, packs = twins(workshop)
    watched = FaultyTransport(workshop.transport, counting={"entries", "create", "delete"})
    workshop.store.transport = watched
    seen: list[list[tuple[str, str]]] = []
    held = workshop.holders(packs)
    begun = len(watched.operations)

    def ask() -> Holders:
        seen.append([(op.method, op.name) for op in watched.operations[begun:]])
        return held

    delete_redundant_packs(workshop.store, ask, reason="", clock=workshop.clock)

    statements = [("entries", "gc"), ("entries", "condemned")]
    assert seen == [statements[:1], [*statements, ("entries", "packs")]]


def test_the_last_two_copies_are_not_deleted_by_two_processes(workshop: Workshop) -> None:
    """Another process deletes the copy that this one was told to rely on, right after it was."""
    *_, packs = twins(workshop)
    held = workshop.holders(packs)
    others = {other for each in held.values() for other in each}
    asked = 0

    def ask() -> Holders:
        nonlocal asked
        asked += 1
        if asked == 1:
            for other in others:
                workshop.transport.delete(layout.pack(other))
        return held

    given = delete_redundant_packs(workshop.store, ask, reason="", clock=workshop.clock)

    assert (given.packs, set(given.kept)) == ((), packs)
    assert all(workshop.transport.size(layout.pack(pack)) for pack in packs)


def test_what_is_not_to_be_relied_on_any_more_after_the_listing_is_kept(
    workshop: Workshop,
) -> None:
    *_, packs = twins(workshop)
    answers = [workshop.holders(packs), {}]

    given = delete_redundant_packs(
        workshop.store, lambda: answers.pop(0), reason="", clock=workshop.clock
    )

    assert (given.packs, set(given.kept)) == ((), packs)

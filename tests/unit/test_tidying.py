"""Tidying: what nights leave in many small documents is few again, and nothing is lost by it."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from likeness.errors import ShareUnreachable
from likeness.model.ids import RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.prune.reclaiming import Reclaim, Reclaimed
from likeness.store.prune.sweeping import deleted_objects
from likeness.store.read.index import known_packs, read_segment, segments
from likeness.store.read.versions import Version
from likeness.store.repair.healing_documents import DocumentHealer
from likeness.store.write.commit import MAX_DELTAS
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.heads import write_head
from likeness.transport.passing import PassingTransport
from tests.support.memory import MemoryTransport
from tests.unit.test_forgetting import damage
from tests.unit.test_reclaiming import all_packs, days_later, forget, reclaim
from tests.unit.test_vaulting import restore_from, vault_all
from tests.unit.workshop import CHUNK, Maker, Workshop, changed, noise

DISK = noise("disk", 3 * CHUNK)
KEPT = 4
MANY = 6


class Died(Exception):
    """The process is gone."""


class Dying(PassingTransport):
    """Dies after so many changes."""

    left = 1 << 60

    def _live_on(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self._live_on()
        super().create(name, parts)

    def delete(self, name: str) -> None:
        self._live_on()
        super().delete(name)

    def rename(self, name: str, new_name: str) -> None:
        self._live_on()
        super().rename(name, new_name)


def one_reclaim(workshop: Workshop, changes: int) -> Reclaimed:
    """One run that dies after so many changes."""
    transport = Dying(workshop.transport)
    transport.left = changes
    work = Reclaim(
        workshop.store.over(transport),
        RunId(random_name()),
        workshop.clock,
        workshop.folder,
        most_share=1.0,
        many=MANY,
    )
    try:
        return work.work(all_packs(workshop))
    except Died:
        return work.done


def nights(workshop: Workshop, count: int, dice: random.Random | None = None) -> list[Version]:
    """Each night a version, an old one forgotten and a reclaim; those that are kept."""
    kept: list[Version] = []
    for night in range(count):
        kept.append(workshop.back_up(changed(DISK, (0, noise(f"night {night}", CHUNK)))))
        if len(kept) > KEPT:
            forget(workshop, kept.pop(0))
        one_reclaim(workshop, dice.randrange(24) if dice and dice.random() < 0.4 else 1 << 60)
        write_head(workshop.store, clock=workshop.clock)
        days_later(workshop, 1)
    return kept


def folders(workshop: Workshop) -> Counter[str]:
    return Counter(name.partition("/")[0] for name in workshop.objects)


def test_what_lies_there_is_bounded_after_sixty_nights(workshop: Workshop) -> None:
    kept = nights(workshop, 60)

    here = folders(workshop)
    waiting = 8 + KEPT  # nights whose documents may not go yet
    few = (layout.INDEX, layout.SWEPT, layout.FORGETS, layout.CONDEMNED)
    assert {f: here[f] for f in few if here[f] > 2 * (waiting + MANY)} == {}
    assert here[layout.MAPS] <= 2 * (MAX_DELTAS + 1 + waiting), "two copies of each part"
    assert damage(workshop) == []
    disks = [changed(DISK, (0, noise(f"night {night}", CHUNK))) for night in range(56, 60)]
    assert [workshop.restore(version) for version in kept] == disks
    assert {pack.pack for pack in known_packs(workshop.store)} >= set(all_packs(workshop))


@pytest.mark.parametrize("seed", range(2))
def test_whoever_dies_in_the_middle_loses_nothing(make_workshop: Maker, seed: int) -> None:
    workshop = make_workshop()

    kept = nights(workshop, 24, random.Random(seed))

    assert damage(workshop) == []
    assert all(workshop.restore(version) for version in kept)
    told = {pack.pack for pack in known_packs(workshop.store)}
    assert told >= set(all_packs(workshop))
    assert len(read_forgotten(workshop.store).now) == 24 - KEPT
    assert folders(workshop)[layout.INDEX] < 24


def test_a_segment_goes_only_when_a_later_one_says_the_same(workshop: Workshop) -> None:
    """Who wrote the later one, and how late, does not matter: it is looked at again."""
    for at in range(MANY + 1):
        workshop.back_up(noise(f"vm {at}", 2 * CHUNK), vm=VmId(random_name()))
    before = set(segments(workshop.store))
    write_head(workshop.store, clock=workshop.clock)

    reclaim(workshop, many=MANY)
    (merged,) = set(segments(workshop.store)) - before
    whole = workshop.objects[merged]
    workshop.transport.delete(merged)
    workshop.transport.create(merged, [whole[:-1]])
    for _ in range(4):
        days_later(workshop, 4)
        reclaim(workshop, many=MANY)

    (again,) = set(segments(workshop.store)) - before - {merged}
    assert before <= deleted_objects(workshop.store), "by the one that was written in its place"
    told = {pack.pack for pack in read_segment(workshop.store, again)}
    assert told == set(all_packs(workshop))


def test_a_segment_of_a_clock_that_was_ahead_keeps_no_other(workshop: Workshop) -> None:
    for at in range(MANY + 2):
        ahead = 4000 if at == 1 else 0
        days_later(workshop, ahead)
        workshop.back_up(noise(f"vm {at}", 2 * CHUNK), vm=VmId(random_name()))
        days_later(workshop, -ahead)
    before = set(segments(workshop.store))
    write_head(workshop.store, clock=workshop.clock)

    for _ in range(4):
        reclaim(workshop, many=MANY)
        days_later(workshop, 4)

    (merged,) = segments(workshop.store)
    assert merged not in before
    assert damage(workshop) == []


def test_nothing_goes_before_its_time(workshop: Workshop) -> None:
    for at in range(MANY + 1):
        workshop.back_up(noise(f"vm {at}", 2 * CHUNK), vm=VmId(random_name()))
    before = set(segments(workshop.store))
    write_head(workshop.store, clock=workshop.clock)

    runs = []
    for days in (6, 0, 2, 0):
        reclaim(workshop, many=MANY)
        runs.append(len(before & set(segments(workshop.store))))
        days_later(workshop, days)

    assert runs == [7, 7, 7, 0], "seven days and two runs"
    assert len(list(segments(workshop.store))) == 1
    assert damage(workshop) == []


def test_a_vault_needs_none_of_it_and_healing_puts_none_back(workshop: Workshop) -> None:
    old, fresh = MemoryTransport(), MemoryTransport()
    made = [
        workshop.back_up(noise(f"vm {at}", 2 * CHUNK), vm=VmId(random_name()))
        for at in range(MANY + 1)
    ]
    write_head(workshop.store, clock=workshop.clock)
    vault_all(workshop, old)
    for _ in range(4):
        reclaim(workshop, many=MANY)
        days_later(workshop, 4)
    (one,) = segments(workshop.store)

    healer = DocumentHealer(
        workshop.store, open_store_with_key_file(old, workshop.key_file), StopToken()
    )
    for version in made:
        healer.heal_version(version.name)
    copied = [*vault_all(workshop, fresh), *vault_all(workshop, old)]

    assert (healer.healed, list(segments(workshop.store))) == ([], [one])
    assert [each for each in copied if each.problem] == []
    assert all(restore_from(vault, workshop, each) for vault in (old, fresh) for each in made)


def test_a_share_that_goes_away_stops_it(workshop: Workshop) -> None:
    """Only what cannot be read is left; a share that is gone is told."""
    nights(workshop, 12)

    class Gone(PassingTransport):
        def entries(self, folder: str, *, deep: bool = True):  # type: ignore[no-untyped-def]
            if folder == layout.FORGETS:
                raise ShareUnreachable("gone")
            return super().entries(folder, deep=deep)

    store = workshop.store.over(Gone(workshop.transport))
    work = Reclaim(store, RunId(random_name()), workshop.clock, workshop.folder, many=1)

    with pytest.raises(ShareUnreachable):
        work.work(())
    assert damage(workshop) == []

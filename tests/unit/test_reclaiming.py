"""Reclaim: what no version needs goes after its wait, what one needs stays, whoever says what."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta

import pytest

from likeness.errors import (
    ReclaimStopped,
    StoreTakenOver,
    TransferBroken,
    UnknownVersion,
)
from likeness.model.ids import ChunkId, PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.copies import Copy
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import Fence, owner_of, take_over
from likeness.store.prune import leftovers
from likeness.store.prune.reclaiming import Reclaim, Reclaimed
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version
from likeness.store.repair.undeleting import undelete
from likeness.store.write.condemning import condemned_packs
from likeness.store.write.forgetting import forget_versions
from likeness.store.write.heads import write_head
from likeness.transport.base import Transport
from likeness.transport.metered import MeteredTransport
from tests.unit.test_forgetting import damage, history
from tests.unit.workshop import CHUNK, Workshop, changed, noise

DAY = timedelta(days=1)


def forget(workshop: Workshop, *versions: Version) -> None:
    names = [version.name for version in versions]
    done = forget_versions(workshop.store, names, reason="a test", clock=workshop.clock)
    assert done.kept == {}


def all_packs(workshop: Workshop) -> list[PackId]:
    return [PackId(name.rpartition("/")[2]) for name in workshop.pack_names()]


def reclaim(
    workshop: Workshop,
    candidates: Collection[PackId] | None = None,
    sparse: Collection[PackId] = (),
    **settings: object,
) -> Reclaimed:
    """One run; by default every pack is a candidate, and many may go."""
    run = Reclaim(
        workshop.store,
        RunId(random_name()),
        workshop.clock,
        workshop.folder,
        most_share=1.0,
    )
    for name, value in settings.items():
        setattr(run, name, value)
    return run.work(all_packs(workshop) if candidates is None else candidates, sparse)


def days_later(workshop: Workshop, days: int) -> None:
    workshop.clock._now += days * DAY


def through_all(workshop: Workshop) -> list[Reclaimed]:
    """As many runs as it takes."""
    runs = []
    for _ in range(4):
        runs.append(reclaim(workshop))
        days_later(workshop, 4)
    return runs


def test_a_forgotten_version_goes_with_all_that_only_it_needed(workshop: Workshop) -> None:
    versions = history(workshop, 4)
    disks = [workshop.restore(version) for version in versions]
    other = workshop.back_up(noise("other", 5 * CHUNK), vm=VmId(random_name()))
    write_head(workshop.store, clock=workshop.clock)
    before = dict(workshop.objects)
    forget(workshop, versions[1], versions[2])

    runs = through_all(workshop)

    assert [len(run.condemned) for run in runs] == [2, 0, 0, 0]
    assert [len(run.deleted) for run in runs] == [0, 0, 2, 0], "7 days and two runs later"
    gone = {name for name in before if name not in workshop.objects}
    packs = [len(before[name]) for name in gone if name.startswith("packs/")]
    assert sum(runs[2].deleted.values()) == sum(packs) > 2 * CHUNK
    assert runs[2].freed_bytes > sum(packs)
    kinds = [name.partition("/")[0] for name in gone]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "packs": 2,
        "index": 2,
        "versions": 2,
    }, "the maps of both are what the last version builds on"
    assert not workshop.names(layout.FORGOTTEN)
    assert damage(workshop) == []
    write_head(workshop.store, clock=workshop.clock)
    assert damage(workshop) == []
    assert [workshop.restore(v) for v in (versions[0], versions[3])] == [disks[0], disks[3]]
    assert workshop.restore(other) == noise("other", 5 * CHUNK)
    with pytest.raises(UnknownVersion):
        bring_back(workshop, versions[1])


def test_the_newest_version_s_own_maps_go_with_it(workshop: Workshop) -> None:
    one, two, three = history(workshop)
    forget(workshop, two, three)

    through_all(workshop)

    assert len(workshop.names(layout.MAPS)) == 2
    assert len(workshop.names(layout.INDEX)) == 1
    assert damage(workshop) == []
    assert workshop.restore(workshop.back_up(noise(9, CHUNK))) == noise(9, CHUNK)
    assert workshop.restore(one)


@pytest.mark.parametrize("died", ["packs admitted", "index written"])
def test_what_a_commit_left_that_died_goes_and_what_one_goes_on_with_stays(
    workshop: Workshop, died: str
) -> None:
    kept = workshop.back_up(noise("kept", 3 * CHUNK))
    known = set(all_packs(workshop))
    receipts = []
    for which in ("dies", "goes on"):
        receipts.append(workshop.transfer(noise(which, 2 * CHUNK), vm=VmId(random_name())))
        with pytest.raises(_Died):
            workshop.commit(receipts[-1], step=_dying_at(died))
    left = set(all_packs(workshop)) - known
    assert len(left) == 2

    def run() -> Reclaimed:
        return reclaim(workshop, [], unknown=lambda there: set(there) - known)

    assert set(run().condemned) == left
    version = workshop.commit(receipts[1])
    days_later(workshop, 4)
    run()
    days_later(workshop, 4)
    done = run()

    assert (len(done.deleted), len(done.spared)) == (1, 1)
    assert set(all_packs(workshop)) - known == done.spared
    assert workshop.restore(version) == noise("goes on", 2 * CHUNK)
    assert workshop.restore(kept) == noise("kept", 3 * CHUNK)
    assert damage(workshop) == []


def _dying_at(step: str) -> Callable[[str], None]:
    def die(name: str) -> None:
        if name == step:
            raise _Died

    return die


def bring_back(workshop: Workshop, version: Version) -> int:
    return len(
        undelete(
            workshop.store,
            version.name,
            run=RunId(random_name()),
            clock=workshop.clock,
            scratch=workshop.folder,
            stop=StopToken(),
        )
    )


def test_what_is_condemned_can_be_taken_back_until_it_is_deleted(workshop: Workshop) -> None:
    _, two, three, _ = history(workshop, 4)
    disk = workshop.restore(two)
    forget(workshop, two, three)
    reclaim(workshop)
    assert len(condemned_packs(workshop.store)) == 2

    assert bring_back(workshop, two) == 1

    runs = through_all(workshop)
    assert sum(len(run.deleted) for run in runs) == 1
    assert workshop.restore(two) == disk
    assert damage(workshop) == []


def test_a_pack_that_is_needed_after_all_is_spared(workshop: Workshop) -> None:
    """Whatever was believed when it was condemned, such as by a catalog that was set back."""
    _, two, _ = history(workshop)
    forget(workshop, two)
    reclaim(workshop)
    workshop.transport.rename(layout.forgotten_record(two.name), two.name)
    for entry in workshop.names(layout.FORGETS):
        workshop.transport.delete(entry)

    runs = through_all(workshop)

    assert sum(len(run.deleted) for run in runs) == 0
    assert set().union(*(run.spared for run in runs))
    assert condemned_packs(workshop.store) == frozenset()
    assert workshop.restore(two)


def test_a_copy_goes_only_where_the_other_is_there_and_proved(workshop: Workshop) -> None:
    one = workshop.back_up(noise(1, 5 * CHUNK))
    twin = workshop.back_up(noise(1, 5 * CHUNK), vm=VmId(random_name()))
    brought = {p.pack: p for p in known_packs(workshop.store) if p.run == twin.record.run}
    others = [p for p in known_packs(workshop.store) if p.run == one.record.run]
    proved = {place.chunk: Copy(p.pack, p.size_bytes) for p in others for place in p.locations}

    def copies(chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
        return {chunk: proved[chunk] for chunk in chunks if chunk in proved}

    assert reclaim(workshop, brought).condemned == [], "nobody vouches for the other copy"
    assert reclaim(workshop, copies=copies).condemned == [], "not both at once"
    assert set(reclaim(workshop, brought, copies=copies).condemned) == set(brought)
    days_later(workshop, 8)
    reclaim(workshop, ())
    del proved[next(iter(proved))]
    run = reclaim(workshop, (), copies=copies)
    spared = {
        p for p, each in brought.items() if any(q.chunk not in proved for q in each.locations)
    }
    assert run.spared == spared
    assert set(run.deleted) == set(brought) - spared
    assert workshop.restore(twin) == workshop.restore(one)


def test_brakes(workshop: Workshop) -> None:
    one, two, _ = history(workshop)
    forget(workshop, two)
    with pytest.raises(ReclaimStopped, match=r"^nothing is condemned: 1 of 5 packs"):
        reclaim(workshop, most_share=0.1)
    write_head(workshop.store, clock=workshop.clock)
    kept = workshop.objects[one.name]

    workshop.objects[one.name] = b"not whole"
    with pytest.raises(ReclaimStopped, match="nobody knows what version"):
        reclaim(workshop)
    del workshop.objects[one.name]
    with pytest.raises(ReclaimStopped, match="are gone that nobody forgot"):
        reclaim(workshop)
    workshop.objects[one.name] = kept
    workshop.clock._now -= 40 * DAY
    with pytest.raises(ReclaimStopped, match="clock"):
        reclaim(workshop)
    workshop.clock._now += 40 * DAY
    assert len(reclaim(workshop).condemned) == 1


def test_a_brake_says_what_its_run_condemned_before(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.store.prune.reclaiming.MAX_WANTED", 1)  # a pack at a time
    _, two, three = history(workshop)
    forget(workshop, two, three)

    with pytest.raises(ReclaimStopped, match=r"^no pack but the 1 so far is condemned: 2 of 5"):
        reclaim(workshop, most_share=0.2)

    assert len(condemned_packs(workshop.store)) == 1


def test_who_does_not_own_the_store_any_more_deletes_nothing(workshop: Workshop) -> None:
    _, two, _ = history(workshop)
    old = owner_of(workshop.store)
    forget(workshop, two)
    reclaim(workshop)
    take_over(workshop.store, random_name(), host="", clock=workshop.clock)
    workshop.store = open_store_with_key_file(workshop.transport, workshop.key_file)
    workshop.store.fence = Fence(lambda: old)

    with pytest.raises(StoreTakenOver):
        through_all(workshop)


def test_what_an_earlier_owner_condemned_is_relied_on_by_nobody(workshop: Workshop) -> None:
    """It may be deleting that very pack, however late."""
    _, two, _ = history(workshop)
    forget(workshop, two)
    reclaim(workshop)
    (condemned,) = condemned_packs(workshop.store)
    take_over(workshop.store, random_name(), host="", clock=workshop.clock)

    with pytest.raises(UnknownVersion, match=r"^version .{8} cannot be taken back: .* deleted"):
        bring_back(workshop, two)

    copy = workshop.back_up(workshop_disk(workshop, two), vm=VmId(random_name()), incremental=False)
    mine = {p.pack for p in known_packs(workshop.store) if p.run == copy.record.run}
    sizes = {p.pack: p.size_bytes for p in known_packs(workshop.store)}
    given = workshop_gives_back(workshop, mine, condemned, sizes[condemned])
    assert given == ()


def workshop_disk(workshop: Workshop, version: Version) -> bytes:
    lies_at = layout.forgotten_record(version.name)
    workshop.transport.rename(lies_at, version.name)
    disk = workshop.restore(version)
    workshop.transport.rename(version.name, lies_at)
    return disk


def workshop_gives_back(
    workshop: Workshop, packs: set[PackId], holder: PackId, size: int
) -> tuple[PackId, ...]:
    held = {pack: {holder: size} for pack in packs}
    return delete_redundant_packs(
        workshop.store, lambda: held, reason="", clock=workshop.clock
    ).packs


def test_a_backup_whose_base_was_forgotten_under_way_is_no_version(workshop: Workshop) -> None:
    one, two, _ = history(workshop)
    disk = workshop.restore(two)
    three = workshop.transfer(changed(disk, (0, noise("new", CHUNK))))
    assert three.last is not None
    forget_versions(
        workshop.store, [three.last.name], reason="", clock=workshop.clock, even_last=True
    )

    with pytest.raises(TransferBroken, match="was forgotten while it was backed up"):
        workshop.commit(three)

    assert workshop.restore(one)
    assert workshop.restore(workshop.back_up(disk)) == disk


def test_what_was_condemned_while_the_clock_was_ahead_goes_all_the_same(
    workshop: Workshop,
) -> None:
    versions = history(workshop, 4)
    forget(workshop, versions[1])
    days_later(workshop, 4000)
    assert len(reclaim(workshop).condemned) == 1
    days_later(workshop, -4000)
    forget(workshop, versions[2])

    deleted = []
    for _ in range(4):
        deleted.append(len(reclaim(workshop).deleted))
        days_later(workshop, 4)

    assert deleted == [0, 0, 2, 0], "it waits from when the clock was right again"
    assert not workshop.names(layout.FORGOTTEN)
    assert damage(workshop) == []


def test_what_forgotten_versions_name_is_read_once_however_many_there_are(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_MAX_AT_ONCE", 2)
    versions = history(workshop, 9)
    forget(workshop, *versions[:4])
    reclaim(workshop)
    days_later(workshop, 8)
    forget(workshop, *versions[4:-1])
    reclaim(workshop)
    store, looked = workshop.store, _Looking(workshop.transport)
    workshop.store = open_store_with_key_file(looked, workshop.key_file)
    done = reclaim(workshop)

    assert len(done.deleted) == 3, "the first version's pack has what the last one needs"
    assert set(looked.reads.values()) == {2}, looked.reads
    workshop.store = store
    assert damage(workshop) == []
    assert bring_back(workshop, versions[-2])
    assert damage(workshop) == []


class _Looking(MeteredTransport):
    """Counts reads of each forgotten version's record; to read one whole takes two."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, folder=layout.PACKS)
        self.reads: Counter[str] = Counter()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name.startswith(layout.FORGOTTEN):
            self.reads[name] += 1
        return super().read(name, offset, length)


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_anywhere_is_gone_on_with(workshop: Workshop, *, after: bool) -> None:
    """Every change of the store once as the one at which it ends."""
    versions = history(workshop, 4)
    disks = [workshop.restore(version) for version in versions]
    write_head(workshop.store, clock=workshop.clock)
    forget(workshop, versions[1], versions[2])
    reclaim(workshop)
    days_later(workshop, 8)
    reclaim(workshop)
    started = dict(workshop.objects)
    died, store = 0, workshop.store
    for nth in range(40):
        workshop.objects.clear()
        workshop.objects.update(started)
        workshop.store = open_store_with_key_file(
            _Dying(workshop.transport, nth, after=after), workshop.key_file
        )
        try:
            reclaim(workshop, ())
        except _Died:
            died += 1
        workshop.store = store
        assert damage(workshop) == [], nth
        through_all(workshop)
        assert len(workshop.pack_names()) == 4, nth
        assert not workshop.names(layout.FORGOTTEN), nth
        assert damage(workshop) == [], nth
        if died <= nth:
            break
    assert died > 5
    assert [workshop.restore(v) for v in (versions[0], versions[3])] == [disks[0], disks[3]]


class _Died(BaseException):
    """The process is gone."""


class _Dying(MeteredTransport):
    """Lets its process die at the n-th change, before or after it is done."""

    def __init__(self, inner: Transport, nth: int, *, after: bool) -> None:
        super().__init__(inner, folder=layout.PACKS)
        self._inner, self._left, self._after = inner, nth, after

    def _change(self, work: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == -1 and not self._after:
            raise _Died
        work()
        if self._left == -1:
            raise _Died

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self._change(lambda: self._inner.create(name, parts))

    def rename(self, name: str, new_name: str) -> None:
        self._change(lambda: self._inner.rename(name, new_name))

    def delete(self, name: str) -> None:
        self._change(lambda: self._inner.delete(name))

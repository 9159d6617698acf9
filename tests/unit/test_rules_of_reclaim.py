"""Each rule of the reclaim saves a version in one history, which is lost there without it."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from likeness.errors import LikenessError, TransferBroken
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.owning import Fence, owner_of, take_over
from likeness.store.prune import reclaiming
from likeness.store.prune.marking import Mark
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version, record_names
from likeness.store.write.commit import commit_version
from likeness.store.write.condemning import condemned_packs
from likeness.store.write.forgetting import forget_versions
from likeness.store.write.receipts import TransferReceipt
from likeness.transport.local import LocalTransport
from likeness.transport.passing import PassingTransport
from tests.unit.test_forgetting import history
from tests.unit.test_reclaiming import days_later, reclaim
from tests.unit.workshop import CHUNK, Maker, Workshop, changed, noise


def restores(workshop: Workshop, version: Version) -> bool:
    try:
        return bool(workshop.restore(version))
    except LikenessError:
        return False


def give_up(workshop: Workshop, *names: str) -> None:
    forget_versions(workshop.store, names, reason="", clock=workshop.clock, even_last=True)


def through(workshop: Workshop) -> None:
    """Condemned, and deleted a week and two runs later."""
    for days in (4, 4, 4):
        reclaim(workshop)
        days_later(workshop, days)
    reclaim(workshop)


@pytest.mark.parametrize("off", [False, True])
def test_a_pack_is_durable_before_anybody_speaks_of_it(
    make_workshop: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    """The power is cut after the commit: what the kernel was not asked to keep is empty then."""
    kept: set[int] = set()
    sync = os.fsync

    def noted(handle: int) -> None:
        if off and "/in/" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            return
        sync(handle)
        kept.add(os.fstat(handle).st_ino)

    monkeypatch.setattr("likeness.transport.local.os.fsync", noted)
    (tmp_path / "store").mkdir()
    workshop = make_workshop(transport=LocalTransport(tmp_path / "store"))
    made = workshop.back_up(noise("disk", 2 * CHUNK))

    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and path.stat().st_ino not in kept:
            os.truncate(path, 0)

    assert restores(workshop, made) is not off


@pytest.mark.parametrize("off", [False, True])
def test_a_commit_looks_whether_what_it_relies_on_is_still_there(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    base = history(workshop, 1)[0]
    receipt = workshop.transfer(changed(workshop.restore(base), (0, noise("new", CHUNK))))
    give_up(workshop, base.name)
    through(workshop)
    if off:
        monkeypatch.setattr("likeness.store.write.commit.require_still_there", lambda *_: None)
        assert not restores(workshop, workshop.commit(receipt))
    else:
        with pytest.raises(TransferBroken):
            workshop.commit(receipt)


@pytest.mark.parametrize("off", [False, True])
def test_what_is_condemned_is_looked_at_once_more(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    """The version came back since, and whoever brought it back had no time to say so."""
    _, two, _ = history(workshop)
    give_up(workshop, two.name)
    reclaim(workshop)
    workshop.transport.rename(layout.forgotten_record(two.name), two.name)
    for name in workshop.names(layout.FORGETS):
        workshop.transport.delete(name)
    if off:
        monkeypatch.setattr(
            reclaiming, "marked_again", lambda work, _: Mark(work.store, work.scratch, work.stop)
        )
        monkeypatch.setattr(reclaiming, "look_again", lambda _: None)

    through(workshop)

    assert restores(workshop, two) is not off


class _Locked(Exception):
    pass


@pytest.mark.parametrize("off", [False, True])
def test_who_commits_forgets_or_deletes_is_alone(workshop: Workshop, *, off: bool) -> None:
    """Everything else happens between a commit's last look and its record."""
    held: list[str] = []

    @contextmanager
    def gate() -> Generator[None, None, None]:
        if held and not off:
            raise _Locked
        held.append("")
        try:
            yield
        finally:
            held.pop()

    base = history(workshop, 1)[0]
    receipt = workshop.transfer(changed(workshop.restore(base), (0, noise("new", CHUNK))))

    def meanwhile() -> None:
        with gate():
            give_up(workshop, base.name)
        for days in (4, 4, 4, 0):
            reclaim(workshop, gate=gate)
            days_later(workshop, days)

    made = _committed(workshop, receipt, gate, meanwhile)

    assert restores(workshop, made) is not off


def _committed(
    workshop: Workshop,
    receipt: TransferReceipt,
    gate: reclaiming.Gate,
    meanwhile: Callable[[], None],
) -> Version:
    """Commit; right before the record is written, everything else happens if it can."""
    store, plain = workshop.store, workshop.transport

    class Between(PassingTransport):
        def create(self, name: str, parts) -> None:  # type: ignore[no-untyped-def]
            if name.startswith(layout.VERSIONS):
                with suppress(_Locked):
                    meanwhile()
            super().create(name, parts)

    return commit_version(store.over(Between(plain)), receipt, clock=workshop.clock, gate=gate)


@pytest.mark.parametrize("off", [False, True])
def test_what_an_earlier_owner_condemned_is_never_relied_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, *, off: bool
) -> None:
    """It stands still in mid-delete; meanwhile the store is taken over, and wakes up then."""
    _, two, _ = history(workshop)
    disk = workshop.restore(two)[:CHUNK]
    give_up(workshop, two.name)
    reclaim(workshop)
    days_later(workshop, 8)
    reclaim(workshop)
    (doomed,) = condemned_packs(workshop.store)
    if off:
        monkeypatch.setattr("likeness.store.prune.sweeping.condemned_packs", lambda _: frozenset())
        monkeypatch.setattr("likeness.store.prune.sweeping.said_lately", lambda _: set())
    plain, old = workshop.transport, owner_of(workshop.store)
    made: list[Version] = []

    class StandsStill(PassingTransport):
        def delete(self, name: str) -> None:
            if name == layout.pack(doomed):
                made.append(_new_owner(workshop, disk, doomed))
            super().delete(name)

    late = DataStore(
        StandsStill(plain), workshop.store.facts, workshop.store.keys, fence=Fence(lambda: old)
    )
    with pytest.raises(LikenessError):
        reclaiming.Reclaim(
            late, RunId(random_name()), workshop.clock, workshop.folder, most_share=1.0
        ).work(())

    assert len(record_names(workshop.store, made[0].vm)) == 1
    assert restores(workshop, made[0]) is not off


def _new_owner(workshop: Workshop, disk: bytes, doomed: PackId) -> Version:
    """Takes over, backs up what that pack holds too, and keeps one copy of each data block."""
    take_over(workshop.store, random_name(), host="", clock=workshop.clock)
    made = workshop.back_up(disk, vm=VmId(random_name()))
    known = {pack.pack: pack for pack in known_packs(workshop.store)}
    held = {place.chunk for place in known[doomed].locations}
    twins = {
        pack: {doomed: known[doomed].size_bytes}
        for pack, each in known.items()
        if each.run == made.record.run and {place.chunk for place in each.locations} <= held
    }
    delete_redundant_packs(workshop.store, lambda: twins, reason="", clock=workshop.clock)
    return made

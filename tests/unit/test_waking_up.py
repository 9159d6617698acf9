"""An old controller that wakes up anywhere in a reclaim or a deduplication is refused."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from likeness.errors import StoreTakenOver
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import Fence, owner_of, take_over
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.read.index import known_packs
from likeness.store.read.versions import read_version, record_names
from likeness.store.write.commit import commit_version
from likeness.store.write.forgetting import forget_versions
from likeness.transport.base import Transport
from likeness.transport.metered import MeteredTransport
from tests.unit.workshop import CHUNK, Workshop, changed, noise

DISK = noise(1, 6 * CHUNK)
Work = Callable[[Workshop, DataStore], None]


class Sleeps(MeteredTransport):
    """Falls asleep right before its n-th change; something happens, and it wakes up and does it."""

    def __init__(self, inner: Transport, nth: int, meanwhile: Callable[[], object]) -> None:
        super().__init__(inner, folder="")
        self._left, self._meanwhile = nth, meanwhile

    def _change(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._meanwhile()

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self._change()
        super().create(name, parts)

    def rename(self, source: str, target: str) -> None:
        self._change()
        super().rename(source, target)

    def delete(self, name: str) -> None:
        self._change()
        super().delete(name)


def reclaims(workshop: Workshop, store: DataStore) -> None:
    """Gives the first version up, and deletes what only it needed without a week to think."""
    first = record_names(store, workshop.vm)[0]
    forget_versions(store, [first], reason="", clock=workshop.clock)
    work = Reclaim(
        *(store, RunId(random_name()), workshop.clock, workshop.folder),
        wait=timedelta(0),
        runs=0,
        most_share=1.0,
    )
    work.work([pack.pack for pack in known_packs(store, damaged=lambda _: None)])
    assert work.done.deleted


def dedups(workshop: Workshop, store: DataStore) -> None:
    """Gives packs back of which others hold all."""
    size = {pack.pack: pack.size_bytes for pack in known_packs(store)}
    twins: dict[frozenset[bytes], list[PackId]] = {}
    for pack in known_packs(store):
        twins.setdefault(frozenset(p.chunk for p in pack.locations), []).append(pack.pack)
    spare = {two[1]: {two[0]: size[two[0]]} for two in twins.values() if len(two) > 1}
    assert delete_redundant_packs(store, lambda: spare, reason="", clock=workshop.clock).packs


@pytest.mark.parametrize("work", [reclaims, dedups])
def test_who_wakes_up_after_a_take_over_is_refused_and_nothing_is_lost(
    tmp_path: Path, work: Work
) -> None:
    for nth in count(1):
        (folder := tmp_path / str(nth)).mkdir()
        if not refused_at(Workshop(folder), work, nth):
            break
    assert nth > 3, "each change was tried"


def refused_at(workshop: Workshop, work: Work, nth: int) -> bool:
    """Whether the controller got as far as its n-th change, and was refused when it woke up."""
    twin = VmId(random_name())
    kept = {workshop.back_up(noise(0, 3 * CHUNK)).name: noise(0, 3 * CHUNK)}
    kept[workshop.back_up(DISK).name] = DISK
    kept[workshop.back_up(DISK, vm=twin).name] = DISK
    new, taken = random_name(), []
    mine = open_store_with_key_file(workshop.transport, workshop.key_file)

    def takes_over() -> None:
        take_over(mine, new, host="", clock=workshop.clock)
        mine.fence = Fence(lambda: new)
        later = changed(DISK, (CHUNK, b"new"))
        version = commit_version(mine, workshop.transfer(later, vm=twin), clock=workshop.clock)
        taken.append(version.name)
        kept[version.name] = later

    old = open_store_with_key_file(workshop.transport, workshop.key_file)
    owner = owner_of(old)
    old.fence = Fence(lambda: owner)
    old.transport = Sleeps(workshop.transport, nth, takes_over)
    try:
        work(workshop, old)
    except StoreTakenOver:
        assert taken
    there = set(workshop.names("versions"))
    for name, disk in kept.items():
        if name in there:
            assert workshop.restore(read_version(mine, name), store=mine) == disk
    assert len(there) >= len(kept) - 1, "but for what was given up"
    return bool(taken)

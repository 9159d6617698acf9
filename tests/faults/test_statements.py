"""One statement that is damaged or unreadable stops no job and no check, and calls nothing lost.

What was forgotten, pinned, condemned or found at a take-over is written down in statements. Only
who must know all of them, to forget or to delete, stops at one that cannot be read.
"""

from pathlib import Path

import pytest

from likeness.errors import Damaged, ObjectUnreadable, ReclaimStopped
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.store.check.recorded import recorded_versions
from likeness.store.check.scrubbing import scrub_signatures
from likeness.store.format import layout
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import take_over
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.condemning import say_condemned
from likeness.store.write.forgetting import finish_moves, forget_versions
from likeness.store.write.heads import write_head
from likeness.store.write.holding import pin
from tests.audit.conftest import Filled, fill
from tests.faults.test_unreadable import DISKS, NEXT
from tests.support.faulty import FaultyTransport
from tests.support.memory import MemoryTransport

KINDS = (layout.FORGETS, layout.HOLDS, layout.CONDEMNED, layout.ADOPTED, layout.FORGOTTEN)
NEEDED_TO_DELETE = (layout.FORGETS, layout.CONDEMNED)


def lived(folder: Path) -> Filled:
    """A store with a pinned version and a forgotten one, that was taken over once."""
    filled = fill(folder)
    shop = filled.workshop
    pin(shop.store, filled.versions[1].name, note="year's end", until=None, clock=shop.clock)
    forget_versions(shop.store, [filled.versions[0].name], reason="by hand", clock=shop.clock)
    say_condemned(shop.store, (), (), run=RunId(random_name()), clock=shop.clock)
    take_over(shop.store, random_name(), host="another", clock=shop.clock)
    shop.store = open_store_with_key_file(shop.transport, shop.key_file)
    write_head(shop.store, clock=shop.clock)
    return filled


def spoil(filled: Filled, name: str, how: str) -> None:
    shop = filled.workshop
    if how == "EIO":
        faulty = FaultyTransport(shop.transport)
        faulty.unreadable[name] = ObjectUnreadable(f"{name}: Input/output error")
        shop.transport = faulty
    else:
        data = bytearray(filled.path(name).read_bytes())
        data[len(data) // 2] ^= 1
        filled.path(name).write_bytes(data)
    shop.store = open_store_with_key_file(shop.transport, shop.key_file)


@pytest.mark.parametrize("how", ["EIO", "a bit"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_statement_stops_nothing_and_is_said_once(
    tmp_path: Path, kind: str, how: str
) -> None:
    filled = lived(tmp_path)
    shop, (name, *_) = filled.workshop, filled.names(kind)
    spoil(filled, name, how)

    found = list(scrub_signatures(shop.store, stop=StopToken()))
    weight = Weight.UNCHECKED if how == "EIO" else Weight.SPARE_LOST
    assert [(each.name, each.weight) for each in found] == [(name, weight)]
    assert [o for o in filled.audited() if o.weight is Weight.DAMAGE] == []
    assert recorded_versions(shop.store).told == []

    for vm in {version.vm for version in filled.versions}:
        assert shop.restore(shop.back_up(NEXT, vm=vm)) == NEXT
    assert put_copy(shop.store, shop.folder / "catalog", clock=shop.clock).number == 2
    assert write_head(shop.store, clock=shop.clock).problem == ""

    vault = MemoryTransport()
    list(copy_to_vault(shop.store, vault, stop=StopToken()))
    for version, disk in list(zip(filled.versions, DISKS, strict=True))[1:]:
        assert shop.restore(version) == disk
        assert shop.restore(version, store=shop.store.over(vault)) == disk


@pytest.mark.parametrize("how", ["EIO", "a bit"])
@pytest.mark.parametrize("kind", NEEDED_TO_DELETE)
def test_nothing_is_deleted_by_half_the_statements(tmp_path: Path, kind: str, how: str) -> None:
    filled = lived(tmp_path)
    shop = filled.workshop
    spoil(filled, filled.names(kind)[0], how)
    before = filled.names(layout.PACKS)

    with pytest.raises((Damaged, ObjectUnreadable, ReclaimStopped)):
        Reclaim(shop.store, RunId(random_name()), shop.clock, tmp_path).work(
            [shop.packs_of(filled.versions[0]).copy().pop()]
        )

    assert filled.names(layout.PACKS) == before


@pytest.mark.parametrize("kind", [*NEEDED_TO_DELETE, layout.HOLDS])
def test_whoever_stops_at_one_says_what_helps_and_that_helps(tmp_path: Path, kind: str) -> None:
    filled = lived(tmp_path)
    shop, (name, *_) = filled.workshop, filled.names(kind)
    spoil(filled, name, "a bit")

    def work() -> None:
        forget_versions(shop.store, [filled.versions[2].name], reason="a test", clock=shop.clock)
        Reclaim(shop.store, RunId(random_name()), shop.clock, tmp_path).work(())

    with pytest.raises(Damaged, match="move it out of the store"):
        work()
    filled.path(name).unlink()
    work()
    write_head(shop.store, clock=shop.clock)
    work()
    assert [each for each in filled.audited() if each.weight is Weight.DAMAGE] == []


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", NEEDED_TO_DELETE)
def test_a_statement_that_was_never_finished_is_set_aside_and_the_work_goes_on(
    tmp_path: Path, kind: str, share: float
) -> None:
    """Its writer was killed: what it would have said was never done."""
    filled = lived(tmp_path)
    shop, forgotten = filled.workshop, filled.names(layout.FORGOTTEN)
    last = filled.names(kind)[-1]
    next_one = layout.numbered(kind, int(last.rpartition("/")[2], 16) + 1)
    data = filled.path(last).read_bytes()
    begun = data[: int(len(data) * share)]
    filled.path(next_one).write_bytes(begun)

    done = Reclaim(shop.store, RunId(random_name()), shop.clock, tmp_path).work([])
    finish_moves(shop.store)
    more = forget_versions(shop.store, [filled.versions[2].name], reason="", clock=shop.clock)

    assert done.deleted == {}
    assert more.gone == [filled.versions[2].name]
    assert set(filled.names(layout.FORGOTTEN)) > set(forgotten)
    (aside,) = filled.names(layout.QUARANTINE)
    assert filled.path(aside).read_bytes() == begun
    assert [o for o in filled.audited() if o.weight is not Weight.NOTICE] == []
    assert shop.restore(filled.versions[1]) == DISKS[1]

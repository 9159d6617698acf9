"""An audit of presence tells what is missing, cut short or nobody's, and nothing else."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likeness.codec.slots import SlotKind
from likeness.errors import ShareRefused, Stopped
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.observations import Weight
from likeness.store.format.opening import add_slot
from likeness.store.format.public_view import open_public
from likeness.store.write.heads import FULL_EVERY, write_head
from likeness.transport.base import Entry
from likeness.transport.local import LocalTransport
from tests.audit.conftest import OBJECTS, SIZE, Filled, bad
from tests.unit.workshop import noise

SPARE = {
    "block map",
    "index segment",
    "key slot",
    "public keys",
    "owner",
    "format copy",
    "part of a catalog copy",
    "head",
}
UNSEEN = {"head", "newest head", "catalog copy"}
"""What nothing else in the store speaks of: see `expect_head`."""


@pytest.mark.parametrize("with_key", [True, False], ids=["with the key", "without any key"])
def test_a_whole_store_gives_nothing_to_say(filled: Filled, *, with_key: bool) -> None:
    assert filled.audited(with_key=with_key) == []


@pytest.mark.parametrize("kind", sorted(set(OBJECTS) - UNSEEN))
@pytest.mark.parametrize("with_key", [True, False], ids=["with the key", "without any key"])
def test_whatever_is_missing_is_named(filled: Filled, kind: str, *, with_key: bool) -> None:
    name = OBJECTS[kind](filled)
    view = filled.store if with_key else filled.public
    filled.path(name).unlink()

    found = bad(list(audit_presence(view, stop=StopToken())))

    named = name.rpartition("/")[0] if "record" in kind else name
    assert found == {named: Weight.SPARE_LOST if kind in SPARE else Weight.DAMAGE}


def test_a_head_missing_between_others_breaks_the_history(filled: Filled) -> None:
    name = filled.names(layout.HEADS)[1]
    filled.path(name).unlink()

    assert bad(filled.audited()) == {name: Weight.SPARE_LOST}


def test_a_long_history_is_read_from_its_last_full_head_on(filled: Filled) -> None:
    while len(filled.names(layout.HEADS)) < FULL_EVERY + 3:
        add_slot(filled.store, bytes(32), SlotKind.KEY_FILE)
        write_head(filled.store, clock=filled.workshop.clock)
    first, second, *_ = filled.names(layout.HEADS)
    filled.path(second).unlink()
    slot = filled.names(layout.KEYS)[-1]
    filled.path(slot).unlink()

    assert bad(filled.audited()) == {slot: Weight.SPARE_LOST}
    assert bad(filled.verified()) == {second: Weight.SPARE_LOST}
    assert first != second


@pytest.mark.parametrize("grow", [-1, 1], ids=["shorter", "longer"])
@pytest.mark.parametrize("kind", ["pack", "block map"])
def test_a_wrong_length_is_named(filled: Filled, kind: str, grow: int) -> None:
    path = filled.path(OBJECTS[kind](filled))
    path.write_bytes((path.read_bytes() + b"x")[: path.stat().st_size + grow])

    assert OBJECTS[kind](filled) in bad(filled.audited())


def test_a_missing_pack_names_the_version_that_brought_it(filled: Filled) -> None:
    first, other = filled.versions[0], filled.versions[1]
    pack = next(iter(filled.workshop.packs_of(other)))
    filled.path(layout.pack(pack)).unlink()

    (found,) = filled.audited(with_key=False)

    assert found.versions == (other.name,)
    assert "`prove` says for whom" in str(found)
    assert first.name not in str(found)


def _id(name: str) -> PackId:
    return PackId(name.rpartition("/")[2])


def test_both_copies_of_a_map_missing_is_damage_to_every_version_on_it(filled: Filled) -> None:
    part = filled.versions[0].record.disks[0].parts[0]
    for copy in part.copies:
        filled.path(copy).unlink()

    found = filled.audited()

    assert bad(found) == dict.fromkeys(part.copies, Weight.DAMAGE)
    on_it = [v.name for v in (filled.versions[0], filled.versions[2], filled.versions[3])]
    assert sorted(found[0].versions) == sorted(on_it)


def test_an_emptied_store_is_told_pack_by_pack(filled: Filled) -> None:
    packs = filled.names(layout.PACKS)
    shutil.rmtree(filled.path(layout.PACKS))

    assert bad(filled.audited()) == dict.fromkeys(packs, Weight.DAMAGE)


def test_packs_are_compared_in_turns_with_the_same_result(filled: Filled) -> None:
    packs = filled.names(layout.PACKS)
    filled.path(packs[2]).unlink()
    filled.path(layout.pack(PackId(random_name()))).parent.mkdir(exist_ok=True)

    assert bad(filled.audited(most_in_mind=3)) == {packs[2]: Weight.DAMAGE}


def test_a_pack_given_back_with_a_signed_statement_is_not_missing(filled: Filled) -> None:
    disk = noise("twice", SIZE)
    brought = filled.workshop.packs_of(filled.workshop.back_up(disk, vm=VmId(random_name())))
    twin = filled.workshop.back_up(disk, vm=VmId(random_name()))
    assert filled.workshop.delete_redundant(filled.workshop.packs_of(twin) - brought).packs
    write_head(filled.store, clock=filled.workshop.clock)

    assert filled.audited() == []


def test_a_whole_vm_deleted_is_told(filled: Filled) -> None:
    folder = layout.versions_of(filled.versions[1].vm)
    shutil.rmtree(filled.path(folder))

    assert bad(filled.audited(with_key=False)) == {folder: Weight.DAMAGE}


def test_a_record_that_was_replaced_is_told_although_their_number_is_right(filled: Filled) -> None:
    filled.workshop.back_up(noise("new", 1024))
    filled.path(filled.versions[0].name).unlink()

    (found,) = [o for o in filled.audited() if o.weight is Weight.DAMAGE]

    assert found.name == layout.versions_of(filled.versions[0].vm)


def test_the_torn_tail_of_a_job_that_died_is_no_damage(filled: Filled) -> None:
    newest = filled.workshop.back_up(noise("more", 64 * 1024))
    path = filled.path(newest.name)
    path.write_bytes(path.read_bytes()[:100])

    found = filled.audited()

    assert bad(found) == {}
    assert "uncommitted tail" in str(next(o for o in found if o.name == newest.name))


@pytest.mark.parametrize("with_key", [True, False], ids=["with the key", "without any key"])
def test_versions_newer_than_the_newest_head_are_in_order(
    filled: Filled, *, with_key: bool
) -> None:
    filled.workshop.back_up(noise("newer", 64 * 1024))
    filled.workshop.back_up(noise("newest", 64 * 1024))

    assert filled.audited(with_key=with_key) == []


def test_a_store_without_any_head_yet_is_in_order(filled: Filled) -> None:
    for name in filled.names(layout.HEADS):
        filled.path(name).unlink()

    assert filled.audited() == []


def test_a_torn_record_that_a_head_covers_is_damage(filled: Filled) -> None:
    path = filled.path(filled.versions[-1].name)
    path.write_bytes(path.read_bytes()[:100])

    assert bad(filled.audited())[filled.versions[-1].name] is Weight.DAMAGE


def test_a_record_copied_under_a_new_name_is_noticed_and_harms_nobody(filled: Filled) -> None:
    record = filled.versions[0]
    copied = layout.version_record(record.vm, 2, record.version)
    shutil.copy(filled.path(record.name), filled.path(copied))

    found = filled.audited(with_key=False)

    assert bad(found) == {}
    assert [o.name for o in found] == [copied]


def test_packs_and_maps_of_a_commit_that_never_finished_are_no_damage(filled: Filled) -> None:
    class Died(Exception):
        pass

    def die(step: str) -> None:
        if step == "index written":
            raise Died

    receipt = filled.workshop.transfer(noise("late", 256 * 1024))
    with pytest.raises(Died):
        filled.workshop.commit(receipt, die)

    found = filled.audited()

    assert bad(found) == {}
    assert any("no version needs this block map" in o.cause for o in found)


def test_a_disk_that_moved_to_another_vm_keeps_the_maps_of_both(filled: Filled) -> None:
    workshop, other = filled.workshop, VmId(random_name())
    workshop.disk_ids[other, 0] = workshop.disk_ids[workshop.vm, 0]
    workshop.back_up(noise("moved", 64 * 1024), vm=other)

    assert filled.audited() == []


def test_packs_that_no_index_speaks_of_are_noticed_together(filled: Filled) -> None:
    pack = filled.path(filled.names(layout.PACKS)[0]).read_bytes()
    for _ in range(3):
        filled.workshop.transport.create(layout.pack(PackId(random_name())), [pack])

    (found,) = filled.audited()

    assert found.weight is Weight.NOTICE
    assert "2 more like it" in found.cause


def test_what_lies_in_an_inbox_is_nobodys_concern(filled: Filled) -> None:
    name = layout.arriving_pack(RunId(random_name()), PackId(random_name()))
    filled.workshop.transport.create(name, [b"half a pack"])

    assert filled.audited() == []


def test_a_key_slot_that_no_head_knows_is_noticed(filled: Filled) -> None:
    slot = layout.slot("00" * 8)
    shutil.copy(filled.path(OBJECTS["key slot"](filled)), filled.path(slot))

    assert [o.name for o in filled.audited(with_key=False)] == [slot]


def test_the_last_slot_missing_is_damage(filled: Filled) -> None:
    store = filled.store
    for name in filled.names(layout.KEYS):
        if "/slot-" in name:
            filled.path(name).unlink()

    assert bad(list(audit_presence(store, stop=StopToken())))[layout.KEYS] is Weight.DAMAGE


class ClosedInPart(LocalTransport):
    """A share that does not let this account look into one of its folders."""

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        if folder.startswith("lost+found"):
            raise ShareRefused(f"{folder}: permission denied; check the rights")
        yield from super().entries(folder, deep=deep)


def test_a_folder_of_others_is_noticed_and_not_looked_into(filled: Filled) -> None:
    (filled.root / "lost+found" / "#1").mkdir(parents=True)
    share = ClosedInPart(filled.root)

    (found,) = audit_presence(open_public(share), stop=StopToken())

    assert (found.weight, found.name) == (Weight.NOTICE, "lost+found")
    assert list(scrub_frames(share, stop=StopToken())) == []
    assert list(scrub_signatures(open_public(share), stop=StopToken())) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(name=st.text("abc\x1b\n é.-", min_size=1, max_size=20).filter(lambda n: n.strip(".")))
def test_strange_names_are_noticed_never_opened_and_safe_to_print(
    filled: Filled, name: str
) -> None:
    path = filled.root / "packs" / f"~{name}"
    path.write_bytes(b"")
    try:
        (found,) = filled.audited(with_key=False)
    finally:
        path.unlink()

    assert found.weight is Weight.NOTICE
    assert found.name.isascii()
    assert found.name.isprintable()


def test_an_audit_stops_when_asked(filled: Filled) -> None:
    stop = StopToken()
    stop.stop()

    with pytest.raises(Stopped):
        list(audit_presence(filled.store, stop=stop))


def test_the_store_is_left_as_it_was(filled: Filled) -> None:
    def state() -> dict[str, bytes]:
        return {n: filled.path(n).read_bytes() for n in filled.names("")}

    before = state()
    run: list[Callable[[], object]] = [filled.audited, filled.scrubbed, filled.verified]
    for each in run:
        each()

    assert state() == before


def test_a_record_with_an_enormous_number_costs_no_memory(filled: Filled) -> None:
    """The numbers between it and the others are more than any memory holds."""
    first, third = filled.versions[0], filled.versions[2]
    stray = filled.path(f"{layout.versions_of(first.vm)}/{'e' * 16}-{'5' * 32}")
    filled.path(third.name).rename(stray)

    found = filled.audited()

    gone = next(each for each in found if each.name == layout.versions_of(first.vm))
    assert f"perhaps numbers {third.sequence}, " in gone.cause

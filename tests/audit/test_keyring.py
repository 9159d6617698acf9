"""Ways of opening a store come and go; its master key and what it opens stay."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from likeness.codec import slots
from likeness.codec.documents import Kind
from likeness.codec.keys import StoreKeys
from likeness.codec.slots import Slot, SlotKind
from likeness.errors import BadInput, Damaged, ShareUnreachable, StoreExists, WrongKey
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import (
    create_store,
    open_store,
    open_store_with_key_file,
    write_public_keys,
)
from likeness.store.format.pack import PackHeader
from likeness.store.format.public_view import open_public
from likeness.store.keys.keyring import (
    add_escrow,
    add_key_file,
    add_passphrase,
    add_recovery_words,
    begin_epoch,
    list_slots,
    remove_slot,
    renew_public_keys,
)
from likeness.store.read.index import known_packs
from likeness.store.write.heads import write_head
from likeness.transport.local import LocalTransport
from tests.audit.conftest import Filled, bad
from tests.support.faulty import Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import TickingClock, Workshop, noise

PASSPHRASE = "seven horses under the bridge"


def slot_names(store: DataStore) -> list[str]:
    return [slot.name for slot in list_slots(store)]


def reopened(filled: Filled) -> DataStore:
    return open_store_with_key_file(LocalTransport(filled.root), filled.workshop.key_file)


def test_a_passphrase_opens_the_store_until_its_slot_is_removed(filled: Filled) -> None:
    transport = filled.workshop.transport
    name = add_passphrase(filled.store, PASSPHRASE)
    opened = open_store(transport, PASSPHRASE.encode(), SlotKind.PASSPHRASE)
    assert opened.keys.master == filled.store.keys.master

    remove_slot(filled.store, name)

    with pytest.raises(WrongKey, match="no slot"):
        open_store(transport, PASSPHRASE.encode(), SlotKind.PASSPHRASE)
    assert name not in slot_names(filled.store)


def test_a_short_passphrase_is_refused(filled: Filled) -> None:
    before = slot_names(filled.store)
    with pytest.raises(BadInput, match="at least 12"):
        add_passphrase(filled.store, "short")
    assert slot_names(filled.store) == before


def test_new_recovery_words_and_key_files_open_the_store(filled: Filled, tmp_path: Path) -> None:
    _, words = add_recovery_words(filled.store)
    add_key_file(filled.store, tmp_path / "second.key")

    by_words = open_store(
        filled.workshop.transport, slots.from_words(words), SlotKind.RECOVERY_WORDS
    )
    by_file = open_store_with_key_file(filled.workshop.transport, tmp_path / "second.key")

    assert by_words.keys.master == by_file.keys.master == filled.store.keys.master
    assert words != filled.workshop.words


def test_the_last_slot_that_is_whole_is_never_removed(filled: Filled) -> None:
    first, second = slot_names(filled.store)
    damaged = filled.path(first)
    damaged.write_bytes(damaged.read_bytes()[:-1])

    with pytest.raises(BadInput, match="last key slot that is whole"):
        remove_slot(filled.store, second)
    assert filled.path(second).exists()

    remove_slot(filled.store, first)
    assert slot_names(filled.store) == [second]


@pytest.mark.parametrize("name", ["", "keys/pub-00000001", "packs/x", "keys/slot-0123456789abcdef"])
def test_only_slots_are_removed(filled: Filled, name: str) -> None:
    before = filled.names("")
    with pytest.raises(BadInput, match="is no key slot"):
        remove_slot(filled.store, name)
    assert filled.names("") == before


def test_another_stores_slot_opens_nothing_here_and_is_shown_as_strange(
    filled: Filled, tmp_path: Path
) -> None:
    strange = Workshop(tmp_path, transport=LocalTransport(tmp_path / "strange", make=True))
    theirs = strange.names(layout.KEYS)
    for name in theirs:
        if "/slot-" in name:
            shutil.copy(tmp_path / "strange" / name, filled.path(name))

    with pytest.raises(WrongKey):
        open_store_with_key_file(filled.workshop.transport, strange.key_file)
    assert {s.name for s in list_slots(filled.store) if s.problem} == set(theirs) - {
        layout.public_keys(1)
    }
    assert reopened(filled).store_id == filled.store.store_id


def test_swapped_slots_still_open_and_are_shown_as_strange(filled: Filled) -> None:
    one, other = (filled.path(name) for name in slot_names(filled.store))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)

    assert reopened(filled).keys.master == filled.store.keys.master
    assert all(slot.problem for slot in list_slots(filled.store))
    with pytest.raises(BadInput, match="last key slot"):
        remove_slot(filled.store, slot_names(filled.store)[0])


def test_a_slot_made_for_another_kind_of_key_does_not_open(filled: Filled) -> None:
    """Whoever may write to the share cannot make recovery words out of a key file's slot."""
    kinds = {slot.kind: slot.name for slot in list_slots(filled.store)}
    slot, _ = filled.store.read(kinds[SlotKind.KEY_FILE], Kind.SLOT, Slot)
    lying = Slot(SlotKind.RECOVERY_WORDS, slot.salt, 0, 0, slot.wrapped)
    secret = slots.read_key_file(filled.workshop.key_file)

    with pytest.raises(WrongKey):
        slots.unwrap(lying, secret, store=filled.store.store_id)


@pytest.mark.parametrize("left", ["everything", "no slots", "keys only", "one pack"])
def test_no_new_keys_are_ever_made_where_a_store_is(
    filled: Filled, tmp_path: Path, left: str
) -> None:
    pack = filled.names(layout.PACKS)[0]
    keep: dict[str, Callable[[str], bool]] = {
        "everything": lambda _: True,
        "no slots": lambda name: "/slot-" not in name,
        "keys only": lambda name: name.startswith(layout.KEYS),
        "one pack": lambda name: name == pack,
    }
    kept = {name for name in filled.names("") if keep[left](name)}
    for name in set(filled.names("")) - kept:
        filled.path(name).unlink()

    with pytest.raises(StoreExists):
        create_store(filled.workshop.transport, key_file=tmp_path / "new.key", clock=TickingClock())

    assert set(filled.names("")) == kept
    assert not (tmp_path / "new.key").exists()


def test_words_that_are_not_confirmed_leave_no_store_and_no_key(tmp_path: Path) -> None:
    transport = MemoryTransport()

    def refuse(words: str) -> None:
        assert len(words.split()) == 24
        raise BadInput("not the same words")

    with pytest.raises(BadInput, match="not the same"):
        create_store(
            transport, key_file=tmp_path / "key", clock=TickingClock(), confirm_words=refuse
        )

    assert transport.objects == {}
    assert not (tmp_path / "key").exists()


def test_the_words_confirmed_are_those_that_open(tmp_path: Path) -> None:
    shown: list[str] = []
    transport = MemoryTransport()
    made = create_store(
        transport, key_file=tmp_path / "key", clock=TickingClock(), confirm_words=shown.append
    )

    assert shown == [made.recovery_words]
    opened = open_store(transport, slots.from_words(shown[0]), SlotKind.RECOVERY_WORDS)
    assert opened.keys.master == made.store.keys.master


# Escrow


def test_an_escrow_key_opens_every_store_it_was_added_to(filled: Filled, tmp_path: Path) -> None:
    private = slots.fresh_secret()
    other = Workshop(tmp_path, transport=LocalTransport(tmp_path / "second", make=True))
    for store in (filled.store, other.store):
        add_escrow(store, slots.escrow_public_key(private))
        opened = open_store(store.transport, private, SlotKind.ESCROW)
        assert opened.keys.master == store.keys.master
        assert opened.store_id == store.store_id


def test_another_escrow_key_opens_nothing(filled: Filled) -> None:
    add_escrow(filled.store, slots.escrow_public_key(slots.fresh_secret()))

    with pytest.raises(WrongKey, match="no slot"):
        open_store(filled.workshop.transport, slots.fresh_secret(), SlotKind.ESCROW)


def test_an_escrow_slot_of_another_store_opens_nothing_here(filled: Filled, tmp_path: Path) -> None:
    private = slots.fresh_secret()
    other = Workshop(tmp_path, transport=LocalTransport(tmp_path / "second", make=True))
    name = add_escrow(other.store, slots.escrow_public_key(private))
    shutil.copy(tmp_path / "second" / name, filled.path(name))

    with pytest.raises(WrongKey):
        open_store(filled.workshop.transport, private, SlotKind.ESCROW)


@pytest.mark.parametrize("name", ["keys/slot-0000000000000000", "keys/slot-ffffffffffffffff"])
def test_a_false_escrow_slot_with_another_master_key_is_passed_over(
    filled: Filled, name: str
) -> None:
    """Anybody who knows the public half can make one; it must not stand in the right one's way."""
    private = slots.fresh_secret()
    public = slots.escrow_public_key(private)
    add_escrow(filled.store, public)
    false = slots.wrap_in_escrow(b"f" * 32, public, store=filled.store.store_id)
    strange = DataStore(
        filled.workshop.transport,
        filled.store.facts,
        StoreKeys(filled.store.store_id, b"f" * 32),
    )
    strange.write(name, Kind.SLOT, false)

    opened = open_store(filled.workshop.transport, private, SlotKind.ESCROW)

    assert opened.keys.master == filled.store.keys.master


@pytest.mark.parametrize("public", [b"", b"short", bytes(32), b"x" * 33])
def test_what_is_no_public_key_is_not_added(filled: Filled, public: bytes) -> None:
    before = slot_names(filled.store)
    with pytest.raises(BadInput, match="32 bytes"):
        add_escrow(filled.store, public)
    assert slot_names(filled.store) == before


# Epochs


def test_a_new_epoch_has_new_keys_and_what_was_made_before_stays_readable(filled: Filled) -> None:
    workshop, old = filled.workshop, filled.store
    before = [workshop.restore(version) for version in filled.versions]

    workshop.store = begin_epoch(old, clock=workshop.clock)
    newer = workshop.back_up(noise("new epoch", 128 * 1024))
    write_head(workshop.store, clock=workshop.clock)

    assert workshop.store.keys.epoch == 2
    assert workshop.store.keys.public().box != old.keys.public().box
    assert workshop.store.keys.public().verify != old.keys.public().verify
    store = workshop.store = reopened(filled)
    assert store.keys.epoch == 2
    assert [workshop.restore(version) for version in filled.versions] == before
    assert workshop.restore(newer) == noise("new epoch", 128 * 1024)
    assert bad(filled.audited()) == {}
    assert filled.verified() == []


def test_new_packs_are_sealed_to_the_new_box_key_alone(filled: Filled) -> None:
    workshop, old = filled.workshop, filled.store
    before = set(filled.names(layout.PACKS))
    workshop.store = begin_epoch(old, clock=workshop.clock)
    workshop.back_up(noise("new epoch", 128 * 1024))

    (name,) = set(filled.names(layout.PACKS)) - before
    header = PackHeader.parse(
        filled.path(name).read_bytes(), name=name, store=filled.store.store_id
    )

    assert header.opener(workshop.store.keys, chunk_bytes=1 << 16).sessions
    with pytest.raises(Damaged, match="session key"):
        header.opener(old.keys, chunk_bytes=1 << 16)


def test_the_old_fingerprint_vouches_for_the_new_epoch_and_the_new_one_for_the_old(
    filled: Filled,
) -> None:
    second = begin_epoch(filled.store, clock=filled.workshop.clock)
    begin_epoch(second, clock=filled.workshop.clock)

    for store in (filled.store, second):
        public = open_public(filled.workshop.transport, fingerprint=store.keys.public().fingerprint)
        assert sorted(public.keys) == [1, 2, 3]


@pytest.mark.parametrize(
    "fault", [f for f in Fault if "KILL" not in f.name and f is not Fault.STALL]
)
def test_a_crash_while_an_epoch_begins_leaves_a_store_that_opens_and_can_go_on(
    tmp_path: Path, fault: Fault
) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / f"{at}"
        folder.mkdir()
        workshop = Workshop(folder, transport=LocalTransport(folder / "store", make=True))
        version = workshop.back_up(noise("disk", 64 * 1024))
        write_head(workshop.store, clock=workshop.clock)
        faulty = FaultyTransport(workshop.transport, at=at, fault=fault, for_good=True)
        there = DataStore(faulty, workshop.store.facts, workshop.store.keys)
        with suppress(ShareUnreachable):
            begin_epoch(there, clock=workshop.clock)
        if not faulty.happened:
            break

        after = open_store_with_key_file(workshop.transport, workshop.key_file)
        assert after.keys.epoch in (1, 2)
        workshop.store = begin_epoch(after, clock=workshop.clock)
        assert workshop.store.keys.epoch == 2 or after.keys.epoch == 2
        write_head(workshop.store, clock=workshop.clock)
        workshop.store = open_store_with_key_file(workshop.transport, workshop.key_file)

        assert workshop.restore(version) == noise("disk", 64 * 1024)
        assert bad(list(audit_presence(workshop.store, stop=StopToken()))) == {}
        assert sorted(open_public(workshop.transport).keys) == list(
            range(1, workshop.store.keys.epoch + 1)
        )
    assert at > 2


def test_a_crash_between_both_documents_is_finished_in_the_same_epoch(filled: Filled) -> None:
    fresh = StoreKeys(filled.store.store_id, filled.store.keys.master, epoch=2)
    write_public_keys(filled.store, fresh.public(), clock=filled.workshop.clock)

    opened = reopened(filled)
    finished = begin_epoch(opened, clock=filled.workshop.clock)

    assert opened.keys.epoch == finished.keys.epoch == 2
    assert begin_epoch(finished, clock=filled.workshop.clock).keys.epoch == 3


def test_a_forged_document_of_a_new_epoch_is_not_believed(filled: Filled) -> None:
    """It is signed by somebody who has this epoch's sign key and no more."""
    thief = StoreKeys(filled.store.store_id, b"thief" * 6 + b"!!", epoch=2)
    write_public_keys(filled.store, thief.public(), clock=filled.workshop.clock)

    store = reopened(filled)
    assert store.keys.epoch == 1
    begun = begin_epoch(store, clock=filled.workshop.clock)

    assert begun.keys.epoch == 2
    public = open_public(filled.workshop.transport, fingerprint=begun.keys.public().fingerprint)
    assert public.keys[2].box == begun.keys.public().box
    assert public.keys[2].box != thief.public().box
    assert len(filled.names(layout.QUARANTINE)) == 1


def test_a_forged_first_epoch_is_not_trusted_for_the_sake_of_the_second(filled: Filled) -> None:
    """Its holder would be believed about everything that was made before."""
    begun = begin_epoch(filled.store, clock=filled.workshop.clock)
    name = layout.public_keys(1)
    filled.path(name).unlink()
    thief = StoreKeys(filled.store.store_id, b"t" * 32)
    strange = DataStore(filled.workshop.transport, filled.store.facts, thief)
    write_public_keys(strange, thief.public(), clock=filled.workshop.clock)

    public = open_public(filled.workshop.transport, fingerprint=begun.keys.public().fingerprint)

    assert sorted(public.keys) == [2]


def test_beginning_an_epoch_again_with_the_store_as_it_was_keeps_what_is_there(
    filled: Filled,
) -> None:
    begin_epoch(filled.store, clock=filled.workshop.clock)
    before = filled.path(layout.public_keys(2)).read_bytes()

    again = begin_epoch(filled.store, clock=filled.workshop.clock)

    assert again.keys.epoch == 2
    assert filled.path(layout.public_keys(2)).read_bytes() == before
    assert filled.names(layout.QUARANTINE) == []


def test_a_document_of_a_new_epoch_that_nobody_signed_is_not_believed(filled: Filled) -> None:
    keys = StoreKeys(filled.store.store_id, b"t" * 32)
    strange = DataStore(filled.workshop.transport, filled.store.facts, keys)
    second = StoreKeys(filled.store.store_id, b"t" * 32, epoch=2)
    write_public_keys(strange, second.public(), clock=filled.workshop.clock)

    assert reopened(filled).keys.epoch == 1
    assert sorted(filled.public.keys) == [1]
    assert layout.public_keys(2) in bad(filled.verified())


@pytest.mark.parametrize("lost", [layout.public_keys(2), layout.numbered(layout.OWNER, 2)])
def test_the_loss_of_one_document_does_not_set_the_epoch_back(filled: Filled, lost: str) -> None:
    begin_epoch(filled.store, clock=filled.workshop.clock)
    filled.path(lost).unlink()

    assert reopened(filled).keys.epoch == 2


@pytest.mark.parametrize("damage", ["missing", "torn", "forged"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_lost_public_keys_are_written_anew(filled: Filled, epoch: int, damage: str) -> None:
    clock = filled.workshop.clock
    filled.workshop.store = begin_epoch(filled.store, clock=clock)
    write_head(filled.store, clock=clock)
    name = layout.public_keys(epoch)
    path = filled.path(name)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.unlink()
    if damage == "forged":
        thief = StoreKeys(filled.store.store_id, b"t" * 32, epoch=epoch)
        write_public_keys(filled.store, thief.public(), clock=clock)

    store = filled.workshop.store = reopened(filled)
    assert store.keys.epoch == 2
    assert renew_public_keys(store, clock=clock) == (name,)
    assert renew_public_keys(store, clock=clock) == ()

    assert bad(filled.audited()) == {}
    assert filled.verified() == []
    assert len(list(known_packs(store))) == len(filled.names(layout.PACKS))

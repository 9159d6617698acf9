"""Ways of opening a store: passphrase, recovery words, key file; and what refuses to open."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from likeness.codec import slots
from likeness.codec.aead import Suite
from likeness.codec.documents import Kind
from likeness.codec.slots import Slot, SlotKind
from likeness.errors import (
    BadInput,
    Damaged,
    StoreExists,
    StoreMissing,
    StoreTooNew,
    WrongKey,
)
from likeness.store.format import layout
from likeness.store.format.documents import FormatDocument
from likeness.store.format.opening import (
    add_slot,
    create_store,
    open_store,
    open_store_with_key_file,
)
from likeness.transport.local import LocalTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import KIB, Maker, TickingClock, Workshop, flipped

SECRET = bytes(range(32))
STORE = "5" * 32


# --- slots ---


def test_each_way_in_opens_the_same_store(make_workshop: Maker) -> None:
    workshop = make_workshop(passphrase="lamb-over-the-moon")

    opened = [
        open_store_with_key_file(workshop.transport, workshop.key_file),
        open_store(workshop.transport, slots.from_words(workshop.words), SlotKind.RECOVERY_WORDS),
        open_store(workshop.transport, b"lamb-over-the-moon", SlotKind.PASSPHRASE),
    ]

    assert {store.keys.master for store in opened} == {workshop.store.keys.master}
    with pytest.raises(WrongKey, match=r"no slot of data store .* opens with this passphrase"):
        open_store(workshop.transport, b"lamb-over-the-mood", SlotKind.PASSPHRASE)


def test_a_key_of_one_kind_does_not_open_a_slot_of_another(workshop: Workshop) -> None:
    words = slots.from_words(workshop.words)

    with pytest.raises(WrongKey):
        open_store(workshop.transport, words, SlotKind.KEY_FILE)
    with pytest.raises(WrongKey):
        open_store(workshop.transport, words, SlotKind.PASSPHRASE)


def test_another_stores_key_does_not_open_this_one(make_workshop: Maker) -> None:
    one, other = make_workshop(), make_workshop()

    with pytest.raises(WrongKey, match="recovery words from its recovery sheet"):
        open_store_with_key_file(one.transport, other.key_file)


def test_another_stores_slots_do_not_open_this_one(make_workshop: Maker) -> None:
    one, other = make_workshop(), make_workshop()
    for name in [name for name in one.objects if "/slot-" in name]:
        del one.objects[name]
    one.objects.update({n: d for n, d in other.objects.items() if "/slot-" in n})

    with pytest.raises(WrongKey):
        open_store_with_key_file(one.transport, other.key_file)


def test_a_damaged_slot_does_not_keep_another_from_opening(workshop: Workshop) -> None:
    names = [name for name in workshop.objects if "/slot-" in name]
    good = dict(workshop.objects)

    for name in names:
        for spoilt in (b"", bytes(500), flipped(good[name], 60), good[name][:-30]):
            workshop.objects.update(good)
            workshop.objects[name] = spoilt
            opened = 0
            for opener, kind in (
                (slots.read_key_file(workshop.key_file), SlotKind.KEY_FILE),
                (slots.from_words(workshop.words), SlotKind.RECOVERY_WORDS),
            ):
                try:
                    open_store(workshop.transport, opener, kind)
                    opened += 1
                except WrongKey:
                    pass
            assert opened == 1


def test_a_slot_added_later_opens_too(workshop: Workshop) -> None:
    add_slot(workshop.store, b"\x07" * 32, SlotKind.KEY_FILE)

    assert open_store(workshop.transport, b"\x07" * 32, SlotKind.KEY_FILE).keys.epoch == 1


@given(opener=st.binary(min_size=32, max_size=32), data=st.data())
def test_an_altered_slot_never_gives_a_key(opener: bytes, data: st.DataObject) -> None:
    slot = slots.wrap(SECRET, opener, SlotKind.KEY_FILE, store=STORE)
    assert slots.unwrap(slot, opener, store=STORE) == SECRET

    field = data.draw(st.sampled_from(["salt", "wrapped"]))
    value = bytes.fromhex(getattr(slot, field))
    at = data.draw(st.integers(0, len(value) - 1))
    spoilt = msgspec.structs.replace(slot, **{field: flipped(value, at).hex()})

    with pytest.raises(WrongKey):
        slots.unwrap(spoilt, opener, store=STORE)


def test_a_slot_opens_in_its_store_and_as_its_kind_only() -> None:
    slot = slots.wrap(SECRET, SECRET, SlotKind.KEY_FILE, store=STORE)
    other_kind = msgspec.structs.replace(slot, kind=SlotKind.RECOVERY_WORDS)

    with pytest.raises(WrongKey):
        slots.unwrap(slot, SECRET, store="6" * 32)
    with pytest.raises(WrongKey):
        slots.unwrap(other_kind, SECRET, store=STORE)


@pytest.mark.parametrize(
    ("salt", "operations", "memory", "wrapped"),
    [
        ("00" * 16, 11, 1 << 20, "00" * 72),
        ("00" * 16, 2**62, 1 << 20, "00" * 72),
        ("00" * 16, 1, (4 << 30) + 1, "00" * 72),
        ("00" * 16, 1, 2**62, "00" * 72),
        ("00" * 16, -1, 0, "00" * 72),
        ("00" * 16, 1, -1, "00" * 72),
        ("00" * 16, 1, 0, "00" * 72),
        ("00" * 15, 1, 1 << 20, "00" * 72),
        ("zz" * 16, 0, 0, "00" * 72),
        ("00" * 16, 0, 0, "xyz"),
        ("00" * 16, 0, 0, ""),
        ("", 0, 0, "00" * 72),
    ],
)
def test_a_slot_made_to_hurt_is_refused(
    salt: str, operations: int, memory: int, wrapped: str
) -> None:
    slot = Slot(SlotKind.PASSPHRASE, salt, operations, memory, wrapped)

    with pytest.raises(WrongKey):
        slots.unwrap(slot, bytes(32), store=STORE)


GREEDY = """
import resource
from likeness.codec.slots import Slot, SlotKind, unwrap
from likeness.errors import WrongKey
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    unwrap(Slot(SlotKind.PASSPHRASE, "00" * 16, 1, 4 << 30, "00" * 72), b"x", store="5" * 32)
except WrongKey as refused:
    print(refused)
"""


def test_a_slot_that_asks_for_more_memory_than_there_is_gets_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREEDY], capture_output=True, text=True, timeout=60, check=True
    )

    assert "does not open this store" in done.stdout


def test_a_passphrase_is_stretched_with_memory() -> None:
    slot = slots.wrap(SECRET, b"secret", SlotKind.PASSPHRASE, store=STORE)

    assert slot.memory_bytes >= 256 << 20
    assert slot.operations >= 3
    assert slots.unwrap(slot, b"secret", store=STORE) == SECRET
    with pytest.raises(WrongKey):
        slots.unwrap(slot, b"Secret", store=STORE)


def test_a_slot_says_nothing_of_what_is_in_it(workshop: Workshop) -> None:
    secret = slots.read_key_file(workshop.key_file)

    for data in workshop.objects.values():
        for hidden in (workshop.store.keys.master, secret, slots.from_words(workshop.words)):
            assert hidden not in data
            assert hidden.hex().encode() not in data


# --- recovery words ---


@given(st.binary(min_size=32, max_size=32))
def test_words_give_back_the_secret(secret: bytes) -> None:
    words = slots.as_words(secret)

    assert len(words.split()) == 24
    assert slots.from_words(words) == secret
    assert slots.from_words(f"  {words.upper()}\n".replace(" ", "  ")) == secret


def test_a_mistyped_word_is_named() -> None:
    words = slots.as_words(SECRET).split()

    with pytest.raises(BadInput, match="'abandom' is not one of the recovery words"):
        slots.from_words(" ".join([*words[:23], "abandom"]))


def test_missing_swapped_or_wrong_words_are_refused() -> None:
    words = slots.as_words(SECRET).split()
    swapped = [words[1], words[0], *words[2:]]
    short = Mnemonic("english").to_mnemonic(bytes(16))

    for bad in (words[:23], [*words, words[0]], swapped, [], short.split()):
        with pytest.raises(BadInput, match="not 24 recovery words"):
            slots.from_words(" ".join(bad))


# --- key files ---


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    slots.write_key_file(path, SECRET)

    assert path.stat().st_mode & 0o777 == 0o600
    assert slots.read_key_file(path) == SECRET


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    slots.write_key_file(path, SECRET)
    path.chmod(mode)

    with pytest.raises(BadInput, match="chmod 600"):
        slots.read_key_file(path)


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    slots.write_key_file(path, SECRET)

    with pytest.raises(BadInput, match="may open another store"):
        slots.write_key_file(path, bytes(32))
    assert slots.read_key_file(path) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "",
        "likeness-key-1:",
        f"likeness-key-1:{SECRET.hex()}",
        f"likeness-key-2:{SECRET.hex()}\n",
        f"likeness-key-1:{SECRET.hex()}\n\n",
        f"likeness-key-1:{SECRET.hex().upper()}\n",
        "\xe9",
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)

    with pytest.raises(BadInput):
        slots.read_key_file(path)


def test_a_missing_key_file_says_what_else_opens_the_store(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="recovery words or a passphrase"):
        slots.read_key_file(tmp_path / "none")


# --- stores ---


def test_no_store_is_made_over_another_or_over_anything_else(
    workshop: Workshop, tmp_path: Path
) -> None:
    before = dict(workshop.objects)
    with pytest.raises(StoreExists, match="open it with its key"):
        create_store(workshop.transport, key_file=tmp_path / "second", clock=TickingClock())
    assert workshop.objects == before

    full = MemoryTransport()
    full.create("holiday.jpg", [b"..."])
    with pytest.raises(StoreExists, match=r"holds holiday\.jpg"):
        create_store(full, key_file=tmp_path / "third", clock=TickingClock())
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("size", [0, 1, 4095, 32 * KIB, 96 * KIB, 8192 * KIB, -65536])
def test_an_impossible_chunk_size_is_refused(tmp_path: Path, size: int) -> None:
    transport = MemoryTransport()

    with pytest.raises(BadInput, match="power of two"):
        create_store(transport, key_file=tmp_path / "key", clock=TickingClock(), chunk_bytes=size)
    assert not transport.objects


def test_an_empty_place_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match="no data store"):
        open_store(LocalTransport(tmp_path), SECRET, SlotKind.KEY_FILE)


@dataclass(frozen=True)
class Spoiling:
    """One way to spoil a copy of the format document."""

    how: str

    def __call__(self, workshop: Workshop, other: Workshop, name: str) -> None:
        data = workshop.objects[name]
        match self.how:
            case "delete":
                del workshop.objects[name]
            case "cut":
                workshop.objects[name] = data[: len(data) // 2]
            case "flip":
                workshop.objects[name] = flipped(data, 40)
            case "empty":
                workshop.objects[name] = b""
            case "another store's":
                workshop.objects[name] = other.objects[name]
            case "another document":
                workshop.objects[name] = workshop.objects["owner/0000000000000001"]


HOW = ["delete", "cut", "flip", "empty", "another store's", "another document"]


@pytest.mark.parametrize("how", HOW)
def test_one_whole_copy_of_the_format_document_is_enough(make_workshop: Maker, how: str) -> None:
    workshop, other = make_workshop(), make_workshop()
    good = dict(workshop.objects)

    for whole in layout.FORMAT_COPIES:
        workshop.objects.clear()
        workshop.objects.update(good)
        for name in layout.FORMAT_COPIES:
            if name != whole:
                Spoiling(how)(workshop, other, name)
        opened = open_store_with_key_file(workshop.transport, workshop.key_file)
        assert opened.facts == workshop.store.facts


@pytest.mark.parametrize("how", HOW)
def test_a_store_without_a_whole_format_document_does_not_open(
    make_workshop: Maker, how: str
) -> None:
    workshop, other = make_workshop(), make_workshop()
    for name in layout.FORMAT_COPIES:
        Spoiling(how)(workshop, other, name)

    with pytest.raises((Damaged, StoreMissing, WrongKey)):
        open_store_with_key_file(workshop.transport, workshop.key_file)


@pytest.mark.parametrize(
    "changes",
    [
        {"oldest_reader": 2, "format": 2},
        {"must_know_to_read": ("erasure codes",)},
        {"suite": 3},
        {"chunk_bytes": 8 << 20},
        {"chunk_bytes": 100_000},
    ],
)
def test_a_store_made_by_a_later_release_asks_for_it(
    workshop: Workshop, changes: dict[str, object]
) -> None:
    facts = msgspec.structs.replace(workshop.store.facts, **changes)
    for name in layout.FORMAT_COPIES:
        del workshop.objects[name]
    workshop.store.write(layout.FORMAT_COPIES[0], Kind.FORMAT, facts)

    with pytest.raises(StoreTooNew, match=r"written by a later release.*install a later release"):
        open_store_with_key_file(workshop.transport, workshop.key_file)


def test_a_store_says_what_it_is(make_workshop: Maker, suite: Suite) -> None:
    workshop = make_workshop(suite=suite, chunk_bytes=128 * KIB)

    opened = open_store_with_key_file(workshop.transport, workshop.key_file)

    assert (opened.suite, opened.chunk_bytes) == (suite, 128 * KIB)
    assert isinstance(opened.facts, FormatDocument)
    assert opened.store_id in repr(opened)
    assert opened.keys.master.hex() not in repr(opened)


def test_every_name_a_store_makes_is_one_it_knows(workshop: Workshop) -> None:
    workshop.back_up(b"some disk")

    assert all(layout.is_known(name) for name in workshop.objects)


@pytest.mark.parametrize(
    "name",
    [
        "packs/aa/../x",
        "keys/slot-ABCDEF0123456789",
        "keys/slot-0123456789abcdef\n",
        "notes.txt",
        f"packs/aa/{'0a' * 16}/x",
        f"packs/{'0a' * 16}",
        "heads/1",
        "",
    ],
)
def test_any_other_name_is_not_opened(name: str) -> None:
    assert not layout.is_known(name)

"""Scrubs read every object; what was altered is named, and what is whole is not."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.codec.documents import Kind
from likeness.codec.slots import SlotKind
from likeness.errors import BadInput, ShareUnreachable, WrongKey
from likeness.stopping import StopToken
from likeness.store.check.scrubbing import MAX_SILENCE, scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.documents import HeadDocument, OwnerDocument
from likeness.store.format.observations import Weight
from likeness.store.format.opening import add_slot, open_store_with_key_file
from likeness.store.format.public_view import open_public
from likeness.store.keys.keyring import begin_epoch
from likeness.store.write.heads import write_head
from likeness.store.write.history import expect_head, read_history
from likeness.transport.local import LocalTransport
from tests.audit.conftest import OBJECTS, Filled, bad
from tests.support.faulty import FaultyTransport
from tests.unit.workshop import Workshop, flipped, noise

Damage = Callable[[bytes, random.Random], bytes]


def _overwritten(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) - 16)
    return data[:at] + chance.randbytes(16) + data[at + 16 :]


def _zeroed(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(max(len(data) - 64, 1))
    return data[:at] + bytes(64) + data[at + 64 :]


ACCIDENTS: dict[str, Damage] = {
    "a flipped bit": lambda data, chance: flipped(data, chance.randrange(len(data)), 1),
    "zeros": _zeroed,
    "overwritten": _overwritten,
    "cut short": lambda data, chance: data[: chance.randrange(len(data))],
    "longer": lambda data, chance: data + chance.randbytes(10),
    "empty": lambda _data, _chance: b"",
}


@pytest.mark.parametrize("kind", sorted(OBJECTS))
@pytest.mark.parametrize("accident", sorted(ACCIDENTS))
def test_an_accident_to_any_object_is_found_without_any_key(
    filled: Filled, kind: str, accident: str
) -> None:
    name = OBJECTS[kind](filled)
    view = filled.public
    whole = filled.path(name).read_bytes()
    for seed in range(3):
        filled.path(name).write_bytes(ACCIDENTS[accident](whole, random.Random(seed)))

        assert list(bad(filled.scrubbed())) == [name]
        found = bad(list(scrub_signatures(view, stop=StopToken())))
        after = {layout.numbered(layout.HEADS, 2)} if kind == "head" else set()
        assert name in found
        assert set(found) <= {name} | after


def test_a_whole_store_passes_both_scrubs(filled: Filled) -> None:
    assert filled.scrubbed() == []
    assert filled.verified() == []


def _other_of_its_kind(filled: Filled, kind: str) -> str:
    """Another object of the same kind, valid in its own place."""
    name = OBJECTS[kind](filled)
    folder = name.partition("/")[0]
    alike = [n for n in filled.names(folder) if ("-" in n) == ("-" in name) and n != name]
    if kind == "key slot":
        alike = [n for n in alike if "/slot-" in n]
    return alike[-1] if kind != "block map" else alike[0]


SWAPPED = ["pack", "block map", "version record", "index segment", "head", "key slot"]


@pytest.mark.parametrize("kind", SWAPPED)
def test_two_objects_that_changed_places_are_found_with_the_public_key(
    filled: Filled, kind: str
) -> None:
    one, other = OBJECTS[kind](filled), _other_of_its_kind(filled, kind)
    here, there = filled.path(one), filled.path(other)
    first, second = here.read_bytes(), there.read_bytes()
    here.write_bytes(second)
    there.write_bytes(first)

    assert {one, other} <= set(bad(filled.verified()))


def test_another_stores_objects_are_found_with_the_public_key(
    filled: Filled, tmp_path: Path
) -> None:
    strange = Workshop(tmp_path, transport=LocalTransport(tmp_path / "strange", make=True))
    strange.back_up(noise("strange", 64 * 1024))
    write_head(strange.store, clock=strange.clock)
    for folder, kind in ((layout.OWNER, "owner"), (layout.HEADS, "newest head")):
        theirs = tmp_path / "strange" / strange.names(folder)[-1]
        shutil.copy(theirs, filled.path(OBJECTS[kind](filled)))

    found = bad(filled.verified())

    assert {OBJECTS["owner"](filled), OBJECTS["newest head"](filled)} <= set(found)


def test_a_validly_signed_document_in_the_place_of_the_one_the_heads_know_is_found(
    filled: Filled,
) -> None:
    name = OBJECTS["owner"](filled)
    filled.path(name).unlink()
    other = OwnerDocument(number=1, installation="ab" * 16, taken_at="2031-01-01T00:00:00+00:00")
    filled.store.write(name, Kind.OWNER, other)

    (found,) = filled.verified()

    assert found.name == name
    assert "heads know" in found.cause


def test_a_version_replaced_by_another_history_breaks_its_vms_chain(
    filled: Filled, tmp_path: Path
) -> None:
    """The share went two ways, and a record of one way was put into the other."""
    workshop, root = filled.workshop, tmp_path / "fork"
    shutil.copytree(filled.root, root)
    middle = workshop.back_up(noise("true", 64 * 1024))
    workshop.back_up(noise("newest", 64 * 1024))
    here = workshop.store
    workshop.store = open_store_with_key_file(LocalTransport(root), workshop.key_file)
    workshop.transport = workshop.store.transport
    false = workshop.back_up(noise("false", 64 * 1024))
    workshop.store, workshop.transport = here, here.transport
    shutil.copytree(root, filled.root, dirs_exist_ok=True)
    filled.path(middle.name).unlink()

    assert bad(filled.verified()) == {false.name: Weight.DAMAGE}


def test_a_head_of_another_history_breaks_the_chain(filled: Filled, tmp_path: Path) -> None:
    workshop, root = filled.workshop, tmp_path / "fork"
    shutil.copytree(filled.root, root)
    fork = open_store_with_key_file(LocalTransport(root), workshop.key_file)
    add_slot(fork, b"s" * 32, SlotKind.KEY_FILE)
    middle = layout.numbered(layout.HEADS, write_head(fork, clock=workshop.clock).number)
    for folder in ("true", "newest"):
        workshop.back_up(noise(folder, 64 * 1024))
        write_head(filled.store, clock=workshop.clock)
    after = layout.numbered(layout.HEADS, layout.number_of(middle) + 1)

    shutil.copy(root / middle, filled.path(middle))

    assert bad(filled.verified()) == {after: Weight.SPARE_LOST}


def test_two_versions_of_one_number_are_found(filled: Filled, tmp_path: Path) -> None:
    workshop, root = filled.workshop, tmp_path / "fork"
    shutil.copytree(filled.root, root)
    one = workshop.back_up(noise("true", 64 * 1024))
    here = workshop.store
    workshop.store = open_store_with_key_file(LocalTransport(root), workshop.key_file)
    workshop.transport = workshop.store.transport
    other = workshop.back_up(noise("false", 64 * 1024))
    workshop.store, workshop.transport = here, here.transport
    shutil.copytree(root, filled.root, dirs_exist_ok=True)

    assert bad(filled.verified()) == {max(one.name, other.name): Weight.DAMAGE}


def test_a_head_made_with_keys_that_were_given_up_is_found(filled: Filled) -> None:
    """Somebody who left with an epoch's keys cannot go on with the history."""
    clock, old = filled.workshop.clock, filled.store
    filled.workshop.store = begin_epoch(old, clock=clock)
    head_state = write_head(filled.store, clock=clock)
    number = head_state.number + 1
    name = layout.numbered(layout.HEADS, number)
    false = HeadDocument(number=number, previous=head_state.digest, made_at=clock().isoformat())
    old.write(name, Kind.HEAD, false)

    (found,) = filled.verified()

    assert found.name == name
    assert "given up" in found.cause


def test_a_head_that_says_another_number_than_its_name_is_found(filled: Filled) -> None:
    head_state = read_history(filled.public, whole=True).head_state
    name = layout.numbered(layout.HEADS, head_state.number + 1)
    false = HeadDocument(
        number=head_state.number + 7, previous=head_state.digest, made_at="2031-01-01"
    )
    filled.store.write(name, Kind.HEAD, false)

    (found,) = filled.verified()

    assert found.name == name
    assert "another's name" in found.cause


def test_a_version_made_with_keys_that_were_given_up_is_found(filled: Filled) -> None:
    workshop, old = filled.workshop, filled.store
    workshop.store = begin_epoch(old, clock=workshop.clock)
    workshop.back_up(noise("epoch 2", 64 * 1024))
    workshop.store = old
    false = workshop.back_up(noise("by somebody who left", 64 * 1024))

    found = filled.verified()

    assert false.name in bad(found)
    assert any("given up" in each.cause for each in found)


def test_one_altered_copy_of_a_map_is_a_spare_and_two_are_damage(filled: Filled) -> None:
    part = filled.versions[0].record.disks[0].parts[0]
    other = filled.versions[1].record.disks[0].parts[0]
    twin = filled.path(other.copies[0]).read_bytes()
    filled.path(part.copies[0]).write_bytes(twin)

    assert bad(filled.verified()) == {part.copies[0]: Weight.SPARE_LOST}

    filled.path(part.copies[1]).write_bytes(twin)
    found = filled.verified()

    assert bad(found) == dict.fromkeys(part.copies, Weight.DAMAGE)
    assert found[0].versions == (filled.versions[0].name,)


def test_the_only_copy_left_of_a_map_is_damage_when_it_is_altered(filled: Filled) -> None:
    part = filled.versions[0].record.disks[0].parts[0]
    filled.path(part.copies[0]).unlink()
    filled.path(part.copies[1]).write_bytes(b"ADSBLOB1")

    assert bad(filled.verified()) == {part.copies[1]: Weight.DAMAGE}


def test_a_pack_whose_index_segment_is_another_runs_is_found(filled: Filled) -> None:
    one, other = filled.names(layout.PACKS)[:2]
    shutil.copy(filled.path(other), filled.path(one))

    assert list(bad(filled.scrubbed())) == [one]
    assert list(bad(filled.verified())) == [one]


def test_a_store_set_back_to_an_earlier_state_is_found_by_a_report_of_later(
    filled: Filled, tmp_path: Path
) -> None:
    shutil.copytree(filled.root, tmp_path / "kept")
    filled.workshop.back_up(noise("newer", 64 * 1024))
    head_state = write_head(filled.store, clock=filled.workshop.clock)
    shutil.rmtree(filled.root)
    shutil.copytree(tmp_path / "kept", filled.root)

    history = read_history(filled.public, whole=True)

    assert filled.audited() == []  # the earlier state is whole in itself
    (found,) = expect_head(history, head_state.number, head_state.digest[:8])
    assert found.weight is Weight.DAMAGE
    before = history.head_state
    assert list(expect_head(history, before.number, before.digest[:8].upper())) == []
    (other,) = expect_head(history, before.number, "00000000")
    assert other.weight is Weight.DAMAGE


def test_a_fingerprint_of_another_store_is_refused(filled: Filled) -> None:
    with pytest.raises(WrongKey, match="not the one given"):
        open_public(filled.workshop.transport, fingerprint="00" * 16)


@pytest.mark.parametrize("text", ["", "12", "zz" * 16, "12 34 56"])
def test_what_is_no_fingerprint_is_refused(filled: Filled, text: str) -> None:
    with pytest.raises(BadInput, match="32 hex digits"):
        open_public(filled.workshop.transport, fingerprint=text)


def test_a_fingerprint_may_be_typed_in_any_case_and_spacing(filled: Filled) -> None:
    typed = filled.store.keys.public().fingerprint.upper().replace(" ", "  ")

    assert open_public(filled.workshop.transport, fingerprint=typed).store_id == (
        filled.store.store_id
    )


class Flickering(LocalTransport):
    """A share whose first reading of one object comes out wrong."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root)
        self._name, self._again = name, False

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        if name == self._name and not self._again:
            self._again = True
            return flipped(data, len(data) // 2)
        return data


def test_one_wrong_reading_is_no_damage(filled: Filled) -> None:
    pack = filled.names(layout.PACKS)[0]

    (found,) = scrub_frames(Flickering(filled.root, pack), stop=StopToken())

    assert found.name == pack
    assert found.weight is Weight.UNCHECKED
    assert "two readings differ" in found.cause


class Deaf(LocalTransport):
    """A share that goes on listing, and does not answer some readings from the first map on."""

    def __init__(self, root: Path, *, unanswered: int) -> None:
        super().__init__(root)
        self._unanswered, self._begun = unanswered, False

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._begun = self._begun or name.startswith(layout.MAPS)
        if self._begun and self._unanswered:
            self._unanswered -= 1
            raise ShareUnreachable(f"{name}: no answer")
        return super().read(name, offset, length)


def test_an_object_that_could_not_be_read_is_not_called_damaged(filled: Filled) -> None:
    found = list(scrub_frames(Deaf(filled.root, unanswered=2), stop=StopToken(), workers=1))

    assert [each.weight for each in found] == [Weight.UNCHECKED] * 2


def test_a_store_that_does_not_answer_any_more_ends_the_scrub(filled: Filled) -> None:
    with pytest.raises(ShareUnreachable):
        list(scrub_frames(Deaf(filled.root, unanswered=1000), stop=StopToken()))


class HardOfHearing(LocalTransport):
    """A share that answers every second time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._asked = 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._asked += name.startswith(layout.MAPS)
        if name.startswith(layout.MAPS) and self._asked % 2:
            raise ShareUnreachable(f"{name}: no answer")
        return super().read(name, offset, length)


def test_a_store_that_answers_again_and_again_is_scrubbed_to_its_end(filled: Filled) -> None:
    for number in range(12):
        filled.workshop.back_up(noise(number, 64 * 1024))

    found = list(scrub_frames(HardOfHearing(filled.root), stop=StopToken(), workers=1))

    assert len(found) > MAX_SILENCE
    assert {each.weight for each in found} == {Weight.UNCHECKED}


def test_a_listing_that_fails_ends_an_audit_and_proves_nothing(filled: Filled) -> None:
    faulty = FaultyTransport(filled.workshop.transport, at=1, for_good=True)

    with pytest.raises(ShareUnreachable):
        list(scrub_frames(faulty, stop=StopToken()))


def test_progress_tells_the_bytes_read(filled: Filled) -> None:
    read = 0

    def note(more: int) -> None:
        nonlocal read
        read += more

    list(scrub_frames(filled.workshop.transport, stop=StopToken(), progress=note))

    assert read == sum(e.size_bytes for e in filled.workshop.transport.entries(""))


def test_another_stores_format_copy_confuses_nobody(filled: Filled, tmp_path: Path) -> None:
    strange = Workshop(tmp_path, transport=LocalTransport(tmp_path / "strange", make=True))
    first = layout.FORMAT_COPIES[0]
    shutil.copy(tmp_path / "strange" / first, filled.path(first))

    assert filled.scrubbed() == []  # a whole frame, and nothing a scrub without keys can tell
    assert bad(filled.verified()) == {first: Weight.SPARE_LOST}
    assert filled.public.store_id == filled.store.store_id != strange.store.store_id

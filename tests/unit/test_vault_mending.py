"""What is not whole in the data store holds up the versions that need it, and no others."""

import random
from collections.abc import Callable

import pytest

from likeness.errors import LikenessError
from likeness.model.ids import VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version, read_version, record_names, vms
from likeness.store.repair.copying import copy_to_vault
from likeness.store.repair.vault_mending import Copied
from likeness.store.write.heads import write_head
from likeness.transport.base import Transport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import (
    CHUNK,
    Maker,
    WithBadSectors,
    Workshop,
    changed,
    flipped,
    noise,
)

DISK = noise(1, 20 * CHUNK)


def vault_all(workshop: Workshop, vault: Transport) -> list[Copied]:
    return list(copy_to_vault(workshop.store, vault, stop=StopToken()))


def said(copied: list[Copied]) -> dict[str, str]:
    return {each.name: each.problem for each in copied if each.problem}


def opened(vault: Transport, workshop: Workshop) -> DataStore:
    return open_store_with_key_file(vault, workshop.key_file)


def restore_from(vault: Transport, workshop: Workshop, version: Version) -> bytes:
    store = opened(vault, workshop)
    return workshop.restore(read_version(store, version.name), store=store)


def flip_a_chunk(workshop: Workshop, at: int = 0) -> tuple[str, bytes]:
    """Damage one chunk of the first pack; its pack, and the first bytes of its id."""
    pack = next(known_packs(workshop.store))
    place, name = pack.locations[at], layout.pack(pack.pack)
    middle = place.offset + place.length // 2
    workshop.objects[name] = flipped(workshop.objects[name], middle)
    return name, place.chunk[:16]


def test_what_one_healed_bit_leaves_whole_goes_to_the_vault_with_every_version(
    workshop: Workshop,
) -> None:
    vault = MemoryTransport()
    first = workshop.back_up(DISK)
    pack, chunk = flip_a_chunk(workshop)
    second = workshop.back_up(DISK, distrusted=frozenset({chunk}))
    third = workshop.back_up(changed(DISK, (5 * CHUNK, b"new")))
    assert workshop.restore(third) == changed(DISK, (5 * CHUNK, b"new")), "healed by the source"

    copied = vault_all(workshop, vault)

    assert said(copied) == {}
    assert pack not in vault.objects
    workshop.objects.clear()
    for version, disk in (
        (first, DISK),
        (second, DISK),
        (third, changed(DISK, (5 * CHUNK, b"new"))),
    ):
        assert restore_from(vault, workshop, version) == disk


def test_a_second_vaulting_of_a_healed_store_makes_nothing_anew(workshop: Workshop) -> None:
    vault = MemoryTransport()
    workshop.back_up(DISK)
    _, chunk = flip_a_chunk(workshop)
    workshop.back_up(DISK, distrusted=frozenset({chunk}))
    vault_all(workshop, vault)

    assert vault_all(workshop, vault) == []


def test_a_damaged_chunk_holds_up_the_versions_that_need_it_and_names_their_vm(
    workshop: Workshop,
) -> None:
    vault = MemoryTransport()
    first = workshop.back_up(DISK, vm_name="web")
    flip_a_chunk(workshop)
    elsewhere = workshop.back_up(noise(2, 9 * CHUNK), vm=VmId(random_name()), vm_name="db")
    at_the_end = (19 * CHUNK, b"new")  # far from the damaged one
    second = workshop.back_up(changed(DISK, at_the_end), vm_name="web")
    other = noise(3, 20 * CHUNK)
    third = workshop.back_up(other, vm_name="web")

    problems = said(vault_all(workshop, vault))

    assert problems.keys() == {first.name, second.name}
    for sentence in problems.values():
        assert "VM 'web', version of 2031-05-06" in sentence
        assert "/" not in sentence, "no object's name"
        assert len(sentence.split()) < 40
    assert restore_from(vault, workshop, elsewhere) == noise(2, 9 * CHUNK)
    assert restore_from(vault, workshop, third) == other
    assert not {first.name, second.name} & set(vault.objects)


def test_a_pack_that_cannot_be_read_holds_up_its_versions_until_it_can(
    make_workshop: Maker,
) -> None:
    transport, vault = WithBadSectors(), MemoryTransport()
    workshop = make_workshop(transport=transport)
    first = workshop.back_up(DISK)
    transport.bad = set(workshop.pack_names())
    second = workshop.back_up(noise(2, 9 * CHUNK), vm=VmId(random_name()))

    assert said(vault_all(workshop, vault)).keys() == {first.name}
    assert restore_from(vault, workshop, second) == noise(2, 9 * CHUNK)

    transport.bad = set()
    assert said(vault_all(workshop, vault)) == {}
    assert restore_from(vault, workshop, first) == DISK


def a_record(version: Version) -> str:
    return version.name


def a_segment(version: Version) -> str:
    return next(name for name in version.clear.objects if name.startswith("index/"))


def a_map(version: Version) -> str:
    return version.record.disks[0].parts[0].copies[0]


@pytest.mark.parametrize("which", [a_record, a_segment, a_map])
def test_one_object_that_cannot_be_read_stops_nothing_else(
    make_workshop: Maker, which: Callable[[Version], str]
) -> None:
    transport, vault = WithBadSectors(), MemoryTransport()
    workshop = make_workshop(transport=transport)
    first = workshop.back_up(DISK)
    second = workshop.back_up(noise(2, 9 * CHUNK), vm=VmId(random_name()))
    transport.bad = {which(first)}

    assert said(vault_all(workshop, vault)).keys() == {which(first)}
    assert restore_from(vault, workshop, second) == noise(2, 9 * CHUNK)
    if which is not a_record:
        assert restore_from(vault, workshop, first) == DISK

    transport.bad = set()
    assert said(vault_all(workshop, vault)) == {}
    assert restore_from(vault, workshop, first) == DISK


def test_packs_whose_index_segment_is_gone_are_indexed_in_the_vault(workshop: Workshop) -> None:
    vault = MemoryTransport()
    first = workshop.back_up(DISK)
    second = workshop.back_up(changed(DISK, (CHUNK, b"new")))
    del workshop.objects[a_segment(first)]

    assert said(vault_all(workshop, vault)) == {}

    for version, disk in ((first, DISK), (second, changed(DISK, (CHUNK, b"new")))):
        assert restore_from(vault, workshop, version) == disk
    known = {layout.pack(pack.pack) for pack in known_packs(opened(vault, workshop))}
    assert known == {name for name in vault.objects if name.startswith("packs/")}


def test_a_pack_without_segment_and_without_end_is_salvaged_record_by_record(
    workshop: Workshop,
) -> None:
    version, vault = workshop.back_up(DISK), MemoryTransport()
    pack = workshop.pack_names()[0]
    workshop.objects[pack] = workshop.objects[pack][:-99]
    del workshop.objects[a_segment(version)]

    assert version.name not in said(vault_all(workshop, vault))
    assert restore_from(vault, workshop, version) == DISK


def test_without_segment_and_pack_later_versions_of_the_vm_wait_too(workshop: Workshop) -> None:
    vault = MemoryTransport()
    first = workshop.back_up(DISK)
    lost = workshop.pack_names()
    second = workshop.back_up(changed(DISK, (CHUNK, b"new")))
    for name in (a_segment(first), *lost):
        del workshop.objects[name]

    assert said(vault_all(workshop, vault)).keys() == {first.name, second.name}
    assert not {first.name, second.name} & set(vault.objects)


def test_a_version_whose_map_is_whole_in_one_copy_is_vaulted_and_without_any_it_waits(
    workshop: Workshop,
) -> None:
    vault = MemoryTransport()
    version = workshop.back_up(DISK)
    copies = version.record.disks[0].parts[0].copies
    workshop.objects[copies[0]] = flipped(workshop.objects[copies[0]], 40)

    problems = said(vault_all(workshop, vault))

    assert problems.keys() == {copies[0]}
    assert "VM 'web'" in problems[copies[0]]
    assert restore_from(vault, workshop, version) == DISK

    both = MemoryTransport()
    workshop.objects[copies[1]] = flipped(workshop.objects[copies[1]], 40)
    assert version.name in said(vault_all(workshop, both))
    assert version.name not in both.objects


def test_a_version_that_lies_in_the_vault_without_its_data_is_told_of(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    vault = MemoryTransport()
    vault_all(workshop, vault)
    pack, _ = flip_a_chunk(workshop)
    del vault.objects[pack]

    assert said(vault_all(workshop, vault)).keys() == {version.name}


class MisreadsOnce(MemoryTransport):
    """Gives each pack wrongly the first time, as a bad cable does."""

    def __init__(self) -> None:
        super().__init__()
        self.misread: set[str] | None = None

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        if self.misread is not None and name[:5] == "packs" and name not in self.misread:
            self.misread.add(name)
            return flipped(data, len(data) // 2)
        return data


def test_damage_is_believed_when_it_was_read_twice(make_workshop: Maker) -> None:
    transport, vault = MisreadsOnce(), MemoryTransport()
    workshop = make_workshop(transport=transport)
    version = workshop.back_up(DISK)
    transport.misread = set()

    assert said(vault_all(workshop, vault)) == {}
    assert restore_from(vault, workshop, version) == DISK


def restored(store: DataStore, workshop: Workshop) -> dict[str, bytes]:
    """Every version that restores, by its record's name."""
    found = {}
    for vm in vms(store):
        for name in record_names(store, vm):
            try:
                found[name] = workshop.restore(read_version(store, name), store=store)
            except LikenessError:
                continue
    return found


def spoil(workshop: Workshop, dice: random.Random) -> None:
    folders = (layout.PACKS, layout.PACKS, layout.INDEX, layout.MAPS, layout.VERSIONS)
    name = dice.choice(workshop.names(dice.choice(folders)) or workshop.names(""))
    if not (data := workshop.objects[name]):
        return
    how = dice.choice(["flip", "flip", "cut", "delete", "empty", "zero"])
    if how == "delete":
        del workshop.objects[name]
    elif how == "zero":
        at = dice.randrange(len(data))
        workshop.objects[name] = data[:at] + bytes(len(data[at : at + 999])) + data[at + 999 :]
    elif how == "flip":
        workshop.objects[name] = flipped(data, dice.randrange(len(data)), 1)
    else:
        workshop.objects[name] = data[: dice.randrange(len(data)) if how == "cut" else 0]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_restores_from_the_store_restores_from_a_vault_filled_afterwards(
    make_workshop: Maker, seed: int
) -> None:
    dice = random.Random(seed)
    workshop, vault = make_workshop(), MemoryTransport()
    disk = noise(seed, 9 * CHUNK)
    wanted = {}
    for _ in range(3):
        disk = changed(disk, (dice.randrange(9) * CHUNK, noise(dice.randrange(1 << 30), 99)))
        wanted[workshop.back_up(disk).name] = disk
        if dice.random() < 0.3:
            vault_all(workshop, vault)
    other = workshop.back_up(noise(-seed, 5 * CHUNK), vm=VmId(random_name()))
    wanted[other.name] = noise(-seed, 5 * CHUNK)
    write_head(workshop.store, clock=workshop.clock)  # what nobody was told of may be only begun
    for _ in range(dice.choice([1, 1, 2, 3])):
        spoil(workshop, dice)
    before = restored(workshop.store, workshop)

    problems = said(vault_all(workshop, vault))

    there = restored(opened(vault, workshop), workshop)
    assert there.items() <= wanted.items(), "nothing wrong is restored"
    assert before.keys() <= there.keys(), "and nothing that the data store gives is missing"
    listed = {name for name in vault.objects if name.startswith("versions/")}
    assert listed == there.keys(), "what the vault shows can be restored from it"
    assert wanted.keys() - there.keys() <= problems.keys() | (wanted.keys() - set(workshop.objects))

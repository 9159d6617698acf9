"""Healing: one object that cannot be read, on either side, stops the healing of no other."""

import pytest

from likeness.model.ids import RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.repair.copying import copy_to_vault
from likeness.store.repair.healing import heal_chunks
from likeness.store.repair.healing_documents import DocumentHealer
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Maker, WithBadSectors, Workshop, flipped, noise

DISK = noise(1, 9 * CHUNK)


class Misreads(MemoryTransport):
    """Gives one object wrongly, once."""

    misread = ""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        if name == self.misread:
            self.misread = ""
            return flipped(data, len(data) // 2)
        return data


def vault_of(workshop: Workshop) -> tuple[WithBadSectors, DataStore]:
    far = WithBadSectors()
    list(copy_to_vault(workshop.store, far, stop=StopToken()))
    return far, open_store_with_key_file(far, workshop.key_file)


def healer(workshop: Workshop, vault: DataStore) -> DocumentHealer:
    return DocumentHealer(workshop.store, vault, StopToken())


def test_a_document_that_cannot_be_read_is_not_replaced_and_the_next_is_healed(
    make_workshop: Maker,
) -> None:
    near = WithBadSectors()
    workshop = make_workshop(transport=near)
    first = workshop.back_up(DISK)
    second = workshop.back_up(DISK, vm=VmId(random_name()))
    _, vault = vault_of(workshop)
    near.bad = {first.record.disks[0].parts[0].copies[0]}
    broken = second.record.disks[0].parts[0].copies[0]
    near.objects[broken] = b"broken"
    healing = healer(workshop, vault)

    for version in (first, second):
        healing.heal_version(version.name)

    assert healing.healed == [broken]
    assert len(workshop.names("quarantine")) == 1


def test_a_document_that_the_vault_cannot_read_keeps_no_other_from_being_healed(
    workshop: Workshop,
) -> None:
    version = workshop.back_up(DISK)
    far, vault = vault_of(workshop)
    copies = version.record.disks[0].parts[0].copies
    for copy in copies:
        workshop.objects[copy] = b"broken"
    far.bad = {copies[0]}
    healing = healer(workshop, vault)

    healing.heal_version(version.name)

    assert healing.healed == [copies[1]]
    assert workshop.restore(version) == DISK


def test_a_document_that_was_misread_once_stays_where_it_is(
    make_workshop: Maker,
) -> None:
    near = Misreads()
    workshop = make_workshop(transport=near)
    version = workshop.back_up(DISK)
    _, vault = vault_of(workshop)
    near.misread = version.name
    healing = healer(workshop, vault)

    healing.heal_version(version.name)

    assert not near.misread, "it was read"
    assert healing.healed == []
    assert not workshop.names("quarantine")


@pytest.mark.parametrize("how", ["unreadable", "damaged", "gone"])
def test_chunks_come_from_a_vault_whose_index_has_a_hole(workshop: Workshop, how: str) -> None:
    version = workshop.back_up(DISK)
    workshop.back_up(noise(2, 5 * CHUNK), vm=VmId(random_name()))
    far, vault = vault_of(workshop)
    segment = next(name for name in version.clear.objects if name.startswith("index/"))
    if how == "unreadable":
        far.bad = {segment}
    elif how == "damaged":
        far.objects[segment] = b"broken"
    else:
        del far.objects[segment]
    wanted = {chunk[:16] for chunk in workshop.chunks_of(version)}
    for pack in workshop.packs_of(version):
        del workshop.objects[f"packs/{pack[:2]}/{pack}"]

    healed = heal_chunks(
        workshop.store,
        vault,
        wanted,
        run=RunId(random_name()),
        clock=workshop.clock,
        stop=StopToken(),
    )

    assert healed.found == wanted
    assert workshop.restore(version) == DISK

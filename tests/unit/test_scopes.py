"""Scopes of chunk ids: what a guest has is named apart, and read like everything else."""

from dataclasses import replace

import pytest

from likeness.agent.transfer import Bundle
from likeness.codec.keys import STORE_SCOPE
from likeness.errors import Damaged
from likeness.model.disk import Extent, Skips
from likeness.model.ids import RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import Version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.repair.healing import heal_chunks
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, MIB, Workshop, changed, noise

DISK = noise(1, 4 * MIB + 2 * CHUNK) + bytes(CHUNK) + noise(2, 700)


def three_versions(workshop: Workshop) -> tuple[Version, Version, Version]:
    """Of the same bytes: by the controller, by a guest, and by that guest once it is trusted."""
    guest = VmId(random_name())
    ours = workshop.back_up(DISK)
    apart = workshop.back_up(DISK, vm=guest, bundle=workshop.guest_bundle(guest))
    unread = {0: Skips((Extent(0, 4 * MIB),))}
    trusted = workshop.back_up(DISK, vm=guest, skips=unread)
    return ours, apart, trusted


def test_equal_chunks_of_two_scopes_have_nothing_in_common(workshop: Workshop) -> None:
    ours, apart, trusted = three_versions(workshop)

    assert workshop.chunks_of(ours).isdisjoint(workshop.chunks_of(apart))
    assert len(workshop.chunks_of(trusted) & workshop.chunks_of(ours)) == 3
    assert len(workshop.chunks_of(trusted) & workshop.chunks_of(apart)) == 64
    for version in (ours, apart, trusted):
        assert workshop.restore_in_memory(version) == DISK
        assert workshop.is_proved(version, workshop.packs_of(version))


def test_the_second_version_of_a_guest_sends_only_what_changed(workshop: Workshop) -> None:
    guest = VmId(random_name())
    for now in (DISK, changed(DISK, (2 * CHUNK, b"written"))):
        receipt = workshop.transfer(now, vm=guest, bundle=workshop.guest_bundle(guest))
        assert workshop.restore_in_memory(workshop.commit(receipt)) == now
    assert receipt.counts.new_bytes == CHUNK


def test_every_key_of_a_scope_and_its_name_tell_nothing_of_another(workshop: Workshop) -> None:
    keys = workshop.store.keys
    names = [STORE_SCOPE, *(keys.scope_of(VmId(random_name())) for _ in range(3))]
    assert len({keys.chunk_id_key_in(name) for name in names}) == len(set(names)) == 4
    assert keys.chunk_id_key_in(STORE_SCOPE) == keys.chunk_id_key
    assert keys.scope_of(workshop.vm).hex() != workshop.vm


def test_chunks_of_both_scopes_are_healed_from_the_vault(workshop: Workshop) -> None:
    versions = three_versions(workshop)
    far = MemoryTransport()
    list(copy_to_vault(workshop.store, far, stop=StopToken()))
    vault = open_store_with_key_file(far, workshop.key_file)
    wanted = {chunk[:16] for version in versions for chunk in workshop.chunks_of(version)}
    for name in workshop.names(layout.PACKS):
        del workshop.objects[name]

    healed = heal_chunks(
        workshop.store,
        vault,
        wanted,
        run=RunId(random_name()),
        clock=workshop.clock,
        stop=StopToken(),
    )

    assert healed.found == wanted - {bytes(16)}
    for version in versions:
        assert workshop.restore_in_memory(version) == DISK
    packs = {receipt.pack for receipt in healed.packs}
    assert {each.finding for each in workshop.prove(packs)} == {Finding.PROVED}


def test_without_index_and_tables_both_scopes_are_found_in_the_packs(workshop: Workshop) -> None:
    versions = three_versions(workshop)
    for name in workshop.names(layout.INDEX):
        del workshop.objects[name]
    for name in workshop.names(layout.PACKS):
        workshop.objects[name] = workshop.objects[name][:-40]

    for version in versions:
        assert workshop.restore_in_memory(version) == DISK


def test_packs_of_another_scope_than_their_sender_s_make_no_version(workshop: Workshop) -> None:
    guest = VmId(random_name())
    receipt = workshop.transfer(DISK, vm=guest, bundle=workshop.guest_bundle(guest))
    mine = workshop.store.keys.scope_of(guest)

    with pytest.raises(Damaged, match="named in another scope"):
        workshop.commit(replace(receipt, from_agent=True))

    version = workshop.commit(replace(receipt, from_agent=True, scope=mine))
    assert workshop.restore_in_memory(version) == DISK


def test_a_guest_that_says_another_scope_spoils_nothing_but_its_own(workshop: Workshop) -> None:
    ours = workshop.back_up(DISK)
    guest = VmId(random_name())
    honest = workshop.guest_bundle(guest)
    liar: Bundle = workshop.guest_bundle(guest, scope=STORE_SCOPE)
    assert honest.chunk_id_key == liar.chunk_id_key
    version = workshop.back_up(DISK, vm=guest, bundle=liar)

    proofs = workshop.prove(workshop.packs_of(version))

    assert {proof.finding for proof in proofs} == {Finding.DAMAGED}
    assert workshop.is_proved(ours, workshop.packs_of(ours))

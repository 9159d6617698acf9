"""Proving: whole, damaged, missing, or not to be checked; and never the one for the other."""

import threading

import pytest

from likeness.codec.keys import SessionKey
from likeness.errors import LikenessError, ShareRefused, ShareUnreachable, Stopped
from likeness.model.ids import PackId
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_packs
from likeness.store.format import layout
from likeness.store.format.pack import MAX_PACK_BYTES, FinishedPack, PackBuilder
from likeness.store.read.index import segments
from tests.support.faulty import Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Workshop, flipped, noise

DISK = noise(1, 20 * CHUNK)


def finished_as(pack: PackId, workshop: Workshop, session: SessionKey) -> FinishedPack:
    """An empty pack under a name of our choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("likeness.store.format.pack.random_name", lambda: pack)
        return PackBuilder(workshop.store.store_id, session, workshop.store.suite).finish()


def test_whole_packs_are_proved_chunk_by_chunk(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    packs = workshop.packs_of(version)

    proofs = workshop.prove(packs)

    assert {proof.pack for proof in proofs} == packs
    assert {proof.finding for proof in proofs} == {Finding.PROVED}
    assert sum(proof.chunks for proof in proofs) == 20
    assert sum(proof.read_bytes for proof in proofs) == version.record.counts.sent_bytes
    assert not any(proof.cause or proof.damaged for proof in proofs)


def test_a_chunk_that_was_hit_is_named_and_the_others_are_proved(workshop: Workshop) -> None:
    version = workshop.back_up(DISK[: 3 * CHUNK])
    (pack,) = workshop.packs_of(version)
    name = layout.pack(pack)
    at = len(workshop.objects[name]) // 2
    workshop.objects[name] = flipped(workshop.objects[name], at)

    (proof,) = workshop.prove({pack})

    assert (proof.finding, proof.chunks, len(proof.damaged)) == (Finding.DAMAGED, 2, 1)
    assert proof.damaged[0].chunk in workshop.chunks_of(version)
    assert proof.damaged[0].offset <= at
    assert "not what its index segment signed for" in proof.cause


def test_a_missing_pack_loses_all_its_chunks(workshop: Workshop) -> None:
    version = workshop.back_up(DISK[: 3 * CHUNK])
    (pack,) = workshop.packs_of(version)
    del workshop.objects[layout.pack(pack)]

    (proof,) = workshop.prove({pack})

    assert (proof.finding, proof.chunks) == (Finding.MISSING, 0)
    assert {each.chunk for each in proof.damaged} == workshop.chunks_of(version)


def test_a_pack_of_other_content_made_with_the_stores_own_keys_is_damaged(
    workshop: Workshop,
) -> None:
    """What a source could do that lost its good faith after it was backed up."""
    version = workshop.back_up(DISK[: 2 * CHUNK])
    (pack,) = workshop.packs_of(version)
    other = workshop.back_up(noise(9, 2 * CHUNK))
    (stranger,) = workshop.packs_of(other) - {pack}
    data = workshop.objects[layout.pack(stranger)]
    workshop.objects[layout.pack(pack)] = data.replace(bytes.fromhex(stranger), bytes.fromhex(pack))

    (proof,) = workshop.prove({pack})

    assert proof.finding is Finding.DAMAGED
    assert len(proof.damaged) == 2


@pytest.mark.parametrize("error", [ShareUnreachable, ShareRefused])
def test_what_cannot_be_read_is_neither_damaged_nor_proved(
    workshop: Workshop, error: type[LikenessError]
) -> None:
    version = workshop.back_up(DISK[: 2 * CHUNK])
    (pack,) = workshop.packs_of(version)
    reads = FaultyTransport(workshop.transport, counting={"read"})
    workshop.store.transport = reads
    workshop.prove({pack})
    workshop.store.transport = FaultyTransport(
        workshop.transport,
        at=len(reads.operations),
        fault=Fault.RAISE_BEFORE,
        counting={"read"},
        error=error,
    )

    (proof,) = workshop.prove({pack})

    assert proof.finding is Finding.COULD_NOT_CHECK
    assert "injected" in proof.cause
    assert not proof.damaged


class FlickeringTransport(MemoryTransport):
    """A share that gives other bytes at every reading, as bad memory does."""

    flickers: tuple[bool, ...] = ()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        if not name.startswith("packs/"):
            return data
        flicker, self.flickers = self.flickers[0], self.flickers[1:]
        return flipped(data, 300 + len(self.flickers) * 2 * CHUNK) if flicker else data


@pytest.mark.parametrize(
    ("flickers", "finding"),
    [
        ((False,), Finding.PROVED),
        ((True, False), Finding.PROVED),
        ((True, True), Finding.COULD_NOT_CHECK),
    ],
)
def test_damage_must_show_twice_and_in_the_same_place(
    workshop: Workshop, flickers: tuple[bool, ...], finding: Finding
) -> None:
    version = workshop.back_up(DISK[: 3 * CHUNK])
    packs = workshop.packs_of(version)
    share = FlickeringTransport()
    share.objects = workshop.objects
    share.flickers = flickers
    workshop.store.transport = share

    (proof,) = workshop.prove(packs)

    assert proof.finding is finding
    assert share.flickers == ()


def test_a_pack_no_index_knows_is_proved_by_its_own_table(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    packs = workshop.packs_of(version)
    for name in list(segments(workshop.store)):
        del workshop.objects[name]
    hit, gone = sorted(packs)[:2]
    workshop.objects[layout.pack(hit)] = flipped(workshop.objects[layout.pack(hit)], 1000)
    del workshop.objects[layout.pack(gone)]

    found = {proof.pack: proof.finding for proof in workshop.prove(packs)}

    assert found == {
        pack: {hit: Finding.DAMAGED, gone: Finding.MISSING}.get(pack, Finding.PROVED)
        for pack in packs
    }


def test_an_empty_pack_in_the_place_of_one_no_index_knows_shows_in_what_was_proved(
    workshop: Workshop,
) -> None:
    """Whoever knows the public box key can make one; only the index says what it must hold."""
    version = workshop.back_up(DISK[: 3 * CHUNK])
    (pack,) = workshop.packs_of(version)
    session = SessionKey.fresh(workshop.store.keys.public().box)
    empty = finished_as(pack, workshop, session)
    workshop.objects[layout.pack(pack)] = b"".join(empty.parts)

    (proof,) = workshop.prove({pack})
    assert (proof.finding, len(proof.damaged)) == (Finding.DAMAGED, 3)

    for name in list(segments(workshop.store)):
        del workshop.objects[name]
    (proof,) = workshop.prove({pack})
    assert (proof.finding, proof.chunks) == (Finding.PROVED, 0)
    assert "no index segment vouches for it" in proof.cause


@pytest.mark.parametrize("indexed", [True, False])
def test_a_pack_that_grew_without_end_is_not_taken_into_memory(
    workshop: Workshop, *, indexed: bool
) -> None:
    version = workshop.back_up(DISK[:CHUNK])
    (pack,) = workshop.packs_of(version)
    if not indexed:
        for name in list(segments(workshop.store)):
            del workshop.objects[name]
    workshop.objects[layout.pack(pack)] += bytes(2 * MAX_PACK_BYTES)

    (proof,) = workshop.prove({pack})

    assert proof.read_bytes <= MAX_PACK_BYTES + 1
    assert proof.cause


def test_proving_stops_when_it_is_asked_to(workshop: Workshop) -> None:
    packs = workshop.packs_of(workshop.back_up(DISK))
    stop = StopToken()
    proofs = prove_packs(workshop.store, packs, clock=workshop.clock, stop=stop, workers=1)
    next(proofs)
    stop.stop()

    with pytest.raises(Stopped):
        list(proofs)
    assert threading.active_count() < 20


def test_documents_are_proved_with_both_copies_of_every_map(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    assert workshop.prove_documents(version).problems == ()
    one, other = version.record.disks[0].parts[0].copies

    workshop.objects[one] = flipped(workshop.objects[one], 70)
    proof = workshop.prove_documents(version)
    assert proof.readable
    assert len(proof.problems) == 1
    assert one in proof.problems[0]

    del workshop.objects[other]
    proof = workshop.prove_documents(version)
    assert not proof.readable
    assert any("neither copy" in problem for problem in proof.problems)


@pytest.mark.parametrize("how", ["flip", "cut", "delete"])
def test_a_spoilt_record_makes_a_version_unreadable(workshop: Workshop, how: str) -> None:
    version = workshop.back_up(DISK)
    good = workshop.objects.pop(version.name)
    if how == "flip":
        workshop.objects[version.name] = flipped(good, 99)
    elif how == "cut":
        workshop.objects[version.name] = good[:-1]

    proof = workshop.prove_documents(version)

    assert not proof.readable
    assert len(proof.problems) == 1
    assert not list(workshop.folder.glob("*.proof-map"))


def test_documents_that_cannot_be_read_are_not_called_damaged(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    workshop.store.transport = FaultyTransport(workshop.transport, at=2, for_good=True)

    with pytest.raises(ShareUnreachable):
        workshop.prove_documents(version)

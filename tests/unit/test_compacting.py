"""Compacting: what is needed of half-empty packs moves, sealed as it is; nothing is lost."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from likeness.model.ids import ChunkId, PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding
from likeness.store.format import layout
from likeness.store.format.copies import Copy
from likeness.store.format.data_store import DataStore
from likeness.store.format.pack import Pack, PackReceipt
from likeness.store.prune.compacting import MAX_SESSIONS, Compaction
from likeness.store.prune.reclaiming import Reclaimed
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version
from likeness.store.write.condemning import condemned_packs
from likeness.transport.passing import PassingTransport
from tests.unit.test_forgetting import damage
from tests.unit.test_reclaiming import all_packs, days_later, forget, reclaim
from tests.unit.workshop import CHUNK, PACK, Workshop, changed, noise

DISK = noise("disk", 3 * CHUNK)


def compaction(workshop: Workshop, store: DataStore | None = None) -> Compaction:
    def prove(packs: Sequence[PackReceipt]) -> set[PackId]:
        proofs = workshop.prove({pack.pack for pack in packs})
        return {proof.pack for proof in proofs if proof.finding is Finding.PROVED}

    return Compaction(
        store or workshop.store,
        RunId(random_name()),
        workshop.clock,
        StopToken(),
        prove,
        target_bytes=PACK,
    )


def newest_copies(workshop: Workshop) -> Callable[..., Mapping[ChunkId, Copy]]:
    """A catalog that relies on what is not condemned."""

    def copies(chunks: Collection[ChunkId]) -> dict[ChunkId, Copy]:
        gone = condemned_packs(workshop.store)
        return {
            place.chunk: Copy(pack.pack, pack.size_bytes)
            for pack in known_packs(workshop.store)
            if pack.pack not in gone
            for place in pack.locations
            if place.chunk in chunks
        }

    return copies


def run(workshop: Workshop, sparse: Collection[PackId], **settings: object) -> Reclaimed:
    work = compaction(workshop)
    settings = {"rewrite": work.rewrite, "copies": newest_copies(workshop), **settings}
    return reclaim(workshop, (), sparse=sparse, **settings)


def scattered(workshop: Workshop, vms: int = 2) -> list[Version]:
    """VMs of which the first version, two thirds changed since, is forgotten."""
    kept = []
    for at in range(vms):
        vm = VmId(random_name())
        disk = changed(DISK, (0, noise(f"own {at}", 3 * CHUNK)))
        first = workshop.back_up(disk, vm=vm)
        later = changed(disk, (CHUNK, noise(f"later {at}", 2 * CHUNK)))
        kept.append(workshop.back_up(later, vm=vm))
        forget(workshop, first)
    return kept


def sizes(workshop: Workshop) -> int:
    return sum(workshop.transport.size(name) for name in workshop.pack_names())


def test_what_is_needed_moves_into_one_pack_and_the_old_ones_go(workshop: Workshop) -> None:
    kept = scattered(workshop)
    whole = [workshop.restore(version) for version in kept]
    before, size = set(all_packs(workshop)), sizes(workshop)
    sparse = [p.pack for p in known_packs(workshop.store) if len(p.locations) == 3]
    assert len(sparse) == 2

    done = run(workshop, sparse)

    assert set(done.rewritten) == set(done.condemned) == set(sparse)
    (new,) = set(all_packs(workshop)) - before
    (known,) = [p for p in known_packs(workshop.store) if p.pack == new]
    assert len(known.locations) == 2
    data = workshop.transport.read(layout.pack(new))
    assert (
        len(Pack(data, name=layout.pack(new), store=workshop.store.store_id).header.sessions) == 3
    )
    assert [workshop.restore(version) for version in kept] == whole
    for days in (4, 4, 4):
        days_later(workshop, days)
        run(workshop, ())
    assert set(all_packs(workshop)) == before - set(sparse) | {new}
    assert sizes(workshop) < size - 3 * CHUNK
    for version, disk in zip(kept, whole, strict=True):
        assert workshop.restore(version) == disk
        assert workshop.is_proved(version, workshop.packs_of(version))
    assert damage(workshop) == []


def test_packs_of_many_sessions_are_cut_so_that_a_header_is_read_at_once(
    workshop: Workshop,
) -> None:
    kept = scattered(workshop, MAX_SESSIONS + 2)
    before = set(all_packs(workshop))
    sparse = [p.pack for p in known_packs(workshop.store) if len(p.locations) == 3]

    work = compaction(workshop)
    work = replace(work, target_bytes=64 * PACK)
    done = reclaim(
        workshop, (), sparse=sparse, rewrite=work.rewrite, copies=newest_copies(workshop)
    )

    assert len(done.rewritten) == MAX_SESSIONS + 2
    assert len(set(all_packs(workshop)) - before) == 2
    for pack in sparse:
        workshop.transport.delete(layout.pack(pack))
    assert all(workshop.restore(version) for version in kept)
    assert workshop.is_proved(kept[0], set(all_packs(workshop)))


class _Power(BaseException):
    """It is cut."""


@pytest.mark.parametrize("at", range(1, 12))
def test_wherever_it_ends_all_restores_and_the_next_run_goes_on(
    workshop: Workshop, at: int
) -> None:
    kept = scattered(workshop)
    whole = [workshop.restore(version) for version in kept]
    sparse = [p.pack for p in known_packs(workshop.store) if len(p.locations) == 3]
    left = [at]

    class EndsThere(PassingTransport):
        def _count(self) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise _Power

        def create(self, name: str, parts: Sequence[bytes]) -> None:
            self._count()
            super().create(name, parts)
            self._count()

        def rename(self, name: str, new_name: str) -> None:
            self._count()
            super().rename(name, new_name)
            self._count()

    plain = workshop.store
    workshop.store = plain.over(EndsThere(workshop.transport))
    with suppress(_Power):
        run(workshop, sparse)
    workshop.store = plain

    assert [workshop.restore(version) for version in kept] == whole
    run(workshop, [p for p in sparse if p not in condemned_packs(plain)])
    assert condemned_packs(plain) == set(sparse)
    for pack in sparse:
        workshop.transport.delete(layout.pack(pack))
    assert [workshop.restore(version) for version in kept] == whole


@pytest.mark.parametrize("how", ["not whole", "gone", "damaged before"])
def test_nothing_is_condemned_that_the_new_pack_does_not_make_up_for(
    workshop: Workshop, how: str
) -> None:
    scattered(workshop, 1)
    (sparse,) = [p.pack for p in known_packs(workshop.store) if len(p.locations) == 3]
    work = compaction(workshop)
    prove = work.prove

    def spoilt(packs: Sequence[PackReceipt]) -> Collection[PackId]:
        name = layout.pack(packs[0].pack)
        data = bytearray(workshop.transport.read(name))
        data[packs[0].locations[0].offset + 60] ^= 1
        workshop.transport.delete(name)
        if how == "not whole":
            workshop.transport.create(name, [bytes(data)])
            return prove(packs)
        return {pack.pack for pack in packs}  # whole then, and given back since

    if how == "damaged before":
        name = layout.pack(sparse)
        data = bytearray(workshop.transport.read(name))
        data[len(data) // 2] ^= 1
        workshop.transport.delete(name)
        workshop.transport.create(name, [bytes(data)])
    else:
        work.prove = spoilt
    copies = {"copies": lambda _: {}, "rewrite": work.rewrite}
    done = reclaim(workshop, (), sparse=[sparse], **copies)

    assert done.condemned == done.rewritten == []
    assert workshop.transport.size(layout.pack(sparse)) > 0


def test_no_run_condemns_more_than_its_limit_by_rewriting(workshop: Workshop) -> None:
    scattered(workshop, 4)
    sparse = [p.pack for p in known_packs(workshop.store) if len(p.locations) == 3]

    assert len(run(workshop, sparse, most_share=0.25).rewritten) == 2
    assert len(run(workshop, sparse, most_share=0.1).rewritten) == 1

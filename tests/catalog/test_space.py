"""Space: what forgetting frees is known to the byte, asked of the rows alone."""

import random
from datetime import timedelta

import pytest

from catalog.all_blocks import sparse_packs
from catalog.capacity import days_until_full, history, measure
from catalog.connection import CatalogLocation, writing
from catalog.dedup import drop_duplicates, packs_condemned, record_deleted_packs
from catalog.reconciling import packs_are_back, versions_are_back
from catalog.recording import record_version
from catalog.slices import slices_of_maps
from catalog.space import (
    forget_versions,
    freed_by,
    served_by_proved,
    spare_packs,
    versions_to_judge,
)
from catalog.values import Verdict
from catalog.versions import list_versions
from likeness.model.ids import ChunkId, PackId, RunId, VersionId
from likeness.store.format.pack import PackReceipt
from likeness.store.prune.compacting import LIVE_SHARE
from likeness.store.read.index import KnownPack
from tasks.capacity import Capacity, capacity_page, warning_of
from tests.catalog.scenes import (
    CHUNK_BYTES,
    MONTH,
    NOW,
    chunk,
    pack,
    proved,
    run,
    validated,
    version,
    whole_map,
)

POSITIONS = 8


class Kept:
    """The same facts in plain dictionaries, to compare with."""

    def __init__(self, seed: int, catalog: CatalogLocation) -> None:
        self.dice = random.Random(seed)
        self.catalog = catalog
        self.needs: dict[VersionId, set[ChunkId]] = {}
        self.packs: dict[PackId, PackReceipt] = {}
        self.of_vm: dict[str, list[PackReceipt]] = {"web": [], "db": []}

    def back_up(self, which: str, number: int) -> None:
        """Two packs of what no earlier version of this VM has."""
        chunks = {at: chunk(self.dice.randrange(25)) for at in range(POSITIONS)}
        known = {place.chunk for each in self.of_vm[which] for place in each.locations}
        new = sorted(set(chunks.values()) - known)
        made = [pack(new[:3]), pack(new[3:])] if len(new) > 3 else [pack(new)] if new else []
        told = version(which, number, {0: POSITIONS * CHUNK_BYTES}, run_id=run((which, number)))
        record_version(self.catalog, told, [whole_map(which, chunks)], made, NOW)
        self.needs[told.version] = set(chunks.values())
        self.packs |= {each.pack: each for each in made}
        self.of_vm[which] += made

    def unneeded(self, without: set[VersionId]) -> set[PackId]:
        """Packs of which no version that stays needs anything."""
        needed = set().union(*(n for v, n in self.needs.items() if v not in without))
        return {
            each.pack
            for each in self.packs.values()
            if not needed & {place.chunk for place in each.locations}
        }

    def exclusive(self, going: set[VersionId]) -> set[ChunkId]:
        stay = set().union(*(n for v, n in self.needs.items() if v not in going))
        return set().union(*(self.needs[v] for v in going)) - stay


@pytest.mark.parametrize("seed", range(2))
def test_what_forgetting_frees_is_what_nothing_else_needs(
    seed: int, catalog: CatalogLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed:  # a few rows at a time
        monkeypatch.setattr("catalog.slices.AT_ONCE", 3)
        monkeypatch.setattr("catalog.space._PACKS_AT_ONCE", 2)
    kept = Kept(seed, catalog)
    for number in range(1, 7):
        for which in ("web", "db"):
            kept.back_up(which, number)
    versions = list(kept.needs)
    forgotten: set[VersionId] = set()
    for _ in range(3):
        going = set(kept.dice.sample([v for v in versions if v not in forgotten], 3))
        freed = freed_by(kept.catalog, going, NOW, MONTH)
        before, after = kept.unneeded(forgotten), kept.unneeded(forgotten | going)
        sizes = {each: kept.packs[each].size_bytes for each in after}
        assert freed.packs == len(after - before)
        assert freed.packs_bytes == sum(sizes[each] for each in after - before)
        assert (freed.waiting_packs, freed.waiting_bytes) == (
            len(before),
            sum(sizes[each] for each in before),
        )
        gone = kept.exclusive(going | forgotten) - kept.exclusive(forgotten)
        assert freed.exclusive_bytes == 1000 * len(gone)

        assert forget_versions(kept.catalog, going, NOW) == 3
        forgotten |= going
        assert dict(spare_packs(kept.catalog, NOW, MONTH)) == sizes
        assert {row.version for row in list_versions(kept.catalog, NOW, None)} == {
            v for v in versions if v not in forgotten
        }
    assert forget_versions(kept.catalog, forgotten, NOW) == 0, "safe to repeat"


@pytest.mark.parametrize("seed", range(2))
def test_what_is_worth_rewriting_is_what_little_is_needed_of(
    seed: int, catalog: CatalogLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.slices.AT_ONCE", 3 + 4 * seed)
    kept = Kept(seed, catalog)
    for number in range(1, 6):
        for which in ("web", "db"):
            kept.back_up(which, number)
    validated(kept.catalog, proved(*kept.packs.values()), NOW, MONTH)
    going = set(kept.dice.sample(list(kept.needs), 6))
    forget_versions(kept.catalog, going, NOW)

    needed = set().union(*(n for v, n in kept.needs.items() if v not in going))
    shares: dict[PackId, float] = {}
    served: set[ChunkId] = set()
    for each in kept.packs.values():
        own = {place.chunk for place in each.locations}
        shares[each.pack] = len((own - served) & needed) / len(own)
        served |= own
    assert 0 < sum(0 < share < 0.9 for share in shares.values()) < len(shares)
    order = list(kept.packs)
    expected = sorted(
        (each for each in order if 0 < shares[each] < 0.9),
        key=lambda each: (shares[each], order.index(each)),
    )
    found = sparse_packs(kept.catalog, NOW, MONTH, live_share=0.9)
    assert [each.pack for each in found] == expected
    by_pack = {each.pack: each for each in kept.packs.values()}
    for sparse in found:
        length = 1000 * len(by_pack[sparse.pack].locations)
        assert sparse.dead_bytes == pytest.approx(length * (1 - shares[sparse.pack]))
    free = sum(size for _, size in spare_packs(kept.catalog, NOW, MONTH))
    dead = sum(e.dead_bytes for e in found if shares[e.pack] < LIVE_SHARE)
    now = measure(kept.catalog, NOW, MONTH, total=1 << 40, free=1 << 30)
    assert (now.rewriting, now.reclaimable) == (dead, free + dead)
    page = capacity_page(Capacity(now, (now,), None, ""))
    assert f"| reclaimable by rewriting packs | {dead:,} |" in page
    assert f"| reclaimable in whole packs | {free:,} |" in page


@pytest.mark.parametrize("many", [0, 1, 7, 100])
def test_slices_of_a_table_keep_each_row_once(
    many: int, catalog: CatalogLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.slices.AT_ONCE", 5)
    dice = random.Random(many)
    rows = [(dice.randrange(1, 9), dice.choice([0, 3, 40])) for _ in range(many)]
    with writing(catalog) as connection:
        for version_no, position in rows:
            connection.execute(
                "INSERT INTO maps VALUES (1, ?, uuid(), 1, 2, ?)", [position, version_no]
            )
        slices = slices_of_maps(connection)
        found: list[tuple[int, int]] = []
        for each in slices:
            query = f"SELECT version_no, position FROM maps WHERE {each.within}"
            found += connection.execute(query).fetchall()
    assert sorted(found) == sorted(rows)
    assert len(slices) >= many // 15


def test_a_copy_makes_up_for_another_only_while_its_proof_counts(catalog: CatalogLocation) -> None:
    chunks = [chunk(at) for at in range(3)]
    one, twin = pack(chunks), pack([*chunks, chunk("own")])
    for number, (which, brought) in enumerate((("web", one), ("db", twin)), 1):
        maps = whole_map(which, dict(enumerate(p.chunk for p in brought.locations)))
        told = version(which, number, {0: 4 * CHUNK_BYTES})
        record_version(catalog, told, [maps], [brought], NOW)
    assert spare_packs(catalog, NOW, MONTH) == []
    validated(catalog, proved(one, twin), NOW, MONTH)
    drop_duplicates(catalog, NOW)
    assert {p for p, _ in served_by_proved(catalog, chunks, NOW, MONTH).values()} == {one.pack}

    only_twin_has = version("db", 2, {0: 4 * CHUNK_BYTES}).version
    freed = freed_by(catalog, [only_twin_has], NOW, MONTH)
    assert (freed.packs_bytes, freed.exclusive_bytes) == (twin.size_bytes, 1000)
    forget_versions(catalog, [only_twin_has], NOW)
    assert dict(spare_packs(catalog, NOW, MONTH)) == {twin.pack: twin.size_bytes}
    late = NOW + 2 * MONTH
    assert served_by_proved(catalog, chunks, late, MONTH) == {}


def test_nobody_relies_on_what_is_condemned_until_it_is_spared(catalog: CatalogLocation) -> None:
    chunks = {at: chunk(at) for at in range(3)}
    one = pack(chunks.values())
    web = version("web", 1, {0: 3 * CHUNK_BYTES})
    record_version(catalog, web, [whole_map("web", chunks)], [one], NOW)
    validated(catalog, proved(one), NOW, MONTH, versions=[web.version])
    forget_versions(catalog, [web.version], NOW)
    assert packs_condemned(catalog, [one.pack], NOW) == 1

    twin = pack(chunks.values())
    db = version("db", 1, {0: 3 * CHUNK_BYTES})
    record_version(catalog, db, [whole_map("db", chunks)], [twin], NOW)
    validated(catalog, proved(twin), NOW, MONTH, versions=[db.version])
    assert drop_duplicates(catalog, NOW).redundant == ()
    assert spare_packs(catalog, NOW, MONTH) == []

    again = KnownPack(one.pack, one.size_bytes, one.digest, RunId("0" * 32), one.locations)
    assert packs_are_back(catalog, [again], NOW) == 1
    assert versions_are_back(catalog, [web.version], NOW) == 1
    (row,) = (r for r in list_versions(catalog, NOW, MONTH) if r.vm_name == "web")
    assert row.verdict is Verdict.UNCHECKED
    validated(catalog, proved(one), NOW, MONTH, versions=[web.version])
    assert {r.verdict for r in list_versions(catalog, NOW, MONTH)} == {Verdict.GOOD}
    forget_versions(catalog, [web.version], NOW)
    packs_condemned(catalog, [one.pack], NOW)
    record_deleted_packs(catalog, [one.pack], NOW + timedelta(days=8))
    assert {r.verdict for r in list_versions(catalog, NOW, MONTH)} == {Verdict.GOOD}
    assert [each.vm_name for each in versions_to_judge(catalog)] == ["db"]


def test_the_trend_says_when_it_is_full(catalog: CatalogLocation) -> None:
    one = pack([chunk(1), chunk(2)])
    web = version("web", 1, {0: 2 * CHUNK_BYTES})
    record_version(catalog, web, [whole_map("web", {0: chunk(1), 1: chunk(2)})], [one], NOW)
    for day in range(5):
        at, free = NOW + timedelta(days=day), 1000 - 100 * day
        found = measure(catalog, at, MONTH, total=5000, free=free)
    assert (found.packs, found.live, found.reclaimable) == (one.size_bytes, one.size_bytes, 0)
    measured = history(catalog, NOW)
    assert len(measured) == 5
    days = days_until_full(measured)
    assert days == pytest.approx(6.0)
    assert days_until_full(measured[:1]) is None
    assert days_until_full([measured[0], measured[0]]) is None
    assert "full in 6 days" in warning_of(found, days)
    assert warning_of(measured[0], None) == ""
    forget_versions(catalog, [web.version], NOW)
    assert measure(catalog, NOW, MONTH, total=5000, free=100).reclaimable == one.size_bytes
    page = capacity_page(Capacity(found, tuple(measured), days, ""))
    assert "pie title" not in page, "nothing of it is a mebibyte"
    assert page.count("```mermaid") == 1

"""The global pass drops what is proved elsewhere, and nothing else."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import known_ids
from catalog.chunks import damaged_ids, unreferenced_packs
from catalog.connection import CatalogLocation
from catalog.dedup import drop_duplicates, holders, record_deleted_packs
from catalog.finding import halves
from catalog.incidents import list_incidents, note_incidents
from catalog.keeping_parts import keep_parts
from catalog.known_ids import files_of, one_file, write_known_ids
from catalog.session import catalog_session
from catalog.validation import packs_to_prove
from catalog.values import Verdict
from catalog.versions import list_versions
from likeness.agent.known_ids import KnownIds, SeveralKnownIds
from likeness.model.ids import ChunkId, PackId, RunId
from likeness.store.format.pack import PackReceipt
from tests.catalog.history import CHUNKS, History, random_map
from tests.catalog.scenes import (
    DAY,
    MONTH,
    NOW,
    damaged,
    missing,
    new_catalog,
    proved,
    unreachable,
    validated,
    vm,
)
from tests.support.catalog_rows import copies_of, packs_of_version


def run_of(history: History, which: str) -> RunId:
    return RunId(history.last[which].record.record.run)


def packs_of(history: History, which: str) -> list[PackReceipt]:
    """The packs a VM's last version brought."""
    held = {c for m in history.last[which].maps.values() for c in m.values()}
    return [p for p in history.packs.values() if {x.chunk for x in p.locations} <= held]


def two_clones(catalog: CatalogLocation) -> tuple[History, PackReceipt, PackReceipt]:
    """A VM, its clone, and the pack that each brought."""
    history = History(catalog)
    chunks = {at: CHUNKS[at] for at in range(4)}
    history.back_up("web", {0: chunks})
    history.back_up("clone", {0: chunks})
    first, second = history.packs.values()
    return history, first, second


def test_n3_a_clones_pack_is_dropped_once_the_older_one_is_proved(catalog: CatalogLocation) -> None:
    history, first, second = two_clones(catalog)
    before = drop_duplicates(catalog, NOW, run=run_of(history, "clone"))
    assert (before.known_chunks, before.known_bytes) == (4, 4000)
    assert (before.served_chunks, before.dropped_chunks, before.redundant) == (0, 0, ())

    validated(catalog, proved(first), NOW, MONTH)
    after = drop_duplicates(catalog, NOW, run=run_of(history, "clone"))
    assert (after.known_chunks, after.served_chunks, after.dropped_chunks) == (4, 4, 4)
    assert (after.served_bytes, after.dropped_bytes) == (4000, 4000)
    assert after.redundant == (second.pack,)
    assert after.redundant_bytes == second.size_bytes
    kept = {row.vm_name: row.kept_bytes for row in list_versions(catalog, NOW, MONTH)}
    assert kept == {"web": first.size_bytes, "clone": 0}


def test_a_copy_that_was_proved_long_ago_is_proved_again_before_the_other_goes(
    catalog: CatalogLocation,
) -> None:
    _, first, second = two_clones(catalog)
    later = NOW + 400 * DAY
    validated(catalog, proved(first), NOW, None)
    validated(catalog, proved(second, at=later), later, None)

    found = drop_duplicates(catalog, later)
    assert (found.redundant, found.to_renew) == ((), (first.pack,))

    validated(catalog, proved(first, at=later), later, None)
    found = drop_duplicates(catalog, later)
    assert (found.redundant, found.to_renew) == ((second.pack,), ())
    assert holders(catalog, [second.pack], later) == {second.pack: {first.pack: first.size_bytes}}
    assert holders(catalog, [second.pack], later + 31 * DAY) == {}  # it waited for too long


def test_of_two_proved_copies_the_older_stays(catalog: CatalogLocation) -> None:
    history, first, second = two_clones(catalog)
    validated(catalog, proved(second), NOW, MONTH)
    validated(catalog, proved(first, at=NOW + DAY), NOW + DAY, MONTH)
    assert drop_duplicates(catalog, NOW + DAY).redundant == (second.pack,)
    clone = history.last["clone"].record.version
    assert packs_of_version(catalog, clone) == [first.pack]


def test_an_unproved_copy_of_another_vm_is_never_relied_on(catalog: CatalogLocation) -> None:
    history, first, second = two_clones(catalog)
    validated(catalog, proved(second), NOW, MONTH)
    found = drop_duplicates(catalog, NOW)
    assert found.redundant == (first.pack,), "the proved copy may serve for the unproved one"
    assert packs_of_version(catalog, history.last["web"].record.version) == [second.pack]


def test_copies_that_are_bad_or_out_of_reach_make_nothing_redundant(
    catalog: CatalogLocation,
) -> None:
    _, first, second = two_clones(catalog)
    validated(catalog, proved(first, second), NOW, MONTH)
    for finding in (unreachable(first, NOW + DAY), damaged(first, CHUNKS[0], at=NOW + 2 * DAY)):
        validated(catalog, [finding], NOW + 2 * DAY, MONTH)
        assert second.pack not in drop_duplicates(catalog, NOW + 2 * DAY).redundant
    validated(catalog, [missing(first, NOW + 3 * DAY)], NOW + 3 * DAY, MONTH)
    assert drop_duplicates(catalog, NOW + 3 * DAY).redundant == ()


def test_a_pack_with_one_chunk_of_its_own_is_kept_whole(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}})
    history.back_up("db", {0: {0: CHUNKS[0], 1: CHUNKS[2]}})
    validated(catalog, proved(*history.packs.values()), NOW, MONTH)
    found = drop_duplicates(catalog, NOW, run=run_of(history, "db"))
    assert (found.known_chunks, found.served_chunks, found.dropped_chunks) == (1, 1, 0)
    assert found.redundant == ()


def test_n5_the_pass_and_the_giving_back_may_stop_anywhere_and_be_repeated(
    catalog: CatalogLocation,
) -> None:
    history, first, second = two_clones(catalog)
    validated(catalog, proved(first, second), NOW, MONTH, versions=history.versions)
    assert drop_duplicates(catalog, NOW, run=run_of(history, "clone")) == drop_duplicates(
        catalog, NOW, run=run_of(history, "clone")
    )
    for _ in range(2):
        record_deleted_packs(catalog, [second.pack], NOW)
        again = drop_duplicates(catalog, NOW, run=run_of(history, "clone"))
        assert (again.known_chunks, again.redundant) == (0, ())
    assert {row.verdict for row in list_versions(catalog, NOW, MONTH)} == {Verdict.GOOD}
    assert packs_to_prove(catalog, NOW, MONTH) == []
    locations = copies_of(catalog, CHUNKS[:4])
    assert {p.pack for each in locations.values() for p in each} == {first.pack}


def test_a_pack_that_waits_to_be_given_back_is_kept_when_the_other_copy_fails(
    catalog: CatalogLocation,
) -> None:
    history, first, second = two_clones(catalog)
    validated(catalog, proved(first, second), NOW, MONTH, versions=history.versions)
    assert drop_duplicates(catalog, NOW).redundant == (second.pack,)
    told = validated(catalog, [missing(first, NOW + DAY)], NOW + DAY, MONTH)
    assert told.turned_bad == ()
    assert told.moved_chunks == 4
    assert drop_duplicates(catalog, NOW + DAY).redundant == ()
    verdicts = {row.verdict for row in list_versions(catalog, NOW + DAY, MONTH)}
    assert verdicts == {Verdict.GOOD}


def test_damage_of_the_copy_that_was_left_shows_however_late_it_was_seen(
    catalog: CatalogLocation,
) -> None:
    history, first, second = two_clones(catalog)
    validated(catalog, proved(first, second), NOW, MONTH, versions=history.versions)
    going = holders(catalog, drop_duplicates(catalog, NOW).redundant, NOW)
    assert list(going) == [second.pack]

    hurt = damaged(first, CHUNKS[0], at=NOW + DAY)
    told = validated(catalog, [hurt], NOW + DAY, MONTH)
    assert told.turned_bad == (), "the other copy seems to be there still"
    record_deleted_packs(catalog, going, NOW + DAY)

    verdicts = {row.verdict for row in list_versions(catalog, NOW + DAY, MONTH)}
    assert verdicts == {Verdict.BAD}
    assert damaged_ids(catalog) == {CHUNKS[0][:16]}, "the next backup sends it again"
    later = NOW + 2 * DAY
    again = validated(catalog, [damaged(first, CHUNKS[0], at=later)], later, MONTH)
    assert len(again.turned_bad) == 2
    assert note_incidents(catalog, later) == 1
    (incident,) = list_incidents(catalog)
    assert (len(incident.versions), incident.damaged_copies) == (2, 2)


def test_a_pack_that_was_needed_after_all_is_missed_at_once(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}}, packs=2)
    validated(catalog, proved(*history.packs.values()), NOW, MONTH)
    lost = next(iter(history.packs))
    record_deleted_packs(catalog, [lost], NOW)
    (row,) = list_versions(catalog, NOW, MONTH)
    assert row.verdict is Verdict.BAD


def test_two_copies_in_one_transfer_are_one_chunk(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 5: CHUNKS[0]}, 1: {2: CHUNKS[0]}})
    (only,) = copies_of(catalog, [CHUNKS[0]])[CHUNKS[0]]
    assert only.serves
    assert drop_duplicates(catalog, NOW).known_chunks == 0


def naive_redundant(history: History, proven: set[PackId], gone: set[PackId]) -> set[PackId]:
    """Packs that may go, worked out chunk by chunk: an older proved copy wins, else any proved."""
    order = [p for p in history.packs if p not in gone]
    holders: dict[ChunkId, list[PackId]] = {}
    for pack_id in order:
        for place in history.packs[pack_id].locations:
            holders.setdefault(place.chunk, []).append(pack_id)
    serves = {c: next((p for p in packs if p in proven), None) for c, packs in holders.items()}
    return {
        pack_id
        for pack_id in order
        if all(serves[p.chunk] not in (None, pack_id) for p in history.packs[pack_id].locations)
    }


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_what_is_redundant_is_what_a_naive_look_finds(empty: CatalogLocation, seed: int) -> None:
    dice = random.Random(seed)
    with TemporaryDirectory() as folder:
        history = History.beside(empty, Path(folder) / "c")
        with catalog_session(history.catalog):
            _compared_with_a_naive_look(history, dice)


def _compared_with_a_naive_look(history: History, dice: random.Random) -> None:
    proven: set[PackId] = set()
    waiting: set[PackId] = set()
    gone: set[PackId] = set()
    for _ in range(dice.randint(2, 4)):
        for _ in range(dice.randint(1, 2)):
            which = dice.choice(["web", "db", "app"])
            history.back_up(which, {0: random_map(dice)}, packs=dice.randint(1, 4))
        some = [p for p in history.packs.values() if p.pack not in gone and dice.random() < 0.6]
        validated(history.catalog, proved(*some), NOW, MONTH)
        proven |= {p.pack for p in some} - waiting
        found = set(drop_duplicates(history.catalog, NOW).redundant)
        assert found == naive_redundant(history, proven, gone)
        if dice.random() < 0.7:
            record_deleted_packs(history.catalog, found, NOW)
            gone |= found
        else:
            waiting |= found  # nothing relies on them
            proven -= found
        needed = {c for v in history.versions.values() for c in v.maps[0].values()}
        for locations in copies_of(history.catalog, needed).values():
            assert [p.serves for p in locations].count(True) == 1
            assert not {p.pack for p in locations} & gone
    assert not {row.verdict for row in list_versions(history.catalog, NOW, None)} & {
        Verdict.BAD,
        Verdict.STALE,
    }


def test_a_pack_of_nothing_but_known_chunks_is_not_called_unreferenced(
    catalog: CatalogLocation,
) -> None:
    two_clones(catalog)
    assert unreferenced_packs(catalog, NOW + DAY) == []
    assert vm("web") != vm("clone")


def test_what_holds_the_chunks_of_a_waiting_pack_is_named_with_its_size(
    catalog: CatalogLocation,
) -> None:
    _, first, second = two_clones(catalog)
    validated(catalog, proved(first, second), NOW, MONTH)
    both = [first.pack, second.pack]
    assert holders(catalog, both, NOW) == {}, "nothing waits yet"

    drop_duplicates(catalog, NOW)

    assert holders(catalog, both, NOW) == {second.pack: {first.pack: first.size_bytes}}
    assert holders(catalog, [first.pack], NOW) == {}
    validated(catalog, [missing(first, NOW + DAY)], NOW + DAY, MONTH)
    assert holders(catalog, both, NOW + DAY) == {}, "the pass was taken back meanwhile"


def test_a_waiting_pack_may_be_held_by_several_others(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {at: CHUNKS[at] for at in range(4)}}, packs=2)
    halves = {pack.pack: pack.size_bytes for pack in history.packs.values()}
    history.back_up("clone", {0: {at: CHUNKS[at] for at in range(4)}})
    validated(catalog, proved(*history.packs.values()), NOW, MONTH)
    (going,) = drop_duplicates(catalog, NOW).redundant

    assert len(halves) == 2
    assert holders(catalog, [going], NOW) == {going: halves}


def test_ids_that_others_may_rely_on_are_those_that_are_proved_and_whole(
    catalog: CatalogLocation, tmp_path: Path
) -> None:
    history = History(catalog)
    for at, name in enumerate(("proved", "old", "never", "damaged", "missing")):
        history.back_up(name, {0: {n: CHUNKS[2 * at + n] for n in range(2)}})
    packs = list(history.packs.values())
    validated(catalog, proved(packs[1]), NOW - 2 * MONTH, MONTH)
    validated(catalog, proved(packs[0]), NOW, MONTH)
    validated(catalog, [damaged(packs[3], packs[3].locations[0].chunk)], NOW, MONTH)
    validated(catalog, [missing(packs[4])], NOW, MONTH)

    for at_once in (1 << 20, 3):
        folder = tmp_path / str(at_once)
        assert write_known_ids(catalog, folder, NOW, MONTH, at_once=at_once) == 2
        assert known_in(folder) == CHUNKS[:2]


def test_known_ids_are_the_same_from_the_files_in_order(
    catalog: CatalogLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(catalog)
    twins = [CHUNKS[0], CHUNKS[3]]
    for at, name in enumerate(("web", "old", "db", "damaged", "app")):
        chunks = [*CHUNKS[2 * at : 2 * at + 2], *(twins if name == "db" else ())]
        history.back_up(name, {0: dict(enumerate(chunks))})
    packs = list(history.packs.values())
    keep_parts(catalog, at_once=8)
    validated(catalog, proved(packs[1]), NOW - 2 * MONTH, MONTH)
    validated(catalog, proved(packs[0], packs[2], packs[4]), NOW, MONTH)
    validated(catalog, [damaged(packs[3], packs[3].locations[0].chunk)], NOW, MONTH)
    expected = {*CHUNKS[:2], *CHUNKS[4:6], *CHUNKS[8:10]}
    asked: list[str] = []

    def noted(source: str, also: str = "") -> str:
        asked.append(source)
        return halves(source, also)

    monkeypatch.setattr(known_ids, "halves", noted)
    for share, rows in ((8, 1 << 20), (8, 2), (0, 1)):
        monkeypatch.setattr("catalog.ids_in_order._SHARE", share)
        monkeypatch.setattr("catalog.ids_in_order._SLICE_ROWS", rows)
        folder = tmp_path / f"{share} {rows}"
        assert write_known_ids(catalog, folder, NOW, MONTH, at_once=3) == len(expected)
        assert set(known_in(folder)) == expected
        assert any("BETWEEN 1 AND" in each for each in asked) == (not share)


def known_in(folder: Path) -> list[ChunkId]:
    ids = SeveralKnownIds(files_of(folder))
    found = [chunk for chunk in CHUNKS if chunk in ids]
    assert len(ids) == len(found)
    ids.close()
    return found


def test_known_ids_are_brought_up_to_date_by_what_changed(
    catalog: CatalogLocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(catalog)
    folder = tmp_path / "ids"
    asked: list[str] = []

    def noted(source: str) -> str:
        asked.append(source)
        return halves(source)

    monkeypatch.setattr(known_ids, "halves", noted)
    for at in range(7):
        history.back_up(f"vm {at}", {0: {n: CHUNKS[2 * at + n] for n in range(2)}})
        (pack,) = list(history.packs.values())[at:]
        validated(catalog, proved(pack), NOW, MONTH)
        write_known_ids(catalog, folder, NOW, MONTH, at_once=4)
        assert known_in(folder) == CHUNKS[: 2 * at + 2]
        assert len(asked) == at + 1
        assert f"BETWEEN {at + 1} AND {at + 1}" in asked[-1], "it asked for more than what is new"
    write_known_ids(catalog, folder, NOW, MONTH)
    assert len(asked) == 7, "it asked again for what it had"
    assert len(files_of(folder)) <= 3

    one_file(files_of(folder), tmp_path / "one", tmp_path)
    one = KnownIds(tmp_path / "one")
    assert [chunk for chunk in CHUNKS if chunk in one] == CHUNKS
    one.close()

    (folder / "packs").write_bytes(b"torn")
    write_known_ids(catalog, folder, NOW, MONTH)
    assert known_in(folder) == CHUNKS
    other = new_catalog(tmp_path / "other")
    write_known_ids(other, folder, NOW, MONTH)
    assert known_in(folder) == [], "these are another catalog's"

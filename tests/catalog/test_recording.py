"""What was recorded is what the catalog answers with."""

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.chunks import (
    damaged_ids,
    must_read,
    unreferenced_packs,
)
from catalog.connection import CatalogLocation, reading
from catalog.dedup import drop_duplicates, record_deleted_packs
from catalog.proofs import record_proofs
from catalog.reconciling import expire_versions
from catalog.recording import record_version
from catalog.recording_many import Told, record_new_vms
from catalog.recording_packs import record_packs
from catalog.session import catalog_session
from catalog.staging import NOTHING, staged
from catalog.values import DiskMap, Recorded, Verdict
from catalog.versions import (
    find_version,
    list_versions,
    list_vms,
)
from likeness.errors import BadInput, UnknownVersion
from likeness.model.disk import Extent
from likeness.model.ids import ChunkId, RunId, VersionId
from likeness.store.format.maps import Run
from likeness.store.read.index import KnownPack
from tests.catalog.history import CHUNKS, POSITIONS, History, Remembered, random_map
from tests.catalog.scenes import (
    CHUNK_BYTES,
    DAY,
    MONTH,
    NOW,
    chunk,
    delta_map,
    disk,
    pack,
    proved,
    run,
    version,
    vm,
    whole_map,
)
from tests.support.catalog_rows import (
    affected_by,
    copies_of,
    damage_rows,
    known_versions,
    map_of_version,
    packs_of_version,
)


@contextmanager
def histories(empty: CatalogLocation) -> Generator[Callable[..., History], None, None]:
    """Make histories, whose catalogs are kept open as a job keeps its own."""
    with ExitStack() as held:
        folder = held.enter_context(TemporaryDirectory())

        def make(name: str, at_once: int = 0) -> History:
            made = History.beside(empty, Path(folder) / name, at_once=at_once)
            held.enter_context(catalog_session(made.catalog))
            return made

        yield make


def random_history(new: Callable[..., History], seed: int) -> History:
    """A few VMs with disks that come, go, grow and shrink."""
    dice = random.Random(seed)
    history = new("told", at_once=seed % 4)
    for _ in range(dice.randint(2, 5)):
        maps = {}
        sizes = {}
        for at in range(3):
            if dice.random() < 0.6:
                positions = dice.choice([POSITIONS, POSITIONS, POSITIONS - 4])
                maps[at] = random_map(dice, positions)
                sizes[at] = positions * CHUNK_BYTES
        history.back_up(
            dice.choice(["web", "db"]),
            maps,
            packs=dice.randint(1, 3),
            as_deltas=dice.random() < 0.7,
            sizes=sizes,
        )
    return history


def sample(history: History, seed: int) -> list[tuple[VersionId, Remembered]]:
    """Two versions to look at closely."""
    return random.Random(seed).sample(list(history.versions.items()), 2)


def ranges_told(history: History, wanted: set[ChunkId]) -> set[tuple[str, int, str, int]]:
    """What `affected_by` says, position by position."""
    return {
        (each.vm, each.sequence, d.disk, position)
        for each in affected_by(history.catalog, wanted)
        for d in each.disks
        for extent in d.ranges
        for position in range(extent.offset // CHUNK_BYTES, -(-extent.end // CHUNK_BYTES))
    }


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_every_map_and_every_use_of_a_chunk_is_as_it_was_told(
    empty: CatalogLocation, seed: int
) -> None:
    with histories(empty) as new:
        history = random_history(new, seed)
        for version_id, mine in sample(history, seed):
            for at in range(3):
                told = map_of_version(history.catalog, version_id, disk(mine.vm, at))
                expected = {p: c[:16] for p, c in mine.maps.get(at, {}).items()}
                assert told == expected
            needed = {c for m in mine.maps.values() for c in m.values()}
            packs = {
                copies[0].pack for copies in copies_of(history.catalog, needed).values() if copies
            }
            assert set(packs_of_version(history.catalog, version_id)) == packs
        wanted = set(random.Random(seed).sample(CHUNKS, 3))
        assert ranges_told(history, wanted) == history.places_of_chunk(wanted)


@settings(max_examples=2)
@given(seed=st.integers(0, 2**32))
def test_p4_a_catalog_rebuilt_from_the_store_says_the_same(
    empty: CatalogLocation, seed: int
) -> None:
    with histories(empty) as new:
        history = random_history(new, seed)
        live = history.catalog
        record_proofs(live, proved(*history.packs.values()), NOW, MONTH)
        gone = drop_duplicates(live, NOW).redundant
        record_deleted_packs(live, gone, NOW)

        rebuilt = new("rebuilt").catalog
        record_packs(rebuilt, [p for p in history.packs.values() if p.pack not in gone], NOW)
        for mine in history.versions.values():
            maps = [whole_map(mine.vm, chunks, at) for at, chunks in mine.maps.items()]
            brought = [p for p in mine.brought if p.pack not in gone]
            record_version(rebuilt, mine.record, maps, brought, NOW)
        fresh = list_versions(rebuilt, NOW, MONTH)
        assert {row.verdict for row in fresh} == {Verdict.UNCHECKED}, "never green unproved"

        everything = list(history.versions)
        left = [p for p in history.packs.values() if p.pack not in gone]
        for each in (live, rebuilt):
            record_proofs(each, proved(*left, at=NOW), NOW, MONTH, versions=everything)
        assert list_versions(rebuilt, NOW, MONTH) == list_versions(live, NOW, MONTH)
        for version_id, mine in sample(history, seed):
            assert packs_of_version(rebuilt, version_id) == packs_of_version(live, version_id)
            for at in mine.maps:
                there, here = (
                    map_of_version(each, version_id, disk(mine.vm, at)) for each in (live, rebuilt)
                )
                assert there == here


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_versions_told_all_at_once_are_as_if_told_one_by_one(
    empty: CatalogLocation, seed: int
) -> None:
    dice = random.Random(seed)
    with histories(empty) as new:
        history = random_history(new, seed)
        live, at_once = history.catalog, new("at once").catalog
        before: dict[str, Remembered] = {}
        told = []
        for mine in history.versions.values():
            last = before.get(mine.vm)
            maps = [
                delta_map(mine.vm, last.maps[at], chunks, at)
                if last
                and last.sizes.get(at, mine.sizes[at] + 1) <= mine.sizes[at]
                and dice.random() < 0.7
                else whole_map(mine.vm, chunks, at)
                for at, chunks in mine.maps.items()
            ]
            packs = tuple(
                KnownPack(p.pack, p.size_bytes, p.digest, RunId(""), p.locations)
                for p in mine.brought
            )
            told.append(Told(mine.record, tuple(maps), packs))
            before[mine.vm] = mine

        assert record_new_vms(at_once, told, NOW) == len(history.versions)

        assert list_versions(at_once, NOW, MONTH) == list_versions(live, NOW, MONTH)
        for table in ("maps", "places", "pack_uses", "version_disks", "versions", "packs", "vms"):
            assert rows_of(at_once, table) == rows_of(live, table), table
        with pytest.raises(BadInput, match="came to know"):
            record_new_vms(at_once, told, NOW)


def rows_of(catalog: CatalogLocation, table: str) -> list[tuple[object, ...]]:
    """All of a table, in no order of its own; disks by their ids, not by the numbers they got."""
    with reading(catalog) as connection:
        query = f"SELECT * FROM {table}"
        if table in ("maps", "version_disks"):
            what = "disks.disk_id, t.* EXCLUDE (disk_no)"
            query = f"SELECT {what} FROM {table} AS t JOIN disks USING (disk_no)"
        return sorted(connection.execute(query).fetchall(), key=str)


def test_a_version_told_twice_is_one_version(catalog: CatalogLocation) -> None:
    record = version("web", 1, {0: 4 * CHUNK_BYTES})
    chunks = {0: CHUNKS[0], 2: CHUNKS[1]}
    packs = [pack(chunks.values())]
    first = record_version(catalog, record, [whole_map("web", chunks)], packs, NOW)
    again = record_version(catalog, record, [whole_map("web", chunks)], packs, NOW)
    assert first == Recorded(new=True, chunks=2, packs=1, lost_chunks=0)
    assert again == Recorded(new=False)
    with reading(catalog) as connection:
        counts = connection.execute(
            """SELECT (SELECT count(*) FROM versions), (SELECT count(*) FROM maps),
                (SELECT count(*) FROM places), (SELECT count(*) FROM packs WHERE pack_no > 0)"""
        ).fetchone()
    assert counts == (1, 2, 2, 1)


def test_lists_say_what_the_record_says(catalog: CatalogLocation) -> None:
    record = version("web", 1, {0: 3 * CHUNK_BYTES - 7, 1: CHUNK_BYTES}, run_id=run(9))
    packs = [pack([CHUNKS[0]]), pack([CHUNKS[1]])]
    maps = [whole_map("web", {2: CHUNKS[0]}), whole_map("web", {0: CHUNKS[1]}, 1)]
    record_version(catalog, record, maps, packs, NOW)
    (row,) = list_versions(catalog, NOW, MONTH)
    assert (row.version, row.vm, row.vm_name, row.sequence) == (
        *(record.version, vm("web"), "web", 1),
    )
    assert (row.record, row.digest, row.run, row.job) == (
        *(record.name, record.digest, run(9), "nightly"),
    )
    assert row.taken_at == NOW + DAY
    assert row.committed_at == NOW + DAY + timedelta(hours=1)
    assert (row.consistency, row.consistency_asked) == ("standard", "quiesced")
    assert row.note == 'it said "no", twice\nand left'
    assert row.counts == record.record.counts
    assert row.kept_bytes == sum(p.size_bytes for p in packs)
    assert (row.verdict, row.packs, row.unproved_packs) == (Verdict.UNCHECKED, 2, 2)
    assert row.oldest_proof_at is None
    assert [(d.disk, d.name, d.size_bytes, d.chunk_bytes) for d in row.disks] == [
        (disk("web"), "web-0", 3 * CHUNK_BYTES - 7, CHUNK_BYTES),
        (disk("web", 1), "web-1", CHUNK_BYTES, CHUNK_BYTES),
    ]
    (machine,) = list_vms(catalog)
    assert (machine.vm, machine.name, machine.versions, machine.last_sequence) == (
        *(vm("web"), "web", 1, 1),
    )
    assert list_versions(catalog, NOW, MONTH, vm=vm("db")) == []


def test_a_version_is_found_by_the_beginning_of_its_id(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0]}})
    wanted = history.last["web"].record.version
    assert find_version(catalog, wanted[:6].upper(), NOW, None).version == wanted
    for odd in (wanted[:3], "zzzz", ""):
        with pytest.raises(UnknownVersion):
            find_version(catalog, odd, NOW, None)


def test_a_delta_without_its_base_is_refused_and_changes_nothing(catalog: CatalogLocation) -> None:
    before, after = {0: CHUNKS[0]}, {0: CHUNKS[1]}
    first = version("web", 1, {0: CHUNK_BYTES})
    second = version("web", 2, {0: CHUNK_BYTES}, previous=first)
    third = version("web", 3, {0: CHUNK_BYTES}, previous=second)
    delta = delta_map("web", before, after)
    with pytest.raises(BadInput, match="does not have the version before"):
        record_version(catalog, second, [delta], [], NOW)
    record_version(catalog, first, [whole_map("web", before)], [pack(before.values())], NOW)
    with pytest.raises(BadInput, match="record that one first, or give whole"):
        record_version(catalog, third, [delta], [], NOW)
    assert known_versions(catalog) == {first.version}
    assert record_version(catalog, third, [whole_map("web", after)], [pack([CHUNKS[1]])], NOW).new
    assert record_version(catalog, second, [whole_map("web", after)], [], NOW).new


def test_a_delta_of_a_disk_the_base_lacks_is_refused(catalog: CatalogLocation) -> None:
    first = version("web", 1, {0: CHUNK_BYTES})
    record_version(catalog, first, [whole_map("web", {})], [], NOW)
    second = version("web", 2, {0: CHUNK_BYTES, 1: CHUNK_BYTES}, previous=first)
    maps = [whole_map("web", {}), delta_map("web", {}, {0: CHUNKS[0]}, 1)]
    with pytest.raises(BadInput, match="web-1, which the version before did not have"):
        record_version(catalog, second, maps, [], NOW)


@pytest.mark.parametrize(
    "maps",
    [
        [],
        [whole_map("web", {}), whole_map("web", {})],
        [whole_map("web", {}), whole_map("db", {})],
        [whole_map("web", {2: CHUNKS[0]})],
        [DiskMap(disk("web"), whole=True, runs=[Run(0, CHUNKS[0]), Run(0, CHUNKS[1])])],
    ],
    ids=["none", "two", "another's", "beyond the end", "a position twice"],
)
def test_maps_that_cannot_be_are_refused_and_change_nothing(
    catalog: CatalogLocation, maps: list[DiskMap]
) -> None:
    record = version("web", 1, {0: 2 * CHUNK_BYTES})
    with pytest.raises(BadInput):
        record_version(catalog, record, maps, [pack(CHUNKS)], NOW)
    assert known_versions(catalog) == set()
    assert list_vms(catalog) == []
    with reading(catalog) as connection:
        assert connection.execute("SELECT count(*) FROM packs").fetchone() == (1,)


@pytest.mark.parametrize("times", [0, 1, 32, 33, 100])
def test_staged_rows_are_the_same_whether_few_or_many(catalog: CatalogLocation, times: int) -> None:
    odd = [("a,b", 7, None), ('"q"', 0, ""), ("two\nlines", 1 << 40, "\\N"), ("§ ü\t", 3, "x")]
    with staged(catalog) as stage:
        for row in odd * times:
            stage.rows("told", [row])
        stage.lines("ids", (f"{at:032x},{NOTHING if at % 2 else at}\n" for at in range(times)))
        stage.lines("ids", [f"{times:032x},1\n"])
        assert stage.has("told") == bool(times)
        with reading(catalog) as connection:
            stage.load(connection, "told", name="VARCHAR", size="UBIGINT", note="VARCHAR")
            stage.load(connection, "ids", id="UUID", number="UINTEGER")
            told = connection.execute("SELECT * FROM told").fetchall()
            ids = connection.execute("SELECT id, number FROM ids ORDER BY id").fetchall()
    assert told == odd * times
    assert [(each.int, number) for each, number in ids] == [
        *((at, None if at % 2 else at) for at in range(times)),
        (times, 1),
    ]


def test_nothing_is_left_in_the_scratch_folder(catalog: CatalogLocation) -> None:
    def half_way() -> Iterator[Run]:
        yield Run(0, CHUNKS[0])
        raise OSError("the share went away")

    record = version("web", 1, {0: 2 * CHUNK_BYTES})
    with pytest.raises(OSError, match="went away"):
        record_version(
            catalog, record, [DiskMap(disk("web"), whole=True, runs=half_way())], [], NOW
        )
    History(catalog).back_up("db", {0: {0: CHUNKS[0]}})
    assert list(catalog.scratch.iterdir()) == []


def test_a_chunk_no_pack_holds_makes_the_version_red_until_a_pack_is_proved(
    catalog: CatalogLocation,
) -> None:
    history = History(catalog)
    done = history.back_up("web", {0: {0: CHUNKS[0], 3: CHUNKS[1]}}, lacking=frozenset([CHUNKS[1]]))
    assert done.lost_chunks == 1
    (row,) = list_versions(catalog, NOW, MONTH)
    assert row.verdict is Verdict.BAD
    assert must_read(catalog, vm("web")) == {disk("web"): [Extent(3 * CHUNK_BYTES, CHUNK_BYTES)]}
    assert damaged_ids(catalog) == {CHUNKS[1][:16]}
    assert [(i.kind, i.pack) for i in damage_rows(catalog)] == [("lost", None)]

    late = pack([CHUNKS[1]])
    known = KnownPack(late.pack, late.size_bytes, late.digest, RunId(""), late.locations)
    assert record_packs(catalog, [known], NOW) == 1
    assert record_packs(catalog, [known], NOW) == 0
    (row,) = list_versions(catalog, NOW, MONTH)
    assert row.verdict is Verdict.UNCHECKED
    assert (row.packs, row.unproved_packs) == (2, 2)
    assert damage_rows(catalog) == []


def test_a_disk_that_shrank_loses_what_lay_beyond(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 9: CHUNKS[1]}})
    history.back_up("web", {0: {0: CHUNKS[0]}}, sizes={0: 5 * CHUNK_BYTES})
    (hit,) = affected_by(catalog, [CHUNKS[1]])
    assert hit.sequence == 1


def test_the_last_chunk_is_no_longer_than_its_disk(catalog: CatalogLocation) -> None:
    History(catalog).back_up(
        "web", {0: {0: CHUNKS[0], 1: CHUNKS[0], 2: CHUNKS[0]}}, sizes={0: 3 * CHUNK_BYTES - 9}
    )
    ((only,),) = [each.disks for each in affected_by(catalog, [CHUNKS[0]])]
    assert only.ranges == (Extent(0, 3 * CHUNK_BYTES - 9),)
    assert only.affected_bytes == 3 * CHUNK_BYTES - 9


def test_many_ranges_are_counted_and_the_first_are_told(catalog: CatalogLocation) -> None:
    chunks = dict.fromkeys(range(0, 1000, 2), CHUNKS[0])
    record = version("web", 1, {0: 1000 * CHUNK_BYTES})
    record_version(catalog, record, [whole_map("web", chunks)], [pack([CHUNKS[0]])], NOW)
    ((only,),) = [each.disks for each in affected_by(catalog, [CHUNKS[0]])]
    assert (len(only.ranges), only.more_ranges) == (200, 300)
    assert only.affected_bytes == 500 * CHUNK_BYTES


def test_an_expired_version_refers_to_nothing(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0], 1: CHUNKS[1]}}, packs=2)
    history.back_up("web", {0: {0: CHUNKS[0]}})
    old, new = history.versions
    assert expire_versions(catalog, [old], NOW) == 1
    assert expire_versions(catalog, [old], NOW) == 0
    assert [row.version for row in list_versions(catalog, NOW, None)] == [new]
    assert affected_by(catalog, [CHUNKS[1]]) == []
    lonely = {p.pack for p in history.packs.values() if p.locations[0].chunk == CHUNKS[1]}
    assert {p.pack for p in unreferenced_packs(catalog, NOW + DAY)} == lonely
    assert unreferenced_packs(catalog, NOW) == []
    assert known_versions(catalog) == {old, new}


def test_a_new_version_may_take_the_number_of_an_expired_one(catalog: CatalogLocation) -> None:
    first = version("web", 1, {0: CHUNK_BYTES})
    record_version(catalog, first, [whole_map("web", {0: CHUNKS[0]})], [pack(CHUNKS[:1])], NOW)
    expire_versions(catalog, [first.version], NOW)
    again = replace(first, clear=msgspec.structs.replace(first.clear, version="f" * 32))
    assert record_version(
        catalog, again, [whole_map("web", {0: CHUNKS[1]})], [pack(CHUNKS[1:2])], NOW
    ).new
    assert [each.version for each in affected_by(catalog, CHUNKS[:2])] == [again.version]


def test_ids_that_only_begin_with_zeros_are_no_zeros(catalog: CatalogLocation) -> None:
    odd = ChunkId(bytes(16) + chunk("x")[16:])
    record = version("web", 1, {0: CHUNK_BYTES})
    record_version(catalog, record, [whole_map("web", {0: odd})], [pack([odd])], NOW)
    assert [each.sequence for each in affected_by(catalog, [odd])] == [1]

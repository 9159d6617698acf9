"""Chunks are found by the files of ids beside the catalog, and those can make no answer wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from catalog.connection import CatalogLocation, Connection, reading, writing
from catalog.dedup import record_deleted_packs
from catalog.finding import folder_of, in_packs_of, packs_holding
from catalog.id_parts import ENDING
from catalog.keeping_parts import keep_parts
from catalog.reconciling import packs_are_back
from catalog.serving import choose_serving, of_disks, refresh_uses
from catalog.session import catalog_session
from likeness.model.ids import ChunkId, RunId
from likeness.store.read.index import KnownPack
from tests.catalog.history import CHUNKS, History
from tests.catalog.scenes import NOW, chunk, new_catalog
from tests.catalog.test_proofs import Walk

ROW_GROUP = 122_880


@pytest.mark.parametrize("seed", [1, 5, 6])
def test_a_life_with_files_of_ids_ends_as_one_without(empty: CatalogLocation, seed: int) -> None:
    live_twice(empty, seed)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10, 50))
def test_many_lives_with_files_of_ids_end_as_those_without(
    empty: CatalogLocation, seed: int
) -> None:
    live_twice(empty, seed)


def live_twice(empty: CatalogLocation, seed: int) -> None:
    ended = []
    with TemporaryDirectory() as folder:
        for at_once in (0, 1 + seed % 2):
            walk = Walk(empty, Path(folder) / str(at_once), seed)
            walk.history.at_once = at_once
            with catalog_session(walk.catalog):
                for _ in range(10):
                    walk.step()
                walk.finish()
                ended.append(all_rows(walk.catalog))
                assert uses_of_all(walk.catalog) == ended[-1]["pack_uses"]
            assert not at_once or parts_of(walk.catalog) or not ended[0]["places"]
    assert ended[0] == ended[1]


def all_rows(catalog: CatalogLocation) -> dict[str, list[tuple[object, ...]]]:
    """All but names drawn by lot."""
    with reading(catalog) as connection:
        return {
            table: sorted(connection.execute(f"SELECT {what} FROM {table}").fetchall(), key=str)
            for table, what in {
                "maps": "*",
                "places": "*",
                "pack_uses": "*",
                "damaged_chunks": "*",
                "packs": "* EXCLUDE pack_id",
                "versions": "* EXCLUDE (version_id, record)",
            }.items()
        }


def uses_of_all(catalog: CatalogLocation) -> list[tuple[object, ...]]:
    """Which packs each VM uses, worked out again from all of its maps."""
    with writing(catalog) as connection:
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE use_pairs AS
            SELECT DISTINCT vm_no, pack_no FROM vms, packs"""
        )
        refresh_uses(connection)
    return all_rows(catalog)["pack_uses"]


def parts_of(catalog: CatalogLocation) -> list[Path]:
    return sorted(folder_of(catalog.path).glob(f"*{ENDING}"))


def five_packs(catalog: CatalogLocation) -> History:
    """Five packs of two chunks each, four of them in two parts."""
    history = History(catalog)
    for at, which in enumerate(("web", "db", "app", "log", "fax")):
        history.back_up(which, {0: dict(enumerate(CHUNKS[2 * at : 2 * at + 2]))})
    keep_parts(catalog, at_once=4)
    return history


def found(catalog: CatalogLocation, chunks: list[ChunkId]) -> list[int]:
    """The packs that may hold some chunks, after a look at whether all are among them."""
    with reading(catalog) as connection:
        rows = ", ".join(f"('{each[:16].hex()}'::UUID)" for each in chunks)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE asked AS SELECT * FROM (VALUES {rows}) AS v(chunk)"
        )
        held = connection.execute(
            "SELECT DISTINCT pack_no FROM places SEMI JOIN asked USING (chunk)"
        ).fetchall()
        packs = packs_holding(connection, "asked")
        assert packs is None or {number for (number,) in held} <= set(packs)
        return packs if packs is not None else [-1]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rotten(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut_short, rotten, emptied, Path.unlink])
def test_a_file_of_ids_that_is_torn_is_made_again(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    catalog = new_catalog(tmp_path)
    five_packs(catalog)
    aside = tmp_path / "aside"
    shutil.copytree(folder_of(catalog.path), aside)
    first, _second = parts_of(catalog)
    assert found(catalog, CHUNKS[:1]) == [0, 1]
    assert found(catalog, CHUNKS[8:9]) == [0, 5], "in no part yet"
    renamed = first.with_name(f"again {first.name}")
    first.rename(renamed)
    harm(renamed)

    told = found(catalog, CHUNKS[:1])
    assert 1 in told or told == [-1]
    assert renamed not in parts_of(catalog)
    keep_parts(catalog, merge=True, at_once=4)
    assert len(parts_of(catalog)) == 1
    assert found(catalog, CHUNKS[:1]) == [0, 1]
    assert found(catalog, [*CHUNKS[:4], chunk("unheard of")]) == [0, 1, 2]


def test_files_of_another_catalog_are_not_believed(tmp_path: Path) -> None:
    """A copy is put back: from there on the same numbers are other packs'."""
    catalog = new_catalog(tmp_path)
    history = five_packs(catalog)
    before = catalog.path.read_bytes()
    for at in range(4):
        history.back_up("web", {0: {0: chunk("later", at), 1: chunk("too", at)}})
    keep_parts(catalog, at_once=4)
    assert len(parts_of(catalog)) == 4
    catalog.path.write_bytes(before)
    other = History(catalog)
    for at in range(4):
        other.back_up("other", {0: {0: chunk("other", at), 1: chunk("instead", at)}})

    for at in range(4):
        assert 6 + at in found(catalog, [chunk("other", at)])
    keep_parts(catalog, at_once=4)
    assert [found(catalog, [chunk("other", at)]) for at in range(4)] == [
        [0, n] for n in range(6, 10)
    ]


def test_what_was_gone_when_a_file_was_made_is_found_all_the_same(tmp_path: Path) -> None:
    catalog = new_catalog(tmp_path)
    history = History(catalog)
    for at, which in enumerate(("web", "db", "app")):
        history.back_up(which, {0: dict(enumerate(CHUNKS[2 * at : 2 * at + 2]))})
    one, two, _three = history.packs.values()
    before = catalog.path.read_bytes()
    record_deleted_packs(catalog, [one.pack, two.pack], NOW)
    keep_parts(catalog, at_once=6)
    assert found(catalog, CHUNKS[:6]) == [0, 3]

    back = KnownPack(two.pack, two.size_bytes, two.digest, RunId("0" * 32), two.locations)
    assert packs_are_back(catalog, [back], NOW) == 1
    assert 4 in found(catalog, CHUNKS[2:4])
    assert {1, 2} <= set(found_in(catalog, before, CHUNKS[:4]))


def found_in(catalog: CatalogLocation, content: bytes, chunks: list[ChunkId]) -> list[int]:
    catalog.path.write_bytes(content)
    return found(catalog, chunks)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> list[CatalogLocation]:
    """A store, and one eight times as large."""
    made = []
    for packs in (2_000, 16_000):
        catalog = new_catalog(tmp_path_factory.mktemp("grown"))
        with writing(catalog) as connection:
            connection.execute(
                """INSERT INTO places SELECT uuid(), 1 + i // 64, 1000 * (i % 64), 1000, true
                FROM range(?) AS t(i)""",
                [64 * packs],
            )
            connection.execute(
                """INSERT INTO packs BY NAME SELECT 1 + i AS pack_no, uuid() AS pack_id,
                    64000 AS size_bytes, ''::BLOB AS digest, 64 AS chunks, 'live' AS state,
                    now()::TIMESTAMP AS recorded_at, false AS bad, false AS unreachable,
                    '' AS cause
                FROM range(?) AS t(i)""",
                [packs],
            )
            connection.execute(
                """INSERT INTO maps SELECT 1 + hash(i // 640) % ?, i % 640, uuid(), 1 + i // 640,
                    4294967295, 1 + i // 640
                FROM range(?) AS t(i)""",
                [packs // 40, 64 * packs],
            )
            connection.execute(
                "INSERT INTO disks SELECT i, i, uuid(), 65536 FROM range(1, ? + 1) AS t(i)",
                [packs // 40],
            )
            connection.execute(
                """INSERT INTO versions BY NAME SELECT DISTINCT version_no, disk_no AS vm_no,
                    uuid() AS version_id, since AS turn, '' AS vm_name, 1 AS sequence,
                    '' AS record, '' AS digest, now()::TIMESTAMP AS taken_at,
                    now()::TIMESTAMP AS committed_at, now()::TIMESTAMP AS recorded_at,
                    uuid() AS run_id, '' AS job, '' AS consistency, '' AS consistency_asked,
                    '' AS note, '{}' AS counts, 'committed' AS state, 0 AS packs,
                    0 AS unproved_packs, 0 AS unreachable_packs, false AS damaged,
                    'good' AS verdict, false AS to_judge
                FROM (SELECT DISTINCT version_no, disk_no, since FROM maps)"""
            )
        keep_parts(catalog, at_once=200_000)
        made.append(catalog)
    return made


def test_to_find_ids_reads_no_more_where_the_store_is_larger(grown: list[CatalogLocation]) -> None:
    few, many = (rows_read(catalog) for catalog in grown)
    assert few <= 3 * ROW_GROUP
    assert many <= 3 * ROW_GROUP, "it looks at every place"


def test_to_choose_which_copy_serves_reads_no_more_where_the_store_is_larger(
    grown: list[CatalogLocation],
) -> None:
    for catalog in grown:
        with writing(catalog) as connection:
            connection.execute(
                """CREATE OR REPLACE TEMP TABLE asked AS
                SELECT chunk FROM places WHERE pack_no BETWEEN 1000 AND 1010"""
            )
            counting = Counting(connection, "places")
            assert choose_serving(counting, "asked", NOW) == 0  # type: ignore[arg-type]
            assert 0 < counting.rows <= 6 * ROW_GROUP


def test_a_vms_maps_are_found_among_those_of_all_others(grown: list[CatalogLocation]) -> None:
    for catalog in grown:
        with reading(catalog) as connection:
            near = of_disks(connection, "disks WHERE vm_no = 7")
            versions = "SELECT count(*) FROM versions WHERE vm_no = 7"
            (many,) = connection.execute(versions).fetchone() or (0,)
            counting = Counting(connection, "maps")
            counting.execute(f"SELECT * FROM maps WHERE {near}")
            assert 0 < len(counting.fetchall()) == 640 * many
            assert counting.rows <= 2 * many * ROW_GROUP
        assert many < 12
    (rows,) = grown_rows(catalog)
    assert counting.rows < rows // 2


def grown_rows(catalog: CatalogLocation) -> tuple[int]:
    with reading(catalog) as connection:
        return connection.execute("SELECT count(*) FROM maps").fetchone() or (0,)


def rows_read(catalog: CatalogLocation) -> int:
    """Of `places`, to find 400 ids that lie in few packs side by side, and 100 that are nowhere."""
    with reading(catalog) as connection:
        connection.execute(
            """CREATE OR REPLACE TEMP TABLE asked AS
            SELECT chunk FROM places WHERE pack_no BETWEEN 1000 AND 1010 LIMIT 400"""
        )
        connection.execute("INSERT INTO asked SELECT uuid() FROM range(100)")
        counting = Counting(connection, "places")
        near = in_packs_of(counting, "asked")  # type: ignore[arg-type]
        counting.execute(f"SELECT * FROM places SEMI JOIN asked USING (chunk) WHERE {near}")
        assert len(counting.fetchall()) == 400
        return counting.rows


class Counting:
    """A connection that counts the rows which its statements read of a table."""

    def __init__(self, connection: Connection, table: str) -> None:
        self.connection, self.table, self.rows = connection, table, 0
        connection.execute("PRAGMA enable_profiling = 'no_output'")

    def execute(self, query: str, *more: object) -> "Counting":
        self.connection.execute(query, *more)
        if not query.lstrip().startswith(("SELECT", "WITH")):
            self._counted(None)  # nobody fetches anything
        return self

    def _counted(self, rows: object) -> object:
        told = json.loads(self.connection.get_profiling_information(format="json"))
        self.rows += scanned(told, self.table)
        return rows

    def fetchall(self) -> list[tuple[object, ...]]:
        rows = self.connection.fetchall()
        self._counted(rows)
        return rows

    def fetchone(self) -> tuple[object, ...] | None:
        row = self.connection.fetchone()
        self._counted(row)
        return row

    def fetchnumpy(self) -> object:
        return self._counted(self.connection.fetchnumpy())


def scanned(node: dict, table: str) -> int:  # type: ignore[type-arg]
    """Rows that a plan read of a table."""
    info = node.get("extra_info") or {}
    own = node.get("operator_rows_scanned", 0) if str(info.get("Table")).endswith(table) else 0
    return int(own) + sum(scanned(child, table) for child in node.get("children", []))

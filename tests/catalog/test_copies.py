"""A copy of the catalog that travels says the same as the catalog."""

import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from catalog import copies
from catalog.connection import CatalogLocation, Connection, reading, schema_version, writing
from catalog.copies import LARGE_BYTES, MANIFEST, export_copy, import_copy
from catalog.dedup import drop_duplicates
from catalog.proofs import record_proofs
from catalog.runs import begin_run, finish_run, last_runs, record_outcome
from catalog.session import catalog_session
from catalog.vaulting import record_version_vaulted
from catalog.versions import list_versions
from likeness.errors import BadInput, Damaged
from likeness.model.outcome import VmOutcome, VmState
from tests.catalog.history import CHUNKS, History
from tests.catalog.scenes import DAY, MONTH, NOW, damaged, new_catalog, proved, run, vm
from tests.support.catalog_rows import damage_rows, verdict_history


@pytest.fixture
def full(catalog: CatalogLocation, filled: History) -> History:
    """A catalog with something in every table; a copy of one that was filled once."""
    shutil.copyfile(filled.catalog.path, catalog.path)
    return replace(deepcopy(filled), catalog=catalog)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> History:
    catalog = new_catalog(tmp_path_factory.mktemp("filled"))
    with catalog_session(catalog):
        return fill(History(catalog))


def fill(history: History) -> History:
    catalog = history.catalog
    history.back_up("web", {0: {at: CHUNKS[at] for at in range(5)}}, packs=2)
    history.back_up("web", {0: {at: CHUNKS[at] for at in range(3)}, 1: {0: CHUNKS[9]}})
    history.back_up("db", {0: {at: CHUNKS[at] for at in range(5)}})
    packs = list(history.packs.values())
    record_proofs(catalog, [*proved(*packs[1:]), damaged(packs[0], CHUNKS[0])], NOW, MONTH)
    drop_duplicates(catalog, NOW)
    begin_run(catalog, run(1), "nightly", NOW)
    record_outcome(catalog, run(1), VmOutcome("web", VmState.DONE, vm("web")), NOW)
    finish_run(catalog, run(1), "completed", 'it said "fine",\n§ and ü', NOW)
    record_version_vaulted(catalog, "far", list(history.versions)[:1], NOW)
    fill_what_is_empty(catalog)
    return history


def fill_what_is_empty(catalog: CatalogLocation) -> None:
    """A row of anything in tables that nothing above writes to."""
    values = {"UUID": "uuid()", "TIMESTAMP": "TIMESTAMP '2030-01-01'", "BLOB": "'\\x00'::BLOB"}
    with writing(catalog) as connection:
        columns = connection.execute(
            "SELECT table_name, data_type FROM duckdb_columns() WHERE table_name IN"
            " (SELECT table_name FROM duckdb_tables()) ORDER BY table_name, column_index"
        ).fetchall()
        for table in {name for name, _ in columns}:
            if connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,):
                row = ", ".join(values.get(kind, "1") for name, kind in columns if name == table)
                connection.execute(f"INSERT INTO {table} SELECT {row}")


def everything(catalog: CatalogLocation) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with reading(catalog) as connection:
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
        return {
            table: sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for (table,) in tables
        }


@pytest.mark.parametrize("large_from", [0, LARGE_BYTES])
def test_p3_an_imported_copy_equals_the_original(
    full: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_from: int
) -> None:
    monkeypatch.setattr("catalog.copies.LARGE_BYTES", large_from)
    copy = export_copy(full.catalog, tmp_path / "copy", NOW)
    original = everything(full.catalog)
    assert all(original.values()), "a table is empty, so its copying is not tested"
    assert copy.rows == {
        table: len(rows) for table, rows in original.items() if table != "schema_migrations"
    }
    assert copy.size_bytes == sum(p.stat().st_size for p in (tmp_path / "copy").iterdir())

    other = CatalogLocation(tmp_path / "elsewhere" / "catalog.duckdb")
    assert import_copy(tmp_path / "copy", other, NOW + DAY).rows == copy.rows

    restored = everything(other)
    for table in original.keys() - {"schema_migrations"}:
        assert restored[table] == original[table], table
    assert list_versions(other, NOW, MONTH) == list_versions(full.catalog, NOW, MONTH)
    assert damage_rows(other) == damage_rows(full.catalog)
    assert last_runs(other) == last_runs(full.catalog)
    for version in full.versions:
        assert verdict_history(other, version) == verdict_history(full.catalog, version)


def test_a_large_catalog_is_copied_while_others_use_it(
    full: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.copies.LARGE_BYTES", 0)
    with catalog_session(full.catalog):
        many = len(list_versions(full.catalog, NOW, MONTH))

        def others_write(connection: Connection) -> int:
            full.back_up("web", {0: {0: CHUNKS[7]}, 1: {0: CHUNKS[9]}})
            return schema_version(connection)

        monkeypatch.setattr("catalog.copies.schema_version", others_write)
        export_copy(full.catalog, tmp_path / "copy", NOW)
    assert len(list_versions(full.catalog, NOW, MONTH)) == many + 1
    other = CatalogLocation(tmp_path / "elsewhere" / "catalog.duckdb")
    import_copy(tmp_path / "copy", other, NOW)
    assert len(list_versions(other, NOW, MONTH)) == many
    assert list(full.catalog.scratch.iterdir()) == []


def test_what_others_write_while_the_file_is_copied_is_copied_again(
    full: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.copies.LARGE_BYTES", 0)
    turns: list[Path] = []
    copy_blocks = copies._copy_blocks

    def others_write(source: Path, target: Path) -> None:
        copy_blocks(source, target)
        turns.append(target)
        if len(turns) < 3:
            full.back_up("web", {0: {0: CHUNKS[7 + len(turns)]}, 1: {0: CHUNKS[9]}})

    monkeypatch.setattr("catalog.copies._copy_blocks", others_write)
    with catalog_session(full.catalog):
        export_copy(full.catalog, tmp_path / "copy", NOW)
    assert len(turns) == 3
    other = CatalogLocation(tmp_path / "elsewhere" / "catalog.duckdb")
    import_copy(tmp_path / "copy", other, NOW)
    assert list_versions(other, NOW, MONTH) == list_versions(full.catalog, NOW, MONTH)


def test_work_goes_on_in_an_imported_copy(full: History, tmp_path: Path) -> None:
    export_copy(full.catalog, tmp_path / "copy", NOW)
    full.catalog = CatalogLocation(tmp_path / "elsewhere" / "catalog.duckdb")
    import_copy(tmp_path / "copy", full.catalog, NOW)
    full.back_up("web", {0: {0: CHUNKS[7]}, 1: {0: CHUNKS[9]}})
    assert len(list_versions(full.catalog, NOW, MONTH)) == 4


def test_only_its_owner_may_read_a_copy(full: History, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    export_copy(full.catalog, folder, NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}


def test_a_copy_is_not_mixed_with_other_files(full: History, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "old.parquet").touch()
    with pytest.raises(BadInput, match="not empty"):
        export_copy(full.catalog, tmp_path / "copy", NOW)


def test_no_catalog_is_overwritten_by_a_copy(full: History, tmp_path: Path) -> None:
    export_copy(full.catalog, tmp_path / "copy", NOW)
    before = full.catalog.path.read_bytes()
    with pytest.raises(BadInput, match="move it away"):
        import_copy(tmp_path / "copy", full.catalog, NOW)
    assert full.catalog.path.read_bytes() == before


@pytest.mark.parametrize("harm", ["missing", "torn", "swapped", "no manifest", "bad manifest"])
def test_a_copy_that_is_not_whole_makes_no_catalog(
    full: History, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "copy"
    export_copy(full.catalog, folder, NOW)
    places, packs = folder / "places.parquet", folder / "packs.parquet"
    match harm:
        case "missing":
            places.unlink()
        case "torn":
            places.write_bytes(places.read_bytes()[:-9])
        case "swapped":
            packs.replace(places)
        case "no manifest":
            (folder / MANIFEST).unlink()
        case "bad manifest":
            (folder / MANIFEST).write_text('{"schema": "one"}')
    other = CatalogLocation(tmp_path / "elsewhere" / "catalog.duckdb")
    with pytest.raises((BadInput, Damaged)):
        import_copy(folder, other, NOW)
    assert not other.path.exists()
    assert list(other.scratch.iterdir()) == [] if other.scratch.exists() else True


def test_a_copy_with_rows_missing_is_refused(full: History, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    export_copy(full.catalog, folder, NOW)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["rows"]["places"] += 1
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(Damaged, match="should have"):
        import_copy(folder, CatalogLocation(tmp_path / "new.duckdb"), NOW)


def test_a_copy_of_a_later_release_is_refused(full: History, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    export_copy(full.catalog, folder, NOW)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    manifest["schema"] = 99
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BadInput, match="later release"):
        import_copy(folder, CatalogLocation(tmp_path / "new.duckdb"), NOW)

"""Laying out, migrating, refusing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog.at_work import list_work
from catalog.audits import last_audits, open_troubles
from catalog.connection import CatalogLocation, make_room, opened, reading
from catalog.migrations import migrations, newest
from catalog.schema import create, exists, lay_out, migrate
from catalog.versions import list_vms
from likeness.errors import BadInput
from tests.catalog.scenes import NOW


def older(folder: Path) -> CatalogLocation:
    """A catalog that has seen no migration."""
    catalog = CatalogLocation(folder / "old" / "catalog.duckdb")
    make_room(catalog)
    lay_out(catalog, catalog.path, NOW, upto=0)
    return catalog


def test_a_catalog_is_made_once(tmp_path: Path) -> None:
    catalog = CatalogLocation(tmp_path / "catalog.duckdb")
    assert not exists(catalog)
    create(catalog, NOW)
    assert exists(catalog)
    with pytest.raises(BadInput, match="already"):
        create(catalog, NOW)
    assert list_vms(catalog) == []


def test_an_older_catalog_must_be_migrated_and_is_kept_beside(tmp_path: Path) -> None:
    catalog = older(tmp_path)
    before = catalog.path.read_bytes()
    with pytest.raises(BadInput, match="migrate it first"):
        list_vms(catalog)
    assert migrate(catalog, NOW) == list(range(1, newest() + 1))
    assert list_vms(catalog) == []
    kept = catalog.path.with_name("catalog.duckdb.before-0001")
    assert kept.read_bytes() == before
    assert kept.stat().st_mode & 0o777 == 0o600


def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    catalog = older(tmp_path)
    migrate(catalog, NOW)
    before = catalog.path.read_bytes()
    assert migrate(catalog, NOW) == []
    assert catalog.path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_schema_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = older(tmp_path)
    broken = tmp_path / "0002_broken.sql"
    broken.write_text("CREATE TABLE half (n INTEGER); SELECT nonsense FROM nowhere;")
    steps = {**migrations(), newest() + 1: broken}
    with monkeypatch.context() as patch:
        patch.setattr("catalog.schema.migrations", lambda: steps)
        patch.setattr("catalog.schema.newest", lambda: max(steps))
        with pytest.raises(Exception, match="nowhere"):
            migrate(catalog, NOW)
    with reading(catalog) as connection:
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert ("half",) not in tables
    assert list_vms(catalog) == []


def test_a_catalog_of_a_later_release_is_refused_with_a_sentence(catalog: CatalogLocation) -> None:
    with opened(catalog, catalog.path, read_only=False) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (99, '0099_later', now())")
    with pytest.raises(BadInput, match=r"later release .schema 99"):
        list_vms(catalog)
    with pytest.raises(BadInput, match="later release"):
        migrate(catalog, NOW)


def test_migrations_are_numbered_without_gaps() -> None:
    assert list(migrations()) == list(range(1, newest() + 1))


def test_no_table_has_an_index_or_a_key(catalog: CatalogLocation) -> None:
    with reading(catalog) as connection:
        indexes = connection.execute("SELECT table_name FROM duckdb_indexes()").fetchall()
        keys = connection.execute(
            """SELECT table_name FROM duckdb_constraints()
            WHERE constraint_type IN ('PRIMARY KEY', 'UNIQUE', 'FOREIGN KEY')"""
        ).fetchall()
    assert indexes == []
    assert keys == []


def test_a_catalog_of_the_second_schema_keeps_its_audits_as_those_of_packs(tmp_path: Path) -> None:
    catalog = CatalogLocation(tmp_path / "old" / "catalog.duckdb")
    make_room(catalog)
    lay_out(catalog, catalog.path, NOW, upto=2)
    with opened(catalog, catalog.path, read_only=False) as connection:
        connection.execute("INSERT INTO audits VALUES (TIMESTAMP '2030-01-01', 7, 1)")

    assert migrate(catalog, NOW)[0] == 3

    assert last_audits(catalog) == (datetime(2030, 1, 1, tzinfo=UTC), None)
    assert list_work(catalog) == []
    assert open_troubles(catalog) == []


def test_rows_of_maps_come_to_know_which_version_brought_them(tmp_path: Path) -> None:
    catalog = CatalogLocation(tmp_path / "old" / "catalog.duckdb")
    make_room(catalog)
    lay_out(catalog, catalog.path, NOW, upto=8)
    with opened(catalog, catalog.path, read_only=False) as connection:
        for vm_no in (1, 2):
            connection.execute("INSERT INTO disks VALUES (?, ?, uuid(), 65536)", [vm_no, vm_no])
        for version_no, vm_no, turn in ((1, 2, 1), (2, 1, 1), (3, 2, 2)):
            connection.execute(
                """INSERT INTO versions BY NAME SELECT ? AS version_no, ? AS vm_no, ? AS turn,
                    uuid() AS version_id, '' AS vm_name, 1 AS sequence, '' AS record,
                    '' AS digest, now()::TIMESTAMP AS taken_at, now()::TIMESTAMP AS committed_at,
                    now()::TIMESTAMP AS recorded_at, uuid() AS run_id, '' AS job,
                    '' AS consistency, '' AS consistency_asked, '' AS note, '{}' AS counts,
                    'committed' AS state, 0 AS packs, 0 AS unproved_packs,
                    0 AS unreachable_packs, false AS damaged, 'good' AS verdict,
                    false AS to_judge""",
                [version_no, vm_no, turn],
            )
        for disk_no, since in ((1, 1), (2, 2), (2, 1)):
            connection.execute("INSERT INTO maps VALUES (?, 5, uuid(), ?, 9)", [disk_no, since])

    assert migrate(catalog, NOW)[0] == 9

    with reading(catalog) as connection:
        rows = connection.execute("SELECT version_no, disk_no, since, until FROM maps").fetchall()
        nulls = connection.execute(
            "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'maps' AND is_nullable"
        ).fetchone()
    assert rows == [(1, 2, 1, 9), (2, 1, 1, 9), (3, 2, 2, 9)]
    assert nulls == (0,)

"""A copy of the catalog that travels: Parquet files and a manifest, for any later release.

The copy is made of one moment: under the shared lock, or, where the catalog is large, of a copy of
its file, which others use meanwhile. Sealing it and putting it into the
store is the store's business, and happens after the lock is free.
"""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec

from catalog.connection import (
    CatalogLocation,
    Connection,
    catalog_locked,
    make_room,
    opened,
    reading,
    require_schema,
    schema_version,
    transaction,
)
from catalog.migrations import newest
from catalog.schema import install_catalog, lay_out, run_pending
from catalog.staging import private_folder
from catalog.values import ExportedCopy
from likeness.errors import BadInput, Damaged

MANIFEST = "manifest.json"
_LEDGER = "schema_migrations"
LARGE_BYTES = 256 << 20
"""A catalog of this size takes seconds to write down."""
_AT_ONCE = 1 << 20
_HEAD_BYTES = 3 << 12
_TRIES = 4


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    made_at: datetime
    rows: dict[str, int]


def export_copy(catalog: CatalogLocation, folder: Path, now: datetime) -> ExportedCopy:
    """Copy everything the catalog knows into files.

    Args:
        catalog: Which.
        folder: Empty, or not there yet; made for its owner alone.
        now: The present.

    Raises:
        BadInput: The folder is not empty.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty; a copy of the catalog needs a folder of its own")
    folder.chmod(0o700)
    rows: dict[str, int] = {}
    with _one_moment(catalog) as connection:
        schema = schema_version(connection)
        for table in _tables(connection):
            file = folder / f"{table}.parquet"
            copied = connection.execute(
                f"COPY {table} TO '{_quoted(file)}' (FORMAT parquet, COMPRESSION zstd)"
            ).fetchone()
            file.chmod(0o600)
            rows[table] = int(copied[0]) if copied else 0
    manifest = folder / MANIFEST
    manifest.touch(mode=0o600)
    manifest.write_bytes(msgspec.json.encode(_Manifest(schema, now, rows)))
    return ExportedCopy(schema, now, rows, _size(folder))


@contextmanager
def _one_moment(catalog: CatalogLocation) -> Generator[Connection, None, None]:
    """A connection that sees one moment of the catalog, and holds nobody up where it is large."""
    size = catalog.path.stat().st_size if catalog.path.exists() else 0
    if size < LARGE_BYTES or shutil.disk_usage(catalog.path.parent).free < 2 * size:
        with reading(catalog) as connection:
            yield connection
        return
    with private_folder(catalog) as scratch:
        draft = scratch / "catalog.duckdb"
        _copy_file(catalog, draft)
        with opened(catalog, draft, read_only=False) as connection:
            require_schema(catalog, connection)
            yield connection


def _copy_file(catalog: CatalogLocation, draft: Path) -> None:
    """Copy the catalog's file while others use it; what they changed meanwhile, again.

    Only where somebody writes all the time the lock is held for the last of it.
    """
    for _ in range(_TRIES):
        before = _stamp(catalog)
        _copy_blocks(catalog.path, draft)
        if _stamp(catalog, draft) == before:
            return
    with catalog_locked(catalog, alone=True):
        _copy_blocks(catalog.path, draft)
        _copy_log(catalog, draft)


def _stamp(catalog: CatalogLocation, draft: Path | None = None) -> tuple[object, ...]:
    """Another one whenever the file was written to; for a draft its log is copied, too.

    Whoever has the catalog open closes it, so nothing of it is still to be written.
    """
    with catalog_locked(catalog, alone=True), catalog.path.open("rb") as file:
        if draft is not None:
            _copy_log(catalog, draft)
        log = _log_of(catalog.path)
        at = log.stat() if log.exists() else None
        now = os.fstat(file.fileno())
        head = file.read(_HEAD_BYTES)  # it counts what was written, too
    return now.st_ino, now.st_size, now.st_mtime_ns, head, at and (at.st_size, at.st_mtime_ns)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _copy_log(catalog: CatalogLocation, draft: Path) -> None:
    _log_of(draft).unlink(missing_ok=True)
    if _log_of(catalog.path).exists():
        shutil.copyfile(_log_of(catalog.path), _log_of(draft))
        _log_of(draft).chmod(0o600)


def _copy_blocks(source: Path, target: Path) -> None:
    """Copy a file, or of one that was copied before what differs; for its owner alone."""
    if not target.exists():
        target.touch(mode=0o600)
        shutil.copyfile(source, target)
        return
    with source.open("rb") as file, target.open("r+b") as to:
        while block := file.read(_AT_ONCE):
            if to.read(len(block)) != block:
                to.seek(file.tell() - len(block))
                to.write(block)
                to.seek(file.tell())
        to.truncate(file.tell())


def import_copy(folder: Path, into: CatalogLocation, now: datetime) -> ExportedCopy:
    """Make a catalog of a copy, with everything in it, and bring it up to date.

    Args:
        folder: What `export_copy` made.
        into: Where there is no catalog yet.
        now: The present.

    Raises:
        BadInput: There is a catalog already, or a later release made the copy.
        Damaged: Files are missing or do not hold what the manifest says.
    """
    manifest = _read_manifest(folder)
    make_room(into)
    with private_folder(into) as scratch, catalog_locked(into, alone=True):
        if into.path.exists():
            raise BadInput(
                f"there is a catalog at {into.path} already; move it away before taking a copy"
            )
        draft = scratch / "catalog.duckdb"
        lay_out(into, draft, now, upto=manifest.schema)
        try:
            with opened(into, draft, read_only=False) as connection:
                with transaction(connection):
                    _fill(connection, folder, manifest)
                run_pending(connection, now, newest())
        except (duckdb.InvalidInputException, duckdb.ConversionException) as cause:
            raise Damaged(str(folder), f"it does not read as a copy ({cause})") from cause
        install_catalog(draft, into.path)
    return ExportedCopy(manifest.schema, manifest.made_at, manifest.rows, _size(folder))


def _read_manifest(folder: Path) -> _Manifest:
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=_Manifest)
    except FileNotFoundError as cause:
        raise BadInput(f"{folder} holds no copy of a catalog") from cause
    except (msgspec.DecodeError, OSError) as cause:
        raise Damaged(str(folder / MANIFEST), f"it does not read ({cause})") from cause
    if manifest.schema > newest():
        raise BadInput(
            f"the copy in {folder} was made by a later release (schema {manifest.schema}, this"
            f" release knows {newest()}); update Likeness, or rebuild the catalog from the store"
        )
    return manifest


def _fill(connection: Connection, folder: Path, manifest: _Manifest) -> None:
    tables = _tables(connection)
    if set(tables) != set(manifest.rows):
        raise Damaged(str(folder), "it does not have the tables of its schema")
    for table in tables:
        file = folder / f"{table}.parquet"
        if not file.is_file():
            raise Damaged(str(file), "it is missing")
        connection.execute(f"DELETE FROM {table}")  # noqa: S608  # a migration may put rows in
        added = connection.execute(
            f"INSERT INTO {table} BY NAME SELECT * FROM read_parquet(?)",  # noqa: S608
            [str(file)],
        ).fetchone()
        found = int(added[0]) if added else 0
        if found != manifest.rows[table]:
            raise Damaged(str(file), f"it has {found} rows and should have {manifest.rows[table]}")


def _tables(connection: Connection) -> list[str]:
    rows = connection.execute(
        """SELECT table_name FROM duckdb_tables()
        WHERE NOT temporary AND NOT internal ORDER BY table_name"""
    ).fetchall()
    return [row[0] for row in rows if row[0] != _LEDGER]


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())

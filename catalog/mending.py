"""A catalog that is torn, or another store's, makes room for a sound one.

The catalog is a cache: the damaged file is set aside, never deleted, and whatever the best copy
does not know is recorded from the store again, as unchecked.
"""

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb

from catalog.connection import CatalogLocation, Connection, catalog_locked, opened, schema_version
from catalog.migrations import newest
from catalog.schema import install_catalog, lay_out, migrate
from likeness.errors import BadInput, Damaged, TransientError


def what_is_wrong(catalog: CatalogLocation) -> str:
    """Read all of a catalog that is in doubt; what is the matter with it, empty if it is sound.

    A catalog is in doubt when something in it could not be read. Once it was read, it is not.
    """
    with catalog_locked(catalog, alone=True):
        return _problem(catalog)


def without_its_log(catalog: CatalogLocation, draft: CatalogLocation, now: datetime) -> bool:
    """Make `draft` of the catalog's file as it was before its log was written, if that is sound."""
    with catalog_locked(catalog, alone=True):
        if not catalog.path.is_file():
            return False
        draft.path.touch(mode=0o600)
        shutil.copyfile(catalog.path, draft.path)
    try:
        sound = not _problem(draft)
        if sound:
            migrate(draft, now)
    except (BadInput, TransientError):
        sound = False
    if not sound:
        draft.path.unlink()
    return sound


def replace_with(
    catalog: CatalogLocation, draft: CatalogLocation, now: datetime, *, store: str
) -> Path | None:
    """Set the catalog's files aside, and put `draft` in their place, or an empty catalog.

    Args:
        catalog: Which.
        draft: What shall be there from now on; where there is none, an empty one is made.
        now: The present.
        store: Whose catalog it should be. It is left as it is if it is that, and sound: somebody
            else may have been quicker.

    Returns:
        Where the old file is now; none if it was left as it is.
    """
    with catalog_locked(catalog, alone=True):
        if not _problem(catalog, store=store):
            return None
        kept = _set_aside(catalog.path, now)
        if draft.path.exists():
            install_catalog(draft.path, catalog.path)
        else:
            lay_out(catalog, catalog.path, now)
        catalog.doubt.unlink(missing_ok=True)
        return kept


def is_in_doubt(catalog: CatalogLocation) -> bool:
    """Whether something in it could not be read when it was last used."""
    return catalog.doubt.exists()


def _problem(catalog: CatalogLocation, *, store: str = "") -> str:
    if not catalog.path.exists():
        return ""
    try:
        with opened(catalog, catalog.path, read_only=False) as connection:
            if schema_version(connection) > newest():
                return ""  # a later release's, which is not for this one to judge
            for (table,) in connection.execute(
                "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND NOT internal"
            ).fetchall():
                connection.execute(f"SELECT bit_xor(hash(t)) FROM {table} AS t").fetchall()  # noqa: S608
            if store and not _may_be_of(connection, store):
                return "it belongs to another data store"
    except (Damaged, duckdb.Error) as cause:
        return str(cause)
    catalog.doubt.unlink(missing_ok=True)
    return ""


def _may_be_of(connection: Connection, store: str) -> bool:
    if schema_version(connection) < newest():
        return True  # it will be asked when it was brought up to this release
    found = connection.execute("SELECT store_id FROM of_store").fetchall()
    return found in ([], [(store,)])


def _set_aside(path: Path, now: datetime) -> Path:
    """Give the file and its log other names, side by side."""
    word = f"{path.name}.set-aside-{now:%Y%m%dT%H%M%S}"
    kept = next(
        each
        for number in range(1000)
        if not (each := path.with_name(f"{word}-{number}" if number else word)).exists()
    )
    for end in ("", ".wal"):
        old = path.with_name(f"{path.name}{end}")
        if old.exists():
            old.rename(kept.with_name(f"{kept.name}{end}"))
    return kept


def draft_in(folder: Path, catalog: CatalogLocation) -> CatalogLocation:
    """Where a catalog is made that shall take another one's place, with the same settings."""
    return replace(catalog, path=folder / "draft" / "catalog.duckdb")

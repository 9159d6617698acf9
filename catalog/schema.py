"""Laying out a catalog, and bringing an older one up to date."""

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from catalog.connection import (
    CatalogLocation,
    Connection,
    catalog_locked,
    make_room,
    opened,
    schema_version,
    shared_openings,
    to_utc,
    transaction,
)
from catalog.migrations import migrations, newest
from likeness.errors import BadInput

_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version     INTEGER NOT NULL,
    name        VARCHAR NOT NULL,
    applied_at  TIMESTAMP NOT NULL
)"""


def exists(catalog: CatalogLocation) -> bool:
    """Whether there is a file at the catalog's place."""
    return catalog.path.exists()


def create(catalog: CatalogLocation, now: datetime) -> None:
    """Make an empty catalog, in a folder of its own if there is none.

    Raises:
        BadInput: There is a file already.
    """
    make_room(catalog)
    with catalog_locked(catalog, alone=True):
        if catalog.path.exists():
            raise BadInput(f"there is a catalog at {catalog.path} already; it is left as it is")
        lay_out(catalog, catalog.path, now)


def lay_out(
    catalog: CatalogLocation, path: Path, now: datetime, *, upto: int | None = None
) -> None:
    """Make an empty catalog file beside its final name and put it there when it is whole.

    Args:
        catalog: Its settings.
        path: Where it shall be.
        now: The present.
        upto: The last migration to run; all by default.
    """
    draft = path.with_name(f"{path.name}.new")
    for left in (draft, draft.with_name(f"{draft.name}.wal")):
        left.unlink(missing_ok=True)
    with opened(catalog, draft, read_only=False) as connection:
        run_pending(connection, now, newest() if upto is None else upto, draft=True)
    install_catalog(draft, path)


def install_catalog(draft: Path, path: Path) -> None:
    """Give a whole catalog file its name; a log that another one left there is not played back."""
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
    draft.replace(path)


def migrate(catalog: CatalogLocation, now: datetime) -> list[int]:
    """Bring a catalog up to this release's schema; safe to repeat.

    A copy of the file stays beside it, as `<name>.before-NNNN`.

    Returns:
        The migrations that ran.

    Raises:
        BadInput: There is no catalog, or a later release made it.
    """
    if _is_shared_and_ours(catalog):
        return []
    with catalog_locked(catalog, alone=True):
        if not catalog.path.exists():
            raise BadInput(f"there is no catalog at {catalog.path}; create one")
        with opened(catalog, catalog.path, read_only=False) as connection:
            found = schema_version(connection)
        if found > newest():
            raise BadInput(
                f"the catalog at {catalog.path} was made by a later release (schema {found}, this"
                f" release knows {newest()}); update Likeness, or rebuild it from the store"
            )
        if found == newest():
            return []
        _keep_copy(catalog.path, found + 1)
        with opened(catalog, catalog.path, read_only=False) as connection:
            return run_pending(connection, now, newest())


def _is_shared_and_ours(catalog: CatalogLocation) -> bool:
    """Whether a session has it open, or opens it now: it then has this release's schema."""
    if (shared := shared_openings.of(catalog)) is None:
        return False
    with suppress(BadInput), shared.reading():
        return True
    return False


def _keep_copy(path: Path, before: int) -> None:
    kept = path.with_name(f"{path.name}.before-{before:04d}")
    draft = kept.with_name(f"{kept.name}.new")
    draft.touch(mode=0o600)
    shutil.copyfile(path, draft)
    draft.replace(kept)


def run_pending(
    connection: Connection, now: datetime, upto: int, *, draft: bool = False
) -> list[int]:
    """Run what an open catalog lacks, up to a schema: each step one transaction, durable at once.

    Args:
        connection: Of the catalog.
        now: The present.
        upto: The last migration to run.
        draft: Nobody relies on the file before all of them ran: it becomes durable once, then.

    Returns:
        The migrations that ran.
    """
    done = []
    found = schema_version(connection)
    for number, path in migrations().items():
        if found < number <= upto:
            with transaction(connection):
                connection.execute(_LEDGER)
                connection.execute(path.read_text())
                connection.execute(
                    "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, ?)",
                    [number, path.stem, to_utc(now)],
                )
            if not draft:
                connection.execute("CHECKPOINT")
            done.append(number)
    if draft:
        connection.execute("CHECKPOINT")
    return done

"""Where this installation keeps its memory."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from blocks.schema import SchemaMadeOnce
from catalog import schema
from catalog.connection import CatalogLocation as CatalogAddress
from likeness.clock import Clock
from likeness.errors import BadInput
from likeness.model.ids import is_name, random_name
from likeness.store.format.turns import Pens


class CatalogFile(SchemaMadeOnce, Block):
    """The folder with the catalog, the claims and the scratch files of one installation.

    It must be on a local disk. Losing it loses no version: the store can rebuild the catalog.

    Example:
        ```python
        from blocks import CatalogFile

        catalog = CatalogFile.load("BLOCK_NAME")
        print(catalog.file.path)
        ```
    """

    _block_type_name: ClassVar[str] = "Catalog File"
    _block_type_slug: ClassVar[str] = "likeness-catalog-file"

    folder: str = Field(
        title="Folder",
        description="A folder on a local disk of this machine, such as /var/lib/likeness.",
        pattern="^/",
    )

    @property
    def file(self) -> CatalogAddress:
        """Where the catalog is; opens nothing."""
        return CatalogAddress(Path(self.folder) / "catalog.duckdb")

    @property
    def claims(self) -> Path:
        """Where claims lie: who is at work on what."""
        return Path(self.folder) / "claims"

    @property
    def scratch(self) -> Path:
        """Where runs keep what they need only while they last."""
        return Path(self.folder) / "scratch"

    def ready(self, clock: Clock) -> CatalogAddress:
        """The catalog, made if there is none and brought up to this release.

        Raises:
            BadInput: A later release made it.
            CatalogBusy: Another process holds it.
        """
        if schema.exists(self.file):
            schema.migrate(self.file, clock())
        else:
            schema.create(self.file, clock())
        return self.file

    def installation(self, owner: Callable[[], str]) -> str:
        """Which installation this is: 32 hex digits, kept beside the catalog and made once.

        Args:
            owner: Says who owns the data store, for a folder that was lost; empty: nobody known.

        Raises:
            BadInput: What is kept there is no such id.
        """
        kept = Path(self.folder) / "installation"
        if not kept.exists():
            _write_once(kept, owner() or random_name())
        return _name_in(kept)

    @property
    def kept_installation(self) -> str:
        """Which installation this is; empty if that was not written down yet.

        Raises:
            BadInput: What is kept there is no such id.
        """
        kept = Path(self.folder) / "installation"
        return _name_in(kept) if kept.exists() else ""

    @property
    def predecessors(self) -> tuple[str, ...]:
        """Installations that this one came in place of; their marks in the pool are its own."""
        kept = Path(self.folder) / "predecessors"
        lines = kept.read_text(errors="replace").split() if kept.exists() else ()
        return tuple(each for each in lines if is_name(each))

    @property
    def pens(self) -> Pens:
        """What tells this installation from a copy of it."""
        return Pens(Path(self.folder) / "pens")

    def note_predecessors(self, installations: Iterable[str]) -> None:
        """Say in whose place this installation came; once."""
        kept = Path(self.folder) / "predecessors"
        if text := "\n".join(installations):
            _write_once(kept, text)

    @property
    def other_pools(self) -> tuple[str, ...]:
        """Names of Xen Pool blocks, beside the site's own, whose pools may hold something of ours.

        What a run that died left there is swept too.
        """
        folder = Path(self.folder) / "other-pools"
        return tuple(sorted(each.name for each in folder.iterdir())) if folder.is_dir() else ()

    def note_other_pool(self, name: str) -> None:
        """Say so, before anything is made there; safe to repeat.

        Raises:
            BadInput: No block can be called so.
        """
        if not re.fullmatch(r"[a-z0-9-]+", name):
            raise BadInput(f"no Xen Pool block is called {name!r}; give a name as under Blocks")
        folder = Path(self.folder) / "other-pools"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).touch()

    def forget_other_pool(self, name: str) -> None:
        """Nothing of ours is looked for there any more."""
        (Path(self.folder) / "other-pools" / name).unlink(missing_ok=True)


def _name_in(kept: Path) -> str:
    found = kept.read_text(errors="replace").strip()
    if not is_name(found):
        raise BadInput(
            f"{kept} does not hold the 32 hex digits of this installation; move it away, and"
            " the data store's owner is taken"
        )
    return found


def _write_once(path: Path, text: str) -> None:
    """Write a whole small file unless another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}-{random_name()}")
    with draft.open("x") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        pass  # the other's is as good
    finally:
        draft.unlink()

"""Where this installation keeps its memory."""

from pathlib import Path
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from catalog import schema
from catalog.connection import CatalogFile as CatalogAddress
from likeness.clock import Clock


class CatalogFile(Block):
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

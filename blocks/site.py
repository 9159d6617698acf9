"""One installation: everything a flow needs to know, by role."""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, ValidationError

from blocks.catalog_file import CatalogFile
from blocks.data_store import DataStoreShare, Vault
from blocks.mail import Mail
from blocks.xen_pool import XenPool
from likeness.errors import BadInput


class Site(Block):
    """One installation: its pool, its data store, its catalog, its vault, its mail.

    Flows are given a site's name and load it themselves, so that no secret is ever a parameter.

    Example:
        ```python
        from blocks import Site

        site = Site.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Site"
    _block_type_slug: ClassVar[str] = "likeness-site"

    installation: str = Field(
        title="Installation",
        description="32 hex digits that tell this installation's snapshots from others'; made by"
        " python -m flows.set_up, and never changed.",
        pattern=r"^[0-9a-f]{32}$",
    )
    xen_pool: XenPool = Field(title="Xen pool", description="The pool whose VMs are protected.")
    data_store: DataStoreShare = Field(title="Data store", description="Where versions are kept.")
    catalog: CatalogFile = Field(
        title="Catalog", description="Where this installation keeps its memory."
    )
    vault: Vault | None = Field(
        default=None, title="Vault", description="The second place for versions, if there is one."
    )
    revalidate_after: str = Field(
        default="30 days",
        title="Re-validate data blocks older than",
        description="Data blocks that were validated longer ago than this are validated again:"
        " a number of hours, days or weeks, always, or never.",
        pattern=r"^(always|never|[1-9][0-9]{0,4} (hours?|days?|weeks?))$",
    )
    revalidate_at_hours: str = Field(
        default="",
        title="Re-validate at these hours only",
        description="Hours in UTC such as 22-6; empty: at any hour. New data blocks are validated"
        " right after their job in any case.",
        pattern=r"^(|([01]?[0-9]|2[0-3])-([01]?[0-9]|2[0-3]))$",
    )
    revalidate_gib_a_day: int = Field(
        default=0,
        ge=0,
        title="Re-validate at most, GiB a day",
        description="0: as much as the age limit asks for, evenly spread. With a limit that is too"
        " small, the dashboard says which age can be kept.",
    )
    mail: Mail | None = Field(
        default=None, title="Mail", description="Who is told by mail, if anybody is."
    )
    webhook: str = Field(
        default="",
        title="Webhook",
        description="A notification block of Prefect that is told too, such as slack-webhook/ops"
        " or custom-webhook/ops; empty: none.",
        pattern=r"^(|[a-z0-9-]+/[a-z0-9-]+)$",
    )

    def key_of(self, artifact: str) -> str:
        """Key of something people look at: every site has its own; *main*'s are the plain words."""
        name = self._block_document_name or "main"
        return artifact if name == "main" else f"{artifact}-{name}"

    @classmethod
    def named(cls, name: str) -> "Site":
        """The site saved under `name`.

        Raises:
            BadInput: There is none, or it is not complete.
        """
        try:
            found = cls.load(name)
        except ValidationError as cause:
            wrong = ", ".join(str(each["loc"][0]) for each in cause.errors() if each["loc"])
            raise BadInput(
                f"the site {name!r} is not complete: correct {wrong or 'it'} in the UI under Blocks"
            ) from cause
        except ValueError as cause:
            raise BadInput(
                f"there is no site {name!r}; save a Site block of that name, in the UI under"
                " Blocks or with python -m flows.set_up"
            ) from cause
        if not isinstance(found, Site):  # Prefect gives a coroutine to whoever runs a loop
            raise TypeError("load a site from a flow that is not async")
        return found

"""One installation: everything a flow needs to know, by role."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from prefect.blocks.core import Block
from prefect.client.schemas.objects import BlockDocument
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, Field, PrivateAttr, field_validator

from blocks.catalog_file import CatalogFile
from blocks.data_store import DataStoreShare, Vault
from blocks.loading import load_block, one_client, saved_together
from blocks.mail import Mail
from blocks.schema import SchemaMadeOnce
from blocks.session import sharing
from blocks.xen_pool import XenPool
from catalog.session import catalog_session
from likeness.clock import stopwatch
from likeness.errors import BadInput
from likeness.model.retention import parse_policy, policies_by_tag

B = TypeVar("B", bound=Block)
ROLES: dict[str, type[Block]] = {
    "xen_pool": XenPool,
    "data_store": DataStoreShare,
    "catalog": CatalogFile,
    "vault": Vault,
    "mail": Mail,
}
"""What the blocks of a site are for, and of which type each is."""


class SiteSettings(BaseModel):
    """What can be changed of a site without any secret at hand."""

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
    keep: str = Field(
        default="last 5",
        title="Versions to keep",
        description="Of each VM in each job, where the job says nothing: such as last 5, daily 7,"
        " weekly 4, monthly 12, yearly 3; or everything. Only the flow forget goes by it.",
    )
    keep_by_tag: str = Field(
        default="",
        title="Versions to keep, by tag",
        description="For VMs that had a XenServer tag at their last backup, whatever their job"
        " says: gold: daily 30, monthly 12; lab: last 2. Of several the first counts.",
    )
    webhook: str = Field(
        default="",
        title="Webhook",
        description="A notification block of Prefect that is told too, such as slack-webhook/ops"
        " or custom-webhook/ops; empty: none.",
        pattern=r"^(|[a-z0-9-]+/[a-z0-9-]+)$",
    )
    alarm_after_hours: int = Field(
        default=36,
        ge=0,
        le=87_600,
        title="Alarm after hours",
        description="A VM whose last good version is older, a job that has not run for longer, and"
        " what waits longer for validation or vault, are alarms of the flow watch; 0: never.",
    )
    ping_url: str = Field(
        default="",
        title="Ping this address while all is well",
        description="An http or https address that the flow watch calls when it finds nothing"
        " wrong, and whose owner tells you when no call comes; empty: none.",
        pattern=r"^(|https?://[^\s/@]+(/\S*)?)$",
    )

    prove_on_workers: int = Field(
        default=0,
        ge=0,
        le=64,
        title="Prove on other workers, runs at once",
        description="Hand packs to so many runs of the deployment prove-packs at once, on whatever"
        " workers serve its work pool; 0: read them back where the catalog is.",
    )
    vault_on_workers: int = Field(
        default=0,
        ge=0,
        le=64,
        title="Vault on other workers, runs at once",
        description="Hand versions to so many runs of the deployment work-elsewhere at once; what"
        " they leave is copied where the catalog is. 0: all of it is.",
    )
    restore_on_workers: bool = Field(
        default=False,
        title="Restore and look into files on other workers",
        description="By a run of the deployment work-elsewhere, on whatever worker serves its work"
        " pool; folders are then that machine's.",
    )

    @field_validator("keep")
    @classmethod
    def _keeps_something(cls, text: str) -> str:
        return str(parse_policy(text))

    @field_validator("keep_by_tag")
    @classmethod
    def _some_policies(cls, text: str) -> str:
        return "; ".join(f"{tag}: {policy}" for tag, policy in policies_by_tag(text).items())

    @property
    def alarm_after(self) -> timedelta | None:
        """How long something may fail to happen; for ever if none."""
        return timedelta(hours=self.alarm_after_hours) if self.alarm_after_hours else None


def _name_of(kind: str, *, optional: str = "") -> Any:
    """A field for the name of a block; a block itself would be saved with its passwords masked."""
    said = f"Name of the {kind} block{f'; empty: {optional}' if optional else ''}."
    facts: dict[str, Any] = {"default": ""} if optional else {"min_length": 1}
    return Field(title=f"{kind} block", description=said, **facts)


class SiteBlock(SchemaMadeOnce, SiteSettings, Block):
    """One installation: the names of its blocks, and its settings.

    Flows are given a site's name and load it themselves, so that no secret is ever a parameter.

    Example:
        ```python
        from blocks import SiteBlock

        settings = SiteBlock.load("BLOCK_NAME")
        ```
    """

    _block_type_name: ClassVar[str] = "Site"
    _block_type_slug: ClassVar[str] = "likeness-site"

    xen_pool: str = _name_of("Xen Pool")
    data_store: str = _name_of("Data Store Share")
    catalog: str = _name_of("Catalog File")
    vault: str = _name_of("Vault", optional="no second place")
    mail: str = _name_of("Mail", optional="nobody is told by mail")


class Site(SiteSettings):
    """One installation with its blocks, as flows and tasks hold it.

    A block that cannot be used stops what needs it, and nothing else: a mail server's lost password
    keeps no backup from running.

    Attributes:
        name: Of its Site block.
    """

    name: str = "main"
    _blocks: dict[str, Block | str | None] = PrivateAttr()

    def __init__(
        self,
        *,
        xen_pool: XenPool | str,
        data_store: DataStoreShare | str,
        catalog: CatalogFile | str,
        vault: Vault | str | None = None,
        mail: Mail | str | None = None,
        **settings: Any,
    ) -> None:
        """A site of these blocks; a sentence in place of one says why it cannot be used."""
        super().__init__(**settings)
        given = (xen_pool, data_store, catalog, vault, mail)
        self._blocks = dict(zip(ROLES, given, strict=True))

    @classmethod
    @one_client()
    def named(cls, name: str) -> "Site":
        """The site saved under `name`, with its blocks.

        Raises:
            BadInput: There is none, or it is not complete.
        """
        saved = load_block(SiteBlock, name, made_by="likeness set-up")
        documents = saved_together({kind: getattr(saved, role) for role, kind in ROLES.items()})
        blocks: dict[str, Any] = {
            role: _loaded(kind, getattr(saved, role), documents.get(kind))
            for role, kind in ROLES.items()
        }
        settings: dict[str, Any] = {
            each: getattr(saved, each) for each in SiteSettings.model_fields
        }
        made = cls(name=name, **settings, **blocks)
        _lately[PREFECT_API_URL.value(), name] = (stopwatch(), made)
        return made

    @classmethod
    def named_lately(cls, name: str) -> "Site":
        """The same, as it was loaded a moment ago if it was: for what looks back on a run.

        Raises:
            BadInput: There is none, or it is not complete.
        """
        at, found = _lately.get((PREFECT_API_URL.value(), name), (0.0, None))
        return found if found and stopwatch() - at < _LATELY_SECONDS else cls.named(name)

    @property
    def xen_pool(self) -> XenPool:
        """The pool whose VMs are protected."""
        return self._needed("xen_pool", XenPool)

    def pool_called(self, name: str) -> XenPool:
        """The site's own pool, or that of another Xen Pool block.

        Raises:
            BadInput: There is no such block, or it cannot be used.
        """
        return load_block(XenPool, name) if name else self.xen_pool

    def note_pool(self, name: str) -> None:
        """Remember, before anything is made there, that another pool has to be swept too.

        Raises:
            BadInput: There is no such block, or it cannot be used.
        """
        if name:
            self.pool_called(name)
            self.catalog.note_other_pool(name)

    @property
    def data_store(self) -> DataStoreShare:
        """Where versions are kept."""
        block = self._needed("data_store", DataStoreShare)
        return block.used_by(self._kept_installation, self.catalog.pens)

    @property
    def catalog(self) -> CatalogFile:
        """Where this installation keeps its memory."""
        return self._needed("catalog", CatalogFile)

    @property
    def vault(self) -> Vault | None:
        """The second place for versions, if there is one."""
        return self._needed("vault", Vault) if self._blocks["vault"] else None

    @property
    def mail(self) -> Mail | None:
        """Who is told by mail, if anybody is."""
        return self._needed("mail", Mail) if self._blocks["mail"] else None

    @property
    def installation(self) -> str:
        """32 hex digits that tell this installation's snapshots from others'."""
        return self.catalog.installation(self.data_store.owner)

    @property
    def installations(self) -> tuple[str, ...]:
        """This installation and those it came in place of: their marks in the pool are ours."""
        return (self.installation, *self.catalog.predecessors)

    def _kept_installation(self) -> str:
        """Which installation this is, if that was ever written down."""
        return self.catalog.kept_installation

    @contextmanager
    def session(self) -> Generator[None, None, None]:
        """Share one opening of the store, the pool and the catalog while the `with` lasts.

        Nothing is opened before it is needed; a block that cannot be used says so to whoever needs
        it.
        """
        with ExitStack() as held:
            for block in self._blocks.values():
                if isinstance(block, DataStoreShare | XenPool):
                    held.enter_context(sharing(block))
                elif isinstance(block, CatalogFile):
                    held.enter_context(catalog_session(block.file))
            yield

    def key_of(self, artifact: str) -> str:
        """Key of something people look at: every site has its own; *main*'s are the plain words."""
        return artifact if self.name == "main" else f"{artifact}-{self.name}"

    def usable(self, role: str) -> Block | None:
        """The block of a role as it is; none if there is none, or it cannot be used."""
        found = self._blocks[role]
        return found if isinstance(found, Block) else None

    def place_of(self, role: str) -> str:
        """Where the data store or the vault is, or why that cannot be said; empty if none is."""
        found = self._blocks[role]
        return found.place if isinstance(found, DataStoreShare | Vault) else str(found or "")

    def _needed(self, role: str, kind: type[B]) -> B:
        """The block of a role.

        Raises:
            BadInput: It cannot be used; why.
        """
        found = self._blocks[role]
        if not isinstance(found, kind):
            raise BadInput(str(found))
        return found


_LATELY_SECONDS = 60.0
_lately: dict[tuple[str | None, str], tuple[float, Site]] = {}


def _loaded(kind: type[Block], name: str, saved: BlockDocument | None) -> Block | str | None:
    """A block by its name, or why it cannot be used; nothing if the site has none for the role."""
    if not name:
        return None
    try:
        found = load_block(kind, name, saved=saved)
        return found.with_account() if isinstance(found, Mail) else found
    except BadInput as problem:
        return str(problem)

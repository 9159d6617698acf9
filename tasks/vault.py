"""Vaulting: everything the second place lacks, as the same sealed bytes."""

from dataclasses import dataclass, field

from prefect import get_run_logger, task

from blocks import Site
from catalog.vaulting import record_vault_contents, record_version_vaulted
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError, NoVault
from likeness.model.ids import VersionId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.copying import copy_to_vault
from likeness.store.vault_mending import Copied
from likeness.transport.base import Transport
from tasks.retries import STEP


@dataclass(frozen=True, slots=True)
class Vaulted:
    """What one vaulting did.

    Attributes:
        objects: How many objects were copied.
        copied_bytes: Their length together.
        problems: What the vault cannot have at the moment, in words that name VMs.
    """

    objects: int
    copied_bytes: int
    problems: tuple[str, ...]


@task(task_run_name="copy to the vault", **STEP)
def copy_versions(*, site: Site, stop: StopToken) -> Vaulted:
    """Copy what the vault lacks; a second time right after the first copies nothing.

    What the vault has afterwards is recorded, however the copying ended.

    Raises:
        BadInput: The site has no vault, or its place is none for a vault (`NoVault`).
        ShareUnreachable: One of the two places does not answer; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    if site.vault is None:
        raise BadInput("this site has no vault; add a Vault block to its Site block")
    vault, tally = site.vault.connect(), _Tally()
    try:
        with site.data_store.open() as store:
            for copied in copy_to_vault(store, vault, stop=stop):
                tally.add(copied)
        there = [version for version in _versions_in(vault) if version not in tally.waiting]
        record_vault_contents(site.catalog.file, site.vault.place, there, system_clock())
    except NoVault:  # whatever was recorded of this place, no copies lie there
        record_vault_contents(site.catalog.file, site.vault.place, (), system_clock())
        raise
    except LikenessError:
        record_version_vaulted(site.catalog.file, site.vault.place, tally.versions, system_clock())
        raise
    finally:
        vault.close()
    size = readable_size(tally.copied_bytes)
    get_run_logger().info("vaulted %d objects, %s", tally.objects, size)
    return Vaulted(tally.objects, tally.copied_bytes, tuple(tally.problems))


@dataclass
class _Tally:
    """What came of a vaulting so far."""

    objects: int = 0
    copied_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    versions: list[VersionId] = field(default_factory=list)
    waiting: set[VersionId] = field(default_factory=set)

    def add(self, copied: Copied) -> None:
        version = VersionId(copied.name.rpartition("-")[2])
        is_version = copied.name.startswith(f"{layout.VERSIONS}/")
        if copied.problem:
            get_run_logger().warning("%s (%s)", copied.problem, copied.name)
            self.problems.append(copied.problem)
            self.waiting.update([version] if is_version else [])
            return
        self.objects += 1
        self.copied_bytes += copied.size_bytes
        self.versions += [version] if is_version else []


def _versions_in(vault: Transport) -> list[VersionId]:
    """What the vault has a record of."""
    names = (entry.name for entry in vault.entries(layout.VERSIONS))
    return [VersionId(name.rpartition("-")[2]) for name in names if layout.is_known(name)]

"""Vaulting: everything the second place lacks, as the same sealed bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from prefect import get_run_logger, task

from blocks import Site
from catalog.vaulting import record_version_vaulted
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.model.ids import VersionId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.copying import Copied, copy_to_vault
from likeness.transport.base import Transport
from tasks.retries import STEP


@dataclass(frozen=True, slots=True)
class Vaulted:
    """What one vaulting did.

    Attributes:
        objects: How many objects were copied.
        copied_bytes: Their length together.
        problems: Objects that were not copied because they are damaged, in words.
    """

    objects: int
    copied_bytes: int
    problems: tuple[str, ...]


@task(task_run_name="copy to the vault", **STEP)
def copy_versions(*, site: Site, stop: StopToken) -> Vaulted:
    """Copy what the vault lacks; a second time right after the first copies nothing.

    Raises:
        BadInput: The site has no vault, or the vault belongs to another store.
        ShareUnreachable: One of the two places does not answer; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    if site.vault is None:
        raise BadInput("this site has no vault; add a Vault block to its Site block")
    vault = site.vault.connect()
    try:
        with site.data_store.open() as store:
            copied = _sum(copy_to_vault(store, vault, stop=stop))
        if not copied.problems:
            versions = _versions_in(vault)
            record_version_vaulted(site.catalog.file, site.vault.place, versions, system_clock())
    finally:
        vault.close()
    size = readable_size(copied.copied_bytes)
    get_run_logger().info("vaulted %d objects, %s", copied.objects, size)
    return copied


def _versions_in(vault: Transport) -> list[VersionId]:
    """What the vault can restore by itself, once nothing it lacks is left."""
    names = (entry.name for entry in vault.entries(layout.VERSIONS))
    return [VersionId(name.rpartition("-")[2]) for name in names if layout.is_known(name)]


def _sum(copies: Iterator[Copied]) -> Vaulted:
    objects = copied_bytes = 0
    problems = []
    for copy in copies:
        if copy.problem:
            problems.append(copy.problem)
        elif copy.size_bytes:
            objects += 1
            copied_bytes += copy.size_bytes
    return Vaulted(objects, copied_bytes, tuple(problems))

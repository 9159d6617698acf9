"""Vaulting: all that the second place lacks, the same sealed bytes; and reading it back there."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from prefect import get_run_logger

from blocks import Site, Vault
from catalog import vault_reading
from catalog.vault_locks import vault_has_locks
from catalog.vaulting import (
    last_was_whole,
    note_vaulting,
    record_vault_contents,
    record_version_vaulted,
)
from catalog.versions import find_version
from likeness.clock import system_clock
from likeness.errors import (
    BadInput,
    LikenessError,
    NoVault,
    ShareFull,
    ShareRefused,
)
from likeness.model.ids import VersionId
from likeness.model.sizes import readable_size
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.vaults import vault_at
from likeness.store.repair.copying import Manner, PauseHours, copy_to_vault
from likeness.store.write.heads import write_head
from likeness.transport.base import Transport
from tasks.ages import is_hour
from tasks.claims import vault_claimed
from tasks.progress import shown
from tasks.retries import STEP, task
from tasks.vault_locks import lock_versions
from tasks.vault_tally import VaultTally
from tasks.vault_without_key import copy_listed, require_no_rules, version_listed


@dataclass(frozen=True, slots=True)
class Vaulted:
    """What one vaulting did.

    Attributes:
        objects: How many objects were copied.
        copied_bytes: Their length together.
        problems: What the vault cannot have at the moment, in words that name VMs.
        left_bytes: Of packs, what is left for the next vaulting since its hours were over.
    """

    objects: int
    copied_bytes: int
    problems: tuple[str, ...]
    left_bytes: int = 0


@task(task_run_name="copy to the vault", **STEP)
def copy_versions(
    *,
    site: Site,
    stop: StopToken,
    tally: VaultTally,
    only: frozenset[VersionId] | None = None,
    own_history: bool = False,
) -> Vaulted:
    """Copy what the vault lacks; a second time right after the first copies nothing.

    What the vault has afterwards is recorded, however the copying ended.

    Args:
        site: The installation.
        stop: Looked at before every object.
        tally: Counts what all attempts did.
        only: Copy these versions and what they need; all if none.
        own_history: The vault keeps by rules of its own; see `tasks.vault_keep`.

    Raises:
        BadInput: The site has no vault, or its place is none for a vault (`NoVault`).
        ShareUnreachable: One of the two places does not answer; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    block = vault_of(site)
    if site.data_store.without_key:
        require_no_rules(block.keep)
    vault, catalog = block.connect(), site.catalog.file
    tally.begin()
    left, trusted = 0, last_was_whole(catalog, block.place)
    note_vaulting(catalog, block.place, system_clock(), whole=False)
    manner = replace(_manner(block, tally), trusted=trusted, only=only, own_history=own_history)
    try:
        _copy(site, vault, manner, tally, stop)
        _record(site, block, vault, tally, whole=only is None)
    except PauseHours:
        record_version_vaulted(catalog, block.place, tally.versions, system_clock())
        left = tally.planned_bytes - tally.pack_bytes
    except (ShareFull, ShareRefused) as cause:
        record_version_vaulted(catalog, block.place, tally.versions, system_clock())
        if not (tally.objects or tally.problems):
            raise
        tally.problems.append(str(cause))
    except NoVault:  # whatever was recorded of this place, no copies lie there
        record_vault_contents(catalog, block.place, (), system_clock())
        raise
    except LikenessError:
        record_version_vaulted(catalog, block.place, tally.versions, system_clock())
        raise
    finally:
        vault.close()
    size = readable_size(tally.copied_bytes)
    get_run_logger().info("vaulted %d objects, %s", tally.objects, size)
    return Vaulted(tally.objects, tally.copied_bytes, tuple(tally.problems), max(left, 0))


def _copy(site: Site, vault: Transport, manner: Manner, tally: VaultTally, stop: StopToken) -> None:
    with ExitStack() as held:
        if site.data_store.without_key:
            held.enter_context(progress_of(tally))
            copy_listed(site, vault, manner, tally, stop)
            return
        if manner.own_history:
            held.enter_context(vault_claimed(site))
        store = held.enter_context(site.data_store.open())
        held.enter_context(progress_of(tally))
        for copied in copy_to_vault(store, vault, stop=stop, manner=manner):
            tally.add(copied)
        if manner.own_history and not tally.problems:
            write_head(vault_at(store, vault, unfinished=False), clock=system_clock)


def _record(site: Site, block: Vault, vault: Transport, tally: VaultTally, *, whole: bool) -> None:
    """Write down what the vault has, and lock what came."""
    catalog = site.catalog.file
    there = [version for version in _versions_in(vault) if version not in tally.waiting]
    record_vault_contents(catalog, block.place, there, system_clock())
    vault_reading.judge_vault(catalog, block.place)
    if block.locked_days:
        with site.data_store.look() as store:
            to_lock = _to_lock(there, tally, site, block)
            place = vault_at(store, vault) if isinstance(store, DataStore) else store.over(vault)
            lock_versions(to_lock, place, site=site, block=block)
    note_vaulting(catalog, block.place, system_clock(), whole=whole and not tally.problems)


def _to_lock(
    there: list[VersionId], tally: VaultTally, site: Site, block: Vault
) -> list[VersionId]:
    """Versions that came just now; all, where no version was ever locked."""
    ever = vault_has_locks(site.catalog.file, block.place)
    return list(tally.versions) if ever else there


def vault_of(site: Site) -> Vault:
    """The site's vault.

    Raises:
        BadInput: It has none.
    """
    if site.vault is None:
        raise BadInput("this site has no vault; add a Vault block to its Site block")
    return site.vault


def cap_of(block: Vault) -> BandwidthCap | None:
    """How fast to copy and to read there; as fast as it goes if none."""
    return BandwidthCap(block.most_mib_a_second * (1 << 20)) if block.most_mib_a_second else None


def _manner(block: Vault, tally: VaultTally) -> Manner:
    return Manner(cap_of(block), lambda: is_hour(block.at_hours, system_clock()), tally.plan)


@contextmanager
def progress_of(tally: VaultTally) -> Generator[None, None, None]:
    """A bar with the percentage of packs, while the `with` lasts."""

    def percent() -> float:
        planned = tally.planned_bytes
        return 100.0 * tally.pack_bytes / planned if planned else 0.0

    with shown("vault", "Copied to the vault", percent):
        yield


def _versions_in(vault: Transport) -> list[VersionId]:
    """What the vault has a record of."""
    names = (entry.name for entry in vault.entries(layout.VERSIONS))
    return [VersionId(name.rpartition("-")[2]) for name in names if layout.is_known(name)]


def version_called(version: str, *, site: Site) -> VersionId:
    """The version whose id begins so.

    Raises:
        UnknownVersion: None, or several.
    """
    if site.data_store.without_key:
        return version_listed(version, site=site)
    asked = version.strip().lower().replace("-", "")
    return find_version(site.catalog.file, asked, system_clock(), None).version

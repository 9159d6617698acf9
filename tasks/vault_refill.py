"""Refilling: a fresh data store, made of what the vault has."""

from pathlib import Path

from blocks import Site
from catalog import schema
from catalog.reconciling import doubt_everything
from likeness.clock import system_clock
from likeness.errors import Damaged, StoreExists, StoreMissing
from likeness.stopping import StopToken
from likeness.store.format.opening import claimed_store, open_store_with_key_file
from likeness.store.repair.copying import Manner, copy_to_vault
from likeness.transport.base import Transport
from tasks.retries import STEP, task
from tasks.vault import Vaulted, cap_of, progress_of, vault_of
from tasks.vault_tally import VaultTally


@task(task_run_name="refill the data store from the vault", **STEP)
def refill_store(*, site: Site, stop: StopToken, tally: VaultTally) -> Vaulted:
    """Fill a fresh data store with what the vault has; go on where a try was cut short.

    Raises:
        BadInput: The site has no vault.
        StoreExists: There is a whole data store already; nothing was written.
        StoreMissing: The vault holds none.
        ShareUnreachable: One of the two places does not answer; tried again.
    """
    block = vault_of(site)
    share, vault = site.data_store, block.connect()
    tally.begin()
    try:
        store = open_store_with_key_file(vault, Path(share.key_file))
        target = share.connect()
        try:
            _require_unfinished(target, share.place)
            with progress_of(tally):
                for copied in copy_to_vault(
                    store, target, stop=stop, manner=Manner(cap_of(block), planned=tally.plan)
                ):
                    tally.add(copied)
        finally:
            target.close()
    finally:
        vault.close()
    return Vaulted(tally.objects, tally.copied_bytes, tuple(tally.problems))


def _require_unfinished(place: Transport, where: str) -> None:
    """The format document is written last, so a place with it holds a whole store."""
    try:
        claimed_store(place)
    except (StoreMissing, Damaged):
        return
    raise StoreExists(
        f"there is a data store at {where} already, and only a place without one is refilled; what"
        " is damaged in it is put back by a validation"
    )


def doubt_all(*, site: Site) -> None:
    """Nothing in a place that was just filled was ever proved there."""
    if schema.exists(site.catalog.file):
        doubt_everything(site.catalog.file, system_clock())

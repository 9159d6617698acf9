"""Vault: copy what the second place lacks; check-vault: read it back there."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import Gib, SiteName, titled
from flows.runs import our_flow, this_run
from likeness.stopping import StopToken
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.elsewhere import copy_elsewhere
from tasks.mend_catalog import ready_catalog
from tasks.outcomes import checked_vault_state, kept_vault_state, vaulted_state
from tasks.reporting import show_changed_versions, show_vault
from tasks.vault import copy_versions, version_called
from tasks.vault_check import check_contents
from tasks.vault_keep import keep_by_rules, wanted_there
from tasks.vault_refill import doubt_all, refill_store
from tasks.vault_tally import VaultTally


@our_flow("vault {site}")
def vault(
    site: SiteName = "main",
    version: Annotated[str, titled("Only this version")] = "",
) -> State[Any]:
    """Copy every version the vault lacks, deduplicated and sealed as it is.

    Ends *Failed* when something in the data store is damaged and was therefore not copied.

    Args:
        site: Name of the Site block.
        version: Beginning of the id of the one version to copy; empty: all that the vault lacks.
    """
    here, stop = Site.named(site), StopToken()
    with here.session(), run_claimed(here, this_run()):
        if here.data_store.read_only and not here.data_store.without_key:
            catch_up(site=here)  # no job here does
        else:
            ready_catalog(here)
        try:
            by_rules = wanted_there(site=here)
            only = frozenset([version_called(version, site=here)]) if version.strip() else by_rules
            tally = VaultTally()
            if here.vault_on_workers and only is None and not here.data_store.without_key:
                copy_elsewhere(this_run(), site=here, stop=stop, tally=tally)
            copied = copy_versions(
                site=here,
                stop=stop,
                tally=tally,
                only=only,
                own_history=by_rules is not None,
            )
        except BaseException:
            stop.stop()
            raise
        show_vault(copied, site=here)
        show_changed_versions(site=here)
    return vaulted_state(copied)


@our_flow("check vault {site}")
def check_vault(
    site: SiteName = "main",
    most_gib: Annotated[Gib, titled("Read back at most, GiB")] = 0,
    prove: Annotated[bool, titled("Open every data block with the key, too")] = False,
) -> State[Any]:
    """Read back at the vault what is new there or due, and copy anew what is not whole there.

    Ends *Failed* when something there was not whole, or could not be read.

    Args:
        site: Name of the Site block.
        most_gib: Read at most so many GiB; 0 is all that is due.
        prove: Open and hash every data block there with the store's key; this takes processor time
            as a validation does, and has ages of its own.
    """
    here, stop = Site.named(site), StopToken()
    with here.session(), run_claimed(here, this_run()):
        ready_catalog(here)
        try:
            most = max(most_gib, 0) << 30 or None
            found = check_contents(site=here, stop=stop, max_bytes=most, prove=prove)
            if found.lost:
                by_rules = wanted_there(site=here)
                copied = copy_versions(
                    site=here,
                    stop=stop,
                    tally=VaultTally(),
                    only=by_rules,
                    own_history=by_rules is not None,
                )
                show_vault(copied, site=here)
                check_contents(site=here, stop=stop)
        except BaseException:
            stop.stop()
            raise
        show_changed_versions(site=here)
    return checked_vault_state(found)


@our_flow("keep vault {site}")
def keep_vault(site: SiteName = "main") -> State[Any]:
    """Give up at the vault what its own rules keep no longer.

    What only those versions needed is deleted a week later at the earliest, by another run.

    Args:
        site: Name of the Site block.
    """
    here, run, stop = Site.named(site), this_run(), StopToken()
    with here.session(), run_claimed(here, run):
        ready_catalog(here)
        try:
            found = keep_by_rules(run, site=here, stop=stop)
        except BaseException:
            stop.stop()
            raise
        show_changed_versions(site=here)
    return kept_vault_state(found)


@our_flow("refill {site}")
def refill(site: SiteName = "main") -> State[Any]:
    """Fill a fresh data store from the vault, when the old one is gone for good.

    The place of the data store's block must hold none, and the key file is the one there was.
    Afterwards every version is unchecked until it is validated, and the next backup goes on.

    Args:
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    with run_claimed(here, this_run()):
        try:
            copied = refill_store(site=here, stop=stop, tally=VaultTally())
        except BaseException:
            stop.stop()
            raise
        doubt_all(site=here)
        with here.session():
            catch_up(site=here)
            show_changed_versions(site=here)
    return vaulted_state(copied)

"""Vault: copy what the second place lacks."""

from typing import Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.mend_catalog import ready_catalog
from tasks.outcomes import vaulted_state
from tasks.reporting import show_vault, show_versions
from tasks.vault import copy_versions


@our_flow("vault {site}")
def vault(site: SiteName = "main") -> State[Any]:
    """Copy every version the vault lacks, deduplicated and sealed as it is.

    Ends *Failed* when something in the data store is damaged and was therefore not copied.

    Args:
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    with here.session(), run_claimed(here, this_run()):
        ready_catalog(here)
        try:
            copied = copy_versions(site=here, stop=stop)
        except BaseException:
            stop.stop()
            raise
        show_vault(copied, site=here)
        show_versions(site=here)
    return vaulted_state(copied)

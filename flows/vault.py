"""Vault: copy what the second place lacks."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import failing_in_words
from likeness.stopping import StopToken
from tasks.mend_catalog import ready_catalog
from tasks.outcomes import vaulted_state
from tasks.reporting import show_vault, show_versions
from tasks.vault import copy_versions


@flow(flow_run_name="vault {site}", persist_result=False)
@failing_in_words
def vault(site: SiteName = "main") -> State[Any]:
    """Copy every version the vault lacks, deduplicated and sealed as it is.

    Ends *Failed* when something in the data store is damaged and was therefore not copied.

    Args:
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    ready_catalog(here)
    try:
        copied = copy_versions(site=here, stop=stop)
    except BaseException:
        stop.stop()
        raise
    show_vault(copied, site=here)
    show_versions(site=here)
    return vaulted_state(copied)

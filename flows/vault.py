"""Vault: copy what the second place lacks."""

from prefect import flow

from blocks import Site
from likeness.stopping import StopToken
from tasks.reporting import show_vault, show_versions
from tasks.vault import Vaulted, copy_versions


@flow(flow_run_name="vault {site}", persist_result=False)
def vault(site: str = "main") -> Vaulted:
    """Copy every version the vault lacks, deduplicated and sealed as it is.

    Args:
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    try:
        copied = copy_versions(site=here, stop=stop)
    except BaseException:
        stop.stop()
        raise
    show_vault(copied)
    show_versions(site=here)
    return copied

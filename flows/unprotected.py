"""Unprotected: the VMs of the pool that no job backs up by itself."""

from prefect import flow

from blocks import Site
from flows.forms import SiteName
from likeness.clock import system_clock
from tasks.protection import Unprotected, find_unprotected, planned_jobs
from tasks.reporting import show_unprotected


@flow(flow_run_name="list what {site} does not protect", persist_result=False)
def unprotected(site: SiteName = "main") -> tuple[Unprotected, ...]:
    """List every VM that no job means, and those whose jobs no schedule starts.

    The jobs are the deployments of the backup flow for this site. The list is the artifact
    `unprotected`.

    Args:
        site: Name of the Site block.
    """
    here = Site.named(site)
    here.catalog.ready(system_clock)
    jobs = planned_jobs(site)
    found = find_unprotected(jobs, site=here)
    show_unprotected(found, jobs=len(jobs))
    return found

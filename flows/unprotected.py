"""Unprotected: the VMs of the pool that no job backs up by itself."""

from typing import Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from tasks.claims import run_claimed
from tasks.mend_catalog import ready_catalog
from tasks.outcomes import unprotected_state
from tasks.protection import find_unprotected, planned_jobs
from tasks.reporting import show_unprotected


@our_flow("list what {site} does not protect")
def unprotected(site: SiteName = "main") -> State[Any]:
    """List every VM that no job means, and those whose jobs no schedule starts.

    The jobs are the deployments of the backup flow for this site. The list is the artifact
    `unprotected`.

    Args:
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        ready_catalog(here)
        jobs = planned_jobs(site)
        found = find_unprotected(jobs, site=here)
        show_unprotected(found, jobs=len(jobs), site=here)
    return unprotected_state(found)

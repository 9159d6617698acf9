"""Protect the installation: copies of the catalog between jobs, and rehearsals of its loss."""

from typing import Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from tasks.claims import run_claimed
from tasks.mend_catalog import ready_catalog
from tasks.needs_lists import renew_needs_lists
from tasks.outcomes import protected_state, rehearsed_state
from tasks.protect_catalog import copy_catalog
from tasks.rehearse import rehearse_recovery
from tasks.reporting import show_rehearsal


@our_flow("protect {site}")
def protect(site: SiteName = "main") -> State[Any]:
    """Put a copy of the catalog, with the blocks and jobs, into the data store.

    Every job does the same at its end; this is for the time between jobs.

    Args:
        site: Name of the Site block.
    """
    here, run = Site.named(site), this_run()
    with here.session(), run_claimed(here, run):
        ready_catalog(here)
        head = copy_catalog(run, site=here, always=True)
    return protected_state(head)


@our_flow("rehearse recovery {site}")
def rehearse(site: SiteName = "main") -> State[Any]:
    """Make the catalog anew, of its newest copy and of the store alone, and compare it.

    Changes nothing, but writes needs lists anew that omit something. Ends *Failed* when a lost
    installation would not come back as it is.

    Args:
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        ready_catalog(here)
        found = rehearse_recovery(site=here)
        show_rehearsal(found, site=here)
        if found.short_lists:
            renew_needs_lists([vm for vm, _ in found.short_lists], site=here)
    return rehearsed_state(found)

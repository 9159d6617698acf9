"""Sweep: remove what runs that died left behind, and nothing else."""

from typing import Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.notify import tell_people
from tasks.outcomes import swept_state
from tasks.reporting import show_sweep
from tasks.sweep import SweepReport, sweep_pool, sweep_scratch, sweep_store


@our_flow("sweep {site}")
def sweep(site: SiteName = "main") -> State[Any]:
    """Remove snapshots, inboxes and scratch files whose run is over.

    Only what carries this installation's mark is touched, and nothing of a run that is alive.

    Args:
        site: Name of the Site block.
    """
    here, run = Site.named(site), this_run()
    with run_claimed(here, run):
        catch_up(site=here)
        report = SweepReport(
            snapshots=sweep_pool(run, site=here),
            store=sweep_store(site=here),
            scratch=sweep_scratch(site=here),
        )
    show_sweep(report, site=here)
    tell_people(site=here)  # what waits for a mail server that was away
    return swept_state(report)

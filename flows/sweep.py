"""Sweep: remove what runs that died left behind, and nothing else."""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from likeness.store.prune.sweeping import Swept as SweptObjects
from tasks.afterwards import Afterwards
from tasks.catch_up import catch_up
from tasks.claims import run_claimed, sweep_claimed
from tasks.lost_runs import settle_lost_runs
from tasks.notify import tell_people
from tasks.outcomes import NotSwept, swept_state
from tasks.reporting import show_sweep
from tasks.sweep import SweepReport, sweep_other_pool, sweep_pool, sweep_scratch, sweep_store

AGAIN = "the next sweep does it"
LOST_RUNS = ("runs that died were not looked for", AGAIN)
CATALOG = ("the catalog did not catch up with the store", AGAIN)
POOL = ("the pool was not swept", AGAIN)
STORE = ("the inboxes were not swept", AGAIN)
SCRATCH = ("the scratch folder was not swept", AGAIN)


@our_flow("sweep {site}")
def sweep(site: SiteName = "main") -> State[Any]:
    """Remove snapshots, inboxes and scratch files whose run is over.

    A run whose process is gone is shown as crashed, and holds no deployment's turn any more; a job
    that was cancelled, skipped or is late is told like one that failed. What one place does not
    allow keeps no other from being swept. Only what carries this
    installation's mark is touched, and nothing of a run that is alive.

    Args:
        site: Name of the Site block.
    """
    here, run = Site.named(site), this_run()
    with here.session(), run_claimed(here, run), sweep_claimed(here) as mine:
        if not mine:
            return Completed(message="another sweep is under way; it does what this one would")
        after = Afterwards()
        after.attempt(*LOST_RUNS, settle_lost_runs, run, site_name=site, site=here)
        after.attempt(*CATALOG, catch_up, site=here)
        found = list(after.attempt(*POOL, sweep_pool, run, site=here) or ())
        for name in here.catalog.other_pools:
            what = (f"the pool of {name} was not swept", AGAIN)
            found += after.attempt(*what, sweep_other_pool, name, run, site=here) or ()
        report = SweepReport(
            snapshots=tuple(found),
            store=after.attempt(*STORE, sweep_store, site=here) or SweptObjects(),
            scratch=after.attempt(*SCRATCH, sweep_scratch, site=here) or 0,
        )
        show_sweep(report, site=here)
        tell_people(site=here)  # what waits for a mail server that was away
    if after.warnings:
        raise NotSwept("; ".join(after.warnings))
    return swept_state(report)

"""Watch: what should have happened and has not is an alarm, whatever the jobs say of themselves."""

from typing import Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from tasks.claims import run_claimed
from tasks.mend_catalog import ready_catalog
from tasks.outcomes import watched_state
from tasks.overdue import Cause
from tasks.watching import find_overdue, ping, tell_overdue


@our_flow("watch {site}")
def watch(site: SiteName = "main") -> State[Any]:
    """Look for VMs without a fresh good version, jobs that do not run, and workers that are gone.

    Paused schedules, and a validation or vault that falls behind, are alarms too. Each is told once
    a day. Ends *Overdue*, a failure, while there is any; else the address in the site's settings is
    called, which misses this installation when all of it is off.

    Args:
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        ready_catalog(here)
        found = find_overdue(site, site=here)
        missed = ping(site=here) if here.ping_url and not found else ""
        tell_overdue((*found, *([Cause("ping", missed)] if missed else ())), site, site=here)
    return watched_state(found, missed)

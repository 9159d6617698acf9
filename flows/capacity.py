"""Capacity: how full the data store is, what a reclaim gives back, and when it will be full."""

from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from likeness.model.sizes import readable_size
from tasks.capacity import measure_capacity, show_capacity, tell_full
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.outcomes import HAD_WARNINGS


@our_flow("capacity {site}")
def capacity(site: SiteName = "main") -> State[Any]:
    """Measure the data store, and tell people when it is nearly full.

    They are told below 10 % free, or when the trend of thirty days fills it within seven.

    Args:
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        catch_up(site=here)
        found = measure_capacity(site=here)
        show_capacity(found, site=here)
        if found.warning:
            tell_full(found, site=here)
            return Completed(name=HAD_WARNINGS, message=found.warning, data=found)
    free = readable_size(found.now.free)
    waits = readable_size(found.now.reclaimable)
    return Completed(message=f"{free} free; {waits} can be reclaimed", data=found)

"""Reclaim the room of what no version needs, and take forgotten versions back before it is gone."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from blocks import Site
from flows.forms import SiteName, VersionDigits, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from tasks.afterwards import Afterwards
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.known_ids import renew_known_ids
from tasks.protect_catalog import copy_catalog
from tasks.reclaim import drop_long_forgotten, reclaim_packs, take_back_version
from tasks.reporting import show_changed_versions
from tasks.space_pages import reclaimed_state, show_reclaim

Percent = Annotated[
    int,
    Field(ge=0, le=100),
    refused_in_words("give a whole number from 0 to 100"),
    titled("Stop if more than so many percent of all packs would go"),
]


@our_flow("reclaim {site}")
def reclaim(site: SiteName = "main", most_percent: Percent = 10) -> State[Any]:
    """Condemn packs that no version needs, and delete those that were condemned long enough.

    A pack waits for at least seven days and two later runs; before it is deleted, the versions in
    the store are asked once more. Whatever ends this run, the next one goes on.

    Args:
        site: Name of the Site block.
        most_percent: More than people expect to go at once is condemned only if they say so.
    """
    here, run, stop = Site.named(site), this_run(), StopToken()
    with here.session(), run_claimed(here, run):
        catch_up(site=here)
        try:
            done = reclaim_packs(run, site=here, most_percent=most_percent, stop=stop)
        except BaseException:
            stop.stop()
            raise
        show_reclaim(done, site=here)
        after = Afterwards()
        after.attempt(
            "what was forgotten long ago stays in the catalog",
            "the next reclaim drops it",
            drop_long_forgotten,
            site=here,
        )
        after.attempt(
            "what need not be sent again was not listed",
            "the next job does it",
            renew_known_ids,
            run,
            site=here,
        )
        after.attempt(
            "no head was written", "the next job writes one", copy_catalog, run, site=here
        )
    return reclaimed_state(done)


@our_flow("undelete {version}")
def undelete(version: VersionDigits, site: SiteName = "main") -> State[Any]:
    """Take a forgotten version back, as long as its data is not deleted.

    Args:
        version: The first digits of its id, as the page of what was forgotten has them.
        site: Name of the Site block.
    """
    here, run = Site.named(site), this_run()
    with here.session(), run_claimed(here, run):
        catch_up(site=here)
        found = take_back_version(version, run, site=here)
        after = Afterwards()
        after.attempt(
            "no head was written", "the next job writes one", copy_catalog, run, site=here
        )
        show_changed_versions(site=here)
    id_ = found.record.rpartition("-")[2][:8]
    said = f"version {id_} is back; {counted(found.packs, 'pack')} of it were condemned"
    return Completed(message=said, data=found)

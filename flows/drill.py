"""Drill: the proof that a version starts, by starting it where it can do no harm."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State
from pydantic import Field

from blocks import Site
from flows.forms import SiteName, VersionWords, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.drill import DrillWanted, choose_drill, drilled_vm, show_drill
from tasks.outcomes import drilled_state

_Text = refused_in_words("give a text")


@our_flow("drill {site}")
def drill(
    vm: Annotated[str, _Text, titled("VM")] = "",
    version: VersionWords = "",
    minutes: Annotated[
        float,
        Field(gt=0, le=1440),
        refused_in_words("give minutes, up to 1440"),
        titled("Minutes to wait"),
    ] = 10,
    script: Annotated[str, _Text, titled("Judged by")] = "",
    storage: Annotated[str, _Text, titled("Storage")] = "",
    pool: Annotated[str, _Text, titled("Into pool")] = "",
    site: SiteName = "main",
) -> State[Any]:
    """Restore a VM without network cards, start it, wait for its guest, and take it away again.

    Ends *Failed* when the guest did not come up; either way the time of the drill is noted.

    Args:
        vm: Name or uuid; empty for the VM whose last drill is the longest ago.
        version: Words such as "last good before 2026-11-20" (UTC), or digits of an id; empty for
            the last good one.
        minutes: How long the guest may take until it answers.
        script: Name of a program in the folder drills beside the catalog, which is given the VM's
            uuid and name and judges by its exit code; empty: the guest's tools have to answer.
        storage: Name or uuid of the storage for its disks; empty for the pool's default.
        pool: Name of the Xen Pool block of another pool to start it in; empty for the site's own.
        site: Name of the Site block.
    """
    here, run, stop = Site.named(site), this_run(), StopToken()
    wanted = DrillWanted(storage.strip(), pool.strip(), 60.0 * minutes, script.strip())
    try:
        with here.session(), run_claimed(here, run):
            row = choose_drill(vm, version, site=here)
            drilled = drilled_vm(row, wanted, run=run, site=here, stop=stop)
            show_drill(drilled, site=here)
    except BaseException:
        stop.stop()
        raise
    return drilled_state(drilled)

"""Restore, look into files and vault for the catalog's host: what any worker can do."""

from typing import Annotated, Any, Literal
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from tasks.elsewhere import do_for_host

Work = Literal["restore disks", "restore a VM", "look into files", "copy to the vault"]


@our_flow("{work} for the catalog's host", on_the_catalogs_host=False)
def work_elsewhere(
    work: Annotated[Work, titled("Work")],
    wanted: Annotated[dict[str, Any], titled("With what")],
    host: Annotated[str, titled("Run on the catalog's host")],
    site: SiteName = "main",
) -> State[Any]:
    """Do what a run on the catalog's host has handed out, and hand back what came of it.

    Started by restores and vaultings of a site that says so; needs the store and its key file, and
    never the catalog.

    Args:
        work: What to do.
        wanted: As that run says it.
        host: Its id.
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    try:
        with here.session():
            run = UUID(this_run())
            do_for_host(work, wanted, run, host=RunId(host), site=here, stop=stop)
    except BaseException:
        stop.stop()
        raise
    return Completed(message=f"{work}: done")

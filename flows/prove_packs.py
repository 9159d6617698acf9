"""Prove packs for the catalog's host: what any number of workers can do at once."""

from typing import Annotated, Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from likeness.model.ids import PackId
from likeness.model.sizes import counted
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding
from likeness.transport.tuning import keep_large_buffers
from tasks.other_workers import prove_for_others


@our_flow("prove packs of {site}", on_the_catalogs_host=False)
def prove_packs(
    packs: Annotated[list[str], titled("Packs")], site: SiteName = "main"
) -> State[Any]:
    """Read packs back, open and hash them, and hand the findings back to the validation.

    Started by a validation whose site says *Prove on other workers*; needs the store and its key
    file, and never the catalog.

    Args:
        packs: Ids of packs.
        site: Name of the Site block.
    """
    here, stop = Site.named(site), StopToken()
    keep_large_buffers()
    try:
        with here.session():
            wanted = [PackId(each) for each in packs]
            found = prove_for_others(wanted, UUID(this_run()), site=here, stop=stop)
    except BaseException:
        stop.stop()
        raise
    proved = sum(each.finding is Finding.PROVED for each in found)
    return Completed(message=f"{counted(proved, 'pack')} of {len(packs)} proved")

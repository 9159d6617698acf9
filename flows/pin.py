"""Pin a version, so that no policy forgets it; or lock it, so that nobody can."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks import Site
from flows.forms import SiteName, VersionDigits, titled
from flows.runs import our_flow, this_run
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.pins import pin_version


@our_flow("pin {version}")
def pin(
    version: VersionDigits,
    note: Annotated[str, titled("Why")] = "",
    until: Annotated[str, titled("Until")] = "",
    lock: Annotated[bool, titled("Lock: nobody can lift it before")] = False,
    lift: Annotated[bool, titled("Lift an earlier pin instead")] = False,
    site: SiteName = "main",
) -> State[Any]:
    """Keep a version whatever any policy says; the pin lies in the store, signed.

    Args:
        version: The first digits of its id.
        note: Why; it stands in the preview of what is forgotten.
        until: A day such as 2027-12-31, or a number of days such as 90; empty: for ever.
        lock: Make it a lock, which has an end and which nobody can lift before.
        lift: Let policy decide on it again; a lock stays.
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        catch_up(site=here)
        said = pin_version(version, note=note, until=until, locked=lock, lift=lift, site=here)
    return Completed(message=said, data=said)

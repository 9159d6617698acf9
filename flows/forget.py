"""Forget versions by policy, or by hand; a preview says what would go, why, and what that frees."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from tasks.afterwards import Afterwards
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.forget import forget as forget_now
from tasks.forget import preview_forget
from tasks.protect_catalog import copy_catalog
from tasks.reporting import show_changed_versions
from tasks.space_pages import forgotten_state, show_forget

Preview = Annotated[bool, titled("Preview: change nothing")]
Keep = Annotated[str, titled("Versions to keep, instead of what is set")]
Vms = Annotated[list[str], titled("Only these VMs")]
Versions = Annotated[list[str], titled("These versions, whatever the policy")]


@our_flow("forget {site}")
def forget(
    site: SiteName = "main",
    preview: Preview = True,
    keep: Keep = "",
    vms: Vms = [],  # noqa: B006  # Prefect shows the default in the form; nobody changes it
    versions: Versions = [],  # noqa: B006
) -> State[Any]:
    """Give versions up that no policy keeps; their data goes with a later reclaim.

    The last good version of a VM stays, and so does whatever is pinned, locked, read by a restore,
    or of a VM that is being backed up. Until its data is deleted, `undelete` takes a version back.

    Args:
        site: Name of the Site block.
        preview: Only say which versions would go, why, and how many bytes that frees.
        keep: Such as last 5, daily 7, weekly 4; empty: what VMs' tags, jobs and the site say.
        vms: Names or uuids; all VMs if none.
        versions: The first digits of ids: these go, and no others.
    """
    here, run = Site.named(site), this_run()
    with here.session(), run_claimed(here, run):
        catch_up(site=here)
        work = preview_forget if preview else forget_now
        plan = work(site=here, keep=keep, vms=vms, versions=versions)
        show_forget(plan, site=here)
        if plan.done and plan.going:
            after = Afterwards()
            after.attempt(
                "no head was written", "the next job writes one", copy_catalog, run, site=here
            )
            show_changed_versions(site=here)
    return forgotten_state(plan)

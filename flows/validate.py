"""Validate: read back what is new or due, prove it, and say so."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from blocks import Site
from flows.runs import this_run
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from tasks.catch_up import catch_up
from tasks.claims import run_claimed
from tasks.dedup import drop_duplicates
from tasks.protect_catalog import copy_catalog
from tasks.reporting import show_validation, show_versions, validation_state
from tasks.validate import prove_due


@flow(flow_run_name="validate {site}", persist_result=False)
def validate(site: str = "main", run: str = "", most_gib: int = 0) -> State[Any]:
    """Read back and prove the data blocks a run brought in, or all that are new or due.

    Data validated before is passed over until its age is up. Whatever is damaged turns every
    version of every VM that needs it red; what cannot be read says nothing about a version.

    Args:
        site: Name of the Site block.
        run: The backup run whose versions to validate; all versions if empty.
        most_gib: Read at most so many GiB; 0 is no limit.
    """
    here, this, stop = Site.named(site), this_run(), StopToken()
    with run_claimed(here, this):
        catch_up(site=here)
        try:
            found = prove_due(
                RunId(run) if run else None,
                this,
                most_gib << 30 or None,
                site=here,
                stop=stop,
            )
        except BaseException:
            stop.stop()
            raise
        drop_duplicates(None, site=here)
        copy_catalog(this, site=here)
    show_validation(found)
    show_versions(site=here)
    return validation_state(found)

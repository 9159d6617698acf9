"""Restore: a version's disks, back as raw images."""

from pathlib import Path
from typing import Annotated, Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from likeness.errors import BadInput
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.outcomes import restored_state
from tasks.reporting import show_restore
from tasks.restore import DisksDone, restore_version_disks


@our_flow("restore {version}")
def restore_disks(
    version: Annotated[str, titled("Version", minLength=4)],
    folder: Annotated[str, titled("Folder", pattern="^/")],
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
) -> State[Any]:
    """Write the disks of a version to sparse raw images, every data block proved on its way.

    Args:
        version: Its id from the list of versions, or four digits or more of the beginning.
        folder: On the machine that runs this, such as /restore; made if it is not there.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
    """
    if not Path(folder).is_absolute():
        raise BadInput(
            f"{folder!r} does not say where to; give a folder from the root on, such as /restore,"
            " since a run's own folder is removed when the run is over"
        )
    here, run, stop = Site.named(site), this_run(), StopToken()
    try:
        with run_claimed(here, run):
            disks = restore_version_disks(
                version,
                Path(folder),
                run=run,
                site=here,
                from_vault=from_vault,
                stop=stop,
                done=DisksDone(),
            )
            show_restore(version, disks, site=here)
    except BaseException:
        stop.stop()
        raise
    return restored_state(disks, folder)

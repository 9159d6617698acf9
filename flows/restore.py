"""Restore: a version's disks, back as raw images."""

from pathlib import Path

from prefect import flow

from blocks import Site
from flows.runs import this_run
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.reporting import show_restore
from tasks.restore import RestoredDisk, restore_version_disks


@flow(flow_run_name="restore {version}", persist_result=False)
def restore_disks(
    version: str, folder: str, site: str = "main", from_vault: bool = False
) -> tuple[RestoredDisk, ...]:
    """Write the disks of a version to sparse raw images, every data block proved on its way.

    Args:
        version: The version's id, or the beginning of it, from the list of versions.
        folder: A folder of the machine that runs this flow; made if it is not there.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
    """
    here, run, stop = Site.named(site), this_run(), StopToken()
    try:
        with run_claimed(here, run):
            disks = restore_version_disks(
                version, Path(folder), run=run, site=here, from_vault=from_vault, stop=stop
            )
    except BaseException:
        stop.stop()
        raise
    show_restore(version, disks)
    return disks

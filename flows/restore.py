"""Restore: a version's disks, back as images: raw, qcow2 or VHD."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName, VersionWords, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.errors import BadInput
from likeness.model.sizes import shortened
from likeness.serving.converting import require_format
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.elsewhere import DisksWanted, restored_elsewhere, restored_here
from tasks.outcomes import restored_state
from tasks.reporting import show_restore
from tasks.restore_sources import choose_version

MAX_FILE_NAME = 200
"""Characters; what is restored has shorter ones."""


@our_flow("restore {version}")
def restore_disks(
    version: VersionWords,
    folder: Annotated[str, refused_in_words("give a folder"), titled("Folder", pattern="^/")],
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
    vm: Annotated[str, refused_in_words("give a VM's name or uuid"), titled("VM")] = "",
    accept_damage: Annotated[bool, titled("Accept damage")] = False,
    image_format: Annotated[
        Literal["raw", "qcow2", "vhd"],
        refused_in_words("give raw, qcow2 or vhd"),
        titled("Format"),
    ] = "raw",
) -> State[Any]:
    """Write the disks of a version to images, every data block proved on its way.

    What is damaged in the data store is taken from the vault, if there is one, and that is said.

    Args:
        version: Its id from the list of versions, or four digits or more of the beginning; or "web,
            last good before 2026-11-20" (UTC), without "web," where the VM is given below.
        folder: On the machine that runs this, such as /restore; made if it is not there.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
        vm: Name or uuid; needed where the version is not an id.
        accept_damage: Where data is lost for good, write zeros and a map of them beside the image;
            otherwise the restore fails and names the bytes. Raw images only.
        image_format: Of the images: raw is sparse; qcow2 and vhd need qemu-img on the worker.
    """
    if not Path(folder).is_absolute():
        raise BadInput(
            f"{folder!r} does not say where to; give a folder from the root on, such as /restore,"
            " since a run's own folder is removed when the run is over"
        )
    require_possible(folder)
    require_format(image_format, accept_damage=accept_damage)
    here, run, stop = Site.named(site), this_run(), StopToken()
    try:
        with here.session(), run_claimed(here, run):
            chosen = choose_version(vm, version, site=here)
            wanted = DisksWanted(chosen, folder, from_vault, accept_damage, image_format)
            if here.restore_on_workers:
                back = restored_elsewhere(wanted, run=run, site=here, stop=stop)
            else:
                back = restored_here(wanted, run=run, site=here, stop=stop)
            show_restore(chosen.version, back.disks, site=here)
    except BaseException:
        stop.stop()
        raise
    return restored_state(back.disks, folder, back.notes)


def require_possible(folder: str) -> None:
    """Leave unless a file in this folder could be made, by its name.

    Raises:
        BadInput: The name is too long, or no name at all.
    """
    try:
        for path in (Path(folder), Path(folder, "x" * MAX_FILE_NAME)):
            with suppress(FileNotFoundError):
                path.stat()
    except (OSError, ValueError) as cause:
        why = getattr(cause, "strerror", None) or "no folder can be called so"
        raise BadInput(
            f"nothing can be restored to {shortened(folder)}: {why}; give another folder"
        ) from cause

"""Files: single files and folders of a guest, out of one version, or looked for in all of them."""

from typing import Annotated, Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName, VersionWords, refused_in_words, titled
from flows.restore import require_possible
from flows.runs import our_flow, this_run
from likeness.errors import BadInput, LikenessError
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.elsewhere import FilesLookedFor, looked_into_elsewhere
from tasks.files import FilesFound, FilesWanted, look_into, show_files
from tasks.outcomes import files_state
from tasks.restore_sources import Chosen, choose_version, versions_of

_Text = refused_in_words("give a text")


@our_flow("files of {vm} {version}")
def files(
    version: VersionWords = "",
    vm: Annotated[str, refused_in_words("give a VM's name or uuid"), titled("VM")] = "",
    path: Annotated[str, _Text, titled("Path")] = "",
    find: Annotated[str, _Text, titled("Find")] = "",
    every_version: Annotated[bool, titled("In every version")] = False,
    folder: Annotated[
        str, refused_in_words("give a folder"), titled("Take out into", pattern="^(/|$)")
    ] = "",
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
) -> State[Any]:
    """List, find or take out files of a guest; nothing is mounted, and no VM is started.

    Args:
        version: With a VM, words such as "last good before 2026-11-20" (UTC), or empty for the last
            good one; without one, "web, last good", or four digits or more of an id.
        vm: Name or uuid of the VM; needed where the version does not say.
        path: A volume and a path in it, such as 0-1/etc; empty to list the volumes.
        find: List what has this in its name, or is so named with * and ?, at or below the path.
        every_version: Look in all versions of the VM, the newest first, and say which have it.
        folder: Take the path out into this folder of the worker's machine; nothing is overwritten.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
    """
    here, run = Site.named(site), this_run()
    wanted = FilesWanted(path if path.strip() else "", find.strip(), folder.strip())
    if folder:
        require_possible(folder)
        if not folder.startswith("/"):
            raise BadInput(f"{folder!r} is no folder from the root on, such as /restore")
    if every_version and (folder or not (vm.strip() and find.strip())):
        raise BadInput("to look in every version, name the VM and what to find, and no folder")
    with here.session(), run_claimed(here, run):
        if every_version:
            found = _in_every_version(vm, wanted, from_vault=from_vault, run=run, site=here)
        else:
            chosen = choose_version(vm, version, site=here)
            found = _looked_into(chosen, wanted, from_vault=from_vault, run=run, site=here)
        show_files(found, f"{vm} {version}".strip() or "last good", site=here)
    return files_state(found)


def _looked_into(
    chosen: Chosen, wanted: FilesWanted, *, from_vault: bool, run: RunId, site: Site
) -> FilesFound:
    """By this worker or by whichever the site says."""
    if not site.restore_on_workers:
        return look_into(chosen, wanted, from_vault=from_vault, run=run, site=site)
    told, stop = FilesLookedFor(chosen, wanted, from_vault), StopToken()
    return looked_into_elsewhere(told, run=run, site=site, stop=stop)


def _in_every_version(
    vm: str, wanted: FilesWanted, *, from_vault: bool, run: RunId, site: Site
) -> FilesFound:
    """One version that cannot be read keeps no other from being looked into."""
    all_found = FilesFound()
    every = versions_of(vm, site=site)
    for chosen in every:
        try:
            found = _looked_into(chosen, wanted, from_vault=from_vault, run=run, site=site)
        except LikenessError as problem:
            get_run_logger().error("version %s: %s", chosen.version[:8], problem)
            all_found.troubles.append(f"version {chosen.version[:8]}: {problem}")
            continue
        for row in found.rows:
            all_found.add(**row)
        all_found.total += found.total - len(found.rows)
        all_found.troubles += found.troubles
    all_found.sentence = f"{all_found.total} found in {len(every)} versions"
    return all_found

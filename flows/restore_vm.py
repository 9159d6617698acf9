"""Restore: a whole VM, as a new one, or over one that is there."""

from typing import Annotated, Any

from prefect.client.schemas.objects import State

from blocks import Site
from flows.forms import SiteName, VersionWords, refused_in_words, titled
from flows.runs import our_flow, this_run
from likeness.errors import BadInput
from likeness.model.ids import RunId
from likeness.stopping import StopToken
from likeness.xen.owner import Owner
from tasks.claims import run_claimed
from tasks.elsewhere import vm_made_elsewhere
from tasks.outcomes import vm_back_state
from tasks.overwrite_vm import VmOverwrite, overwritten_vm
from tasks.reporting import show_vm_back
from tasks.restore_sources import choose_version
from tasks.restore_vm import VmBack, VmRestore, restored_vm

_Words = refused_in_words("give a text")
_Networks = refused_in_words("give names or uuids of networks, each with the one to use instead")


@our_flow("restore VM {vm}")
def restore_vm(
    vm: Annotated[str, refused_in_words("give a VM's name or uuid"), titled("VM", minLength=1)],
    version: VersionWords = "",
    new_name: Annotated[str, _Words, titled("New name")] = "",
    storage: Annotated[str, _Words, titled("Storage")] = "",
    networks: Annotated[dict[str, str] | None, _Networks, titled("Networks")] = None,
    keep_addresses: Annotated[bool, titled("Keep hardware addresses")] = False,
    start: Annotated[bool, titled("Start it")] = False,
    site: SiteName = "main",
    from_vault: Annotated[bool, titled("From the vault")] = False,
    pool: Annotated[str, _Words, titled("Into pool")] = "",
    overwrite: Annotated[str, _Words, titled("Overwrite this VM")] = "",
) -> State[Any]:
    """Make a new VM of a version, or write it over one; every data block is proved on its way.

    Until it is whole it cannot be started. When the restore fails nothing of a new VM is left, and
    one that was to be overwritten is what it was.

    Args:
        vm: Name or uuid of the VM that was backed up; it need not exist any more.
        version: Words such as "last good before 2026-11-20" (UTC), or four digits or more of an
            id; empty for the last good one.
        new_name: What the new VM is called; empty for the old name, with the version's date if a
            VM of that name is there.
        storage: Name or uuid of the storage for its disks; empty for the pool's default.
        networks: Old network to new network, each by name or uuid, or to "none" to leave the card
            out; needed only for a network that the pool does not have.
        keep_addresses: Give its network cards the hardware addresses (MAC) they had, instead of
            new ones.
        start: Start the VM when it is whole.
        site: Name of the Site block.
        from_vault: Read from the vault instead of the data store.
        pool: Name of the Xen Pool block of another pool to restore into; empty for the site's own.
        overwrite: Type the name of a VM, shut down, whose disks shall become the version's; where
            the pool has recorded its changes only what differs is written. Empty: a new VM.
    """
    if not vm.strip():
        raise BadInput("no VM was named; give the name or uuid of a VM that was backed up")
    if overwrite.strip() and (new_name or storage or networks or keep_addresses):
        raise BadInput(
            f"VM {overwrite} keeps its name, storage and network cards when it is overwritten;"
            " leave these fields empty, or leave Overwrite empty to make a new VM"
        )
    pool = pool.strip()
    here, run, stop = Site.named(site), this_run(), StopToken()
    try:
        with here.session(), run_claimed(here, run):
            version_wanted = choose_version(vm, version, site=here)
            if overwrite.strip():
                over = VmOverwrite(
                    version_wanted, overwrite, pool, start=start, from_vault=from_vault
                )
                back = overwritten_vm(over, run=run, site=here, stop=stop)
            else:
                wanted = VmRestore(
                    version=version_wanted,
                    name=new_name.strip(),
                    storage=storage,
                    networks=networks or {},
                    keep_addresses=keep_addresses,
                    start=start,
                    from_vault=from_vault,
                    pool=pool,
                )
                back = made_vm(wanted, run=run, site=here, stop=stop)
            show_vm_back(back, site=here)
    except BaseException:
        stop.stop()
        raise
    return vm_back_state(back)


def made_vm(wanted: VmRestore, *, run: RunId, site: Site, stop: StopToken) -> VmBack:
    """A new VM, restored by this worker or by whichever the site says."""
    if site.restore_on_workers:
        return vm_made_elsewhere(wanted, run=run, site=site, stop=stop)
    return restored_vm(wanted, owner=Owner(site.installation, run), site=site, stop=stop)

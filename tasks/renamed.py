"""VMs that a job means by a name they had once: the uuid stays, so they are known by it."""

from collections.abc import Sequence

from blocks import Site
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.model.ids import VmId, as_uuid
from likeness.model.outcome import VmOutcome
from likeness.xen.inventory import XenVm, list_vms
from tasks.retries import STEP, task


@task(task_run_name="look for VMs that were renamed", **STEP)
def find_renamed(
    unknown: Sequence[VmOutcome], vms: Sequence[XenVm], *, site: Site
) -> tuple[list[VmOutcome], list[XenVm], list[str]]:
    """Of names that the pool does not know, those of VMs that are there under another name.

    Args:
        unknown: What a job names that is not there.
        vms: What it means that is.
        site: The installation.

    Returns:
        What stays unknown, the VMs to back up with the others, and a sentence for each.
    """
    had: dict[str, set[VmId]] = {}
    for row in list_versions(site.catalog.file, system_clock(), None):
        had.setdefault(row.vm_name, set()).add(row.vm)
    if not any(each.name in had for each in unknown):
        return list(unknown), [], []
    with site.xen_pool.open() as xen:
        there = {vm.vm: vm for vm in list_vms(xen)}
    names = {vm.name for vm in there.values()}
    left, found, said = list[VmOutcome](), list[XenVm](), list[str]()
    for each in unknown:
        now = [there[vm] for vm in had.get(each.name, ()) if vm in there]
        if each.name in names or len(now) != 1:  # a name in use was not given up
            left.append(each)
            continue
        (vm,) = now
        if vm.vm not in {known.vm for known in (*vms, *found)}:
            found.append(vm)
        said.append(
            f"VM {each.name} was renamed to {vm.name} and is backed up as that; put the new name or"
            f" the uuid {as_uuid(vm.vm)} into the job"
        )
    return left, found, said

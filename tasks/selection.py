"""Which VMs a job means at this moment."""

from collections.abc import Sequence
from dataclasses import replace

from blocks import Site
from likeness.errors import BadInput, UnknownVm
from likeness.model.choosing import called, looks
from likeness.model.ids import VmId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.xen.inventory import (
    VmSelection,
    XenVm,
    list_vms,
    missing_hosts,
    select_vms,
    vm_called,
)
from likeness.xen.session import XenSession
from tasks.guests import guests_of
from tasks.retries import STEP, task


@task(task_run_name="select the VMs of {job.name}", **STEP)
def select_job_vms(job: BackupJob, *, site: Site) -> tuple[Sequence[XenVm], Sequence[VmOutcome]]:
    """The VMs of a job in the order to start them, and one failure for each name that is no VM.

    A name that no longer exists must not keep the other VMs from being backed up.

    Raises:
        BadInput: The job names nothing at all, or nothing that is there.
        HostUnreachable: The pool does not answer; tried again.
        LoginRefused: The pool does not accept the account.
    """
    if not job.means_something:
        raise BadInput(f"job {job.name!r} names no VM, tag, host or pool; add one to the job")
    with site.xen_pool.open() as xen:
        selected, unknown = vms_of(xen, job)
    if not selected and not unknown:
        raise BadInput(
            f"job {job.name!r} means no VM at this moment: none has one of its tags or runs on one"
            f" of its hosts, or all have the tag {job.excluded_tag!r} or another power state than"
            " it says; a backup of nothing must not look well"
        )
    return selected, unknown


def vms_of(xen: XenSession, job: BackupJob) -> tuple[Sequence[XenVm], list[VmOutcome]]:
    """The VMs a job means now, and what it names that is not there.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    everything = list_vms(xen)
    named, unknown = _named(everything, job.vms, xen.url)
    missing = missing_hosts(xen, hosts=job.hosts, pools=job.pools) | _near_tags(everything, job)
    unknown += [VmOutcome(n, VmState.FAILED, sentence=why) for n, why in missing.items()]
    wanted = VmSelection(
        names=tuple(vm.uuid for vm in named),
        tags=tuple(job.tags),
        hosts=tuple(job.hosts),
        pools=tuple(job.pools),
        power_states=tuple(job.power_states),
        excluded_tag=job.excluded_tag,
    )
    selected = select_vms(xen, wanted, everything)
    anyway = select_vms(xen, replace(wanted, power_states=(), excluded_tag=""), everything)
    unclear: dict[VmId, VmOutcome] = {}
    for name in dict.fromkeys((*job.exclude_disks, *job.only_disks)):
        if why := _not_clear(name, everything, anyway, xen.url):
            mine = {vm.vm: vm.name for vm in called(name, selected)}
            unclear |= {
                vm: VmOutcome(n, VmState.FAILED, vm, sentence=why) for vm, n in mine.items()
            }
            if not mine:
                unknown.append(VmOutcome(f"disks of {name}", VmState.FAILED, sentence=why))
    return [vm for vm in selected if vm.vm not in unclear], [*unknown, *unclear.values()]


def meant_by(xen: XenSession, job: BackupJob) -> dict[VmId, str]:
    """The VMs a job means now with their names, whether the pool or their guests are asked.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    vms = guests_of(job)[0] if job.from_inside else vms_of(xen, job)[0]
    return {vm.vm: vm.name for vm in vms}


def _named(
    everything: Sequence[XenVm], names: Sequence[str], url: str
) -> tuple[list[XenVm], list[VmOutcome]]:
    found, unknown = [], []
    for name in names:
        try:
            found.append(vm_called(name, everything, url))
        except BadInput as cause:
            unknown.append(VmOutcome(name, VmState.FAILED, sentence=str(cause)))
    return found, unknown


def _near_tags(everything: Sequence[XenVm], job: BackupJob) -> dict[str, str]:
    """Tags that no VM has, where one that looks the same is there; each with a sentence."""
    known = {tag for vm in everything for tag in vm.tags}
    near = {}
    for tag in set(job.tags) - known:
        if same := sorted(each for each in known if looks(each) == looks(tag)):
            near[f"tag {tag}"] = (
                f"no VM has the tag {tag!r}; there is {', '.join(map(repr, same))}; correct the job"
            )
    return near


def _not_clear(name: str, everything: Sequence[XenVm], meant: Sequence[XenVm], url: str) -> str:
    """Why it is not clear whose disks a job names; empty if they are those of one of its VMs.

    A VM that may be meant is not backed up: nobody knows which of its disks are wanted.
    """
    try:
        vm = vm_called(name, everything, url)
    except UnknownVm as cause:
        return f"disks are named of a VM, but {cause}"
    except BadInput as cause:
        return f"disks are named, but {cause}"
    if vm in meant:
        return ""
    return (
        f"the job names disks of VM {name!r}, which is not among its VMs; add the VM to the job, or"
        " take its disks out"
    )

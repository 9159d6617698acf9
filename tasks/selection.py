"""Which VMs a job means at this moment."""

from collections.abc import Sequence

from prefect import task

from blocks import Site
from likeness.errors import BadInput, UnknownVm
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.xen.inventory import VmSelection, XenVm, find_vm, missing_places, select_vms
from likeness.xen.session import XenSession
from tasks.retries import STEP


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
    named, unknown = _named(xen, job.vms)
    missing = missing_places(xen, hosts=job.hosts, pools=job.pools)
    unknown += [VmOutcome(n, VmState.FAILED, sentence=why) for n, why in missing.items()]
    wanted = VmSelection(
        names=tuple(vm.uuid for vm in named),
        tags=tuple(job.tags),
        hosts=tuple(job.hosts),
        pools=tuple(job.pools),
        power_states=tuple(job.power_states),
        excluded_tag=job.excluded_tag,
    )
    return select_vms(xen, wanted), unknown


def _named(xen: XenSession, names: Sequence[str]) -> tuple[list[XenVm], list[VmOutcome]]:
    found, unknown = [], []
    for name in names:
        try:
            found.append(find_vm(xen, name))
        except (UnknownVm, BadInput) as cause:
            unknown.append(VmOutcome(name, VmState.FAILED, sentence=str(cause)))
    return found, unknown

"""Back up the VMs of a job: snapshot, transfer, commit; a window of VMs at a time."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import failing_in_words, this_run
from flows.validate import validate
from flows.vault import vault
from likeness.clock import stopwatch, system_clock
from likeness.model.ids import RunId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome
from likeness.stopping import StopToken
from likeness.xen.inventory import XenVm
from likeness.xen.pacing import BandwidthCap
from tasks.catch_up import catch_up
from tasks.claims import job_claimed, run_claimed, vm_claimed
from tasks.commit import commit_version
from tasks.dashboard import job_shown
from tasks.dedup import drop_duplicates
from tasks.journal import finish_run, journaled
from tasks.notify import tell_aftermath, tell_failure, tell_job
from tasks.outcomes import failed_vm, final_state, finished_vm, untold_troubles
from tasks.progress import vm_at_work
from tasks.protect_catalog import copy_catalog
from tasks.reporting import announce_commit, show_job
from tasks.retries import ONCE
from tasks.selection import select_job_vms
from tasks.snapshot import release_snapshot, take_snapshot
from tasks.transfer import scratch_folder, transfer_disks
from tasks.validate import look_for_packs

WhenToValidate = Literal["in the background", "in this run"]
Job = Annotated[BackupJob, titled("Job")]
Validation = Annotated[WhenToValidate, titled("Validation")]


@flow(
    flow_run_name="back up {job.name}",
    persist_result=False,
    on_failure=[tell_failure],
    on_crashed=[tell_failure],
    on_cancellation=[tell_failure],
)
@failing_in_words
def backup_job(
    job: Job, site: SiteName = "main", validation: Validation = "in the background"
) -> State[Any]:
    """Back up every VM of one job; a VM that finishes makes room for the next.

    A VM that fails stops no other. What the job brought in is validated at once: by a run of its
    own that the commit event starts, or in this run, for Python without a Prefect server.

    Args:
        job: What to back up, and how.
        site: Name of the Site block; a name, so that no secret becomes a parameter.
        validation: By a run of its own that the commit event starts, or right here.
    """
    here, run = Site.named(site), this_run()
    with run_claimed(here, run), job_claimed(here, job.name):
        with journaled(run, job, site=here):
            catch_up(site=here)
            look_for_packs(run, site=here)
            vms, unknown = select_job_vms(job, site=here)
            with job_shown(vms, job, run, site=here):
                outcomes = [*unknown, *protect_all(vms, job, run, here)]
            finish_run(run, outcomes, site=here)
        announce_commit(site, run, outcomes)
        copied: State[Any] = copy_catalog(run, site=here, return_state=True)
        head = copied.result() if copied.is_completed() else ""
        show_job(job, outcomes, site=here, head=head)
        tell_job(job, run, outcomes, site=here, head=head)
    afterwards = [copied]
    if validation == "in this run":
        afterwards.append(validate(site=site, run=run, return_state=True))
    if job.vault:
        afterwards.append(vault(site=site, return_state=True))
    if troubles := untold_troubles(afterwards):
        tell_aftermath(job, run, troubles, site=here)
    return final_state(job, outcomes, afterwards)


def protect_all(vms: Sequence[XenVm], job: BackupJob, run: RunId, site: Site) -> list[VmOutcome]:
    """Keep as many VMs in flight as the job says, in list order, until all are done."""
    stop = StopToken()
    cap = BandwidthCap(job.bandwidth_mib << 20) if job.bandwidth_mib else None
    runner: ThreadPoolTaskRunner[VmOutcome] = ThreadPoolTaskRunner(max_workers=job.concurrency)
    with runner as window:
        futures = [
            window.submit(
                protect_vm,
                {"vm": vm, "job": job, "run": run, "site": site, "stop": stop, "cap": cap},
            )
            for vm in vms
        ]
        try:
            wait(list[PrefectFuture[VmOutcome]](futures))
        except BaseException:
            stop.stop()  # threads do not see a cancellation: every loop looks at this token
            raise
    return [outcome_of(vm, future) for vm, future in zip(vms, futures, strict=True)]


@task(task_run_name="protect {vm.name}", **ONCE)
def protect_vm(
    vm: XenVm,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    stop: StopToken,
    cap: BandwidthCap | None,
) -> VmOutcome:
    """Take one VM the whole way: snapshot, transfer, commit, global deduplication."""
    stop.check()
    with (
        vm_claimed(site, vm.vm, vm.name),
        scratch_folder(site, run) as scratch,
        vm_at_work(run, vm.vm),
    ):
        taken_at, begun = system_clock(), stopwatch()
        snapshot = take_snapshot(vm, job=job, run=run, site=site, stop=stop)
        committed = None
        try:
            receipt = transfer_disks(
                snapshot,
                job=job,
                run=run,
                site=site,
                scratch=scratch,
                taken_at=taken_at,
                stop=stop,
                cap=cap,
            )
            committed = commit_version(receipt, site=site)
            dropped = drop_duplicates(committed.packs, site=site)
        finally:
            note = release_snapshot(snapshot, site, committed=committed is not None)
        return finished_vm(committed.version, dropped, seconds=stopwatch() - begun, note=note)


def outcome_of(vm: XenVm, future: PrefectFuture[VmOutcome]) -> VmOutcome:
    """What became of a VM, whether its task finished, failed or was stopped."""
    try:
        return future.result()
    except Exception as problem:  # noqa: BLE001  # whatever it is, it is this VM's alone
        return failed_vm(vm, problem)

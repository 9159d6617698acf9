"""Back up the VMs of a job: snapshot, transfer, commit; a window of VMs at a time."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import Site
from flows.forms import SiteName, titled
from flows.runs import our_flow, this_run
from flows.validate import validate
from flows.vault import vault
from likeness.clock import stopwatch, system_clock
from likeness.errors import SharedDataGone
from likeness.model.ids import RunId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.write.receipts import TransferReceipt
from likeness.xen.inventory import XenVm
from likeness.xen.snapshots import XenSnapshot
from tasks.afterwards import Afterwards, told_once
from tasks.announcing import announce_commit
from tasks.catch_up import catch_up_and_list
from tasks.claims import job_claimed, run_claimed, vm_claimed, wait_for_earlier
from tasks.commit import Committed, commit_version, made_by_this_run, record_committed
from tasks.dashboard import job_shown, redrawn
from tasks.dedup import DedupOutcome, drop_duplicates
from tasks.delegate_machines import machines_kept
from tasks.delegates import delegate_for, require_enhanced
from tasks.guests import (
    GuestUnavailable,
    GuestVm,
    find_outside,
    guest_ready,
    select_guests,
    transfer_guest,
)
from tasks.job_plan import note_plan
from tasks.journal import finish_run, journaled
from tasks.known_ids import Sharing, known_ids_kept
from tasks.limits import slots_held
from tasks.notify import tell_aftermath, tell_job
from tasks.outcomes import done_before, failed_vm, final_state, finished_vm, untold_troubles
from tasks.progress import vm_at_work
from tasks.protect_catalog import copy_catalog
from tasks.renamed import find_renamed
from tasks.reporting import show_job, show_versions
from tasks.retries import ONCE, task
from tasks.selection import select_job_vms
from tasks.sentinel import unlike_nights_of
from tasks.snapshot import release_snapshot, settle_changes, take_snapshot
from tasks.transfer import scratch_folder, transfer_disks
from tasks.validate import check_presence

WhenToValidate = Literal["in the background", "in this run"]
AnyVm = XenVm | GuestVm
Job = Annotated[BackupJob, titled("Job")]
NOT_RECORDED = "the catalog does not know its version yet"
NOT_PLANNED = ("what was expected of this job was not kept", "the next job's is")
NOT_COMPARED = ("the night was not compared with others", "the watch does it")
NOT_SHOWN = ("the pages were not written", "the next job writes them")
NOT_DEDUPLICATED = "what other VMs have too was not dropped"
Validation = Annotated[WhenToValidate, titled("Validation")]


@our_flow("back up {job.name}")
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
    here, run, after = Site.named(site), this_run(), Afterwards()
    wait_for_earlier(here, run)
    with here.session(), run_claimed(here, run):
        with job_claimed(here, job.name):
            outcomes = back_up(job, run, site, here, after)
            with redrawn(site=here):
                report(job, run, outcomes, here, after)
                if job.vault or validation == "in this run":  # which may take hours
                    after.attempt(*NOT_SHOWN, show_versions, site=here)
        afterwards = []
        if validation == "in this run":
            afterwards.append(validate(site=site, run=run, return_state=True))
        if job.vault:
            afterwards.append(vault(site=site, return_state=True))
        if troubles := untold_troubles(afterwards):
            tell_aftermath(job, run, troubles, site=here)
        return final_state(job, outcomes, afterwards, after.warnings)


def back_up(
    job: BackupJob, run: RunId, name: str, site: Site, after: Afterwards
) -> list[VmOutcome]:
    """Make the versions, and tell the world that they are there."""
    with journaled(run, job, site=site):
        if job.source == "enhanced":
            require_enhanced(job, site=site)
        check_presence(run, catch_up_and_list(site=site), site=site)
        vms, unknown, after.warnings = chosen(job, site)
        made = made_by_this_run(run, site=site)
        left = [vm for vm in vms if vm.vm not in made]
        after.attempt(*NOT_PLANNED, note_plan, job, run, left, site=site)
        with (
            machines_kept(run, site),
            job_shown(left, job, run, site=site),
            known_ids_kept(run, site=site),
        ):
            outcomes = [*unknown, *protect_all(left, job, run, site)]
        outcomes += [done_before(made[vm.vm]) for vm in vms if vm.vm in made]
        announce_commit(name, run, [each.version for each in outcomes if each.version])
        after.warnings += told_once(
            (each.name, warning) for each in outcomes for warning in each.warnings
        )
        after.attempt(
            "how the job went is not in the catalog",
            "its versions are in the store",
            finish_run,
            run,
            outcomes,
            site=site,
        )
    return outcomes


def chosen(job: BackupJob, site: Site) -> tuple[Sequence[AnyVm], Sequence[VmOutcome], list[str]]:
    """The VMs of a job, a failure for each that is none, and what to warn of.

    For those that are read from inside the pool is not asked.
    """
    if job.from_inside:
        return *select_guests(job, site=site), []
    vms, unknown = select_job_vms(job, site=site)
    if not unknown:
        return vms, unknown, []
    unknown, renamed, said = find_renamed(unknown, vms, site=site)
    return [*vms, *renamed], unknown, list(said)


def report(
    job: BackupJob, run: RunId, outcomes: Sequence[VmOutcome], site: Site, after: Afterwards
) -> None:
    """Copy the catalog to the store, and tell people how the job went."""
    head = after.attempt(
        "no copy of the catalog was made", "the next job makes one", copy_catalog, run, site=site
    )
    after.warnings += after.attempt(*NOT_COMPARED, unlike_nights_of, run, site=site) or []
    after.attempt(
        *NOT_SHOWN,
        show_job,
        job,
        run,
        outcomes,
        site=site,
        head=head or "",
        warnings=after.warnings,
    )
    told = tuple(after.warnings)
    tell_job(job, run, outcomes, site=site, head=head or "", warnings=told)


def protect_all(vms: Sequence[AnyVm], job: BackupJob, run: RunId, site: Site) -> list[VmOutcome]:
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
    vm: AnyVm,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    stop: StopToken,
    cap: BandwidthCap | None,
) -> VmOutcome:
    """Take one VM the whole way: snapshot, transfer, commit, global deduplication.

    Once its version is in the store the VM is done, whatever the steps after it do.
    """
    stop.check()
    with (
        vm_claimed(site, vm.vm, vm.name),
        slots_held(vm, vm.name, run=run, site=site, stop=stop),
        scratch_folder(site, run) as scratch,
        vm_at_work(run, vm.vm),
        ExitStack() as held,
    ):
        frozen, committed = bring_in_and_commit(
            vm, held, job=job, run=run, site=site, scratch=scratch, stop=stop, cap=cap
        )
        after = Afterwards()
        alike = after.attempt(
            NOT_RECORDED, "the next run does", record_committed, committed, site=site
        )
        dropped = after.attempt(
            NOT_DEDUPLICATED,
            "the next validation does it",
            drop_duplicates,
            committed.packs,
            site=site,
        )
        return finished_vm(
            committed.version,
            dropped or DedupOutcome(0, 0),
            seconds=frozen.seconds,
            notes=(frozen.note, alike or ""),
            read_by=frozen.receipt.read_by,
            cpu_seconds=frozen.receipt.cpu_seconds,
            warnings=after.warnings,
        )


def bring_in_and_commit(
    vm: AnyVm,
    held: ExitStack,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    scratch: Path,
    stop: StopToken,
    cap: BandwidthCap | None,
) -> tuple["BroughtIn", Committed]:
    """Transfer a VM and make it a version.

    Where data that others brought was relied on, and is gone by now, the VM is read once more.
    """
    sharing = Sharing()
    while True:
        frozen = bring_in(
            vm, job=job, run=run, site=site, scratch=scratch, stop=stop, cap=cap, sharing=sharing
        )
        held.callback(frozen.receipt.discard)
        committed = None
        try:
            committed = commit_version(frozen.receipt, site=site)
            return frozen, committed
        except SharedDataGone as cause:
            if not sharing.allowed:
                raise
            get_run_logger().warning("%s; it is read once more now", cause)
            gone = sharing.gone | cause.chunks
            sharing = Sharing(allowed=not sharing.gone, gone=gone)
        finally:
            now = committed is not None and committed.receipt is not None
            if frozen.snapshot is not None:
                settle_changes(frozen.snapshot, site, committed=now)


@dataclass(frozen=True, slots=True)
class BroughtIn:
    """What a transfer left in the store's inbox, and the snapshot that is gone by now.

    Attributes:
        snapshot: What was read; only its records of changes are still in the pool. None where the
            guest froze itself.
        receipt: What to commit.
        seconds: How long the snapshot existed.
        note: What is still there of it, in words; empty if nothing is.
    """

    snapshot: XenSnapshot | None
    receipt: TransferReceipt
    seconds: float
    note: str


def bring_in(
    vm: AnyVm,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    scratch: Path,
    stop: StopToken,
    cap: BandwidthCap | None,
    sharing: Sharing = Sharing(),  # noqa: B008  # frozen
) -> BroughtIn:
    """Freeze a VM and send its data; the snapshot lives until the last byte is read, no longer.

    Whatever waits for the store afterwards must not make the pool's chains of disks grow.
    """
    if isinstance(vm, GuestVm):
        return bring_in_from_inside(
            vm, job=job, run=run, site=site, scratch=scratch, stop=stop, cap=cap
        )
    with delegate_for(vm, job=job, run=run, site=site, scratch=scratch, stop=stop) as delegate:
        taken_at, begun = system_clock(), stopwatch()
        made: list[XenSnapshot] = []
        receipt = None
        try:
            snapshot = take_snapshot(vm, job=job, run=run, site=site, stop=stop, tell=made.append)
            receipt = transfer_disks(
                snapshot,
                job=job,
                run=run,
                site=site,
                scratch=scratch,
                taken_at=taken_at,
                stop=stop,
                cap=cap,
                delegate=delegate,
                sharing=sharing,
            )
        finally:  # the snapshot may be there although its step failed
            notes = [release_snapshot(each, site, read=receipt is not None) for each in made]
            seconds = stopwatch() - begun
    return BroughtIn(snapshot, receipt, seconds, "".join(notes))


def bring_in_from_inside(
    vm: GuestVm,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    scratch: Path,
    stop: StopToken,
    cap: BandwidthCap | None,
) -> BroughtIn:
    """Let a guest freeze and send its own disks; if it cannot, a delegate, where the job says so.

    What fails once the guest has begun is its failure: another way would hide it.
    """
    with ExitStack() as held:
        try:
            ready = held.enter_context(
                guest_ready(vm, job=job, run=run, site=site, scratch=scratch, stop=stop)
            )
        except GuestUnavailable as cause:
            if job.source == "qhybrid":
                raise
            why = f"{cause}; read by a delegate instead"
            get_run_logger().warning("%s", why)
        else:
            begun = stopwatch()
            receipt = transfer_guest(ready, job=job, run=run, site=site, scratch=scratch, stop=stop)
            return BroughtIn(None, receipt, stopwatch() - begun, "")
    outside = job.model_copy(update={"source": "enhanced"})
    found = find_outside(vm, site=site)
    brought = bring_in(found, job=outside, run=run, site=site, scratch=scratch, stop=stop, cap=cap)
    return replace(brought, note="; ".join(filter(None, (why, brought.note))))


def outcome_of(vm: AnyVm, future: PrefectFuture[VmOutcome]) -> VmOutcome:
    """What became of a VM, whether its task finished, failed or was stopped."""
    try:
        return future.result()
    except Exception as problem:  # noqa: BLE001  # whatever it is, it is this VM's alone
        return failed_vm(vm, problem)

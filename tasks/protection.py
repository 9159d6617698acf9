"""Which VMs of the pool no job protects: what the deployments say against what the pool has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect import get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from pydantic import ValidationError

from blocks import Site
from catalog.versions import list_vms as list_backed_up
from likeness.model.ids import VmId
from likeness.model.job import BackupJob
from likeness.xen.inventory import XenVm, list_vms
from tasks.last_results import JOB_FLOW
from tasks.retries import STEP
from tasks.selection import vms_of

_PAGE = 200


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A deployment of a backup job.

    Attributes:
        job: What it backs up.
        starts_by_itself: Whether one of its schedules is switched on.
    """

    job: BackupJob
    starts_by_itself: bool


@dataclass(frozen=True, slots=True)
class Unprotected:
    """A VM that no job will back up by itself.

    Attributes:
        vm: Which.
        name: What its owner calls it.
        power_state: As the pool says.
        size_bytes: Of its disks together.
        reason: Why it is unprotected, in words.
        last_taken_at: When its newest version was taken; none if it has none.
    """

    vm: VmId
    name: str
    power_state: str
    size_bytes: int
    reason: str
    last_taken_at: datetime | None


@task(task_run_name="read the jobs of {site_name}", **STEP)
def planned_jobs(site_name: str) -> list[PlannedJob]:
    """The jobs that are deployed for a site; one that cannot be read is logged and left out."""
    found = []
    for deployment in _deployments():
        if deployment.parameters.get("site", "main") != site_name:
            continue
        try:
            job = BackupJob.model_validate(deployment.parameters.get("job"))
        except ValidationError:
            get_run_logger().warning(
                "deployment %s has no job that can be run; correct its parameters", deployment.name
            )
            continue
        on = any(each.active for each in deployment.schedules) and not deployment.paused
        found.append(PlannedJob(job, on))
    return found


@task(task_run_name="compare the jobs with the pool", **STEP)
def find_unprotected(jobs: Sequence[PlannedJob], *, site: Site) -> tuple[Unprotected, ...]:
    """VMs that no job means, or only jobs that nothing starts, by name.

    Raises:
        HostUnreachable: The pool does not answer; tried again.
        LoginRefused: The pool does not accept the account.
    """
    taken = {row.vm: row.last_taken_at for row in list_backed_up(site.catalog.file)}
    with site.xen_pool.open() as xen:
        everything = list_vms(xen)
        meant = [(planned, {vm.vm for vm in vms_of(xen, planned.job)[0]}) for planned in jobs]
    found = []
    for vm in everything:
        mine = [planned for planned, vms in meant if vm.vm in vms]
        if not any(planned.starts_by_itself for planned in mine):
            found.append(
                Unprotected(
                    vm.vm,
                    vm.name,
                    vm.power_state,
                    vm.size_bytes,
                    _reason(vm, mine, jobs),
                    taken.get(vm.vm),
                )
            )
    return tuple(found)


def _reason(vm: XenVm, mine: Sequence[PlannedJob], jobs: Sequence[PlannedJob]) -> str:
    if mine:
        names = ", ".join(repr(planned.job.name) for planned in mine)
        return f"it is in job {names}, which no schedule starts; switch a schedule on"
    tags = sorted({planned.job.excluded_tag for planned in jobs}.intersection(vm.tags))
    if tags:
        return f"its tag {tags[0]!r} keeps it out of every job; take the tag off if that is wrong"
    return "no job means it; add it to one by its name, a tag or its host"


def _deployments() -> list[DeploymentResponse]:
    jobs = FlowFilter(name=FlowFilterName(any_=[JOB_FLOW]))
    found: list[DeploymentResponse] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_deployments(flow_filter=jobs, limit=_PAGE, offset=len(found))
            found += page
            if len(page) < _PAGE:
                return found

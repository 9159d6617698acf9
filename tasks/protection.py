"""Which VMs of the pool no job protects: what the deployments say against what the pool has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.responses import DeploymentResponse
from pydantic import ValidationError

from blocks import Site
from catalog.versions import list_vms as list_backed_up
from likeness.model.ids import VmId
from likeness.model.job import BackupJob
from tasks.last_results import JOB_FLOW
from tasks.pool_view import PlannedJob, look_at_pool
from tasks.retries import STEP, task

_PAGE = 200


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
    return tuple(
        Unprotected(
            each.vm,
            each.name,
            each.power_state,
            each.size_bytes,
            each.reason,
            taken.get(each.vm),
        )
        for each in look_at_pool(jobs, site=site).vms
        if not each.starts_by_itself
    )


def _deployments() -> list[DeploymentResponse]:
    jobs = FlowFilter(name=FlowFilterName(any_=[JOB_FLOW]))
    found: list[DeploymentResponse] = []
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_deployments(flow_filter=jobs, limit=_PAGE, offset=len(found))
            found += page
            if len(page) < _PAGE:
                return found

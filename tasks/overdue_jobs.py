"""What is overdue of jobs: runs that did not begin, paused schedules, pools without a worker."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterStartTime,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from likeness.model.job import BackupJob
from likeness.model.sizes import readable_age
from tasks.last_results import ELSEWHERE, JOB_FLOW, OUR_FLOWS, what_is
from tasks.overdue import Cause

BY_HAND = "by-hand"
"""The tag of a deployment that only people start."""
_PAGE = 200


@dataclass(frozen=True, slots=True)
class FlowDeployment:
    """A deployment of one of our flows.

    Attributes:
        flow: The flow's name.
        deployment: As Prefect knows it.
    """

    flow: str
    deployment: DeploymentResponse

    @property
    def what(self) -> str:
        """What it is called when people are told of it."""
        what = what_is(self.flow, self.deployment.parameters)
        return f"{what} (deployment {self.deployment.name})"


def overdue_jobs(
    site_name: str, now: datetime, patience: timedelta | None, *, vault: bool
) -> list[Cause]:
    """What Prefect does not do for a site.

    Args:
        site_name: Name of the Site block.
        now: The present.
        patience: For how long a job may go without a run; for ever if none.
        vault: Whether the site has one, which something must fill.
    """
    found: list[Cause] = []
    with get_client(sync_client=True) as client:
        ours = [
            each
            for each in deployed(client)
            if each.deployment.parameters.get("site", "main") == site_name
            and (vault or each.flow != "vault")
        ]
        for each in ours:
            key = f"{each.flow} {each.deployment.id}"
            if problem := _schedule_problem(each):
                found.append(Cause(f"schedule {key}", problem))
            if patience is not None and (problem := _idle_problem(client, each, now, patience)):
                found.append(Cause(f"run {key}", problem))
        pools = {each.deployment.work_pool_name for each in ours}
        found += _idle_pools(client, sorted(pool for pool in pools if pool))
    return found


def deployed(
    client: SyncPrefectClient, *, asked_by: UUID | None = None
) -> Sequence[FlowDeployment]:
    """Every deployment of our flows, of whatever site.

    Args:
        client: Of the server.
        asked_by: What this run was told is good enough, if it has asked.
    """
    if asked_by is not None and (told := _asked.get(asked_by)) is not None:
        return told
    found = tuple(_deployed(client))
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    _asked.clear()
    if run is not None:
        _asked[run.id] = found
    return found


_asked: dict[UUID, Sequence[FlowDeployment]] = {}
"""What this process was told last, by the run that asked."""


def _deployed(client: SyncPrefectClient) -> Iterator[FlowDeployment]:
    ours = FlowFilter(name=FlowFilterName(any_=[*OUR_FLOWS, *ELSEWHERE]))
    flows = {each.id: each.name for each in client.read_flows(flow_filter=ours)}
    offset = 0
    while True:
        page = client.read_deployments(flow_filter=ours, limit=_PAGE, offset=offset)
        yield from (
            FlowDeployment(flows[each.flow_id], each) for each in page if each.flow_id in flows
        )
        offset += _PAGE
        if len(page) < _PAGE:
            return


def _schedule_problem(each: FlowDeployment) -> str:
    """Why nothing starts it by itself though something should; empty if all is well."""
    deployment = each.deployment
    if each.flow == JOB_FLOW and not _is_job(deployment.parameters.get("job")):
        return f"{each.what} has no job that can be run; correct its parameters"
    off = [schedule for schedule in deployment.schedules if not schedule.active]
    if off or (deployment.paused and deployment.schedules):
        return f"a schedule of {each.what} is paused; resume it, or delete it if that is meant"
    if each.flow == JOB_FLOW and not deployment.schedules and BY_HAND not in deployment.tags:
        return f"no schedule starts {each.what}; give it one, or the tag {BY_HAND!r} if people do"
    return ""


def _is_job(parameter: object) -> bool:
    try:
        BackupJob.model_validate(parameter)
    except ValidationError:
        return False
    return True


def _idle_problem(
    client: SyncPrefectClient, each: FlowDeployment, now: datetime, patience: timedelta
) -> str:
    """Why a job's deployment should have run and has not; empty if all is well."""
    deployment = each.deployment
    on = [schedule for schedule in deployment.schedules if schedule.active]
    if each.flow != JOB_FLOW or not on or deployment.paused:
        return ""
    last = _last_begun(client, deployment, now)
    began = [deployment.created, *(schedule.updated for schedule in on), last]
    since = max((at for at in began if at is not None), default=now)
    if now - since <= patience:
        return ""
    ran = f"since {last:%Y-%m-%d %H:%M} UTC" if last else "yet"
    age = readable_age(now - since)
    return f"{each.what} has not run {ran}, for {age}; see its worker and Prefect's scheduler"


def _last_begun(
    client: SyncPrefectClient, deployment: DeploymentResponse, now: datetime
) -> datetime | None:
    begun = FlowRunFilterStartTime.model_validate({"before_": now, "is_null_": False})
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]), start_time=begun
        ),
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    return runs[0].start_time if runs else None


def has_live_worker(client: SyncPrefectClient, pool: str) -> bool:
    """Whether any worker of a work pool gave a sign of life lately, busy or not.

    Raises:
        ObjectNotFound: There is no such pool.
    """
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    return bool(client.read_workers_for_work_pool(pool, worker_filter=online, limit=1))


def _idle_pools(client: SyncPrefectClient, names: Iterable[str]) -> Iterator[Cause]:
    for name in names:
        try:
            paused = client.read_work_pool(name).is_paused
            workers = has_live_worker(client, name)
        except ObjectNotFound:
            yield Cause(f"work pool {name}", f"there is no work pool {name!r}; make it again")
            continue
        if paused:
            yield Cause(f"work pool {name}", f"work pool {name!r} is paused; resume it")
        if not workers:
            yield Cause(
                f"worker {name}",
                f"work pool {name!r} has no live worker; start one with: prefect worker start"
                f" --pool {name}",
            )

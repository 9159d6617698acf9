"""Runs that nobody would tell of: dead ones that hold their deployment's turn, skipped, late ones.

A run that never began, or whose machine lost power, calls no hook. So the sweep looks through what
Prefect knows of this site's runs.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed

from blocks import Site
from catalog import messages
from likeness.clock import system_clock
from likeness.model.ids import RunId
from tasks.claims import is_live
from tasks.failure_letters import late_letter
from tasks.failures import FailedRun, tell_of
from tasks.last_results import JOB_FLOW, OUR_FLOWS
from tasks.notify import channels
from tasks.outcomes import is_told_otherwise
from tasks.retries import STEP, task
from tasks.run_processes import had_time_to_begin, has_process, is_elsewhere

DIED = "Its process is gone without a word: it was killed, or the machine went down."
ONE_WAITS = "A run of the same job waits already, so this one will not run."
_OPEN = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_ENDED_BADLY = (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
_LOOKED_BACK = timedelta(days=2)
_HOOKS_TIME = timedelta(minutes=2)
_SECOND_LOOK_SECONDS = 2.0
_LATE_AFTER = timedelta(hours=1)
_PAGE = 200


@dataclass(frozen=True, slots=True)
class LostRuns:
    """What came of looking for them.

    Attributes:
        freed: Dead runs that hold no turn any more.
        dropped: Runs that would have waited behind one that waits.
        told: Runs that people were told of now.
    """

    freed: int = 0
    dropped: int = 0
    told: int = 0


@task(task_run_name="look for runs that died or never began", **STEP)
def settle_lost_runs(this: RunId, *, site_name: str, site: Site) -> LostRuns:
    """End dead runs at once, keep one waiting run of each job, and tell of those nobody told of.

    Args:
        this: The run that looks.
        site_name: Name of the Site block.
        site: The installation.
    """
    now = system_clock()
    with get_client(sync_client=True) as client:
        names = {each.id: each.name for each in client.read_flows(flow_filter=_our_flows())}
        found = [
            run
            for run in _runs(client, now)
            if run.parameters.get("site", "main") == site_name and run.id.hex != this
        ]
        dead = _dead_twice(client, site, found)
        for run in dead:
            client.set_flow_run_state(run.id, Crashed(message=DIED), force=True)
            get_run_logger().warning("run %s is dead; its turn is free again", run.name)
        spare = list(_spare(found, names))
        for run in spare:
            client.set_flow_run_state(run.id, Cancelled(message=ONE_WAITS), force=True)
        ended = [client.read_flow_run(run.id) for run in (*dead, *spare)]
    told = [_tell(site, names, run) for run in ended if run.parent_task_run_id is None]
    told += [_tell(site, names, run) for run in found if _is_untold(run, now)]
    told += [
        _tell_late(site, run) for run in found if _is_late(run, names, now) and run not in spare
    ]
    return LostRuns(len(dead), len(spare), sum(told))


def _our_flows() -> FlowFilter:
    return FlowFilter(name=FlowFilterName(any_=list(OUR_FLOWS)))


def _runs(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """Runs that are open, those due in the last days, and what waits since then."""
    since = FlowRunFilterExpectedStartTime.model_validate(
        {"after_": now - _LOOKED_BACK, "before_": now}
    )
    ended = (*_ENDED_BADLY, StateType.SCHEDULED)
    of_late = _page_by_page(
        client,
        FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ended))),
            expected_start_time=since,
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
        ),
    )
    still = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_OPEN)))
    return [*of_late, *_page_by_page(client, FlowRunFilter(state=still))]


def _page_by_page(client: SyncPrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_filter=_our_flows(),
            flow_run_filter=wanted,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=_PAGE,
            offset=len(found),
        )
        found += page
        if len(page) < _PAGE:
            return found


def _dead_twice(client: SyncPrefectClient, site: Site, found: Sequence[FlowRun]) -> list[FlowRun]:
    """Open runs without a process, at two looks: one that ends meanwhile is none."""
    doubted = [run for run in found if _is_dead(site, run)]
    if doubted:
        time.sleep(_SECOND_LOOK_SECONDS)
    again = [client.read_flow_run(run.id) for run in doubted]
    return [run for run in again if _is_dead(site, run)]


def _is_dead(site: Site, run: FlowRun) -> bool:
    """Whether a run that Prefect calls open has no process any more.

    Only of a deployment's run that can be said: others may be on any machine, and hold no turn.
    """
    state = run.state
    if state is None or state.type not in _OPEN or run.deployment_id is None:
        return False
    return (
        not is_elsewhere(run.infrastructure_pid)
        and had_time_to_begin(state.timestamp, system_clock())
        and not is_live(site, RunId(run.id.hex))
        and not has_process(run.id)
    )


def _spare(found: Sequence[FlowRun], names: dict[UUID, str]) -> Iterable[FlowRun]:
    """Of the same job with the same parameters one run may wait; those behind it may not."""
    waiting: dict[str, list[FlowRun]] = defaultdict(list)
    for run in found:
        waits = run.state is not None and run.state.name == "AwaitingConcurrencySlot"
        if waits and names.get(run.flow_id) == JOB_FLOW:
            waiting[f"{run.deployment_id} {run.parameters}"].append(run)
    for runs in waiting.values():
        yield from runs[1:]


def _is_untold(run: FlowRun, now: datetime) -> bool:
    """Whether a run ended badly, and its own hook would have told of it by now."""
    state = run.state
    return (
        state is not None
        and state.type in _ENDED_BADLY
        and not is_told_otherwise(state)
        and now - state.timestamp > _HOOKS_TIME
    )


def _is_late(run: FlowRun, names: dict[UUID, str], now: datetime) -> bool:
    """Whether a job's run should have begun an hour ago."""
    return (
        names.get(run.flow_id) == JOB_FLOW
        and run.state is not None
        and run.state.type is StateType.SCHEDULED
        and run.expected_start_time is not None
        and now - run.expected_start_time > _LATE_AFTER
    )


def _tell(site: Site, names: dict[UUID, str], run: FlowRun) -> bool:
    return tell_of(site, FailedRun.of(names.get(run.flow_id, ""), run, run.state))


def _tell_late(site: Site, run: FlowRun) -> bool:
    job = FailedRun.of(JOB_FLOW, run, run.state).job
    waits = run.state is not None and run.state.name == "AwaitingConcurrencySlot"
    why = "It waits for the run before it." if waits else "No worker has taken it."
    letter = late_letter(job, RunId(run.id.hex), run.expected_start_time or system_clock(), why)
    return messages.write_message(site.catalog.file, letter, channels(site), system_clock())

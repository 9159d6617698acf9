"""How the last run of each job and of each other flow ended, as Prefect knows it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL

from likeness.clock import stopwatch
from tasks.reports import cell

JOB_FLOW = "backup-job"
OUR_FLOWS = (
    *(JOB_FLOW, "validate", "vault", "check-vault", "keep-vault", "refill", "protect", "rehearse"),
    *("sweep", "restore-disks", "restore-vm", "unprotected", "watch", "examine-site", "plan"),
)
"""Those that run on the catalog's host, and claim their run there."""
ELSEWHERE = ("prove-packs", "work-elsewhere")
"""Those that run anywhere: nobody here can tell whether their process lives."""
_ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
_LOOKED_AT = 100
_OLD_AFTER = timedelta(days=2)
_MAX_WORDS = 300
_KNOWN_FOR_SECONDS = 600.0
_OVERLAP = timedelta(minutes=1)  # a run's end is written down later than it ended


@dataclass(frozen=True, slots=True)
class LastResult:
    """How the last run of something ended.

    Attributes:
        what: Such as ``job nightly`` or ``vault``.
        state: Prefect's name of how it ended.
        well: Whether that is well.
        ended_at: When.
        message: What it said.
        good_at: When a run last ended well, among those looked at.
    """

    what: str
    state: str
    well: bool
    ended_at: datetime
    message: str
    good_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    """What this process was told already: a page is drawn at a run's beginning and at its end.

    Attributes:
        runs: That ended, by flow, the newest first.
        told_at: When all of them were asked for.
    """

    runs: dict[str, list[FlowRun]]
    told_at: float

    def newest(self) -> datetime | None:
        """When the last of them ended; none if all must be asked for again."""
        if stopwatch() - self.told_at > _KNOWN_FOR_SECONDS:
            return None
        ends = [runs[0].end_time for runs in self.runs.values() if runs]
        return max((end for end in ends if end is not None), default=None)

    def add(self, newer: Sequence[FlowRun]) -> bool:
        """Add runs that ended since, the newest first; whether it is known what each is one of."""
        flows = {runs[0].flow_id: runs for runs in self.runs.values() if runs}
        for run in reversed(newer):
            runs = flows.get(run.flow_id)
            if runs is None:
                return False
            runs[:] = [run, *(each for each in runs if each.id != run.id)][:_LOOKED_AT]
        return len(newer) < _LOOKED_AT


_known: dict[str | None, _Known] = {}


def last_results(site_name: str) -> list[LastResult]:
    """Of each job and each other flow of a site that has run; nothing if Prefect is away."""
    found: list[LastResult] = []
    with suppress(Exception), get_client(sync_client=True) as client:
        for flow, ended in _all_ended(client).items():
            runs: dict[str, list[FlowRun]] = {}
            for run in ended:
                if run.parameters.get("site", "main") == site_name:
                    runs.setdefault(what_is(flow, run.parameters), []).append(run)
            found += [_result(what, each) for what, each in sorted(runs.items())]
    return found


def _all_ended(client: SyncPrefectClient) -> dict[str, list[FlowRun]]:
    """By flow; only what ended since is asked for where the rest is known."""
    server = PREFECT_API_URL.value()
    known = _known.get(server)
    newest = known.newest() if known else None
    if known and newest and known.add(_ended(client, *OUR_FLOWS, after=newest - _OVERLAP)):
        return known.runs
    runs = _every_ended(client)
    _known[server] = _Known(runs, stopwatch())
    return runs


def _every_ended(client: SyncPrefectClient) -> dict[str, list[FlowRun]]:
    """By flow; where all flows together have few runs, one question tells of all."""
    together = _ended(client, *OUR_FLOWS)
    if len(together) == _LOOKED_AT:
        return {flow: _ended(client, flow) for flow in OUR_FLOWS}
    of_ours = FlowFilter(name=FlowFilterName(any_=list(OUR_FLOWS)))
    names = {flow.id: flow.name for flow in client.read_flows(flow_filter=of_ours)}
    return {flow: [run for run in together if names.get(run.flow_id) == flow] for flow in OUR_FLOWS}


def what_is(flow: str, parameters: Mapping[str, Any]) -> str:
    """What a run is one of, in words."""
    if flow != JOB_FLOW:
        return {"examine-site": "doctor"}.get(flow, flow.removesuffix("-disks"))
    job = parameters.get("job")
    name = job.get("name") if isinstance(job, Mapping) else getattr(job, "name", None)
    return f"job {name or 'without a name'}"


def _ended(client: SyncPrefectClient, *flows: str, after: datetime | None = None) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(flows))),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_ENDED))),
            end_time=FlowRunFilterEndTime.model_validate({"after_": after}) if after else None,
            parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
        ),
        sort=FlowRunSort.END_TIME_DESC,
        limit=_LOOKED_AT,
    )


def _result(what: str, runs: Sequence[FlowRun]) -> LastResult:
    """Of runs of one thing, the newest first."""
    states = [run.state for run in runs if run.state is not None]
    good = [each.timestamp for each in states if each.is_completed()]
    last = states[0]
    return LastResult(
        what,
        last.name or "",
        last.is_completed(),
        last.timestamp,
        last.message or "",
        max(good, default=None),
    )


def result_lines(results: Sequence[LastResult], now: datetime) -> Iterator[str]:
    """A table of them; what ended long ago is stale, however well it ended."""
    yield from ("## Last results", "")
    if not results:
        yield from ("No run is known.", "")
        return
    yield "| | what | ended | as | last ended well | said |"
    yield "|---|---|---|---|---|---|"
    for each in results:
        old = now - each.ended_at > _OLD_AFTER and not each.what.startswith("restore")
        mark = "❌" if not each.well else "🟠" if old or "With" in each.state else "✅"
        good = f"{each.good_at:%Y-%m-%d %H:%M}" if each.good_at else "not lately"
        said = cell(each.message[:_MAX_WORDS])
        yield (
            f"| {mark} | {cell(each.what)} | {each.ended_at:%Y-%m-%d %H:%M} |"
            f" {each.state} | {good} | {said} |"
        )
    yield from ("", "✅ well · ❌ not · 🟠 with warnings, or more than two days ago", "")

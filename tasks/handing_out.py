"""Work for other workers: a run is started for it, waited for, and what it found is taken back.

A worker elsewhere needs the site's blocks, the store and its key file; it never opens the catalog.
What it finds travels through the server. Whoever hands work out decides what becomes of it where
nothing comes back: because no worker began, because one died, because one hangs.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact, State
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from likeness.clock import stopwatch
from tasks.overdue_jobs import deployed, has_live_worker
from tasks.progress import every_few_seconds

LOOK_EVERY_SECONDS = 1.0
_KIND = "findings"
_BEGIN_WITHIN_SECONDS = 180.0
_SILENT_SECONDS = 60.0  # without a sign of life: its worker is gone


@dataclass
class HandedOut:
    """A run elsewhere.

    Attributes:
        run: Its id.
        sign: Of life, the last that was seen.
        since: When that was.
    """

    run: UUID
    sign: object = None
    since: float = field(default_factory=stopwatch)


def deployment_for(client: SyncPrefectClient, flow: str, site: str) -> UUID:
    """The deployment whose runs do such work for a site.

    Raises:
        LookupError: There is none.
    """
    for each in deployed(client):
        if each.flow == flow and each.deployment.parameters.get("site", "main") == site:
            return each.deployment.id
    raise LookupError(f"there is no deployment of {flow} for site {site}")


def hand_out(
    client: SyncPrefectClient, deployment: UUID, parameters: Mapping[str, Any]
) -> HandedOut:
    """Start a run, on whatever worker takes it first."""
    made = client.create_flow_run_from_deployment(deployment, parameters=dict(parameters))
    return HandedOut(made.id)


def is_over(client: SyncPrefectClient, work: HandedOut, *, by_nobody_else: bool = False) -> bool:
    """Whether nothing more is to be waited for; a run that hangs is given up.

    Args:
        client: Of the server.
        work: What was handed out.
        by_nobody_else: Wait for as long as its work pool has a worker, however busy.
    """
    run = client.read_flow_run(work.run)
    state = run.state
    if state is None or state.is_final():
        return True
    left = _left_by(client, work.run)
    sign = left.updated if left is not None else None
    if sign != work.sign:
        work.sign, work.since = sign, stopwatch()
    patience = _SILENT_SECONDS if sign is not None else _BEGIN_WITHIN_SECONDS
    if stopwatch() - work.since < patience:
        return False
    if by_nobody_else and state.is_scheduled() and _has_worker(client, run.work_pool_name):
        work.since = stopwatch()
        return False
    with suppress(Exception):
        gone: State[Any] = Cancelled(message="no sign of life; its work is done by others")
        client.set_flow_run_state(work.run, gone, force=True)
    return True


def _has_worker(client: SyncPrefectClient, pool: str | None) -> bool:
    try:
        return pool is not None and has_live_worker(client, pool)
    except ObjectNotFound:
        return False


def taken_back(client: SyncPrefectClient, work: HandedOut) -> str:
    """What a run has handed back, taken from the server; empty if it left nothing."""
    left = _left_by(client, work.run)
    if left is None:
        return ""
    with suppress(Exception):
        client.delete_artifact(left.id)
    return str(left.data or "")


def _left_by(client: SyncPrefectClient, run: UUID) -> Artifact | None:
    """What a run has left at the server so far."""
    mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
    return next((e for e in client.read_artifacts(artifact_filter=mine) if e.type == _KIND), None)


@contextmanager
def handing_back(
    run: UUID, so_far: Callable[[], str]
) -> Generator[Callable[[str], None], None, None]:
    """In the run elsewhere: it shows every few seconds that it is alive, and what it found.

    Args:
        run: This one.
        so_far: How far it is, in words.

    Yields:
        Hands the findings back; where the server does not take them that is raised.
    """
    with get_client(sync_client=True) as client:
        mine = client.create_artifact(ArtifactCreate(type=_KIND, data="", flow_run_id=run)).id

    def alive() -> None:
        with suppress(Exception), get_client(sync_client=True) as client:
            client.update_artifact(mine, ArtifactUpdate(description=so_far()))

    def hand_back(text: str) -> None:
        with get_client(sync_client=True) as client:
            client.update_artifact(mine, ArtifactUpdate(data=text))

    with every_few_seconds(alive, "findings"):
        yield hand_back

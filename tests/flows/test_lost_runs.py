"""Runs that died with their machine, were skipped or are late: their turn is free, people know."""

import os
import uuid
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    FlowRun,
    State,
    StateType,
)
from prefect.states import Cancelled, Pending, Running, Scheduled

from flows.backup import backup_job
from flows.sweep import sweep
from likeness.clock import system_clock
from likeness.model.ids import RunId
from tasks.claims import run_claimed
from tasks.run_processes import had_time_to_begin, has_process, is_elsewhere
from tests.flows.scene import MIB, Scene, open_scene
from tests.validation.mail_server import MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture(autouse=True)
def _nobody_needs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dates states itself, so runs of a test are seconds old."""
    for name in ("run_processes._BEGINS_WITHIN", "run_processes._BEGINS_WITHIN_AT_MOST"):
        monkeypatch.setattr(f"tasks.{name}", timedelta(0))
    monkeypatch.setattr("tasks.lost_runs._HOOKS_TIME", timedelta(0))


@pytest.fixture
def client() -> Generator[SyncPrefectClient, None, None]:
    with get_client(sync_client=True) as made:
        yield made


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """One for all; of a test's runs none is left for the next one's sweep."""
    with open_scene(tmp_path_factory.mktemp("lost-runs") / "site", {"web": [MIB]}) as made:
        yield made


@pytest.fixture
def told(site: Scene, mailed: MailServer) -> Generator[MailServer, None, None]:
    """The site's mail, until the test is over."""
    yield mailed
    site.set(mail="")


@pytest.fixture
def deployed(
    site: Scene, client: SyncPrefectClient
) -> Generator[Callable[..., FlowRun], None, None]:
    """A deployment of a job as prefect.yaml has it, and runs of it that a schedule made."""
    made: list[FlowRun] = []
    flow = client.create_flow(backup_job)
    deployment = client.create_deployment(
        flow,
        f"nightly-{uuid.uuid4().hex[:8]}",
        concurrency_limit=1,
        concurrency_options={"collision_strategy": ConcurrencyLimitStrategy.ENQUEUE},  # type: ignore[arg-type]
        parameters={"site": site.name, "job": {"name": "nightly", "vms": ["web"]}},
    )

    def due(hours_ago: float = 0.1) -> FlowRun:
        at = system_clock() - timedelta(hours=hours_ago)
        made.append(
            client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=at))
        )
        return made[-1]

    yield due
    for run in made:
        client.delete_flow_run(run.id)
    client.delete_deployment(deployment)


def taken(client: SyncPrefectClient, run: FlowRun) -> Any:
    """A worker asks for a run; the state that the server gave it."""
    client.set_flow_run_state(run.id, Pending())
    return client.read_flow_run(run.id).state


@pytest.mark.parametrize("began", [False, True])
def test_a_run_that_died_with_its_machine_frees_its_turn_at_the_next_sweep_and_is_told(
    site: Scene,
    client: SyncPrefectClient,
    deployed: Callable[..., FlowRun],
    told: MailServer,
    began: bool,  # noqa: FBT001  # pytest gives it
) -> None:
    dead, following = deployed(), deployed()
    assert taken(client, dead).type is StateType.PENDING
    if began:
        client.set_flow_run_state(dead.id, Running())
    assert taken(client, following).name == "AwaitingConcurrencySlot"

    sweep(site=site.name)

    ended = client.read_flow_run(dead.id).state
    assert ended is not None
    assert (ended.type, "machine went down" in str(ended.message)) == (StateType.CRASHED, True)
    assert taken(client, following).type is StateType.PENDING, "the turn is free"
    assert [mail["Subject"] for mail in told.inbox] == ["Likeness: job nightly: Crashed"]
    client.set_flow_run_state(following.id, Cancelled(), force=True)
    sweep(site=site.name)
    subjects = [mail["Subject"] for mail in told.inbox]
    assert subjects.count("Likeness: job nightly: Crashed") == 1, "each is told once"


def test_a_run_that_is_alive_keeps_its_turn(
    site: Scene, client: SyncPrefectClient, deployed: Callable[..., FlowRun]
) -> None:
    alive = deployed()
    taken(client, alive)
    client.set_flow_run_state(alive.id, Running())

    with run_claimed(site.site, RunId(alive.id.hex)):
        sweep(site=site.name)

    state = client.read_flow_run(alive.id).state
    assert state is not None
    assert state.type is StateType.RUNNING


def test_a_night_that_was_cancelled_and_one_that_is_late_are_told_like_a_failure(
    site: Scene,
    client: SyncPrefectClient,
    deployed: Callable[..., FlowRun],
    told: MailServer,
) -> None:
    skipped, late = deployed(hours_ago=3), deployed(hours_ago=2)
    reason: State[Any] = Cancelled(message="Deployment concurrency limit reached.")
    client.set_flow_run_state(skipped.id, reason, force=True)

    sweep(site=site.name)
    sweep(site=site.name)

    found = {mail["Subject"]: mail.get_content() for mail in told.inbox}
    assert sorted(found) == ["Likeness: job nightly: Cancelled", "Likeness: job nightly: late"]
    assert len(told.inbox) == 2
    assert "limit reached" in found["Likeness: job nightly: Cancelled"]
    assert late.id.hex in found["Likeness: job nightly: late"]


def test_behind_one_run_that_waits_no_other_waits(
    site: Scene,
    client: SyncPrefectClient,
    deployed: Callable[..., FlowRun],
) -> None:
    running, first, second = deployed(3), deployed(2), deployed(1)
    taken(client, running)
    for each in (first, second):
        assert taken(client, each).name == "AwaitingConcurrencySlot"

    with run_claimed(site.site, RunId(running.id.hex)):
        sweep(site=site.name)

    states = [client.read_flow_run(each.id).state for each in (first, second)]
    assert [state.type for state in states if state] == [StateType.SCHEDULED, StateType.CANCELLED]


def test_a_run_is_known_by_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    run = uuid.uuid4()
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(run)}
    waits = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(waits, stdin=-1, stdout=-1, env=environment) as process:
        # Its environment can be read once it runs, a moment after it was started.
        assert process.stdout
        assert process.stdout.readline()
        assert has_process(run)
        process.communicate(b"\n")
    assert not has_process(run)
    assert is_elsewhere("another-host:17")
    assert not is_elsewhere(None)
    now = system_clock()
    assert not had_time_to_begin(now, now)
    assert had_time_to_begin(now - timedelta(days=9999), now)

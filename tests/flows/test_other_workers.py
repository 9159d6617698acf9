"""Packs proved by other workers: handed out, handed back, believed when they are good."""

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow

from catalog.values import Verdict
from flows.prove_packs import prove_packs
from tasks import other_workers
from tests.flows.scene import MIB, Scene, noise

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def deploy(site: Scene) -> UUID:
    with get_client(sync_client=True) as client:
        return client.create_deployment(
            client.create_flow(prove_packs),
            f"{site.name}-prove-packs",
            parameters={"site": site.name, "packs": []},
        )


def runs_of(deployment: UUID) -> list[FlowRun]:
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(deployment_filter=wanted)


@contextmanager
def worker(deployment: UUID, *, dies: bool = False) -> Generator[list[UUID], None, None]:
    """What serves a work pool: takes each run that was handed out, one after the other."""
    taken: list[UUID] = []
    over = threading.Event()

    def serve() -> None:
        while not over.wait(0.2):
            for run in runs_of(deployment):
                if run.id not in taken and run.state and run.state.is_scheduled():
                    taken.append(run.id)
                    if not dies:
                        run_flow(
                            prove_packs,
                            flow_run=run,
                            parameters=run.parameters,
                            return_type="state",
                        )

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(serve))
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that nobody begins are waited for a moment only."""
    monkeypatch.setattr(other_workers, "_BEGIN_WITHIN_SECONDS", 1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings are asked for five times a second."""
    monkeypatch.setattr(other_workers, "_LOOK_EVERY_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_packs_are_proved_by_another_worker_and_damage_is_believed_only_here(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", 18 * MIB)], "db": [noise("db", 18 * MIB)]})
    site.back_up("web", "db")
    site.set(prove_on_workers=2)
    deployment = deploy(site)
    assert len(site.packs()) >= 3

    with worker(deployment) as taken:
        ended = site.validate()

    assert ended.name == "Completed", ended.message
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    assert len(taken) >= 2
    handed_out = [pack for run in runs_of(deployment) for pack in run.parameters["packs"]]
    assert len(handed_out) == len(set(handed_out)) == len(site.packs())
    assert {run.state_name for run in runs_of(deployment)} == {"Completed"}

    victim = site.packs()[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
    site.revalidate_always()
    with worker(deployment):
        ended = site.validate()
    assert ended.is_failed()
    assert Verdict.BAD in site.verdicts()


@pytest.mark.usefixtures("quick", "impatient")
def test_what_no_worker_hands_back_is_proved_here(new_site: Callable[..., Scene]) -> None:
    site = new_site({"web": [noise("web", 18 * MIB)]})
    site.back_up("web")
    site.set(prove_on_workers=2)

    nobody = site.validate()  # there is no deployment at all
    assert nobody.name == "Completed"
    assert site.verdicts() == [Verdict.GOOD]

    deployment = deploy(site)
    site.revalidate_always()
    with worker(deployment, dies=True) as taken:
        ended = site.validate()

    assert taken
    assert ended.name == "Completed"
    assert site.verdicts() == [Verdict.GOOD]
    assert {run.state_name for run in runs_of(deployment)} == {"Cancelled"}

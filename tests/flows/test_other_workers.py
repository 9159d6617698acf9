"""Packs proved by other workers: handed out, handed back, believed when they are good."""

import contextvars
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow

from catalog.values import Verdict
from flows.files import files
from flows.prove_packs import prove_packs
from flows.restore_vm import restore_vm
from flows.sweep import sweep
from flows.vault import vault
from flows.work_elsewhere import work_elsewhere
from tasks import handing_out
from tests.flows.scene import MIB, Scene, noise
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def deploy(site: Scene, flow: Flow[..., Any] = prove_packs, **parameters: Any) -> UUID:
    with get_client(sync_client=True) as client:
        return client.create_deployment(
            client.create_flow(flow),
            f"{site.name}-{flow.name}",
            parameters={"site": site.name, **parameters},
        )


def runs_of(deployment: UUID) -> list[FlowRun]:
    wanted = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(deployment_filter=wanted)


@contextmanager
def worker(
    deployment: UUID, *, flow: Flow[..., Any] = prove_packs, dies: bool = False
) -> Generator[list[UUID], None, None]:
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
                            flow,
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
    monkeypatch.setattr(handing_out, "_BEGIN_WITHIN_SECONDS", 1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings are asked for five times a second."""
    monkeypatch.setattr(handing_out, "LOOK_EVERY_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_packs_are_proved_by_another_worker_and_damage_is_believed_only_here(
    new_site: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = new_site({"web": [noise("web", 18 * MIB)], "db": [noise("db", 18 * MIB)]})
    site.back_up("web", "db")
    site.set(prove_on_workers=2)
    assert len(site.packs()) >= 3
    with monkeypatch.context() as patch:
        patch.setattr(handing_out, "_BEGIN_WITHIN_SECONDS", 1.0)
        deployment = _what_no_worker_hands_back_is_proved_here(site)
    lost = {run.id for run in runs_of(deployment)}

    with worker(deployment) as taken:
        ended = site.validate()

    assert ended.name == "Completed", ended.message
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    assert len(taken) >= 2
    runs = [run for run in runs_of(deployment) if run.id not in lost]
    handed_out = [pack for run in runs for pack in run.parameters["packs"]]
    assert len(handed_out) == len(set(handed_out)) == len(site.packs())
    assert {run.state_name for run in runs} == {"Completed"}

    victim = site.packs()[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
    with worker(deployment):
        ended = site.validate()
    assert ended.is_failed()
    assert Verdict.BAD in site.verdicts()


def _what_no_worker_hands_back_is_proved_here(site: Scene) -> UUID:
    nobody = site.validate()  # there is no deployment at all
    assert nobody.name == "Completed"
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]

    deployment = deploy(site)
    site.revalidate_always()
    with worker(deployment, dies=True):
        ended = site.validate()

    assert ended.name == "Completed"
    assert site.verdicts() == [Verdict.GOOD, Verdict.GOOD]
    assert {run.state_name for run in runs_of(deployment)} == {"Cancelled"}
    return deployment


@pytest.mark.usefixtures("quick")
def test_another_worker_restores_looks_into_files_and_vaults(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", 3 * MIB)], "db": [noise("db", 2 * MIB)]})
    site.back_up("web", "db", validated=True)
    site.set(restore_on_workers=True, vault_on_workers=2)
    deployment = deploy(site, work_elsewhere)

    with worker(deployment, flow=work_elsewhere) as taken:
        images = site.restore(site.newest("web").version[:6])
        back = restore_vm("db", new_name="db again", site=site.name, return_state=True)
        found = files(vm="web", site=site.name, return_state=True)
        copied = vault(site=site.name, return_state=True)

    assert images == site.disks("web")
    assert back.name == "Completed", back.message
    assert site.disks("db again") == site.disks("db")
    assert "1 thing found" in str(found.message)
    assert copied.name == "Completed", copied.message
    works = [(run.parameters["work"], run.state_name) for run in runs_of(deployment)]
    assert sorted(works) == [
        ("copy to the vault", "Completed"),
        ("copy to the vault", "Completed"),
        ("look into files", "Completed"),
        ("restore a VM", "Completed"),
        ("restore disks", "Completed"),
    ]
    assert len(taken) == len(works)
    site.set(restore_on_workers=False)
    shared = {each["versions"][0] for each in wanted_by(deployment, "copy to the vault")}
    assert shared == {row.version for row in site.listed()}
    for row in site.listed():
        assert site.restore(row.version, from_vault=True) == site.disks(row.vm_name)
    again = vault(site=site.name, return_state=True)
    assert str(again.message).startswith("0 objects copied"), "and nothing is handed out"


@pytest.mark.usefixtures("quick", "impatient")
def test_what_no_worker_does_is_said_or_done_here(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.back_up("web", "db", validated=True)
    site.set(restore_on_workers=True, vault_on_workers=2)

    nobody = restore_vm("db", new_name="db again", site=site.name, return_state=True)
    assert "there is no deployment of work-elsewhere" in str(nobody.message)
    deployment = deploy(site, work_elsewhere)
    with worker(deployment, flow=work_elsewhere, dies=True):
        lost = restore_vm("db", new_name="db again", site=site.name, return_state=True)
        copied = vault(site=site.name, return_state=True)
    handed_out = len(runs_of(deployment))
    monkeypatch.setattr(handing_out, "_BEGIN_WITHIN_SECONDS", 60.0)
    with worker(deployment, flow=work_elsewhere):
        wrong = restore_vm("db", storage="none such", site=site.name, return_state=True)
        sweep(site=site.name)

    assert "no other worker could restore a VM" in str(lost.message)
    assert "none such" in str(wrong.message), "in the worker's own words"
    assert handed_out == 2 + 2 * 2, "each is tried by another one, too"
    assert copied.name == "Completed", copied.message
    site.set(restore_on_workers=False)
    for row in site.listed():
        assert site.restore(row.version, from_vault=True) == site.disks(row.vm_name)
    names = [site.pool.db.get("VM", each, "name_label") for each in site.pool.db.where("VM")]
    assert "db again" not in names


def wanted_by(deployment: UUID, work: str) -> list[dict[str, Any]]:
    """What runs of a kind were to do."""
    its = [run.parameters for run in runs_of(deployment)]
    return [each["wanted"] for each in its if each["work"] == work]


@pytest.mark.usefixtures("impatient")
def test_what_nobody_else_does_waits_while_the_pool_has_a_worker_however_busy(
    site: Scene,
) -> None:
    pool = f"{site.name}-pool"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        flow = client.create_flow(prove_packs)
        deployment = client.create_deployment(flow, pool, work_pool_name=pool)
        waiting = handing_out.hand_out(client, deployment, {})
        given_up = handing_out.hand_out(client, deployment, {})
        client.send_worker_heartbeat(pool, "busy")
        wait_until(lambda: handing_out.is_over(client, given_up), "others do it meanwhile")

        assert not handing_out.is_over(client, waiting, by_nobody_else=True)
        assert waiting.since > given_up.since, "it waits anew"
        client.delete_work_pool(pool)
        wait_until(
            lambda: handing_out.is_over(client, waiting, by_nobody_else=True), "nobody will come"
        )

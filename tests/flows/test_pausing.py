"""A job paused in the UI ends at its next step, leaves nothing behind, and goes on when resumed."""

import contextvars
import threading
from collections.abc import Generator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect._flow_run_suspension import _active_flow_run_suspension_requests
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Paused

from flows.backup import backup_job
from flows.restore_vm import restore_vm
from likeness.clock import system_clock
from tasks.claims import store_gate
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise, open_scene
from tests.flows.test_restore_over import is_free, shut_down
from tests.flows.test_telling import subjects
from tests.flows.waiting import wait_until
from tests.validation.mail_server import MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """Each VM is one test's; the one to restore has a version that was proved, and is halted."""
    vms = {name: [noise(name, 3 * MIB)] for name in (*NAMES, "committed")}
    vms |= {name: [noise(name, MIB)] for name in ("frozen", "restored")}
    with open_scene(tmp_path_factory.mktemp("pausing") / "site", vms) as made:
        assert made.back_up("restored", validated=True).is_completed()
        shut_down(made, "restored")
        yield made


def deployed(flow: Flow[..., Any], site: Scene, **parameters: Any) -> UUID:
    """A run of a deployment that a worker has not taken up yet."""
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(flow),
            f"{site.name}-paused",
            parameters={"site": site.name, **parameters},
        )
        return client.create_flow_run_from_deployment(deployment).id


def begun_later(site: Scene, *names: str, **settings: Any) -> UUID:
    """A run of a deployed job that a worker has not taken up yet."""
    job = site.job(*names, **settings).model_dump(mode="json", exclude_unset=True)
    return deployed(backup_job, site, job=job)


def begin(run: UUID, ended: list[Any], flow: Flow[..., Any] = backup_job) -> threading.Thread:
    """Carry out a run as a worker's process does."""

    def carry_out() -> None:
        with get_client(sync_client=True) as client:
            known = client.read_flow_run(run)
        try:
            ended.append(
                run_flow(flow, flow_run=known, parameters=known.parameters, return_type="state")
            )
        except Pause as paused:
            ended.append(paused)

    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(carry_out))
    thread.start()
    return thread


def pause(run: UUID) -> None:
    """As the button of the UI does."""
    state: State[Any] = Paused(
        name="Suspended", pause_expiration_time=system_clock() + timedelta(hours=1), reschedule=True
    )
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, state, force=True)


def test_a_paused_job_goes_on_with_the_vms_it_lacks(site: Scene, mailed: MailServer) -> None:
    run = begun_later(site, *NAMES, bandwidth_mib=1)
    ended: list[Any] = []
    process = begin(run, ended)
    wait_until(lambda: made_by(run, site), "the first VM is done")

    pause(run)
    process.join(120)

    assert isinstance(ended[0], Pause)
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        assert state is not None
        assert state.name == "Suspended"
        done = set(made_by(run, site))
        assert done in ({*NAMES[:1]}, {*NAMES[:2]}), "whatever was under way was finished"
        assert site.left_in_the_pool() == NOTHING_LEFT
        client.resume_flow_run(run)
    begin(run, ended).join(120)

    assert ended[1].name == "Completed", ended[1].message
    assert sorted(made_by(run, site)) == sorted(NAMES)
    assert subjects(mailed) == []
    site.set(mail="")


def made_by(run: UUID, site: Scene) -> list[str]:
    """The VMs that a run made a version of."""
    return [row.vm_name for row in site.listed() if row.run == run.hex]


def test_a_job_paused_while_a_snapshot_is_taken_leaves_none(site: Scene) -> None:
    """Prefect ends the run right behind the task that took it."""
    known = len(site.pool.journal.entries("Async.VM.snapshot"))
    run = begun_later(site, "frozen")
    site.pool.faults.hang("VM.snapshot", times=0)
    ended: list[Any] = []
    process = begin(run, ended)
    wait_until(
        lambda: len(site.pool.journal.entries("Async.VM.snapshot")) > known, "it is being taken"
    )

    pause(run)
    wait_until(lambda: is_to_end(run), "the process of the run knows of it")
    site.pool.faults.clear()
    process.join(120)

    assert isinstance(ended[0], Pause)
    assert site.listed("frozen") == []
    assert site.left_in_the_pool() == NOTHING_LEFT


def is_to_end(run: UUID) -> bool:
    """Whether a run of this process was told that it is paused."""
    asked = _active_flow_run_suspension_requests.get(run)
    return asked is not None and asked.is_requested()


def test_a_job_paused_while_a_version_is_committed_compares_the_next_with_it(
    site: Scene,
) -> None:
    names, records = len(site.record_names()), site.records_of_changes()
    run = begun_later(site, "committed")
    ended: list[Any] = []
    with store_gate(site.site):
        process = begin(run, ended)
        wait_until(lambda: is_at(run, "commit committed"), "the commit is under way", pause=0.2)
        pause(run)
        wait_until(lambda: is_to_end(run), "the process of the run knows of it")
    process.join(120)

    assert isinstance(ended[0], Pause)
    assert len(site.record_names()) == names + 1
    assert site.records_of_changes() == records + 1
    with get_client(sync_client=True) as client:
        client.resume_flow_run(run)
    begin(run, ended).join(120)
    assert ended[1].name == "Completed", ended[1].message
    assert [row.run for row in site.listed("committed")] == [run.hex]
    site.pool.write("committed", disk=0, offset=MIB, data=b"new")
    site.back_up("committed")
    assert site.newest("committed").counts.read_bytes < MIB


@pytest.mark.parametrize(("overwrite", "held"), [("", "VDI.create"), ("restored", "VM.snapshot")])
def test_a_restore_paused_while_its_vm_is_made_ready_leaves_the_pool_as_it_was(
    site: Scene, overwrite: str, held: str
) -> None:
    before = vms_and_disks(site)
    run = deployed(restore_vm, site, vm="restored", overwrite=overwrite)
    site.pool.faults.hang(held, times=0)
    known = len(site.pool.journal.entries(f"Async.{held}"))
    ended: list[Any] = []
    process = begin(run, ended, restore_vm)
    wait_until(lambda: len(site.pool.journal.entries(f"Async.{held}")) > known, "it is being made")

    pause(run)
    wait_until(lambda: is_to_end(run), "the process of the run knows of it")
    site.pool.faults.clear()
    process.join(120)

    assert isinstance(ended[0], Pause)
    wait_until(lambda: vms_and_disks(site) == before, "the pool has merged what was frozen")
    assert is_free(site, "restored")
    assert site.left_in_the_pool() == NOTHING_LEFT


def vms_and_disks(site: Scene) -> tuple[list[str], int]:
    """Names of the pool's VMs, and how many disks it has."""
    names = [site.pool.db.get("VM", each, "name_label") for each in site.pool.db.where("VM")]
    return sorted(names), len(site.pool.db.where("VDI"))


def is_at(run: UUID, step: str) -> bool:
    """Whether a step of a run is under way."""
    its = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=its)
    return any(each.name == step and each.state and each.state.is_running() for each in tasks)

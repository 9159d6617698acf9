"""A job paused in the UI ends at its next step, leaves nothing behind, and goes on when resumed."""

import contextvars
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect._flow_run_suspension import _active_flow_run_suspension_requests
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Paused

from flows.backup import backup_job
from likeness.clock import system_clock
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise
from tests.flows.test_telling import subjects
from tests.flows.waiting import wait_until
from tests.validation.mail_server import MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
NAMES = ("first", "second", "third")


def begun_later(site: Scene, *names: str, **settings: Any) -> UUID:
    """A run of a deployed job that a worker has not taken up yet."""
    job = site.job(*names, **settings).model_dump(mode="json", exclude_unset=True)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(backup_job),
            f"{site.name}-nightly",
            parameters={"job": job, "site": site.name},
        )
        return client.create_flow_run_from_deployment(deployment).id


def begin(run: UUID, ended: list[Any]) -> threading.Thread:
    """Carry out a run as a worker's process does."""

    def carry_out() -> None:
        with get_client(sync_client=True) as client:
            known = client.read_flow_run(run)
        try:
            ended.append(
                run_flow(
                    backup_job, flow_run=known, parameters=known.parameters, return_type="state"
                )
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


def test_a_paused_job_goes_on_with_the_vms_it_lacks(
    new_site: Callable[..., Scene], mailed: MailServer
) -> None:
    site = new_site({name: [noise(name, 3 * MIB)] for name in NAMES})
    run = begun_later(site, *NAMES, bandwidth_mib=1)
    ended: list[Any] = []
    process = begin(run, ended)
    wait_until(site.listed, "the first VM is done")

    pause(run)
    process.join(120)

    assert isinstance(ended[0], Pause)
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        assert state is not None
        assert state.name == "Suspended"
        done = {row.vm_name for row in site.listed()}
        assert done in ({*NAMES[:1]}, {*NAMES[:2]}), "whatever was under way was finished"
        assert site.left_in_the_pool() == NOTHING_LEFT
        client.resume_flow_run(run)
    begin(run, ended).join(120)

    assert ended[1].name == "Completed", ended[1].message
    assert sorted(row.vm_name for row in site.listed()) == sorted(NAMES)
    assert {row.run for row in site.listed()} == {run.hex}
    assert subjects(mailed) == []


def test_a_job_paused_while_a_snapshot_is_taken_leaves_none(new_site: Callable[..., Scene]) -> None:
    """Prefect ends the run right behind the task that took it."""
    site = new_site({"first": [noise("first", MIB)]})
    run = begun_later(site, "first")
    site.pool.faults.hang("VM.snapshot", times=0)
    ended: list[Any] = []
    process = begin(run, ended)
    wait_until(lambda: site.pool.journal.entries("Async.VM.snapshot"), "it is being taken")

    pause(run)
    wait_until(lambda: is_to_end(run), "the process of the run knows of it")
    site.pool.faults.clear()
    process.join(120)

    assert isinstance(ended[0], Pause)
    assert site.listed() == []
    assert site.left_in_the_pool() == NOTHING_LEFT


def is_to_end(run: UUID) -> bool:
    """Whether a run of this process was told that it is paused."""
    asked = _active_flow_run_suspension_requests.get(run)
    return asked is not None and asked.is_requested()

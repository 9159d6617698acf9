"""Processes that run a flow and are killed, without a word, at a moment of the test's choosing."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

from prefect.settings import PREFECT_API_URL

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["flows.backup", "flows.restore_vm", "flows.validate", "flows.vault"])
HANG_SECONDS = 120.0


def run_flow(api: str, flow: str, parameters: dict[str, Any]) -> None:
    """In a process of its own: run a flow against the tests' server. Its log goes nowhere."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.backup import backup_job
    from flows.restore_vm import restore_vm
    from flows.validate import validate
    from flows.vault import vault
    from likeness.model.job import BackupJob

    with temporary_settings({PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        if flow == "backup":
            job = BackupJob.model_validate(parameters.pop("job"))
            backup_job(job, return_state=True, **parameters)
        else:
            others: dict[str, Any] = {
                "validate": validate,
                "vault": vault,
                "restore_vm": restore_vm,
            }
            others[flow](return_state=True, **parameters)


def start(flow: str, **parameters: Any) -> BaseProcess:
    """Start a process with a flow."""
    api = PREFECT_API_URL.value()
    assert api
    process = FORKS.Process(target=run_flow, args=(api, flow, parameters))
    process.start()
    return process


def kill_when(process: BaseProcess, it_is_time: Callable[[], bool]) -> bool:
    """Kill a process as soon as it is time; say whether it was alive until then."""
    deadline = time.monotonic() + HANG_SECONDS
    while process.is_alive() and not it_is_time():
        assert time.monotonic() < deadline, "the flow hangs"
        time.sleep(0.002)
    was_alive = process.is_alive()
    if was_alive and process.pid:
        os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=HANG_SECONDS)
    assert process.exitcode is not None
    return was_alive


def ended_well(process: BaseProcess) -> None:
    """Wait for a flow to end by itself."""
    process.join(timeout=HANG_SECONDS)
    assert process.exitcode == 0

# ruff: noqa: FBT003 - the order and the booleans are those of the API
"""Asynchronous calls, conflicts between operations, and cancelling."""

import threading
import time
from typing import Any

import pytest
import XenAPI

from lab.parts.tasks import MAX_PENDING_TASKS
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import JsonClient, Refused, Xen

BOTH_PROTOCOLS = True


def ask_to_cancel(xen: Xen, task: str) -> dict[str, Any]:
    xen.api.task.cancel(task)
    return xen.wait(task)


def test_the_result_of_a_task_is_an_xml_fragment_also_in_json(
    xen: Xen, json_client: JsonClient
) -> None:
    vm = xen.vm("web")
    task = json_client("Async.VM.snapshot", vm, "s")
    record = xen.wait(task)
    assert record["status"] == "success"
    assert record["name_label"] == "Async.VM.snapshot"
    assert record["type"] == "<none/>"
    assert record["progress"] == 1.0
    snapshot = xen.api.VM.get_snapshots(vm)[0]
    assert json_client("task.get_result", task) == f"<value>{snapshot}</value>"
    assert xen.wait(json_client("Async.VM.pause", vm))["result"] == ""
    json_client("task.destroy", task)
    with pytest.raises(Refused, match="HANDLE_INVALID"):
        json_client("task.get_status", task)


def test_a_failed_task_carries_the_code(xen: Xen) -> None:
    vm = xen.vm("web")
    record = xen.wait(xen.api.Async.VM.start(vm, False, False))
    assert record["status"] == "failure"
    assert record["error_info"] == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    assert record["progress"] == 1.0
    assert str(record["finished"]) >= str(record["created"])


def test_a_conflicting_operation_waits_and_can_be_cancelled(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    lab.pool.faults.hang("VM.snapshot")
    stuck = xen.api.Async.VM.snapshot(vm, "stuck")
    time.sleep(0.1)
    lab.pool.db.set_pair("VM", vm, "current_operations", "other", "clone")
    waiting = xen.api.Async.VM.snapshot(vm, "waiting")
    time.sleep(0.1)
    assert xen.api.task.get_status(waiting) == "pending"
    assert xen.api.task.get_allowed_operations(waiting) == ["cancel"]
    for task in (stuck, waiting):
        record = ask_to_cancel(xen, task)
        assert record["status"] == "cancelled"
        assert record["error_info"] == ["TASK_CANCELLED", task]
    lab.pool.db.drop_pair("VM", vm, "current_operations", "other")
    assert xen.api.VM.get_snapshots(vm) == []


def test_a_conflict_that_does_not_end_is_reported_in_the_end() -> None:
    with LabServer(Pool(Settings(conflict_seconds=0.1))) as lab:
        lab.pool.add_vm("web", [1 << 20])
        vm = lab.pool.vm("web")
        lab.pool.db.set_pair("VM", vm, "current_operations", "OpaqueRef:task", "pool_migrate")
        client = JsonClient(lab.url)
        client.log_in(lab.username, lab.password)
        with pytest.raises(Refused) as refused:
            client("VM.snapshot", vm, "s")
        busy = ("OTHER_OPERATION_IN_PROGRESS", "VM", vm, "pool_migrate", "OpaqueRef:task")
        assert refused.value.args == busy


def test_running_operations_show_while_they_run() -> None:
    with LabServer(Pool(Settings(operation_seconds=60.0))) as lab:
        lab.pool.add_vm("web", [1 << 20])
        client = JsonClient(lab.url)
        client.log_in(lab.username, lab.password)
        vm = lab.pool.vm("web")
        task = client("Async.VM.snapshot", vm, "s")
        end = time.monotonic() + 30
        while not (running := client("VM.get_current_operations", vm)):
            assert time.monotonic() < end, "the operation does not begin"
        assert running == {task: "snapshot"}
        assert "destroy" not in client("VM.get_allowed_operations", vm)
        client("task.cancel", task)


def test_two_snapshots_of_one_vm_may_overlap(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    tasks = [xen.api.Async.VM.snapshot(vm, f"s{number}") for number in range(8)]
    assert {xen.wait(task)["status"] for task in tasks} == {"success"}
    assert len(xen.api.VM.get_snapshots(vm)) == 8
    assert lab.pool.max_snapshots_at_once == 8
    chain, at = [], vm
    while (at := xen.api.VM.get_parent(at)) != "OpaqueRef:NULL":
        chain.append(at)
    assert sorted(chain) == sorted(xen.api.VM.get_snapshots(vm))


def test_a_clients_own_task_is_completed_by_the_client(xen: Xen) -> None:
    task = xen.api.task.create("mine", "a transfer")
    xen.api.task.set_progress(task, 0.5)
    assert xen.api.task.get_progress(task) == 0.5
    with pytest.raises(XenAPI.Failure, match="OPERATION_NOT_ALLOWED"):
        xen.api.task.cancel(task)
    xen.api.task.set_status(task, "success")
    assert xen.wait(task)["status"] == "success"


def test_above_200_pending_tasks_new_ones_are_refused(xen: Xen) -> None:
    tasks = [xen.api.task.create("t", "") for _ in range(MAX_PENDING_TASKS)]
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.task.create("one more", "")
    assert refused.value.details == ["TOO_MANY_PENDING_TASKS"]
    xen.api.task.destroy(tasks[0])
    xen.api.task.create("room again", "")


def test_events_tell_when_a_task_ends(lab: LabServer, xen: Xen) -> None:
    lab.pool.faults.hang("VM.snapshot")
    task = xen.api.Async.VM.snapshot(xen.vm("web"), "s")
    token = xen.events([f"task/{task}"])["token"]
    timer = threading.Timer(0.1, lab.pool.faults.clear)
    timer.start()
    events = xen.events([f"task/{task}"], token, 30.0)["events"]
    timer.join()
    assert events[0]["ref"] == task
    assert xen.wait(task)["status"] == "success"

"""Failures on demand: every message, in every form it is called by, and what is no message."""

import json
import shlex
import threading
import time
import urllib.error
from collections import Counter
from importlib.resources import files

import pytest

from lab.parts.faults import EXPORT_KINDS
from lab.serving import LabServer
from tests.figures import tell
from tests.lab.clients import JsonClient, Refused, Xen, control
from tests.lab.test_conformance import MESSAGES, Walk, real

FAULT = ("SR_FULL", "1", "2")


def test_every_message_can_be_told_to_fail_in_both_its_forms() -> None:
    walk, told = Walk(), Counter[str]()
    for message in MESSAGES:
        if message.removed:
            continue
        before = [] if message.open else [walk.session]
        arguments = [*before, *real(message, walk)]
        lacking = any(a == "OpaqueRef:NULL" for a in arguments)
        walk.pool.faults.fail(message.full_name, *FAULT, times=2)
        refused = walk.refusal(message.full_name, *arguments)
        assert refused == list(FAULT) or lacking, (message.full_name, refused)
        told["at once"] += refused == list(FAULT)
        if message.asynchronous and not lacking and not message.open:
            task = walk.call(f"Async.{message.full_name}", *arguments)
            with walk.pool.db.lock:
                while walk.pool.db.get("task", task, "status") == "pending":
                    walk.pool.db.changed.wait(1)
                assert walk.pool.db.get("task", task, "error_info") == list(FAULT)
            walk.pool.db.destroy("task", task)
            told["in their task"] += 1
        walk.pool.faults.clear()
    walk.pool.close()
    tell(f"messages that were made to fail: {dict(told)}")
    assert told["at once"] > 1200
    assert told["in their task"] > 350


def test_one_form_can_fail_and_the_other_not(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    lab.pool.faults.fail("Async.VM.snapshot", *FAULT, times=0)
    assert xen.api.VM.snapshot(vm, "done")
    assert xen.wait(xen.api.Async.VM.snapshot(vm, "failed"))["error_info"] == list(FAULT)


def test_a_setter_and_its_alias_count_as_the_same_message(lab: LabServer, xen: Xen) -> None:
    vm, client = xen.vm("web"), JsonClient(lab.url)
    client.session = xen.token
    fault = {"kind": "fail", "method": "VM.set_name_label", "code": "HOST_OFFLINE", "at": 3}
    control(lab, "POST", "/faults", json.dumps(fault | {"parameters": ["host"]}).encode())
    client("VM.set_name_label", vm, "first")
    client("VM_set_name_label", vm, "second")
    with pytest.raises(Refused, match="HOST_OFFLINE"):
        client("VM.set_name_label", vm, "third")
    client("VM.set_name_label", vm, "web")
    assert xen.api.VM.get_name_label(vm) == "web"


def test_the_list_of_methods_and_the_login_can_fail_too(lab: LabServer, xen: Xen) -> None:
    lab.pool.faults.fail("system.listMethods", "HOST_STILL_BOOTING")
    lab.pool.faults.fail("session.login_with_password", "HOST_STILL_BOOTING")
    client = JsonClient(lab.url)
    with pytest.raises(Refused, match="HOST_STILL_BOOTING"):
        client.log_in(lab.username, lab.password)
    client.log_in(lab.username, lab.password)
    with pytest.raises(Refused, match="HOST_STILL_BOOTING"):
        client.raw("system.listMethods")
    assert "VM.snapshot" in client.raw("system.listMethods")


def test_a_transfer_in_can_fail(lab: LabServer, xen: Xen) -> None:
    disk = xen.new_disk()
    lab.pool.faults.fail("VDI.import", "VDI_IO_ERROR", "Device I/O errors")
    assert xen.put(disk, b"x" * 1000)["error_info"] == ["VDI_IO_ERROR", "Device I/O errors"]
    assert xen.put(disk, b"x" * 1000)["status"] == "success"
    xen.until_free(disk)
    assert xen.export(disk)[:1001] == b"x" * 1000 + b"\0"


def test_a_fault_that_could_never_strike_is_refused(lab: LabServer) -> None:
    for method in ("VM.fly", "VM_snapshot", "Async.VM.get_uuid", "snapshot", ""):
        with pytest.raises(ValueError, match="knows no message"):
            lab.pool.faults.fail(method, *FAULT)
        with pytest.raises(ValueError, match="knows no message"):
            lab.pool.faults.hang(method)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        control(lab, "POST", "/faults", b'{"kind": "hang", "method": "VM.fly"}')
    assert lab.pool.faults.listing()["calls"] == []


def test_what_hangs_goes_on_when_the_faults_are_cleared(lab: LabServer, xen: Xen) -> None:
    lab.pool.faults.hang("VM.get_uuid")
    client, other = JsonClient(lab.url), JsonClient(lab.url)
    client.session = other.session = xen.token
    vm, answers = xen.vm("web"), list[str]()
    waiting = threading.Thread(target=lambda: answers.append(other("VM.get_uuid", vm)))
    waiting.start()
    end = time.monotonic() + 30
    while not lab.pool.faults.listing()["calls"][0]["seen"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert client("VM.get_uuid", vm)
    assert answers == []
    lab.pool.faults.clear()
    waiting.join(timeout=30)
    assert answers == [client("VM.get_uuid", vm)]


def test_what_hangs_in_a_task_can_be_cancelled(lab: LabServer, xen: Xen) -> None:
    lab.pool.faults.hang("VM.snapshot")
    task = xen.api.Async.VM.snapshot(xen.vm("web"), "never")
    xen.api.task.cancel(task)
    assert xen.wait(task)["error_info"] == ["TASK_CANCELLED", task]


def curl_lines() -> list[tuple[str, str, bytes]]:
    """Method, path and body of every curl line of the README."""
    text = (files("lab") / "README.md").read_text()
    found = []
    for line in text.splitlines():
        if line.startswith("curl "):
            words = shlex.split(line)
            body = words[words.index("-d") + 1].encode() if "-d" in words else b""
            method = words[words.index("-X") + 1] if "-X" in words else "POST" if body else "GET"
            path = next(w for w in words if w.startswith("$CONTROL")).removeprefix("$CONTROL")
            found.append((method, path, body))
    return found


def test_every_line_of_the_readme_is_taken_by_the_control_interface(lab: LabServer) -> None:
    lines = curl_lines()
    assert len(lines) > 10
    for method, path, body in lines:
        control(lab, method, path, body or None)
        if path == "/faults" and body:
            assert any(control(lab, "GET", "/faults").values()), body
    assert not any(control(lab, "GET", "/faults").values())


@pytest.mark.parametrize("how", EXPORT_KINDS)
def test_every_way_an_export_can_go_wrong_is_set_from_outside(
    lab: LabServer, xen: Xen, how: str
) -> None:
    fault = {"kind": "fail_export", "how": how, "after_bytes": 1 << 20}
    control(lab, "POST", "/faults", json.dumps(fault).encode())
    disk, task, token = xen.disks(xen.vm("web"))[0], xen.api.task.create("t", ""), xen.token
    connection = xen.connection()
    connection.request("GET", f"/export_raw_vdi?vdi={disk}&session_id={token}&task_id={task}")
    answer = connection.getresponse()
    assert answer.status == 200
    if how == "stall":
        assert len(answer.read(1 << 20)) == 1 << 20
        assert xen.api.task.get_status(task) == "pending"
        xen.api.task.cancel(task)
    body = answer.read()
    connection.close()
    assert (len(body) == 8 << 20) == (how == "pending")
    assert (b"HTTP/1.1 500" in body) == (how in ("second-answer", "session", "stall"))
    status = lab.pool.db.get("task", task, "status")
    assert (status == "pending") == (how == "pending")
    assert control(lab, "GET", "/faults")["exports"] == []

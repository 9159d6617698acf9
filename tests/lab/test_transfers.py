"""Disk data over HTTP: out, in, and everything that can go wrong on the way."""

import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import XenAPI

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import JsonClient, Refused, Xen, control

MIB = 1 << 20


def test_an_export_has_no_length_ends_with_the_connection_and_completes_its_task(
    lab: LabServer, xen: Xen
) -> None:
    content = random.Random(1).randbytes(8 * MIB)
    lab.pool.write("web", 0, 0, content)
    disk = xen.disks(xen.vm("web"))[0]
    for name in (disk, xen.api.VDI.get_uuid(disk)):
        answer, body = xen.get(name)
        assert body == content
        assert answer.version == 11
        assert answer.getheader("content-length") is None
        assert answer.getheader("transfer-encoding") is None
        assert answer.getheader("connection") == "close"
        assert answer.getheader("content-type") == "application/octet-stream"
        record = xen.wait(answer.getheader("task-id") or "")
        assert (record["status"], record["result"]) == ("success", "")


def test_what_is_given_is_served_to_the_byte_and_never_written(tmp_path: Path) -> None:
    sizes = (0, 1, 511, 512, 65_537, 2 * MIB, 3 * MIB + 7)
    images = []
    for number, size in enumerate(sizes):
        image = tmp_path / f"{number}.raw"
        image.write_bytes(random.Random(number).randbytes(size))
        image.chmod(0o400)
        images.append(image)
    before = [image.stat().st_mtime_ns for image in images]
    pool = Pool(Settings())
    pool.add_vm("vm", images)
    with LabServer(pool) as lab:
        xen = Xen(lab)
        for disk, image in zip(xen.disks(xen.vm("vm")), images, strict=True):
            content = image.read_bytes()
            assert xen.export(disk) == content
            if content:
                lab.pool.write("vm", images.index(image), len(content) - 1, b"!")
                assert xen.export(disk) == content[:-1] + b"!"
    assert [image.stat().st_mtime_ns for image in images] == before


def test_holes_cost_nothing_on_the_way_in_and_out(tmp_path: Path) -> None:
    image = tmp_path / "sparse.raw"
    with image.open("wb") as file:
        file.truncate(96 << 20)
        file.seek(60 << 20)
        file.write(b"in the middle")
    pool = Pool(Settings())
    pool.add_vm("vm", [image])
    with LabServer(pool) as lab:
        xen = Xen(lab)
        body = xen.export(xen.disks(xen.vm("vm"))[0])
        assert len(body) == 96 << 20
        assert body[60 << 20 : (60 << 20) + 13] == b"in the middle"
        assert body.count(0) == (96 << 20) - 13
    assert image.stat().st_blocks * 512 < MIB


def test_a_snapshot_is_exported_as_it_was_while_the_guest_goes_on_writing(
    lab: LabServer, xen: Xen
) -> None:
    chance = random.Random(7)
    size = 8 * MIB
    vm, kept = xen.vm("web"), []
    for number in range(6):
        for _ in range(20):
            offset = chance.randrange(size)
            data = chance.randbytes(chance.randrange(1, min(size - offset, 300_000) + 1))
            lab.pool.write("web", 0, offset, data)
        snapshot = xen.api.VM.snapshot(vm, f"s{number}")
        kept.append((xen.disks(snapshot)[0], lab.pool.disk_of("web", 0).read(0, size)))
    for disk, content in kept:
        assert xen.export(disk) == content
    dropped = xen.api.VDI.get_VBDs(kept[2][0])
    xen.api.VM.destroy(xen.api.VBD.get_VM(dropped[0]))
    xen.until_free(kept[2][0])
    xen.api.VDI.destroy(kept.pop(2)[0])
    for disk, content in kept:
        assert xen.export(disk) == content


def test_many_connections_read_at_once(lab: LabServer, xen: Xen) -> None:
    content = random.Random(3).randbytes(8 * MIB)
    lab.pool.write("web", 0, 0, content)
    disk = xen.disks(xen.vm("web"))[0]
    with ThreadPoolExecutor(12) as threads:
        bodies = list(threads.map(lambda _: xen.get(disk)[1], range(24)))
    assert all(body == content for body in bodies)
    uuid = xen.api.VDI.get_uuid(disk)
    assert lab.pool.counters()["exported_bytes"][uuid] == 24 * 8 * MIB


def test_a_session_by_cookie_admits_and_nothing_else(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    for headers, status in (({"Cookie": f"session_id={xen.token}"}, 200), ({}, 401)):
        connection = xen.connection()
        connection.request("GET", f"/export_raw_vdi?vdi={disk}", headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == status
        assert (status == 401) == (answer.getheader("www-authenticate") is not None)


def test_a_refused_transfer_fails_its_task(lab: LabServer, xen: Xen) -> None:
    disk, task = xen.disks(xen.vm("web"))[0], xen.api.task.create("t", "")
    connection = xen.connection()
    connection.request("GET", f"/export_raw_vdi?vdi={disk}&session_id=bad&task_id={task}")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 401
    assert xen.wait(task)["error_info"] == ["SESSION_AUTHENTICATION_FAILED"]


def test_the_slash_some_clients_append_is_served_too(xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    connection = xen.connection()
    connection.request("GET", f"/export_raw_vdi/?vdi={disk}&session_id={xen.token}")
    answer = connection.getresponse()
    assert answer.status == 200
    assert len(answer.read()) == 8 * MIB
    connection.close()


def test_dom0_holds_the_disk_a_moment_longer_than_the_transfer(lab: LabServer, xen: Xen) -> None:
    lab.pool.settings.detach_seconds = 0.4
    snapshot = xen.api.VM.snapshot(xen.vm("web"), "s")
    disk = xen.disks(snapshot)[0]
    xen.api.VM.destroy(snapshot)
    xen.export(disk)
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.VDI.destroy(disk)
    assert refused.value.details == ["VDI_IN_USE", disk, "destroy"]
    vbd = xen.api.VDI.get_VBDs(disk)[0]
    assert xen.api.VM.get_is_control_domain(xen.api.VBD.get_VM(vbd))
    xen.until_free(disk)
    xen.api.VDI.destroy(disk)


# -- in --------------------------------------------------------------------------------------------


def test_an_import_writes_from_the_start_and_leaves_the_rest(lab: LabServer, xen: Xen) -> None:
    disk = xen.new_disk(4 * MIB)
    assert xen.put(disk, b"a" * (4 * MIB))["result"] == f"<value>{disk}</value>"
    xen.put(disk, b"b" * MIB)
    assert xen.export(disk) == b"b" * MIB + b"a" * (3 * MIB)
    assert lab.pool.counters()["imported_bytes"][xen.api.VDI.get_uuid(disk)] == 5 * MIB


def test_ranges_write_only_what_they_name(xen: Xen) -> None:
    disk = xen.new_disk(4 * MIB)
    xen.put(disk, b"a" * (4 * MIB))
    ranges = [(5, b"xyz"), (3 * MIB, b"q" * MIB), (2 * MIB, b"z" * (MIB + 1))]
    body = b"".join(struct.pack("<QI", at, len(data)) + data for at, data in ranges)
    assert xen.put(disk, body + struct.pack("<QI", 0, 0), chunked="true")["status"] == "success"
    expected = bytearray(b"a" * (4 * MIB))
    for at, data in ranges:
        expected[at : at + len(data)] = data
    assert xen.export(disk) == expected


def test_ranges_without_their_end_or_beyond_the_disk_fail(xen: Xen) -> None:
    disk = xen.new_disk(2 * MIB)
    whole = struct.pack("<QI", 0, 3) + b"abc"
    beyond = struct.pack("<QI", 2 * MIB - 1, 2) + b"ab" + struct.pack("<QI", 0, 0)
    for body in (whole, whole[:-1], beyond):
        record = xen.put(disk, body, chunked="true")
        assert record["status"] == "failure"
        assert record["error_info"][0] == "VDI_IO_ERROR"


def test_too_much_or_too_little_data_is_an_io_error(lab: LabServer, xen: Xen) -> None:
    disk = xen.new_disk(2 * MIB)
    assert xen.put(disk, b"a" * (2 * MIB + 1))["error_info"][0] == "VDI_IO_ERROR"
    task = xen.api.task.create("short", "")
    parts = urlsplit(lab.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as raw:
        path = f"/import_raw_vdi?vdi={disk}&session_id={xen.token}&task_id={task}"
        raw.sendall(f"PUT {path} HTTP/1.1\r\nContent-Length: 1000\r\n\r\nonly this".encode())
        raw.shutdown(socket.SHUT_WR)
        data = b""
        while part := raw.recv(1 << 16):
            data += part
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 500 " in data
    assert xen.wait(task)["error_info"][0] == "VDI_IO_ERROR"


def test_a_probe_that_is_cut_leaves_the_disk_alone(lab: LabServer, xen: Xen) -> None:
    disk = xen.new_disk(2 * MIB)
    xen.put(disk, b"a" * (2 * MIB))
    parts = urlsplit(lab.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as raw:
        path = f"/import_raw_vdi?vdi={disk}&session_id={xen.token}&format=raw"
        raw.sendall(f"PUT {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 200 OK")
    xen.until_free(disk)
    assert xen.export(disk) == b"a" * (2 * MIB)


def test_chunked_transfer_encoding_is_refused(xen: Xen) -> None:
    disk, task = xen.new_disk(2 * MIB), xen.api.task.create("t", "")
    connection = xen.connection()
    connection.request(
        "PUT",
        f"/import_raw_vdi?vdi={disk}&session_id={xen.token}&task_id={task}",
        iter([b"a" * MIB]),
        encode_chunked=True,
    )
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read().startswith(b"HTTP/1.1 404 Not Found")
    connection.close()
    assert xen.wait(task)["status"] == "failure"


def test_a_disk_that_a_guest_writes_cannot_be_imported_to(xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    assert xen.put(disk, b"x" * 512)["error_info"][:2] == ["VDI_IN_USE", disk]


def test_the_server_says_continue_to_those_who_ask(lab: LabServer, xen: Xen) -> None:
    disk = xen.new_disk(2 * MIB)
    parts = urlsplit(lab.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as raw:
        head = f"PUT /import_raw_vdi?vdi={disk}&session_id={xen.token} HTTP/1.1\r\n"
        raw.sendall(f"{head}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        raw.sendall(b"abc")
        while raw.recv(1 << 16):
            pass
    xen.until_free(disk)
    assert xen.export(disk)[:4] == b"abc\0"


# -- faults ----------------------------------------------------------------------------------------


def test_an_export_can_end_short(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    lab.pool.faults.fail_export("short", after_bytes=3 * MIB + 5)
    answer, body = xen.get(disk)
    assert len(body) == 3 * MIB + 5
    record = xen.wait(answer.getheader("task-id") or "")
    assert record["error_info"][0] == "VDI_IO_ERROR"
    assert len(xen.export(disk)) == 8 * MIB


def test_an_export_can_report_its_failure_inside_the_body(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    lab.pool.faults.fail_export("second-answer", vdi=xen.api.VDI.get_uuid(disk))
    answer, body = xen.get(disk)
    assert answer.status == 200
    assert body.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert xen.wait(answer.getheader("task-id") or "")["status"] == "failure"


def test_an_export_can_stall_until_its_task_is_cancelled(lab: LabServer, xen: Xen) -> None:
    disk, task = xen.disks(xen.vm("web"))[0], xen.api.task.create("t", "")
    lab.pool.faults.fail_export("stall", after_bytes=MIB)
    connection = xen.connection()
    connection.request("GET", f"/export_raw_vdi?vdi={disk}&session_id={xen.token}&task_id={task}")
    answer = connection.getresponse()
    answer.read(MIB)
    time.sleep(0.1)
    assert xen.api.task.get_status(task) == "pending"
    xen.api.task.cancel(task)
    assert xen.wait(task)["status"] == "cancelled"
    connection.close()


def test_a_session_can_end_in_the_middle_of_a_transfer(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    lab.pool.faults.fail_export("session", after_bytes=MIB)
    answer, body = xen.get(disk)
    assert b"HTTP/1.1 500" in body
    assert len(body) < 8 * MIB
    fresh = JsonClient(lab.url)
    fresh.log_in(lab.username, lab.password)
    info = fresh("task.get_error_info", answer.getheader("task-id"))
    assert info == ["SESSION_INVALID", xen.token]
    fresh.session = xen.token
    with pytest.raises(Refused, match="SESSION_INVALID"):
        fresh("VM.get_all")


def test_any_message_fails_with_any_code_at_the_nth_call(lab: LabServer, xen: Xen) -> None:
    control(
        lab,
        "POST",
        "/faults",
        b'{"kind": "fail", "method": "VM.get_uuid", "code": "SR_FULL", "parameters": ["1", "2"],'
        b' "at": 2, "times": 2}',
    )
    vm = xen.vm("web")
    outcome = []
    for _ in range(5):
        try:
            xen.api.VM.get_uuid(vm)
            outcome.append("")
        except XenAPI.Failure as failure:
            outcome.append("-".join(failure.details))
    assert outcome == ["", "SR_FULL-1-2", "SR_FULL-1-2", "", ""]
    assert control(lab, "GET", "/faults")["calls"][0]["seen"] == 5
    control(lab, "DELETE", "/faults")
    assert control(lab, "GET", "/faults")["calls"] == []


def test_a_task_can_stay_pending_although_all_was_sent(lab: LabServer, xen: Xen) -> None:
    disk, task = xen.disks(xen.vm("web"))[0], xen.api.task.create("t", "")
    lab.pool.faults.fail_export("pending")
    _, body = xen.get(disk, task_id=task)
    assert len(body) == 8 * MIB
    time.sleep(0.1)
    assert xen.api.task.get_status(task) == "pending"
    lab.pool.faults.clear()
    assert xen.wait(task)["status"] == "success"


def test_a_fault_with_a_code_the_server_does_not_know_is_refused(lab: LabServer) -> None:
    with pytest.raises(ValueError, match="knows no code NONSENSE"):
        lab.pool.faults.fail("VM.start", "NONSENSE")
    lab.pool.faults.fail("VM.start", "SR_BACKEND_FAILURE_46", "", "", "")

"""What clients send that is odd, and still has one right answer."""

import json
import socket
import threading
from urllib.parse import urlsplit

import pytest

from lab.serving import LabServer
from tests.lab.clients import JsonClient, Refused, Xen
from tests.lab.test_wire import call, post

DOUBLE_END = b"\r\n\r\n"


def talk(lab: LabServer, sent: bytes) -> bytes:
    """Send bytes as they are and read until the server hangs up."""
    parts = urlsplit(lab.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as sock:
        sock.sendall(sent)
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def request(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: lab", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + DOUBLE_END + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("target", ["/", "//", "/RPC2/", "/a%20b", "/../x"])
def test_calls_are_answered_on_every_path(lab: LabServer, xen: Xen, target: str) -> None:
    body = call("VM.get_all", xen.token)
    answer = talk(lab, request("POST", target, body, "connection: close"))
    assert status(answer) == 200
    assert b"<value>Success</value>" in answer


def test_two_requests_sent_at_once_are_answered_in_order(lab: LabServer, xen: Xen) -> None:
    first = request("POST", "/", call("VM.nothing", xen.token))
    last = request("POST", "/jsonrpc", b"{}", "connection: close")
    answer = talk(lab, first + last)
    assert answer.index(b"MESSAGE_METHOD_UNKNOWN") < answer.index(b"HTTP/1.1 500")


def test_who_sends_too_much_still_reads_the_refusal(lab: LabServer) -> None:
    answer = talk(lab, request("POST", "/", b" " * (4 << 20)))
    assert status(answer) == 413
    body = json.dumps({"id": 1, "method": "system.listMethods", "params": []}).encode()
    filled = body + b" " * ((300 << 10) - len(body))
    assert status(talk(lab, request("POST", "/jsonrpc", filled, "connection: close"))) == 200


def test_only_the_methods_that_are_served_are_implemented(lab: LabServer, xen: Xen) -> None:
    target = f"/export_raw_vdi?session_id={xen.token}&vdi={xen.disks(xen.vm('web'))[0]}"
    assert status(talk(lab, request("HEAD", target))) == 501
    assert status(talk(lab, request("DELETE", "/RPC2"))) == 501


def test_a_range_is_not_served_the_whole_disk_is(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    target = f"/export_raw_vdi?session_id={xen.token}&vdi={disk}"
    answer = talk(lab, request("GET", target, b"", "range: bytes=0-511"))
    head, _, body = answer.partition(DOUBLE_END)
    assert status(head) == 200
    assert len(body) == int(xen.api.VDI.get_virtual_size(disk))


def test_a_task_that_is_not_there_is_no_matter_of_the_password(lab: LabServer, xen: Xen) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    target = f"/export_raw_vdi?session_id={xen.token}&vdi={disk}&task_id=OpaqueRef:none"
    assert status(talk(lab, request("GET", target))) == 500


def test_a_body_that_is_not_utf_8_is_no_call(lab: LabServer, xen: Xen) -> None:
    bad = call("VM.get_by_name_label", xen.token, "caf?").replace(b"caf?", b"caf\xe9")
    assert post(lab, "/", bad)[0] == 500
    spoken = {"jsonrpc": "2.0", "id": 7, "method": "VM.get_by_name_label"}
    text = json.dumps(spoken | {"params": [xen.token, "caf?"]}).encode()
    assert post(lab, "/jsonrpc", text.replace(b"caf?", b"caf\xe9"))[0] == 500


def test_half_a_character_is_refused_and_a_whole_one_comes_back(
    xen: Xen, json_client: JsonClient
) -> None:
    vm = xen.vm("web")
    with pytest.raises(Refused) as refused:
        json_client("VM.set_name_description", vm, "half \ud83d")
    assert refused.value.args == ("INVALID_VALUE", "value", "half ?")
    for text in ("", " lead", "\U0001f600 é <&>\"'", "a\nb\tc", "x" * 70_000):
        json_client("VM.set_name_description", vm, text)
        assert xen.api.VM.get_name_description(vm) == text
        assert json_client("VM.get_name_description", vm) == text


def test_control_characters_are_kept_in_json_and_dropped_from_xml(
    xen: Xen, json_client: JsonClient
) -> None:
    vm = xen.vm("web")
    json_client("VM.set_name_description", vm, "a\x00b\x1bc")
    assert json_client("VM.get_name_description", vm) == "a\x00b\x1bc"
    assert xen.api.VM.get_name_description(vm) == "abc"


def test_numbers_reach_to_63_bits_and_no_further(xen: Xen, json_client: JsonClient) -> None:
    vm = xen.vm("web")
    for number in (2**63 - 1, -(2**63), 0):
        json_client("VM.set_user_version", vm, number)
        assert json_client("VM.get_user_version", vm) == number
        assert xen.api.VM.get_user_version(vm) == str(number)
    with pytest.raises(Refused, match="FIELD_TYPE_ERROR"):
        json_client("VM.set_user_version", vm, 2**63)


def test_empty_maps_and_sets_look_alike_to_some_languages(
    xen: Xen, json_client: JsonClient
) -> None:
    vm = xen.vm("web")
    json_client("VM.set_other_config", vm, [])
    assert xen.api.VM.get_other_config(vm) == {}
    json_client("VM.set_tags", vm, {})
    assert xen.api.VM.get_tags(vm) == []
    json_client("VM.set_other_config", vm, {"": "", "<k>": "&"})
    assert xen.api.VM.get_other_config(vm) == {"": "", "<k>": "&"}


def test_fifty_threads_lose_no_key(lab: LabServer, xen: Xen) -> None:
    vm, failures = xen.vm("web"), list[Exception]()
    start = threading.Barrier(50)

    def change(number: int) -> None:
        client = JsonClient(lab.url)
        client.session = xen.token
        start.wait()
        try:
            client("VM.add_to_other_config", vm, f"kept:{number}", "x")
            client("VM.add_to_other_config", vm, f"gone:{number}", "x")
            client("VM.remove_from_other_config", vm, f"gone:{number}")
            client("VM.add_tags", vm, f"tag {number}")
        except (Refused, OSError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    config = list(xen.api.VM.get_other_config(vm))
    assert not failures
    assert {key for key in config if key.startswith("kept:")} == {f"kept:{n}" for n in range(50)}
    assert not [key for key in config if key.startswith("gone:")]
    assert len(xen.api.VM.get_tags(vm)) == 50

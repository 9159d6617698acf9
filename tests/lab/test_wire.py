"""What goes over the wire, to the byte."""

import json
import socket
from http.client import HTTPConnection
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import pytest

from lab.failures import XapiFailure
from lab.serving import LabServer
from lab.wire import jsonrpc, xmlrpc
from lab.wire.values import Date, Int32
from tests.lab.clients import JsonClient, Refused, Xen


def post(
    lab: LabServer, path: str, body: bytes, method: str = "POST"
) -> tuple[int, bytes, dict[str, str]]:
    parts = urlsplit(lab.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request(method, path, body)
    answer = connection.getresponse()
    data, headers = answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    connection.close()
    return answer.status, data, headers


def call(method: str, *parameters: str) -> bytes:
    inside = "".join(f"<param><value>{escape(p)}</value></param>" for p in parameters)
    text = f"<methodName>{method}</methodName><params>{inside}</params>"
    return f"<methodCall>{text}</methodCall>".encode()


def test_texts_and_numbers_stand_bare_between_elements_without_white_space() -> None:
    value = {"n": 1 << 40, "s": 'a<b>&"c', "b": True, "f": 1.5, "e": "", "l": [Int32(3)]}
    assert xmlrpc.encode(value) == (
        "<value><struct>"
        "<member><name>n</name><value>1099511627776</value></member>"
        "<member><name>s</name><value>a&lt;b&gt;&amp;&quot;c</value></member>"
        "<member><name>b</name><value><boolean>1</boolean></value></member>"
        "<member><name>f</name><value><double>1.5</double></value></member>"
        "<member><name>e</name><value></value></member>"
        "<member><name>l</name><value><array><data><value><i4>3</i4></value></data></array></value>"
        "</member></struct></value>"
    )


def test_dates_have_their_own_element_and_control_characters_are_dropped() -> None:
    date = xmlrpc.encode(Date("20260718T13:15:49Z"))
    assert date == "<value><dateTime.iso8601>20260718T13:15:49Z</dateTime.iso8601></value>"
    assert xmlrpc.encode("a\x00b\x1fc\nd") == "<value>abc\nd</value>"


def test_an_answer_is_a_struct_of_status_and_value(lab: LabServer) -> None:
    body = call("session.login_with_password", lab.username, lab.password)
    for path in ("/", "/RPC2", "/xmlrpc", "/anything/else"):
        status, data, headers = post(lab, path, body)
        assert status == 200
        assert data.startswith(
            b'<?xml version="1.0"?><methodResponse><params><param><value><struct>'
            b"<member><name>Status</name><value>Success</value></member>"
            b"<member><name>Value</name><value>OpaqueRef:"
        )
        assert b"> <" not in data
        assert b"<string>" not in data
        assert headers["content-type"] == "text/xml"
        assert headers["cache-control"] == "no-cache, no-store"
        assert int(headers["content-length"]) == len(data)


def test_a_failure_is_a_status_with_its_code_first(lab: LabServer) -> None:
    _, data, _ = post(lab, "/", call("VM.get_all", "OpaqueRef:none"))
    assert data == (
        b'<?xml version="1.0"?><methodResponse><params><param><value><struct>'
        b"<member><name>Status</name><value>Failure</value></member>"
        b"<member><name>ErrorDescription</name><value><array><data>"
        b"<value>SESSION_INVALID</value><value>OpaqueRef:none</value>"
        b"</data></array></value></member></struct></value></param></params></methodResponse>"
    )


def test_list_methods_alone_answers_with_the_bare_array(lab: LabServer) -> None:
    _, data, _ = post(lab, "/", call("system.listMethods"))
    assert data.startswith(
        b'<?xml version="1.0"?><methodResponse><params><param><value><array><data><value>'
    )
    assert b"VM.get_all_records</value>" in data


def test_json_answers_in_the_version_it_is_asked_in(lab: LabServer) -> None:
    call_2 = {"jsonrpc": "2.0", "method": "VM.get_all", "params": ["x"], "id": "a"}
    call_1 = {"method": "VM.get_all", "params": ["x"], "id": 7}
    for path in ("/jsonrpc", "/json"):
        _, data, headers = post(lab, path, json.dumps(call_2).encode())
        assert headers["content-type"] == "application/json"
        assert json.loads(data) == {
            "jsonrpc": "2.0",
            "error": {"code": 1, "message": "SESSION_INVALID", "data": ["x"]},
            "id": "a",
        }
        _, data, _ = post(lab, path, json.dumps(call_1).encode())
        assert json.loads(data) == {"result": None, "error": ["SESSION_INVALID", "x"], "id": 7}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", b"no xml"),
        ("/", b"<methodCall/>"),
        ("/jsonrpc", b"{"),
        ("/jsonrpc", b'{"jsonrpc":"2.0","method":"VM.get_all","params":[]}'),
        ("/jsonrpc", b'{"method":"VM.get_all","params":{},"id":1}'),
    ],
)
def test_a_body_that_is_no_call_gets_a_500_page(lab: LabServer, path: str, body: bytes) -> None:
    status, data, headers = post(lab, path, body)
    assert status == 500
    assert headers["content-type"] == "text/html"
    assert data.startswith(b"<html>")


def test_paths_nobody_serves_are_refused_as_the_server_does(lab: LabServer) -> None:
    assert post(lab, "/nowhere", b"", "GET")[0] == 404
    assert post(lab, "/nowhere", b"", "PUT")[0] == 403
    assert post(lab, "/", b"", "PATCH")[0] == 501
    assert post(lab, "/jsonrpc", b"", "OPTIONS")[0] == 501


def test_a_request_beyond_300_kib_is_refused(lab: LabServer) -> None:
    assert post(lab, "/", b" " * (301 << 10))[0] == 413


def test_one_connection_carries_many_calls(lab: LabServer) -> None:
    parts = urlsplit(lab.url)
    body = call("system.listMethods")
    request = f"POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as raw:
        stream = raw.makefile("rb")
        for _ in range(3):
            raw.sendall(request)
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(
                line.decode().strip().split(": ", 1) for line in iter(stream.readline, b"\r\n")
            )
            assert headers["connection"] == "keep-alive"
            assert len(stream.read(int(headers["content-length"]))) > 1000
        stream.close()


def test_http_1_0_closes_after_the_answer(lab: LabServer) -> None:
    parts = urlsplit(lab.url)
    body = call("system.listMethods")
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as raw:
        raw.sendall(f"POST / HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while part := raw.recv(1 << 20):
            data += part
    assert b"connection: close\r\n" in data


def test_parsers_read_every_form_of_a_value() -> None:
    body = (
        "<methodCall><methodName>m</methodName><params>"
        "<param><value>bare</value></param><param><value><string>s &lt;</string></value></param>"
        "<param><value><int>3</int></value></param><param><value><i8>99999999999</i8></value></param>"
        "<param><value><double>1.5</double></value></param>"
        "<param><value><boolean>1</boolean></value></param><param><value/></param>"
        "<param><value><array><data><value>a</value></data></array></value></param>"
        "<param><value><struct><member><name>k</name><value>v</value></member></struct></value></param>"
        "</params></methodCall>"
    )
    assert xmlrpc.parse_call(body.encode()) == (
        "m",
        ["bare", "s <", 3, 99999999999, 1.5, True, "", ["a"], {"k": "v"}],
    )


def test_a_void_result_is_an_empty_text_in_both_protocols(
    xen: Xen, json_client: JsonClient
) -> None:
    vm = xen.vm("web")
    assert xen.api.VM.set_name_description(vm, "d") == ""
    assert json_client("VM.set_name_description", vm, "e") == ""


def test_numbers_are_texts_in_xml_and_numbers_in_json(xen: Xen, json_client: JsonClient) -> None:
    disk = xen.disks(xen.vm("web"))[0]
    assert xen.api.VDI.get_virtual_size(disk) == str(8 << 20)
    assert json_client("VDI.get_virtual_size", disk) == 8 << 20


def test_both_protocols_share_sessions_and_the_underscore_alias(lab: LabServer, xen: Xen) -> None:
    client = JsonClient(lab.url)
    assert client.raw("VM_get_all", xen.token) == xen.api.VM.get_all()
    with pytest.raises(Refused) as refused:
        client.raw("Async.VM_start", xen.token)
    assert refused.value.args == ("MESSAGE_METHOD_UNKNOWN", "Async.VM_start")


def test_failures_keep_their_parameters_in_json() -> None:
    asked = jsonrpc.parse_call(b'{"jsonrpc":"2.0","method":"m","params":[],"id":1}')
    said = json.loads(jsonrpc.failure(asked, XapiFailure("CODE", "a", 5)))
    assert said["error"] == {"code": 1, "message": "CODE", "data": ["a", "5"]}

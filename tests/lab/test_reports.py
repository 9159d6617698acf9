"""Counters, blobs, the audit log and the dump of the database, over HTTP."""

from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
import XenAPI

from lab.serving import LabServer
from tests.lab.clients import Xen


def fetch(xen: Xen, path: str, method: str = "GET", body: bytes = b"", **query: str) -> bytes:
    connection = xen.connection()
    asked = urlencode({"session_id": xen.token, **query})
    connection.request(method, f"{path}?{asked}", body)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status == 200, data
    assert xen.wait(str(answer.getheader("task-id")))["status"] == "success"
    return data


def test_counters_are_listed_read_forgotten_and_kept_again(xen: Xen) -> None:
    vm = xen.vm("web")
    names = [source["name_label"] for source in xen.api.VM.get_data_sources(vm)]
    assert names == ["memory", "cpu0", "cpu1"]
    assert xen.api.VM.query_data_source(vm, "memory") == 1 << 30
    xen.api.VM.forget_data_source_archives(vm, "cpu1")
    assert len(xen.api.VM.get_data_sources(vm)) == 2
    with pytest.raises(XenAPI.Failure, match="INVALID_VALUE"):
        xen.api.VM.query_data_source(vm, "cpu1")
    xen.api.VM.record_data_source(vm, "cpu1")
    assert xen.api.VM.query_data_source(vm, "cpu1") == 0.0
    host = xen.api.host.get_all()[0]
    free = xen.api.host.query_data_source(host, "memory_free_kib")
    assert 0 < free < xen.api.host.query_data_source(host, "memory_total_kib")


def test_updates_have_as_many_values_as_names(xen: Xen) -> None:
    tree = ElementTree.fromstring(fetch(xen, "/rrd_updates", start="0", host="true"))
    names = [str(entry.text) for entry in tree.iter("entry")]
    values = [float(str(value.text)) for value in tree.findall("data/row/v")]
    assert len(names) == len(values) == int(str(tree.findtext("meta/columns")))
    uuid = xen.api.VM.get_uuid(xen.vm("web"))
    assert values[names.index(f"AVERAGE:vm:{uuid}:memory")] == 1 << 30
    assert any(name.startswith("AVERAGE:host:") for name in names)
    without = ElementTree.fromstring(fetch(xen, "/rrd_updates", start="0"))
    assert not [e for e in without.iter("entry") if str(e.text).startswith("AVERAGE:host:")]


@pytest.mark.parametrize("path", ["/vm_rrd", "/host_rrd"])
def test_a_database_names_its_counters(xen: Xen, path: str) -> None:
    uuid = xen.api.VM.get_uuid(xen.vm("web"))
    query = {"uuid": uuid} if path == "/vm_rrd" else {}
    tree = ElementTree.fromstring(fetch(xen, path, **query))
    assert tree.tag == "rrd"
    assert len(tree.findall("ds")) == len(tree.findall("rra/database/row/v")) > 2


def test_a_blob_comes_back_as_it_was_put(xen: Xen) -> None:
    vm, content = xen.vm("web"), bytes(range(256)) * 100
    blob = xen.api.VM.create_new_blob(vm, "icon", "image/png", False)  # noqa: FBT003
    assert fetch(xen, "/blob", ref=blob) == b""
    assert fetch(xen, "/blob", "PUT", content, ref=blob) == b""
    assert fetch(xen, "/blob", uuid=xen.api.blob.get_uuid(blob)) == content
    assert xen.api.blob.get_size(blob) == str(len(content))


def test_the_dump_holds_every_object_and_the_log_every_call(lab: LabServer, xen: Xen) -> None:
    xen.api.VM.set_name_description(xen.vm("web"), '<"it\'s">')
    tree = ElementTree.fromstring(fetch(xen, "/pool/xmldbdump"))
    tables = {str(table.get("name")): table for table in tree.iter("table")}
    rows = {row.get("ref"): row for row in tables["VM"]}
    assert rows.keys() == set(xen.api.VM.get_all())
    assert rows[xen.vm("web")].get("name_description") == '<"it\'s">'
    assert "secret" not in tables
    assert b"VM.set_name_description ALLOWED" in fetch(xen, "/audit_log")
    assert lab.password.encode() not in fetch(xen, "/audit_log")


def test_what_is_not_there_is_not_found_and_fails_its_task(xen: Xen) -> None:
    for path in ("/vm_rrd", "/blob"):
        task, connection = xen.api.task.create("t", ""), xen.connection()
        asked = urlencode({"session_id": xen.token, "uuid": "none", "task_id": task})
        connection.request("GET", f"{path}?{asked}")
        assert connection.getresponse().status == 404
        connection.close()
        assert xen.wait(task)["error_info"][0] == "UUID_INVALID"

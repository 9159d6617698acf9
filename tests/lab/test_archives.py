"""Whole VMs as archives, out and in again."""

import gzip
import io
import random
import tarfile
from typing import Any
from urllib.parse import urlencode

import pytest
import xxhash
import zstandard

from lab.serving import LabServer
from tests.lab.clients import Xen

MIB = 1 << 20
BOTH_PROTOCOLS = True


def fetch(xen: Xen, path: str, **query: str) -> tuple[Any, bytes]:
    connection = xen.connection()
    connection.request("GET", f"{path}?{urlencode({'session_id': xen.token, **query})}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def send(xen: Xen, path: str, body: bytes, **query: str) -> dict[str, Any]:
    task = xen.api.task.create("import", "")
    connection = xen.connection()
    asked = urlencode({"session_id": xen.token, "task_id": task, **query})
    connection.request("PUT", f"{path}?{asked}", body)
    connection.getresponse().read()
    connection.close()
    return xen.wait(task)


def made(record: dict[str, Any]) -> str:
    assert record["status"] == "success", record["error_info"]
    inside = record["result"].removeprefix("<value><array><data><value>")
    return str(inside.removesuffix("</value></data></array></value>"))


@pytest.fixture
def snapshot(lab: LabServer, xen: Xen) -> str:
    lab.pool.write("web", 0, 3 * MIB + 5, random.Random(1).randbytes(MIB))
    lab.pool.write("web", 1, 0, b"second disk")
    return str(xen.api.VM.snapshot(xen.vm("web"), "archived"))


def test_an_archive_holds_a_description_and_the_pieces_with_data(xen: Xen, snapshot: str) -> None:
    answer, body = fetch(xen, "/export", ref=snapshot)
    assert answer.version == 10
    assert answer.getheader("content-length") is None
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        names = tar.getnames()
        contents = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert names[0] == "ova.xml"
    first = names[1].split("/")[0]
    numbers = [int(n.split("/")[1]) for n in names[1::2] if n.startswith(first)]
    assert numbers == [0, 3, 4, 7]
    for name in names[1::2]:
        assert contents[f"{name}.xxhash"].decode() == xxhash.xxh64(contents[name]).hexdigest()


@pytest.mark.parametrize("how", ["false", "true", "gzip", "zstd"])
def test_a_vm_comes_back_from_its_archive(
    lab: LabServer, xen: Xen, snapshot: str, how: str
) -> None:
    xen.api.VM.set_is_a_template(snapshot, False)  # noqa: FBT003
    _, body = fetch(xen, "/export", uuid=xen.api.VM.get_uuid(snapshot), use_compression=how)
    plain = {"true": gzip.decompress, "gzip": gzip.decompress}.get(how, bytes)
    if how == "zstd":
        body_plain = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    else:
        body_plain = plain(body)
    assert body_plain[:7] == b"ova.xml"
    vm = made(send(xen, "/import", body))
    source, copied = xen.api.VM.get_record(xen.vm("web")), xen.api.VM.get_record(vm)
    assert copied["name_label"] == "archived"
    assert copied["uuid"] != source["uuid"]
    assert not copied["is_a_template"]
    for field in ("memory_static_max", "VCPUs_max", "HVM_boot_params", "platform"):
        assert copied[field] == source[field]
    for old, new in zip(xen.disks(snapshot), xen.disks(vm), strict=True):
        assert xen.export(new) == xen.export(old)
    macs = [xen.api.VIF.get_MAC(v["VIFs"][0]) for v in (source, copied)]
    assert macs[0] != macs[1]


def test_restoring_keeps_uuids_and_addresses(xen: Xen, snapshot: str) -> None:
    uuid = xen.api.VM.get_uuid(snapshot)
    mac = xen.api.VIF.get_MAC(xen.api.VM.get_VIFs(snapshot)[0])
    _, body = fetch(xen, "/export", ref=snapshot)
    assert send(xen, "/import", body, restore="true")["error_info"] == ["DUPLICATE_VM", uuid]
    disks = xen.disks(snapshot)
    xen.api.VM.destroy(snapshot)
    for disk in disks:
        xen.until_free(disk)
        xen.api.VDI.destroy(disk)
    vm = made(send(xen, "/import", body, restore="true"))
    assert xen.api.VM.get_uuid(vm) == uuid
    assert xen.api.VIF.get_MAC(xen.api.VM.get_VIFs(vm)[0]) == mac


def test_a_running_vm_cannot_be_archived(xen: Xen) -> None:
    answer, _ = fetch(xen, "/export", ref=xen.vm("web"))
    assert answer.status == 500


def test_a_damaged_archive_is_refused_and_leaves_nothing(xen: Xen, snapshot: str) -> None:
    before = [xen.api.VM.get_all(), xen.api.VDI.get_all()]
    _, body = fetch(xen, "/export", ref=snapshot)
    damaged = bytearray(body)
    damaged[len(body) - 6000] ^= 0xFF
    for data in (bytes(damaged), b"no archive at all" * 100, b""):
        assert send(xen, "/import", data)["error_info"][0] == "IMPORT_ERROR"
    assert [xen.api.VM.get_all(), xen.api.VDI.get_all()] == before


@pytest.mark.parametrize("path", ["/export_metadata", "/pool/xmldbdump"])
def test_what_is_not_modelled_is_not_taken_for_an_archive(xen: Xen, path: str) -> None:
    answer, _ = fetch(xen, path, ref=xen.vm("web"))
    assert answer.status >= 400

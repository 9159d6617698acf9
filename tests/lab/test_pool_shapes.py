"""TLS, several hosts, several pools, several kinds of storage."""

import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import pytest
import XenAPI

from lab.pool import Pool
from lab.serving import LabServer, serve
from lab.settings import Settings
from tests.lab.clients import JsonClient, Refused, Xen

MIB = 1 << 20


def quick(**settings: Any) -> Settings:
    return Settings(coalesce_seconds=0.0, detach_seconds=0.02, **settings)


def test_everything_works_over_tls_with_the_hosts_own_certificate() -> None:
    pool = Pool(quick())
    pool.add_vm("web", [4 * MIB])
    pool.write("web", 0, MIB + 3, b"over tls")
    with LabServer(pool, tls=True) as lab:
        assert lab.url.startswith("https://")
        xen = Xen(lab)
        disk = xen.disks(xen.vm("web"))[0]
        body = xen.export(disk)
        assert len(body) == 4 * MIB
        assert body[MIB + 3 : MIB + 11] == b"over tls"
        target = xen.new_disk(4 * MIB)
        xen.put(target, body)
        assert xen.export(target) == body

        pem = xen.api.host.get_server_certificate(xen.api.host.get_all()[0])
        parts = urlsplit(lab.url)
        presented = ssl.get_server_certificate((parts.hostname or "", parts.port or 0))
        assert ssl.PEM_cert_to_DER_cert(presented) == ssl.PEM_cert_to_DER_cert(pem)
        trusting = ssl.create_default_context(cadata=pem)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(lab.url, context=trusting)


def test_a_client_that_trusts_nobody_is_told_so() -> None:
    refused = pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED")
    with LabServer(Pool(quick()), tls=True) as lab, refused:
        urllib.request.urlopen(lab.url, context=ssl.create_default_context())


def test_two_pools_know_nothing_of_each_other() -> None:
    with serve(("a", [MIB])) as first, serve(("b", [MIB])) as second:
        one, two = Xen(first), Xen(second)
        assert one.api.VM.get_by_name_label("b") == []
        assert one.api.pool.get_uuid(one.api.pool.get_all()[0]) != two.api.pool.get_uuid(
            two.api.pool.get_all()[0]
        )
        client = JsonClient(first.url)
        with pytest.raises(Refused, match="SESSION_INVALID"):
            client.raw("VM.get_all", two.token)


def test_a_host_that_does_not_see_the_storage_sends_the_client_to_one_that_does() -> None:
    pool = Pool(quick(), hosts=2)
    pool.add_vm("web", [4 * MIB], power_state="Halted")
    with LabServer(pool) as lab:
        xen = Xen(lab)
        disk = xen.disks(xen.vm("web"))[0]
        sr = xen.api.VDI.get_SR(disk)
        first, second = xen.api.host.get_all()
        for pbd in xen.api.SR.get_PBDs(sr):
            if xen.api.PBD.get_host(pbd) == first:
                xen.api.PBD.unplug(pbd)
        answer, _ = xen.get(disk)
        assert answer.status == 302
        target = answer.getheader("location") or ""
        assert urlsplit(target).hostname == xen.api.host.get_address(second) == "127.0.0.2"
        with urllib.request.urlopen(target) as body:
            assert len(body.read()) == 4 * MIB
        assert xen.api.VM.get_possible_hosts(xen.vm("web")) == [second]
        xen.api.VM.start(xen.vm("web"), False, False)  # noqa: FBT003
        assert xen.api.VM.get_resident_on(xen.vm("web")) == second


def test_nbd_is_offered_by_every_host_that_sees_the_storage() -> None:
    pool = Pool(quick(), hosts=2)
    pool.add_vm("web", [MIB])
    with LabServer(pool) as lab:
        xen = Xen(lab)
        network = pool.db.where("network", bridge="xenbr0")[0]
        xen.api.network.add_purpose(network, "nbd")
        info = xen.api.VDI.get_nbd_info(xen.disks(xen.vm("web"))[0])
        assert [each["address"] for each in info] == ["127.0.0.1", "127.0.0.2"]
        assert info[0]["cert"] != info[1]["cert"]


def new_sr(xen: Xen, kind: str, size: int) -> str:
    storage = xen.lab.pool.storage
    sr = storage.add_sr(name_label=f"{kind} storage", type=kind, physical_size=size)
    storage.connect(sr, xen.api.host.get_all()[0])
    return sr


def test_thick_storage_needs_room_for_a_whole_disk_at_each_snapshot(xen: Xen) -> None:
    sr = new_sr(xen, "lvm", 20 * MIB)
    disk = xen.new_disk(8 * MIB, SR=sr)
    assert xen.api.VDI.get_physical_utilisation(disk) == str(8 * MIB)
    xen.api.VDI.snapshot(disk)
    other = xen.new_disk(8 * MIB, SR=sr)
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.VDI.snapshot(other)
    assert refused.value.details[0] == "SR_BACKEND_FAILURE_44"


def test_storage_without_snapshots_refuses_them(xen: Xen) -> None:
    sr = new_sr(xen, "udev", 64 * MIB)
    vbd = xen.new_vbd(xen.vm("web"), xen.new_disk(2 * MIB, SR=sr))
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.VM.snapshot(xen.vm("web"), "s")
    assert refused.value.details == ["SR_OPERATION_NOT_SUPPORTED", sr]
    xen.api.VBD.destroy(vbd)


def test_classes_without_objects_are_named_and_empty(xen: Xen) -> None:
    named = set(xen.session.system.listMethods())
    for name in ("VGPU", "PCI", "PUSB", "Bond", "tunnel", "pool_update", "pool_patch"):
        assert {f"{name}.get_all_records", f"{name}.get_record"} <= named
        assert getattr(xen.api, name).get_all_records() == {}
        with pytest.raises(XenAPI.Failure) as lost:
            getattr(xen.api, name).get_record("OpaqueRef:x")
        assert lost.value.details == ["HANDLE_INVALID", name, "OpaqueRef:x"]
    counts = xen.events(["*"])["valid_ref_counts"]
    assert (counts["vgpu"], counts["certificate"]) == (0, 0)

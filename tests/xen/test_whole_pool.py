"""The client against a pool as people have them: HTTPS, several hosts, NBD with TLS."""

import hashlib
import random
import ssl
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.errors import HostRefused
from likeness.model.disk import Segment
from likeness.model.ids import RunId, random_name
from likeness.retrying import Pauses
from likeness.xen.changed_blocks import changed_extents, enable_tracking, skips_from
from likeness.xen.dropping import drop_snapshot
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.inventory import find_vm
from likeness.xen.marks import Owner
from likeness.xen.reading import Way, open_reader
from likeness.xen.references import drop_references
from likeness.xen.restoring import create_vm, release_vm, write_disk
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk, XenSnapshot, take_snapshot
from likeness.xen.storages import find_storage
from tests.xen.conftest import MIB, empty_disk, read_all

CHUNK = 256 << 10


@dataclass
class Site:
    server: LabServer
    xen: XenSession
    owner: Owner

    @property
    def pool(self) -> Pool:
        return self.server.pool

    def snapshot(self) -> XenSnapshot:
        vm = find_vm(self.xen, "files-1")
        return take_snapshot(self.xen, vm, owner=self.owner, label="nightly")

    def content(self) -> bytes:
        disk = self.pool.disk_of("files-1", 0)
        return disk.read(0, disk.size)


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def log_in(server: LabServer) -> XenSession:
    """Confirm the coordinator's certificate alone; the members' the client learns itself."""
    pool = server.pool
    master = pool.db.get("pool", pool.db.refs("pool")[0], "master")
    return XenSession.login(
        server.url,
        username=server.username,
        password=server.password,
        fingerprint=fingerprint(pool.certificates[master]),
        patience_seconds=10.0,
    )


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Generator[Site, None, None]:
    image = tmp_path / "files.raw"
    image.write_bytes(random.Random(1).randbytes(6 * MIB))
    pool = Pool(settings, hosts=2)
    pool.add_vm("files-1", [image])
    with LabServer(pool, tls=True) as server, log_in(server) as xen:
        yield Site(server, xen, Owner(random_name(), RunId(random_name())))


def switch_nbd_on(site: Site) -> None:
    for network in site.pool.db.where("network", bridge="xenbr0"):
        site.xen.call("network.add_purpose", network, "nbd")


def test_a_disk_is_read_by_https_and_by_nbd_alike(site: Site) -> None:
    disk = site.snapshot().disks[0]
    by_https = read_all(HttpDiskReader(site.xen, disk))
    switch_nbd_on(site)
    opened = open_reader(site.xen, disk)

    assert opened.way is Way.NBD, opened.reason
    assert read_all(opened.reader) == by_https == site.content()


def test_a_new_coordinator_with_another_certificate_is_known_already(site: Site) -> None:
    hosts = site.pool.db.refs("host")
    first = site.xen.coordinator
    master = site.pool.db.get("pool", site.pool.db.refs("pool")[0], "master")
    site.pool.set_coordinator(next(host for host in hosts if host != master))

    assert find_vm(site.xen, "files-1").name == "files-1"
    assert site.xen.coordinator.host != first.host


def test_every_day_reads_what_changed_and_gives_the_disk_as_it_was(site: Site) -> None:
    dice = random.Random(11)
    switch_nbd_on(site)
    assert all(tracking.on for tracking in enable_tracking(site.xen, find_vm(site.xen, "files-1")))
    before = _objects(site)
    kept, base = bytearray(len(site.content())), ""
    for day in range(5):
        snapshot = site.snapshot()
        expected = site.content()
        disk = snapshot.disks[0]
        changes = changed_extents(site.xen, base, disk) if base else None
        skips = skips_from(changes, disk.facts.size_bytes, CHUNK) if changes else None
        assert (skips is None) == (day == 0), changes
        opened = open_reader(site.xen, disk)
        with closing(opened.reader) as reader:
            for segment in reader.segments(MIB, skip=skips):
                kept[segment.offset : segment.offset + len(segment.data)] = segment.data
        drop_snapshot(site.xen, snapshot, keep_references=True, pauses=Pauses(0.1, 0.1, tries=50))
        drop_references(
            site.xen,
            {site.owner.installation},
            vm=snapshot.vm.vm,
            disks=[disk.facts.disk],
            keep=[disk.uuid],
        )
        base = disk.uuid

        assert bytes(kept) == expected
        if skips is not None:
            assert reader.read_bytes < len(expected)
        for _ in range(dice.randrange(1, 4)):
            site.pool.write("files-1", 0, dice.randrange(6 * MIB - 100), dice.randbytes(100))

    assert _objects(site) == {**before, "frozen disks": 1, "disks": before["disks"] + 1}


def test_a_version_becomes_a_running_vm_over_https(site: Site) -> None:
    snapshot = site.snapshot()
    disk = snapshot.disks[0]
    restored = create_vm(
        site.xen,
        snapshot.vm.configuration,
        owner=site.owner,
        storage_ref=find_storage(site.xen),
        sizes={disk.facts.disk: disk.facts.size_bytes},
        name="files-1 of today",
    )

    with closing(HttpDiskReader(site.xen, disk)) as reader:
        write_disk(site.xen, restored.disks[0], reader.segments(MIB))
    release_vm(site.xen, restored)

    back = site.pool.disk_of("files-1 of today", 0)
    assert back.read(0, 6 * MIB) == site.content()


def _objects(site: Site) -> dict[str, int]:
    db = site.pool.db
    return {
        "VM": db.count("VM"),
        "disks": len(db.where("VDI", managed=True)),
        "frozen disks": len(db.where("VDI", is_a_snapshot=True)),
    }


@pytest.fixture
def far_disk(site: Site) -> SnapshotDisk:
    """A frozen disk on storage that only the other host sees."""
    pool = site.pool
    master = pool.db.get("pool", pool.db.refs("pool")[0], "master")
    other = next(host for host in pool.db.refs("host") if host != master)
    storage = pool.add_sr(name_label="far", type="ext", content_type="user", physical_size=1 << 40)
    pool.connect(storage, other)
    pool.add_vm("far-1", [3 * MIB], power_state="Halted", sr=storage)
    pool.write("far-1", 0, MIB, b"far away")
    vm = find_vm(site.xen, "far-1")
    return take_snapshot(site.xen, vm, owner=site.owner, label="nightly").disks[0]


def test_a_disk_that_only_another_host_sees_is_read_there(
    site: Site, far_disk: SnapshotDisk
) -> None:
    content = read_all(HttpDiskReader(site.xen, far_disk))

    assert content[MIB : MIB + 8] == b"far away"


def test_a_disk_that_only_another_host_sees_is_written_there(
    site: Site, far_disk: SnapshotDisk
) -> None:
    disk = empty_disk(site.xen, 3 * MIB, site.owner, "far")

    write_disk(site.xen, disk, [Segment(MIB, b"home again")])

    assert site.pool.disk(disk.ref).read(MIB, 10) == b"home again"


def test_a_pointer_to_a_host_outside_the_pool_is_not_followed(
    site: Site, far_disk: SnapshotDisk
) -> None:
    for host in site.pool.db.refs("host"):
        if site.pool.db.get("host", host, "address") != site.xen.coordinator.host:
            site.pool.db.put("host", host, address="127.0.0.77")

    with pytest.raises(HostRefused, match=r"127\.0\.0\.77, which is no host of its pool"):
        read_all(HttpDiskReader(site.xen, far_disk))

"""A pool of the lab and a session with it."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.model.disk import Skips
from likeness.model.ids import DiskId, RunId, random_name
from likeness.xen import marks
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.inventory import find_vm
from likeness.xen.marks import Owner
from likeness.xen.nbd_reader import NbdDiskReader
from likeness.xen.restoring import DiskToFill
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk, XenSnapshot, take_snapshot
from likeness.xen.storages import find_storage

MIB = 1 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a pool, so that the rest can be run alone."""
    here = Path(__file__).parent
    for item in items:
        starts_pool = {"stage", "settings"} & set(getattr(item, "fixturenames", ()))
        if item.path.is_relative_to(here) and starts_pool:
            item.add_marker(pytest.mark.lab)


@dataclass
class Stage:
    """A pool with the content its disks began with."""

    server: LabServer
    xen: XenSession
    web: bytes
    data: bytes
    owner: Owner

    @property
    def pool(self) -> Pool:
        return self.server.pool

    def snapshot(self, vm: str = "web-1") -> XenSnapshot:
        return take_snapshot(self.xen, find_vm(self.xen, vm), owner=self.owner, label="by test")

    def count(self, class_name: str) -> int:
        return self.pool.db.count(class_name)

    def objects(self) -> dict[str, int]:
        """How many there are of what a snapshot is made of."""
        db = self.pool.db
        return {
            **{name: db.count(name) for name in ("VM", "VIF")},
            "drives": sum(len(db.get("VM", vm, "VBDs")) for vm in self._guests()),
            "disks": len(db.where("VDI", managed=True)),
            "frozen disks": len(db.where("VDI", is_a_snapshot=True)),
        }

    def _guests(self) -> list[str]:
        return self.pool.db.where("VM", is_control_domain=False)

    def content(self, vm: str = "web-1", disk: int = 0) -> bytes:
        live = self.pool.disk_of(vm, disk)
        return live.read(0, live.size)


def login(server: LabServer, **more: object) -> XenSession:
    given = {"username": server.username, "password": server.password, "patience_seconds": 2.0}
    return XenSession.login(server.url, **(given | more))  # type: ignore[arg-type]


def read_all(
    reader: HttpDiskReader | NbdDiskReader,
    segment_bytes: int = MIB,
    skip: Skips | None = None,
) -> bytes:
    """What a reader gives, put together; ranges it leaves out are zero."""
    content = bytearray(reader.size_bytes)
    with closing(reader):
        for segment in reader.segments(segment_bytes, skip=skip):
            content[segment.offset : segment.offset + len(segment.data)] = segment.data
    return bytes(content)


def empty_disk(xen: XenSession, size_bytes: int, owner: Owner, storage: str = "") -> DiskToFill:
    """A new disk that belongs to no VM."""
    record = {
        "name_label": "new",
        "name_description": "",
        "SR": find_storage(xen, storage),
        "virtual_size": str(size_bytes),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": marks.marks_to_be_made_with(owner),
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }
    ref = str(xen.call("VDI.create", record))
    return DiskToFill(DiskId(""), "", ref, str(xen.call("VDI.get_uuid", ref)), size_bytes)


def read_disk(xen: XenSession, disk: SnapshotDisk) -> bytes:
    return read_all(HttpDiskReader(xen, disk))


class Died(BaseException):
    """What kill -9 looks like from inside: nothing more is called."""


def let_it_die(xen: XenSession, calls_before: int) -> None:
    """From some call on, every call ends the program, clean-up included."""
    real, made = xen.call, [0]

    def counted(method: str, *params: Any, **more: Any) -> Any:
        made[0] += 1
        if made[0] > calls_before:
            raise Died(method)
        return real(method, *params, **more)

    xen.call = counted  # type: ignore[method-assign]


def wait_for_the_pool(stage: Stage) -> None:
    """Let the pool finish what a dead program had asked for."""
    while stage.pool.db.where("task", status="pending"):
        time.sleep(0.01)


@pytest.fixture
def settings() -> Settings:
    return Settings(
        wrong_password_seconds=0.05,
        detach_seconds=0.05,
        coalesce_seconds=0.05,
        data_destroy_seconds=0.1,
        conflict_seconds=0.2,
    )


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, size: int) -> Path:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        return path

    return make


@pytest.fixture
def stage(
    settings: Settings, make_image: Callable[[str, int], Path]
) -> Generator[Stage, None, None]:
    web, data = make_image("web.raw", 3 * MIB + 512), make_image("data.raw", 2 * MIB)
    pool = Pool(settings)
    pool.add_vm("web-1", [web, data], tags=["gold"])
    pool.add_vm("db-1", [4 * MIB], power_state="Halted")
    with LabServer(pool) as server, login(server) as xen:
        yield Stage(
            server=server,
            xen=xen,
            web=web.read_bytes(),
            data=data.read_bytes(),
            owner=Owner(random_name(), RunId(random_name())),
        )

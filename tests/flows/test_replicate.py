"""A standby elsewhere: kept up to date, never started by accident, failed over to, and back."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import XenPool
from flows.replicate import fail_over, replicate
from flows.restore_vm import restore_vm
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.xen.inventory import find_vm, list_vms
from likeness.xen.session import XenSession
from tests.flows.scene import MIB, QUICK, Scene, noise, sha256
from tests.flows.test_restore_over import shut_down

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture
def elsewhere(site: Scene) -> Iterator[LabServer]:
    with LabServer(Pool(Settings(**QUICK))) as lab:
        XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)).save(
            f"{site.name}-other"
        )
        yield lab


def disks_of(lab: LabServer, vm: str) -> list[str]:
    disks = [lab.pool.disk_of(vm, number) for number in (0, 1)]
    return [sha256(disk.read(0, disk.size)) for disk in disks]


def test_a_standby_follows_is_failed_over_to_and_comes_back(
    site: Scene, elsewhere: LabServer
) -> None:
    other, db = f"{site.name}-other", elsewhere.pool.db
    site.back_up("web", validated=True)
    bare: Any = {"networks": {"Pool-wide network associated with eth0": "none"}}

    none = fail_over("web", other, though_running=True, site=site.name, return_state=True)
    assert "VM web has no standby in the pool" in str(none.message)
    mixed = replicate(["web", "nobody"], other, **bare, site=site.name, return_state=True)
    assert mixed.name == "CompletedWithErrors", mixed.message
    assert "no VM 'nobody' has a version" in str(mixed.message)
    assert disks_of(elsewhere, "web (standby)") == site.disks("web")
    standby = elsewhere.pool.vm("web (standby)")
    with elsewhere_session(site, other) as xen:
        assert list_vms(xen) == ()  # it has its VM's tags, and is none for a job
        assert find_vm(xen, "web (standby)").power_state == "Halted"
    with elsewhere_session(site, other) as xen, pytest.raises(Exception, match="OPERATION_BLOCKED"):
        xen.call("VM.start", standby, False, False)  # noqa: FBT003

    site.pool.write("web", disk=0, offset=MIB, data=noise("second", 1000))
    site.back_up("web", validated=True)
    before = sum(elsewhere.pool.counters()["imported_bytes"].values())
    again = replicate(["web"], other, site=site.name, return_state=True)
    assert again.is_completed(), again.message
    assert sum(elsewhere.pool.counters()["imported_bytes"].values()) - before == 256 << 10
    assert disks_of(elsewhere, "web (standby)") == site.disks("web")
    idle = replicate(["web"], other, site=site.name, return_state=True)
    assert "0 B written" in str(idle.message)

    both = fail_over("web", other, site=site.name, return_state=True)
    assert "VM web is running in its own pool" in str(both.message)
    shut_down(site, "web")
    over = fail_over("web", other, site=site.name, return_state=True)
    assert over.name == "Completed", over.message
    assert db.get("VM", standby, "power_state") == "Running"
    assert not [key for key in db.get("VM", standby, "other_config") if "likeness" in key]

    elsewhere.pool.write("web (standby)", disk=1, offset=0, data=noise("written there", 5000))
    site.set(xen_pool=other)
    site.back_up("web (standby)", validated=True)
    site.set(xen_pool=f"{site.name}-xen-pool")
    before = sum(site.pool.counters()["imported_bytes"].values())
    back = restore_vm("web (standby)", overwrite="web", site=site.name, return_state=True)
    assert back.is_completed(), back.message
    assert site.disks("web") == disks_of(elsewhere, "web (standby)")
    assert sum(site.pool.counters()["imported_bytes"].values()) - before == 256 << 10


def elsewhere_session(site: Scene, other: str) -> AbstractContextManager[XenSession]:
    return site.site.pool_called(other).open()

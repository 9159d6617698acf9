"""A version goes over a VM that is there: all of it, or the VM is what it was."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import XenPool
from flows.restore_vm import restore_vm
from flows.sweep import sweep
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.killing import kill_when, start
from tests.flows.scene import MIB, QUICK, Scene, noise
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def shut_down(site: Scene, vm: str) -> None:
    with site.site.xen_pool.open() as xen:
        xen.call("VM.hard_shutdown", site.pool.vm(vm))


def written_to(site: Scene) -> int:
    return sum(site.pool.counters()["imported_bytes"].values())


def is_free(site: Scene, vm: str) -> bool:
    record = site.pool.db.record("VM", site.pool.vm(vm))
    ours = [key for key in record["other_config"] if key.startswith("likeness:")]
    return record["blocked_operations"] == {} and not ours


def test_only_what_differs_is_written_and_the_next_backup_goes_on(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", 8 * MIB), noise("logs", 2 * MIB)]})
    site.back_up("web", validated=True)
    first, then = site.newest("web").version, site.disks("web")
    site.pool.write("web", disk=0, offset=MIB, data=noise("second", 1000))
    site.back_up("web", validated=True)
    site.pool.write("web", disk=0, offset=5 * MIB, data=noise("since", 1000))

    running = restore_vm("web", first, overwrite="web", site=site.name, return_state=True)
    assert "VM web is running and would be overwritten; shut it down" in str(running.message)
    mixed = restore_vm(
        "web", first, overwrite="web", new_name="x", site=site.name, return_state=True
    )
    assert "keeps its name" in str(mixed.message)
    shut_down(site, "web")
    ended = restore_vm("web", first, overwrite="web", start=True, site=site.name, return_state=True)

    assert ended.name == "Completed", ended.message
    assert "was written over" in str(ended.message)
    assert site.disks("web") == then
    assert written_to(site) == 2 * 256 << 10  # the block of the second version, the one since
    assert is_free(site, "web")
    assert site.pool.db.get("VM", site.pool.vm("web"), "power_state") == "Running"
    assert site.left_in_the_pool() == {"snapshots": 0, "frozen disks": 0}

    site.back_up("web", validated=True)
    assert site.newest("web").counts.read_bytes < 2 * MIB
    assert site.restore(site.newest("web").version) == then


def test_what_is_not_known_is_written_whole_with_its_zeros(site: Scene) -> None:
    site.back_up("web", validated=True)
    then = site.disks("web")
    site.pool.write("web", disk=0, offset=3 * MIB, data=noise("where zeros were", MIB))
    shut_down(site, "web")
    site.forget_catalog()
    version = site.stored()[0].version

    unfit = restore_vm("web", version, overwrite="db", site=site.name, return_state=True)
    assert "disk 0 (web 0) has 3,146,240 bytes now and had 4,194,304" in str(unfit.message)
    ended = restore_vm("web", version, overwrite="web", site=site.name, return_state=True)

    assert ended.name == "CompletedWithWarnings", ended.message
    assert "what it holds is not known, so all of it is written" in str(ended.message)
    assert site.disks("web") == then
    assert is_free(site, "web")


def test_one_that_fails_leaves_the_vm_as_it_was(site: Scene) -> None:
    site.back_up("web", validated=True)
    site.pool.write("web", disk=0, offset=0, data=noise("later", 2 * MIB))
    shut_down(site, "web")
    was = site.disks("web")

    site.pool.faults.fail("task.get_record", "SR_BACKEND_FAILURE_44", "", "no space", at=3, times=0)
    full = restore_vm("web", overwrite="web", site=site.name, return_state=True)
    site.pool.faults.clear()

    assert full.is_failed()
    sweep(site=site.name)
    assert site.disks("web") == was
    assert is_free(site, "web")
    assert site.left_in_the_pool()["snapshots"] == 0


def test_a_killed_one_cannot_be_started_and_the_sweep_brings_it_back(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({"web": [noise("web", 48 * MIB)]})
    site.back_up("web", validated=True)
    then = site.disks("web")
    site.pool.write("web", disk=0, offset=0, data=noise("later", 40 * MIB))
    shut_down(site, "web")
    was = site.disks("web")

    process = start("restore_vm", vm="web", overwrite="web", site=site.name)
    assert kill_when(process, lambda: written_to(site) > 0)

    vm = site.pool.vm("web")
    assert {"start", "start_on"} <= site.pool.db.get("VM", vm, "blocked_operations").keys()

    def swept() -> bool:
        sweep(site=site.name, return_state=True)
        return is_free(site, "web") and site.left_in_the_pool()["snapshots"] == 0

    wait_until(swept, "the sweep has brought the VM back")
    assert site.disks("web") == was
    second = restore_vm("web", overwrite="web", site=site.name, return_state=True)
    assert second.is_completed(), second.message
    assert site.disks("web") == then


def test_a_vm_goes_into_another_pool_and_what_dies_there_is_swept(site: Scene) -> None:
    site.back_up("web", validated=True)
    with LabServer(Pool(Settings(**QUICK))) as elsewhere:
        block = XenPool(
            url=elsewhere.url,
            username=elsewhere.username,
            password=SecretStr(elsewhere.password),
        )
        name = f"{site.name}-other"
        block.save(name)
        db = elsewhere.pool.db
        asked = restore_vm("web", pool=name, site=site.name, return_state=True)
        told: dict[str, Any] = {}
        if asked.is_failed():
            assert "say which network to use" in str(asked.message)
            told = {"networks": {"Pool-wide network associated with eth0": "none"}}
        ended = restore_vm("web", pool=name, site=site.name, return_state=True, **told)
        assert ended.is_completed(), ended.message
        found = [elsewhere.pool.disk_of("web", each) for each in (0, 1)]
        mine = [site.pool.disk_of("web", each) for each in (0, 1)]
        assert [d.read(0, d.size) for d in found] == [d.read(0, d.size) for d in mine]

        site.pool.faults.clear()
        elsewhere.pool.faults.fail("VM.set_name_label", "INTERNAL_ERROR", "no", times=0)
        elsewhere.pool.faults.fail("VM.destroy", "INTERNAL_ERROR", "no", times=0)
        restore_vm("web", pool=name, new_name="two", site=site.name, return_state=True, **told)
        elsewhere.pool.faults.clear()
        left = [vm for vm in db.refs("VM") if "being restored" in db.get("VM", vm, "name_label")]
        assert left
        sweep(site=site.name)
        assert not [vm for vm in left if db.exists("VM", vm)]

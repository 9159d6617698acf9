"""A version goes over a VM that is there: all of it, or the VM is what it was."""

from collections.abc import Generator
from typing import Any

import pytest
from pydantic import SecretStr

from blocks import XenPool
from flows.restore_vm import restore_vm
from flows.sweep import sweep
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.scene import MIB, NOTHING_LEFT, QUICK, Scene, Vms, noise, open_scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
OTHERS = ("unknown", "unlucky", "moved")


def shut_down(site: Scene, vm: str) -> None:
    with site.site.xen_pool.open() as xen:
        xen.call("VM.hard_shutdown", site.pool.vm(vm))


def written_to(site: Scene) -> int:
    return sum(site.pool.counters()["imported_bytes"].values())


def is_free(site: Scene, vm: str) -> bool:
    record = site.pool.db.record("VM", site.pool.vm(vm))
    ours = [key for key in record["other_config"] if key.startswith("likeness:")]
    return record["blocked_operations"] == {} and not ours


@pytest.fixture(scope="module")
def proved(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A VM for each test, with a version that was proved."""
    two = {name: [noise(name, 3 * MIB) + bytes(MIB), noise(name[1:], 2 * MIB)] for name in OTHERS}
    vms: Vms = {"web": [noise("web", 8 * MIB), noise("logs", 2 * MIB)], "small": [MIB], **two}
    with open_scene(tmp_path_factory.mktemp("proved") / "site", vms) as made:
        assert made.back_up("web", *OTHERS, validated=True).is_completed()
        yield made


def test_only_what_differs_is_written_and_the_next_backup_goes_on(proved: Scene) -> None:
    site, before = proved, written_to(proved)
    first, then = site.newest("web").version, site.disks("web")
    site.pool.write("web", disk=0, offset=MIB, data=noise("second", 1000))
    site.back_up("web", validated=True)
    site.pool.write("web", disk=0, offset=5 * MIB, data=noise("since", 1000))

    near = restore_vm("web", first, overwrite="web ", site=site.name, return_state=True)
    assert "there is no VM 'web '" in str(near.message)
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
    # the block of the second version, and the one since
    assert written_to(site) - before == 2 * 256 << 10
    assert is_free(site, "web")
    assert site.pool.db.get("VM", site.pool.vm("web"), "power_state") == "Running"
    assert site.left_in_the_pool() == NOTHING_LEFT

    site.back_up("web", validated=True)
    assert site.newest("web").counts.read_bytes < 2 * MIB
    assert site.restore(site.newest("web").version) == then


def test_what_is_not_known_is_written_whole_with_its_zeros(proved: Scene) -> None:
    site, then = proved, proved.disks("unknown")
    site.pool.write("unknown", disk=0, offset=3 * MIB, data=noise("where zeros were", MIB))
    shut_down(site, "unknown")
    version = site.newest("unknown").version

    with site.lost_catalog():
        unfit = restore_vm("unknown", version, overwrite="small", site=site.name, return_state=True)
        ended = restore_vm(
            "unknown", version, overwrite="unknown", site=site.name, return_state=True
        )

    assert "disk 0 (unknown 0) has 1,048,576 bytes now and had 4,194,304" in str(unfit.message)
    assert ended.name == "CompletedWithWarnings", ended.message
    assert "what it holds is not known, so all of it is written" in str(ended.message)
    assert site.disks("unknown") == then
    assert is_free(site, "unknown")


def test_one_that_fails_leaves_the_vm_as_it_was(proved: Scene) -> None:
    site = proved
    site.pool.write("unlucky", disk=0, offset=0, data=noise("later", 2 * MIB))
    shut_down(site, "unlucky")
    was = site.disks("unlucky")

    site.pool.faults.fail("task.get_record", "SR_BACKEND_FAILURE_44", "", "no space", at=3, times=0)
    full = restore_vm("unlucky", overwrite="unlucky", site=site.name, return_state=True)
    site.pool.faults.clear()

    assert full.is_failed()
    sweep(site=site.name)
    assert site.disks("unlucky") == was
    assert is_free(site, "unlucky")
    assert site.left_in_the_pool()["snapshots"] == 0


def test_a_vm_goes_into_another_pool_and_what_dies_there_is_swept(proved: Scene) -> None:
    site = proved
    with LabServer(Pool(Settings(**QUICK))) as elsewhere:
        block = XenPool(
            url=elsewhere.url,
            username=elsewhere.username,
            password=SecretStr(elsewhere.password),
        )
        name = f"{site.name}-other"
        block.save(name)
        db = elsewhere.pool.db
        asked = restore_vm("moved", pool=name, site=site.name, return_state=True)
        told: dict[str, Any] = {}
        if asked.is_failed():
            assert "say which network to use" in str(asked.message)
            told = {"networks": {"Pool-wide network associated with eth0": "none"}}
        ended = restore_vm("moved", pool=name, site=site.name, return_state=True, **told)
        assert ended.is_completed(), ended.message
        found = [elsewhere.pool.disk_of("moved", each) for each in (0, 1)]
        mine = [site.pool.disk_of("moved", each) for each in (0, 1)]
        assert [d.read(0, d.size) for d in found] == [d.read(0, d.size) for d in mine]

        elsewhere.pool.faults.fail("VM.set_name_label", "INTERNAL_ERROR", "no", times=0)
        elsewhere.pool.faults.fail("VM.destroy", "INTERNAL_ERROR", "no", times=0)
        restore_vm("moved", pool=name, new_name="two", site=site.name, return_state=True, **told)
        elsewhere.pool.faults.clear()
        left = [vm for vm in db.refs("VM") if "being restored" in db.get("VM", vm, "name_label")]
        assert left
        sweep(site=site.name)
        assert not [vm for vm in left if db.exists("VM", vm)]

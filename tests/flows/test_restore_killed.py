"""A restore that is killed leaves nothing that can be started, and the sweep mends the rest."""

from collections.abc import Generator

import pytest

from flows.restore_vm import restore_vm
from flows.sweep import sweep
from tests.flows.killing import kill_when, start
from tests.flows.scene import MIB, Scene, noise, open_scene
from tests.flows.test_restore_over import is_free, shut_down, written_to
from tests.flows.test_restore_vm import objects
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture(scope="module")
def large(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A VM whose restore takes a while, with a version that was proved."""
    vms = {"web": [noise("web", 48 * MIB), noise("logs", 8 * MIB)]}
    with open_scene(tmp_path_factory.mktemp("large") / "site", vms) as made:
        assert made.back_up("web", validated=True).is_completed()
        yield made


def test_a_killed_restore_leaves_nothing_that_starts_and_is_swept(large: Scene) -> None:
    site, before, written = large, objects(large), written_to(large)

    process = start("restore_vm", vm="web", new_name="again", site=site.name)
    assert kill_when(process, lambda: written_to(site) > written)

    db = site.pool.db
    (left,) = [vm for vm in db.refs("VM") if "being restored" in db.get("VM", vm, "name_label")]
    assert {"start", "start_on"} <= db.get("VM", left, "blocked_operations").keys()
    assert db.get("VM", left, "power_state") == "Halted"

    def swept() -> bool:
        sweep(site=site.name, return_state=True)
        return bool(objects(site) == before)

    wait_until(swept, "the sweep has removed what the killed restore left")
    assert not [vm for vm in db.refs("VM") if "being restored" in db.get("VM", vm, "name_label")]
    second = restore_vm("web", new_name="again", site=site.name, return_state=True)
    assert second.name == "Completed", second.message
    assert site.disks("again") == site.disks("web")


def test_a_vm_half_written_over_cannot_be_started_and_the_sweep_brings_it_back(
    large: Scene,
) -> None:
    site, then, written = large, large.disks("web"), written_to(large)
    site.pool.write("web", disk=0, offset=0, data=noise("later", 40 * MIB))
    shut_down(site, "web")
    was = site.disks("web")

    process = start("restore_vm", vm="web", overwrite="web", site=site.name)
    assert kill_when(process, lambda: written_to(site) > written)

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

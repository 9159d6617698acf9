"""What a job means when it runs: VMs by host, pool, state and tag; disks by name."""

from collections.abc import Callable

import pytest

from likeness.model.outcome import VmState
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, noise, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


@pytest.fixture
def site(new_site: Callable[..., Scene]) -> Scene:
    made = new_site({name: [noise(name, MIB), MIB] for name in ("one", "two", "three")})
    db = made.pool.db
    db.put("VM", made.pool.vm("two"), power_state="Halted")
    db.put("VM", made.pool.vm("three"), tags=["likeness-ignore"])
    return made


def test_a_job_finds_vms_by_host_pool_and_state_and_says_what_is_not_there(site: Scene) -> None:
    db = site.pool.db
    host = str(db.get("host", db.refs("host")[0], "name_label"))
    pool = str(db.get("pool", db.refs("pool")[0], "uuid"))

    by_host = outcomes(site.back_up(hosts=[host, "xen9"], only_disks={"one": ["0"]}))
    halted = outcomes(site.back_up(pools=[pool], power_states=["Halted"]))
    nothing = site.back_up(hosts=[host], power_states=["Suspended"])

    assert sorted(by_host) == ["host xen9", "one"]
    assert by_host["host xen9"].state is VmState.FAILED
    assert "there is no host 'xen9'" in by_host["host xen9"].sentence
    assert [disk.plugged_at for disk in site.newest("one").disks] == ["0"]
    assert list(halted) == ["two"]
    assert "a backup of nothing must not look well" in str(nothing.message)


def test_disks_that_are_not_meant_are_not_tracked_either(site: Scene) -> None:
    uuid = str(site.pool.db.get("VM", site.pool.vm("one"), "uuid"))

    site.back_up("one", exclude_disks={uuid: ["1"]})

    tracked = site.pool.db.where("VDI", cbt_enabled=True, is_a_snapshot=False)
    assert [site.pool.db.get("VDI", each, "name_label") for each in tracked] == ["one 0"]
    assert site.left_in_the_pool() == NOTHING_LEFT

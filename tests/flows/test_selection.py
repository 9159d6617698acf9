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


def test_disks_named_of_a_vm_that_the_job_does_not_mean_are_told(site: Scene) -> None:
    three = str(site.pool.db.get("VM", site.pool.vm("three"), "uuid"))
    ended = outcomes(
        site.back_up(
            "one",
            exclude_disks={"two": ["0"], "One": ["0"], "gone": ["1"], "one": ["1"]},
            only_disks={three: ["0"]},
        )
    )

    failed = {name: each.sentence for name, each in ended.items() if each.state is VmState.FAILED}
    assert sorted(failed) == sorted(
        ["disks of two", "disks of One", "disks of gone", f"disks of {three}"]
    )
    assert "'two', which is not among its VMs" in failed["disks of two"]
    assert "did you mean 'one'" in failed["disks of One"]
    assert ended["one"].version
    assert [disk.plugged_at for disk in site.newest("one").disks] == ["0"]


def test_a_disk_that_a_vm_has_not_fails_it(site: Scene) -> None:
    ended = outcomes(site.back_up("one", only_disks={"one": ["0", "7"]}))

    assert ended["one"].state is VmState.FAILED
    assert "VM one has no disk '7'; it has 0 (one 0), 1 (one 1)" in ended["one"].sentence


def test_a_vm_that_is_left_out_today_may_have_its_disks_named(site: Scene) -> None:
    ended = site.back_up("one", "two", power_states=["Running"], only_disks={"two": ["0"]})

    assert (ended.name, list(outcomes(ended))) == ("Completed", ["one"])


def test_disks_of_a_vm_that_has_anothers_uuid_as_name_stay_with_the_other(site: Scene) -> None:
    uuid = str(site.pool.db.get("VM", site.pool.vm("one"), "uuid"))
    two = str(site.pool.db.get("VM", site.pool.vm("two"), "uuid"))
    site.pool.db.put("VM", site.pool.vm("two"), name_label=uuid)

    ended = outcomes(site.back_up("one", two, only_disks={uuid: ["0"]}))

    assert {each.version != "" for each in ended.values()} == {True}
    assert [disk.plugged_at for disk in site.newest("one").disks] == ["0"]
    assert [disk.plugged_at for disk in site.newest(uuid).disks] == ["0", "1"]


def test_where_two_vms_bear_the_name_neither_loses_a_disk_to_it(site: Scene) -> None:
    site.pool.db.put("VM", site.pool.vm("two"), name_label="one")
    uuids = [
        str(site.pool.db.get("VM", ref, "uuid"))
        for ref in site.pool.db.where("VM", name_label="one")
    ]

    ended = site.back_up(*uuids, only_disks={"one": ["0"]})

    assert ended.is_failed()
    assert str(ended.message).count("2 VMs are called 'one'") == 2
    assert site.listed() == []


def test_a_tag_that_only_looks_the_same_is_told(site: Scene) -> None:
    site.pool.db.put("VM", site.pool.vm("one"), tags=["gold"])

    ended = outcomes(site.back_up("two", tags=["Gold ", "silver"]))

    assert ended["two"].version
    assert [name for name in ended if name != "two"] == ["tag Gold "]
    assert "there is 'gold'" in ended["tag Gold "].sentence

"""What a job means when it runs: VMs by host, pool, state and tag; disks by name."""

from collections.abc import Generator

import pytest

from likeness.model.outcome import VmState
from tests.flows.scene import MIB, NOTHING_LEFT, Scene, Vms, noise, open_scene, outcomes

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
NAMES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[tuple[Scene, list[str]], None, None]:
    vms: Vms = {name: [noise(name, MIB), MIB] for name in NAMES}
    with open_scene(tmp_path_factory.mktemp("selection") / "site", vms) as made:
        yield made, [made.pool.vm(name) for name in NAMES]


@pytest.fixture
def site(whole: tuple[Scene, list[str]]) -> Scene:
    """One for all tests; for each the VMs are called again and in a state as at first."""
    scene, vms = whole
    for name, ref in zip(NAMES, vms, strict=True):
        tags = ["likeness-ignore"] if name == "three" else []
        state = "Halted" if name == "two" else "Running"
        scene.pool.db.put("VM", ref, name_label=name, tags=tags, power_state=state)
    return scene


def test_a_job_finds_vms_by_host_pool_and_state_and_says_what_is_not_there(site: Scene) -> None:
    db = site.pool.db
    host = str(db.get("host", db.refs("host")[0], "name_label"))
    pool = str(db.get("pool", db.refs("pool")[0], "uuid"))

    by_host = outcomes(site.back_up(hosts=[host, "xen9"], only_disks={"one": ["0"]}))
    halted = outcomes(site.back_up(pools=[pool], power_states=["Halted"]))
    nothing = site.back_up(hosts=[host], power_states=["Suspended"])

    assert sorted(by_host) == ["four", "host xen9", "one"]
    assert by_host["host xen9"].state is VmState.FAILED
    assert "there is no host 'xen9'" in by_host["host xen9"].sentence
    assert [disk.plugged_at for disk in site.newest("one").disks] == ["0"]
    assert list(halted) == ["two"]
    assert "a backup of nothing must not look well" in str(nothing.message)


def test_disks_that_are_not_meant_are_not_tracked_either(site: Scene) -> None:
    uuid = str(site.pool.db.get("VM", site.pool.vm("one"), "uuid"))

    site.back_up("one", exclude_disks={uuid: ["1"]})

    tracked = site.pool.db.where("VDI", cbt_enabled=True, is_a_snapshot=False)
    names = [str(site.pool.db.get("VDI", each, "name_label")) for each in tracked]
    assert [name for name in names if name.startswith("one")] == ["one 0"]
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
    ended = site.back_up("four", "two", power_states=["Running"], only_disks={"two": ["0"]})

    assert (ended.name, list(outcomes(ended))) == ("Completed", ["four"])


def test_where_two_vms_bear_the_name_neither_loses_a_disk_to_it(site: Scene) -> None:
    site.pool.db.put("VM", site.pool.vm("two"), name_label="one")
    uuids = [
        str(site.pool.db.get("VM", ref, "uuid"))
        for ref in site.pool.db.where("VM", name_label="one")
    ]

    before = site.listed()
    ended = site.back_up(*uuids, only_disks={"one": ["0"]})

    assert ended.is_failed()
    assert str(ended.message).count("2 VMs are called 'one'") == 2
    assert site.listed() == before


def test_disks_of_a_vm_that_has_anothers_uuid_as_name_stay_with_the_other(site: Scene) -> None:
    uuid = str(site.pool.db.get("VM", site.pool.vm("one"), "uuid"))
    two = str(site.pool.db.get("VM", site.pool.vm("two"), "uuid"))
    site.pool.db.put("VM", site.pool.vm("two"), name_label=uuid)

    ended = outcomes(site.back_up("one", two, only_disks={uuid: ["0"]}))

    assert {each.version != "" for each in ended.values()} == {True}
    assert [disk.plugged_at for disk in site.newest("one").disks] == ["0"]
    assert [disk.plugged_at for disk in site.newest(uuid).disks] == ["0", "1"]


def test_a_tag_that_only_looks_the_same_is_told(site: Scene) -> None:
    site.pool.db.put("VM", site.pool.vm("one"), tags=["gold"])

    ended = outcomes(site.back_up("two", tags=["Gold ", "silver"]))

    assert ended["two"].version
    assert [name for name in ended if name != "two"] == ["tag Gold "]
    assert "there is 'gold'" in ended["tag Gold "].sentence

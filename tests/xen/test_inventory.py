"""Finding the VMs that were meant."""

from collections.abc import Generator

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.errors import BadInput, UnknownVm
from likeness.xen.inventory import (
    VmSelection,
    disks_left_out,
    find_vm,
    list_vms,
    missing_hosts,
    position_order,
    select_vms,
)
from likeness.xen.session import XenSession
from tests.xen.conftest import MIB, Stage, login


@pytest.fixture
def town(settings: Settings) -> Generator[XenSession, None, None]:
    pool = Pool(settings, hosts=2)
    pool.add_vm("web-2", [MIB], tags=["gold", "web"])
    pool.add_vm("web-1", [MIB], tags=["web"])
    pool.add_vm("db-1", [MIB, MIB], power_state="Halted", tags=["gold"])
    pool.add_vm("Scratch", [], tags=["web", "likeness-ignore"])
    pool.add_vm("twin", [MIB])
    pool.add_vm("twin", [MIB])
    with LabServer(pool) as server, login(server) as xen:
        yield xen


def names(vms: tuple[object, ...]) -> list[str]:
    return [vm.name for vm in vms]  # type: ignore[attr-defined]


def test_the_listing_holds_vms_and_neither_templates_snapshots_nor_control_domains(
    stage: Stage,
) -> None:
    stage.snapshot()

    assert names(list_vms(stage.xen)) == ["db-1", "web-1"]


def test_a_vm_is_found_by_uuid_with_and_without_dashes(town: XenSession) -> None:
    vm = find_vm(town, "web-1")

    assert find_vm(town, vm.uuid) == vm
    assert find_vm(town, vm.vm) == vm
    assert vm in list_vms(town)


def test_a_vm_that_is_called_like_anothers_uuid_does_not_take_its_place(stage: Stage) -> None:
    vm = find_vm(stage.xen, "web-1")
    stage.pool.db.put("VM", stage.pool.vm("db-1"), name_label=vm.uuid)

    assert find_vm(stage.xen, vm.uuid) == vm
    assert select_vms(stage.xen, VmSelection(names=(vm.uuid,))) == (vm,)


LOOK_ALIKE = ["web-1 ", " web-1", "web-1\t", "WEB-1", "web-\uff11", "web-1\u200b", "web\u00ad-1"]


@pytest.mark.parametrize("name", LOOK_ALIKE)
def test_a_name_that_only_looks_the_same_is_refused_with_the_candidate(
    town: XenSession, name: str
) -> None:
    meant = find_vm(town, "web-1")

    for look in (lambda: find_vm(town, name), lambda: select_vms(town, VmSelection(names=(name,)))):
        with pytest.raises(UnknownVm) as refused:
            look()
        assert f"did you mean 'web-1' ({meant.uuid})" in str(refused.value)


@pytest.mark.parametrize("name", [*LOOK_ALIKE, "Bu\u0308ro", "B\u00fcro"])
def test_of_names_that_look_the_same_each_means_its_own_vm(settings: Settings, name: str) -> None:
    pool = Pool(settings)
    for each in ("web-1", "B\u00fcro", "Bu\u0308ro", *LOOK_ALIKE):
        pool.add_vm(each, [MIB])
    with LabServer(pool) as server, login(server) as xen:
        found = find_vm(xen, name)

        assert found.name == name
        assert select_vms(xen, VmSelection(names=(name,))) == (found,)
        with pytest.raises(UnknownVm, match=r"did you mean .*'web-1' \("):
            find_vm(xen, "Web-1")


def test_an_unknown_vm_is_answered_with_names_that_come_near(town: XenSession) -> None:
    with pytest.raises(UnknownVm, match=r"no VM 'wbe-1'.*did you mean 'web-1'"):
        find_vm(town, "wbe-1")
    with pytest.raises(UnknownVm, match="the pool has 6 VMs"):
        find_vm(town, "completely different")
    with pytest.raises(UnknownVm, match="no VM was named"):
        find_vm(town, " ")


def test_a_name_borne_twice_is_refused_with_the_uuids(town: XenSession) -> None:
    twins = [vm.uuid for vm in list_vms(town) if vm.name == "twin"]

    with pytest.raises(BadInput, match=", ".join(sorted(twins))):
        find_vm(town, "twin")
    assert find_vm(town, twins[0]).uuid == twins[0]


def test_the_uuid_of_a_template_or_snapshot_is_no_vm(stage: Stage) -> None:
    snapshot = stage.snapshot()

    with pytest.raises(UnknownVm):
        find_vm(stage.xen, snapshot.uuid)


def test_names_come_in_the_order_of_the_list_then_the_rest_by_name(town: XenSession) -> None:
    selection = VmSelection(names=("web-1", "db-1"), tags=("web", "gold"))

    assert names(select_vms(town, selection)) == ["web-1", "db-1", "web-2"]


def test_tags_differ_by_case_and_words_in_names_do_not(town: XenSession) -> None:
    assert names(select_vms(town, VmSelection(tags=("Gold",)))) == []
    assert names(select_vms(town, VmSelection(containing=("WEB-",)))) == ["web-1", "web-2"]


def test_a_power_state_narrows_what_was_selected(town: XenSession) -> None:
    halted = VmSelection(tags=("gold",), power_states=("Halted",))

    assert names(select_vms(town, halted)) == ["db-1"]


def test_the_exclusion_tag_wins_even_over_a_name(town: XenSession) -> None:
    assert names(select_vms(town, VmSelection(names=("Scratch",)))) == []
    assert names(select_vms(town, VmSelection(names=("Scratch",), excluded_tag=""))) == ["Scratch"]


def test_a_host_means_what_runs_on_it_and_a_pool_means_everything(town: XenSession) -> None:
    pool_name = str(next(iter(town.call("pool.get_all_records").values()))["name_label"])
    host = find_vm(town, "web-1").host

    on_host = select_vms(town, VmSelection(hosts=(host,)))
    assert "web-1" in names(on_host)
    assert {vm.host for vm in on_host} == {host}
    assert len(select_vms(town, VmSelection(pools=(pool_name,)))) == 5


def test_an_empty_selection_means_no_vm(town: XenSession) -> None:
    assert select_vms(town, VmSelection()) == ()


def test_a_name_in_a_list_that_is_no_vm_is_refused(town: XenSession) -> None:
    with pytest.raises(UnknownVm, match="web-9"):
        select_vms(town, VmSelection(names=("web-1", "web-9")))


def test_a_host_or_pool_that_is_not_there_is_named(town: XenSession) -> None:
    host = find_vm(town, "web-1").host

    missing = missing_hosts(town, hosts=[host, "xen9"], pools=["elsewhere"])

    assert list(missing) == ["host xen9", "pool elsewhere"]
    assert f"there is no host 'xen9' at {town.url}; there is '{host}'" in missing["host xen9"]


def test_disks_are_left_out_or_chosen_by_position_uuid_or_name(town: XenSession) -> None:
    vm = find_vm(town, "db-1")
    _, second = vm.disks

    assert disks_left_out(vm, [second.name]) == disks_left_out(vm, [], only=["0"]) == (second,)
    assert disks_left_out(vm, [], only=["0", second.uuid]) == ()
    with pytest.raises(BadInput, match="every disk is left out"):
        disks_left_out(vm, ["0"], only=["0"])
    with pytest.raises(BadInput, match="VM db-1 has no disk '7'; it has 0"):
        disks_left_out(vm, [], only=["7"])


def test_of_two_hosts_of_one_name_neither_is_meant_by_it(town: XenSession) -> None:
    ours, other = town.call("host.get_all_records").items()
    name = str(ours[1]["name_label"])
    town.call("host.set_name_label", other[0], name)
    running = {vm.host_uuid for vm in list_vms(town)} & {ours[1]["uuid"]}

    assert list(missing_hosts(town, hosts=[name], pools=[])) == [f"host {name}"]
    assert "2 hosts are called" in missing_hosts(town, hosts=[name], pools=[])[f"host {name}"]
    assert select_vms(town, VmSelection(hosts=(name,))) == ()
    here = select_vms(town, VmSelection(hosts=(ours[1]["uuid"],)))
    assert {vm.host_uuid for vm in here} == running


def test_a_disk_that_may_be_either_of_two_is_refused(town: XenSession) -> None:
    first, second = find_vm(town, "db-1").disks
    town.call("VDI.set_name_label", first.ref, "1")  # the position of the other one
    vm = find_vm(town, "db-1")

    for wanted in (["1"], ["1", second.uuid]):
        with pytest.raises(BadInput, match="2 disks are called '1'; name the one you mean"):
            disks_left_out(vm, wanted)
    assert disks_left_out(vm, [second.uuid]) == (vm.disks[1],)
    with pytest.raises(BadInput, match=r"no disk '1 '.*did you mean '1'"):
        disks_left_out(vm, ["1 "])
    with pytest.raises(BadInput, match="no disk ''"):
        disks_left_out(vm, [""])


def test_disks_sort_by_number(town: XenSession) -> None:
    assert sorted(["10", "xvda", "2", "0"], key=position_order) == ["0", "2", "10", "xvda"]
    assert [disk.position for disk in find_vm(town, "db-1").disks] == ["0", "1"]

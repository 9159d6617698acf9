"""Fields, relations and atomic writes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import XenAPI

from lab.serving import LabServer
from tests.lab.clients import JsonClient, Refused, Xen

BOTH_PROTOCOLS = True


def test_both_ends_of_a_relation_stay_in_step(xen: Xen) -> None:
    vm, disk = xen.vm("web"), xen.new_disk()
    vbd = xen.new_vbd(vm, disk)
    assert vbd in xen.api.VM.get_VBDs(vm)
    assert xen.api.VDI.get_VBDs(disk) == [vbd]
    sr = xen.api.VDI.get_SR(disk)
    assert disk in xen.api.SR.get_VDIs(sr)
    xen.api.VBD.destroy(vbd)
    assert vbd not in xen.api.VM.get_VBDs(vm)
    assert xen.api.VDI.get_VBDs(disk) == []
    xen.api.VDI.destroy(disk)
    assert disk not in xen.api.SR.get_VDIs(sr)


def test_parallel_writes_to_one_map_lose_nothing(lab: LabServer, xen: Xen) -> None:
    vm = xen.vm("web")
    keys = [f"key-{number}" for number in range(100)]

    def add(key: str) -> None:
        client = JsonClient(lab.url)
        client.session = xen.token
        client("VM.add_to_other_config", vm, key, "1")
        client("VM.add_tags", vm, key)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(add, keys))
    assert set(keys) <= xen.api.VM.get_other_config(vm).keys()
    assert set(xen.api.VM.get_tags(vm)) == set(keys)


def test_adding_a_key_twice_is_refused_and_removing_a_missing_one_is_not(xen: Xen) -> None:
    vm = xen.vm("web")
    uuid = xen.api.VM.get_uuid(vm)
    xen.api.VM.add_to_other_config(vm, "k", "1")
    with pytest.raises(XenAPI.Failure) as refused:
        xen.api.VM.add_to_other_config(vm, "k", "2")
    assert refused.value.details == ["MAP_DUPLICATE_KEY", "VM", "other_config", uuid, "k"]
    xen.api.VM.remove_from_other_config(vm, "k")
    xen.api.VM.remove_from_other_config(vm, "k")


def test_a_constructor_ignores_unknown_members_and_misses_mandatory_ones(
    json_client: JsonClient,
) -> None:
    made = json_client("network.create", {"other_config": {}, "name_label": "n", "nonsense": 1})
    assert json_client("network.get_name_label", made) == "n"
    with pytest.raises(Refused, match="INTERNAL_ERROR"):
        json_client("network.create", {"name_label": "n"})


def test_numbers_are_taken_as_text_and_as_numbers(xen: Xen, json_client: JsonClient) -> None:
    vm = xen.vm("web")
    xen.api.VM.set_user_version(vm, "7")
    assert json_client("VM.get_user_version", vm) == 7
    json_client("VM.set_user_version", vm, 8)
    assert xen.api.VM.get_user_version(vm) == "8"


def test_optional_parameters_may_be_left_out_and_extra_ones_are_then_ignored(
    json_client: JsonClient,
) -> None:
    vm = json_client("VM.get_by_name_label", "web")[0]
    assert json_client("VM.snapshot", vm, "two")
    assert json_client("VM.snapshot", vm, "three", [])
    assert json_client("VM.snapshot", vm, "four", [], "more")
    with pytest.raises(Refused) as refused:
        json_client("VM.snapshot", vm)
    assert refused.value.args == ("MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.snapshot", "2", "1")
    with pytest.raises(Refused) as refused:
        json_client("VM.get_uuid", vm, "more")
    assert refused.value.args == ("MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_uuid", "1", "2")


def test_what_a_client_reads_it_cannot_change_from_outside(lab: LabServer) -> None:
    vm = lab.pool.vm("web")
    lab.pool.db.get("VM", vm, "other_config")["stolen"] = "1"
    lab.pool.db.record("VM", vm)["tags"].append("stolen")
    assert "stolen" not in lab.pool.db.get("VM", vm, "other_config")
    assert lab.pool.db.get("VM", vm, "tags") == []

"""What a backup does to a pool, from login to clean-up, over XML-RPC and over JSON-RPC alike."""

import base64
import time
from collections.abc import Callable
from typing import Any

from lab.serving import LabServer
from tests.lab.clients import Both

MIB = 1 << 20
Api = Callable[..., Any]


def managed(api: Both) -> set[str]:
    return {d for d, r in api("VDI.get_all_records").items() if r["managed"]}


def changed_count(api: Both, base: str, disk: str) -> int:
    bitmap = base64.b64decode(api("VDI.list_changed_blocks", base, disk))
    return sum(map(int.bit_count, bitmap))


def read_all(api: Both, disks: list[str]) -> None:
    for disk in disks:
        assert len(api.xen.export(disk)) == int(api("VDI.get_virtual_size", disk))


def keep_logs_of(api: Both, disks: list[str], *, instead_of: list[str]) -> None:
    for disk in disks:
        api.patiently("VDI.data_destroy", disk)
    for old in instead_of:
        api("VDI.destroy", old)


def switch_on_nbd(api: Both) -> None:
    networks = api("network.get_all_records").items()
    api("network.add_purpose", next(n for n, r in networks if r["bridge"] == "xenbr0"), "nbd")


def test_an_incremental_backup_from_login_to_clean_up(lab: LabServer, api: Both) -> None:
    vm = api("VM.get_by_name_label", "web")[0]
    vms, disks = set(api("VM.get_all")), managed(api)
    live = [api("VBD.get_VDI", vbd) for vbd in api("VM.get_VBDs", vm)]
    switch_on_nbd(api)
    for disk in live:
        api.task("VDI.enable_cbt", disk)
    kept: list[str] = []
    for day in range(3):
        lab.pool.settings.detach_seconds = 0.02 if day else 0.5
        lab.pool.write("web", 0, day * MIB, b"today")
        api("VM.add_to_blocked_operations", vm, "pool_migrate", "backup")
        snapshot = api.task("VM.snapshot", vm, f"backup {day}", [])
        api("VM.set_is_a_template", snapshot, False)  # noqa: FBT003
        api("VM.add_to_other_config", snapshot, "job", "nightly")
        frozen = [api("VBD.get_VDI", vbd) for vbd in api("VM.get_VBDs", snapshot)]
        if day:
            assert [changed_count(api, *pair) for pair in zip(kept, frozen, strict=True)] == [1, 0]
        info = api("VDI.get_nbd_info", frozen[0])
        assert info[0]["exportname"].endswith(api.xen.token)
        read_all(api, frozen)
        if day == 0:
            assert api.failure("VDI.destroy", frozen[-1])[0] == "VDI_IN_USE"
        api("VM.destroy", snapshot)
        keep_logs_of(api, frozen, instead_of=kept)
        kept = frozen
        api("VM.remove_from_blocked_operations", vm, "pool_migrate")
    assert set(api("VM.get_all")) == vms
    assert managed(api) == disks | set(kept)
    assert {api("VDI.get_type", disk) for disk in kept} == {"cbt_metadata"}
    for disk in kept:
        api("VDI.destroy", disk)
    assert managed(api) == disks


def test_an_appliance_is_cloned_addressed_given_disks_and_removed(
    lab: LabServer, api: Both
) -> None:
    lab.pool.add_vm("appliance template", [2 * MIB], power_state="Halted")
    template = api("VM.get_by_name_label", "appliance template")[0]
    api("VM.set_is_a_template", template, True)  # noqa: FBT003
    vms, disks = set(api("VM.get_all")), managed(api)
    source = api("VM.get_by_name_label", "web")[0]

    appliance = api.task("VM.clone", template, "appliance 1")
    api.task("VM.provision", appliance)
    api("VM.add_to_other_config", appliance, "HideFromXenCenter", "true")
    for vif in api("VM.get_VIFs", appliance):
        api("VIF.destroy", vif)
    network = api("network.create", {"name_label": "vlan", "other_config": {}})
    card = {"VM": appliance, "network": network, "device": "0", "MAC": "", "MTU": 1500}
    card |= {"other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    if api.protocol == "xml":
        card["MTU"] = "1500"
    api("VIF.create", card)
    address = {"vm-data/ip": "192.0.2.4", "vm-data/nm": "255.255.255.0"}
    api("VM.set_xenstore_data", appliance, address)
    assert api("VM.get_possible_hosts", source)
    api.task("VM.start", appliance, False, False)  # noqa: FBT003
    assert lab.pool.guest_store[appliance]["vm-data/ip"] == "192.0.2.4"
    lab.pool.guest_writes_store(appliance, "vm-data/assigned-ip", "192.0.2.4")
    assert api("VM.get_xenstore_data", appliance)["vm-data/assigned-ip"] == "192.0.2.4"

    snapshot = api.task("VM.snapshot", source, "s")
    frozen = [api("VBD.get_VDI", vbd) for vbd in api("VM.get_VBDs", snapshot)]
    drives = [api.xen.new_vbd(appliance, disk) for disk in frozen]
    for drive in drives:
        api.task("VBD.plug", drive)
    assert [api("VBD.get_device", drive) for drive in drives] == ["xvdb", "xvdc"]
    for drive in drives:
        api.task("VBD.unplug", drive)
        api("VBD.destroy", drive)
    api("VM.destroy", snapshot)
    for disk in frozen:
        api("VDI.destroy", disk)

    own = [api("VBD.get_VDI", vbd) for vbd in api("VM.get_VBDs", appliance)]
    api.task("VM.hard_shutdown", appliance)
    api("VM.destroy", appliance)
    for disk in own:
        api("VDI.destroy", disk)
    assert set(api("VM.get_all")) == vms
    assert managed(api) == disks


def test_a_restore_makes_a_vm_with_disks_and_cards_from_records(lab: LabServer, api: Both) -> None:
    lab.pool.write("web", 1, 77, b"worth keeping")
    vm = api("VM.get_by_name_label", "web")[0]
    record = api("VM.get_record", vm)
    contents = [api.xen.export(api("VBD.get_VDI", vbd)) for vbd in api("VM.get_VBDs", vm)]
    made = api("VM.create", record | {"name_label": "[Importing] web", "is_a_template": False})
    for number, content in enumerate(contents):
        disk = api.xen.new_disk(len(content))
        api.xen.new_vbd(made, disk, userdevice=str(number), bootable=number == 0)
        assert api.xen.put(disk, content)["status"] == "success"
    card = api("VIF.get_record", record["VIFs"][0]) | {"VM": made}
    api("VIF.create", card)
    api("VM.set_name_label", made, "web restored")
    end = time.monotonic() + 30
    while any(len(api("VDI.get_VBDs", d)) > 1 for d in api.xen.disks(made)):
        assert time.monotonic() < end
    api.task("VM.start", made, False, False)  # noqa: FBT003
    assert [api.xen.export(disk) for disk in api.xen.disks(made)] == contents
    assert lab.pool.disk_of("web restored", 1).read(77, 13) == b"worth keeping"

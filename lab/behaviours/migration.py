"""Moving VMs away: storage migration inside the pool, and emptying a host."""

from lab.behaviours import vdi as disks
from lab.behaviours.common import disk_vbds, refuse_blocked, require_power
from lab.behaviours.vm_power import possible_hosts
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import NULL, Value


def _refuse(call: Call, vm: str, vdi_map: dict[str, str]) -> None:
    refuse_blocked(call, vm, "migrate_send")
    require_power(call, vm, "Running", "Halted", "Suspended")
    if call.db.get("VM", vm, "is_a_snapshot"):
        raise XapiFailure("VM_IS_SNAPSHOT", vm, "migrate_send")
    for vbd in disk_vbds(call.db, vm):
        vdi = call.db.get("VBD", vbd, "VDI")
        if vdi in vdi_map and call.db.get("VDI", vdi, "cbt_enabled"):
            raise XapiFailure("VDI_CBT_ENABLED", vdi)


@message("VM.assert_can_migrate", "VM.assert_can_migrate_sender")
def assert_can_migrate(
    call: Call, vm: str, dest: dict[str, str], live: Value, vdi_map: dict[str, str], *rest: Value
) -> None:
    """Fail the way the migration would."""
    del dest, live, rest
    _refuse(call, vm, vdi_map)


@message("VM.migrate_send")
def migrate_send(
    call: Call, vm: str, dest: dict[str, str], live: Value, vdi_map: dict[str, str], *rest: Value
) -> str:
    """Move a VM's disks to other storage of this pool: they become other VDIs."""
    del dest, live, rest
    _refuse(call, vm, vdi_map)
    with call.operation("VM", vm, "migrate_send"):
        for vbd in disk_vbds(call.db, vm):
            old = call.db.get("VBD", vbd, "VDI")
            target = vdi_map.get(old)
            if target is None or target == call.db.get("VDI", old, "SR"):
                continue
            moved = disks.copy(call, old, target, NULL, NULL)
            with call.db.lock:
                call.db.put("VBD", vbd, VDI=moved)
                call.pool.drop_vdi(old)
    return vm


@message("host.migrate_receive")
def migrate_receive(call: Call, host: str, network: str, options: dict[str, str]) -> Value:
    """Say where a VM can be sent."""
    del network, options
    return {"host": host, "session_id": call.session}


@message("host.assert_can_evacuate")
def assert_can_evacuate(call: Call, host: str) -> None:
    """Fail unless every VM of the host can run elsewhere."""
    for vm in call.db.get("host", host, "resident_VMs"):
        _another_host(call, vm, host)


def _another_host(call: Call, vm: str, host: str) -> str:
    if call.db.get("VM", vm, "is_control_domain"):
        return host
    others = [each for each in possible_hosts(call, vm) if each != host]
    if not others:
        raise XapiFailure("NO_HOSTS_AVAILABLE")
    return str(others[0])


@message("host.evacuate")
def evacuate(call: Call, host: str, *options: Value) -> None:
    """Move every VM of a host to another one."""
    del options
    for vm in call.db.get("host", host, "resident_VMs"):
        target = _another_host(call, vm, host)
        if target != host:
            with call.operation("VM", vm, "pool_migrate"):
                call.pool.begin_domain(vm, target)


@message("host.shutdown", "host.reboot")
def shut_down(call: Call, host: str) -> None:
    """Stop a host that is disabled and empty; one that reboots is back at once."""
    if call.db.get("host", host, "enabled"):
        raise XapiFailure("HOST_NOT_DISABLED")
    guests = [
        vm
        for vm in call.db.get("host", host, "resident_VMs")
        if not call.db.get("VM", vm, "is_control_domain")
    ]
    if guests:
        raise XapiFailure("HOST_IN_USE", host, "VM", guests[0])
    metrics = call.db.get("host", host, "metrics")
    call.db.put("host_metrics", metrics, live=call.name == "host.reboot")

"""Moving VMs away: to other storage, to another pool, and off a host."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

from lab.behaviours import vdi as disks
from lab.behaviours.common import disk_vbds, refuse_blocked, require_power, the_pool
from lab.behaviours.journey import Journey
from lab.behaviours.vm_power import possible_hosts
from lab.calls import Call
from lab.failures import XapiFailure
from lab.pool_core import STORAGE_MIGRATIONS
from lab.registry import message
from lab.wire.values import NULL, Value


def _refuse(
    call: Call, vm: str, dest: dict[str, str], vdi_map: dict[str, str], vif_map: dict[str, str]
) -> None:
    refuse_blocked(call, vm, "migrate_send")
    require_power(call, vm, "Running", "Halted", "Suspended")
    if call.db.get("VM", vm, "is_a_snapshot"):
        raise XapiFailure("VM_IS_SNAPSHOT", vm, "migrate_send")
    leaves = _leaves(call, dest)
    for vbd in disk_vbds(call.db, vm):
        vdi = call.db.get("VBD", vbd, "VDI")
        if (leaves or vdi in vdi_map) and call.db.get("VDI", vdi, "cbt_enabled"):
            raise XapiFailure("VDI_CBT_ENABLED", vdi)
    if not leaves:
        return
    if call.db.get("VM", vm, "snapshots"):
        raise XapiFailure("VM_HAS_TOO_MANY_SNAPSHOTS", vm)
    for vif in call.db.get("VM", vm, "VIFs"):
        if vif not in vif_map:
            raise XapiFailure("VIF_NOT_IN_MAP", vif)


def _leaves(call: Call, dest: dict[str, str]) -> bool:
    """Whether the destination is another pool."""
    return bool(dest.get("host")) and not call.db.exists("host", dest["host"])


@contextmanager
def _one_of_few(call: Call) -> Iterator[None]:
    """Take one of the storage migrations a host carries at a time.

    Raises:
        XapiFailure: TOO_MANY_STORAGE_MIGRATES [3].
    """
    if not call.pool.storage_migrations.acquire(blocking=False):
        raise XapiFailure("TOO_MANY_STORAGE_MIGRATES", STORAGE_MIGRATIONS)
    try:
        yield
    finally:
        call.pool.storage_migrations.release()


@message("VM.assert_can_migrate", "VM.assert_can_migrate_sender")
def assert_can_migrate(call: Call, vm: str, *given: Value) -> None:
    """Fail the way the migration would."""
    dest, _, vdi_map, vif_map, *_ = given
    _refuse(call, vm, dest, vdi_map, vif_map)


@message("VM.migrate_send")
def migrate_send(call: Call, vm: str, *given: Value) -> str:
    """Move a VM with its disks, inside this pool or to another; the disks become other VDIs.

    What the guest writes to a disk while that is copied does not come along.
    """
    dest, _, vdi_map, vif_map, options, *_ = given
    _refuse(call, vm, dest, vdi_map, vif_map)
    with call.operation("VM", vm, "migrate_send"), _one_of_few(call):
        if _leaves(call, dest):
            journey = Journey(call, vm, dest, vdi_map, vif_map)
            return journey.run(keep=options.get("copy", "").lower() == "true")
        for vbd in disk_vbds(call.db, vm):
            _move_disk(call, vbd, vdi_map)
        host = dest.get("host", "")
        elsewhere = host and host != call.db.get("VM", vm, "resident_on")
        if elsewhere and call.db.get("VM", vm, "power_state") == "Running":
            call.pool.begin_domain(vm, host)
    return vm


def _move_disk(call: Call, vbd: str, vdi_map: dict[str, str]) -> None:
    old = call.db.get("VBD", vbd, "VDI")
    target = vdi_map.get(old)
    if target is None or target == call.db.get("VDI", old, "SR"):
        return
    moved = disks.copy(call, old, target, NULL, NULL)
    with call.db.lock:
        call.db.put("VBD", vbd, VDI=moved)
        call.pool.drop_vdi(old)


@message("VDI.pool_migrate")
def pool_migrate(call: Call, vdi: str, sr: str, options: dict[str, str]) -> str:
    """Move a disk of a VM to another SR: it becomes another VDI."""
    del options
    disks.refuse_data_less(call, vdi)
    record = call.db.record("VDI", vdi)
    if record["cbt_enabled"]:
        raise XapiFailure("VDI_CBT_ENABLED", vdi)
    if record["is_a_snapshot"] or not record["VBDs"]:
        raise XapiFailure("VDI_NEEDS_VM_FOR_MIGRATE", vdi)
    if record["SR"] == sr:
        return vdi
    with _one_of_few(call):
        moved = disks.copy(call, vdi, sr, NULL, NULL)
        with call.db.lock:
            for vbd in call.db.get("VDI", vdi, "VBDs"):
                call.db.put("VBD", vbd, VDI=moved)
            call.pool.drop_vdi(vdi)
    return moved


@message("VM.pool_migrate_complete")
def pool_migrate_complete(call: Call, vm: str, host: str) -> None:
    """Note where a VM arrived."""
    call.pool.begin_domain(vm, host)


@message("host.migrate_receive")
def migrate_receive(call: Call, host: str, network: str, options: dict[str, str]) -> Value:
    """Say where a VM can be sent."""
    del network, options
    coordinator = call.db.get("pool", the_pool(call), "master")
    own, first = (call.db.get("host", h, "address") for h in (host, coordinator))
    base, port = call.pool.scheme, call.pool.port
    session = urlencode({"session_id": call.session})
    return {
        "host": host,
        "session_id": call.session,
        "SM": f"{base}://{own}:{port}/services/SM?{session}",
        "xenops": f"{base}://{own}:{port}/services/xenops?{session}",
        "master": f"{base}://{first}:{port}/",
    }


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

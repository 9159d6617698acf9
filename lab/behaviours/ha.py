"""High availability: its switch, its statefiles, and what a plan would say."""

from lab.behaviours.common import the_pool
from lab.behaviours.vm_power import possible_hosts
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.storage.disk import Disk
from lab.wire.values import Value

STATEFILE_BYTES = 4 << 20


def refuse_ha(call: Call) -> None:
    """Refuse what may not be done while high availability watches the pool.

    Raises:
        XapiFailure: HA_IS_ENABLED.
    """
    if call.db.get("pool", the_pool(call), "ha_enabled"):
        raise XapiFailure("HA_IS_ENABLED")


def _require_ha(call: Call) -> None:
    if not call.db.get("pool", the_pool(call), "ha_enabled"):
        raise XapiFailure("HA_NOT_ENABLED")


def _statefile_srs(call: Call, wanted: list[str]) -> list[str]:
    """The SRs for the statefiles: those asked for, or every one that all hosts share."""
    for sr in wanted:
        if not call.db.get("SR", sr, "shared"):
            raise XapiFailure("SR_NOT_SHARED", sr)
    shared = [sr for sr in call.db.where("SR", shared=True) if call.pool.sr_can(sr, "VDI_RESIZE")]
    found = wanted or shared[:1]
    if not found:
        raise XapiFailure("CANNOT_CREATE_STATE_FILE")
    return found


@message("pool.enable_ha")
def enable_ha(call: Call, heartbeat_srs: list[str], configuration: dict[str, str]) -> None:
    """Switch it on: statefiles are made, hosts watch each other."""
    refuse_ha(call)
    srs = _statefile_srs(call, heartbeat_srs)
    for sr in srs:
        call.pool.require_storage(sr)
        call.pool.require_space(sr, STATEFILE_BYTES)
    with call.db.lock:
        label = "Statefile for HA"
        files = [
            call.pool.add_vdi(
                Disk.empty(STATEFILE_BYTES, call.pool.folder),
                SR=sr,
                type="ha_statefile",
                name_label=label,
            )
            for sr in srs
        ]
        uuids = [call.db.get("host", host, "uuid") for host in call.db.refs("host")]
        for host in call.db.refs("host"):
            call.db.put("host", host, ha_statefiles=files, ha_network_peers=uuids)
        call.db.put(
            "pool",
            the_pool(call),
            ha_enabled=True,
            ha_configuration=configuration,
            ha_statefiles=files,
            ha_plan_exists_for=call.db.count("host") - 1,
        )


@message("pool.disable_ha")
def disable_ha(call: Call) -> None:
    """Switch it off; the statefiles go."""
    _require_ha(call)
    with call.db.lock:
        for vdi in call.db.get("pool", the_pool(call), "ha_statefiles"):
            if call.db.exists("VDI", vdi):
                call.pool.drop_vdi(vdi)
        for host in call.db.refs("host"):
            call.db.put("host", host, ha_statefiles=[], ha_network_peers=[])
        off: dict[str, Value] = {"ha_enabled": False, "ha_statefiles": [], "ha_plan_exists_for": 0}
        call.db.put("pool", the_pool(call), **off, ha_configuration={})


@message("host.emergency_ha_disable")
def emergency_ha_disable(call: Call, soft: Value) -> None:
    """Switch it off from a single host."""
    del soft
    disable_ha(call)


@message("pool.ha_prevent_restarts_for")
def prevent_restarts(call: Call, seconds: int) -> None:
    """Restart no VM for a while: none ever is here."""
    del seconds
    _require_ha(call)


@message("pool.set_ha_host_failures_to_tolerate")
def set_failures_to_tolerate(call: Call, pool: str, value: int) -> None:
    """Say how many hosts may fail; while it is on there has to be a plan for that."""
    if value < 0:
        raise XapiFailure("INVALID_VALUE", "ha_host_failures_to_tolerate", value)
    enabled = call.db.get("pool", pool, "ha_enabled")
    if enabled and value > call.db.count("host") - 1:
        raise XapiFailure("HA_NO_PLAN")
    call.db.put("pool", pool, ha_host_failures_to_tolerate=value)


@message("pool.ha_compute_hypothetical_max_host_failures_to_tolerate")
def compute_hypothetical_max(call: Call, configuration: dict[str, str]) -> int:
    """How many hosts may fail with these restart priorities."""
    del configuration
    return call.db.count("host") - 1


@message("pool.ha_compute_vm_failover_plan")
def compute_failover_plan(call: Call, failed_hosts: list[str], failed_vms: list[str]) -> Value:
    """Where VMs would start again if these hosts failed."""
    plan = {}
    for vm in failed_vms:
        left = [host for host in possible_hosts(call, vm) if host not in failed_hosts]
        plan[vm] = {"host": left[0]} if left else {"error_code": "NO_HOSTS_AVAILABLE"}
    return plan

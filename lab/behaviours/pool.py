"""pool.*: the pool as a whole."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value


@message("pool.designate_new_master")
def designate_new_master(call: Call, host: str) -> None:
    """Make another host the coordinator; sessions end, clients must log in there."""
    call.db.row("host", host)
    call.pool.set_coordinator(host)


@message("pool.is_slave")
def is_slave(call: Call, host: str) -> bool:
    """Whether a host is a member and not the coordinator."""
    return bool(host != call.db.get("pool", call.db.refs("pool")[0], "master"))


@message("pool.sync_database", "pool.certificate_sync", "pool.ha_schedule_plan_recomputation")
@message("pool.recover_slaves")
def housekeeping(call: Call) -> Value:
    """Housekeeping that has no effect here."""
    return [] if call.name == "pool.recover_slaves" else None


@message("pool.get_license_state")
def get_license_state(call: Call, pool: str) -> Value:
    """Edition and expiry of the licence."""
    call.db.row("pool", pool)
    return {"edition": "xcp-ng", "expiry": "never"}


@message("pool.ha_failover_plan_exists")
def ha_failover_plan_exists(call: Call, failures: int) -> bool:
    """Whether the pool could survive host failures."""
    return failures < call.db.count("host")


@message("pool.ha_compute_max_host_failures_to_tolerate")
def ha_compute_max(call: Call) -> int:
    """How many hosts may fail."""
    return call.db.count("host") - 1


@message("pool.get_guest_secureboot_readiness")
def get_guest_secureboot_readiness(call: Call, pool: str) -> str:
    """Whether guests could boot securely."""
    call.db.row("pool", pool)
    return "not_ready"

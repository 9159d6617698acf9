"""host.*: the pool's hosts."""

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value, date_of


@message("host.enable", "host.disable")
def enable(call: Call, host: str, *rest: Value) -> None:
    """Let VMs start on a host, or no longer."""
    del rest
    call.db.put("host", host, enabled=call.name == "host.enable")


@message("host.get_servertime", "host.get_server_localtime")
def get_servertime(call: Call, host: str) -> Value:
    """The host's clock."""
    call.db.row("host", host)
    return date_of(call.pool.settings.now())


@message("host.compute_free_memory")
def compute_free_memory(call: Call, host: str) -> int:
    """Bytes no domain of the host uses."""
    with call.db.lock:
        metrics = call.db.get("host", host, "metrics")
        used: int = sum(
            call.db.get("VM", vm, "memory_dynamic_max")
            for vm in call.db.get("host", host, "resident_VMs")
        )
        return int(call.db.get("host_metrics", metrics, "memory_total")) - used


@message("host.get_server_certificate")
def get_server_certificate(call: Call, host: str) -> str:
    """The host's certificate, as PEM."""
    call.db.row("host", host)
    return call.pool.hosts.certificates.get(host, "")


@message("host.get_management_interface")
def get_management_interface(call: Call, host: str) -> str:
    """The PIF that clients reach the host by."""
    return call.db.where("PIF", host=host, management=True)[0]

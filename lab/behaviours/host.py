"""host.*: the pool's hosts."""

from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.wire.values import Value, date_of

MEMORY_OVERHEAD_BYTES = 512 << 20


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


@message("host.list_methods")
def list_methods(call: Call) -> Value:
    """The names of all messages."""
    return [m.full_name for m in call.db.facts.messages() if not m.hidden]


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


@message("host.compute_memory_overhead")
def compute_memory_overhead(call: Call, host: str) -> int:
    """Bytes the hypervisor itself takes."""
    call.db.row("host", host)
    return MEMORY_OVERHEAD_BYTES


@message("host.get_server_certificate")
def get_server_certificate(call: Call, host: str) -> str:
    """The host's certificate, as PEM."""
    call.db.row("host", host)
    return call.pool.certificates.get(host, "")


@message("host.get_management_interface")
def get_management_interface(call: Call, host: str) -> str:
    """The PIF that clients reach the host by."""
    return call.db.where("PIF", host=host, management=True)[0]


@message("host.call_plugin")
def call_plugin(call: Call, host: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Run a script of the host; some tests register their own."""
    found = call.pool.plugins.get((plugin, fn))
    if found is None:
        raise XapiFailure("XENAPI_MISSING_PLUGIN", plugin)
    return found(host, args)


@message("host.has_extension", "pool.has_extension")
def has_extension(call: Call, owner: str, name: str) -> bool:
    """Whether the server has an extension: none."""
    del call, owner, name
    return False


@message("host.call_extension")
def call_extension(call: Call, host: str, name: str) -> str:
    """Run an extension: there is none."""
    del host
    raise XapiFailure("MESSAGE_METHOD_UNKNOWN", name)


@message("host.get_log", "host.dmesg", "host.dmesg_clear", "host.get_sm_diagnostics")
@message("host.get_thread_diagnostics", "host.get_system_status_capabilities")
def get_log(call: Call, host: str) -> str:
    """A host's log: empty."""
    call.db.row("host", host)
    return ""


@message("host.get_vms_which_prevent_evacuation", "host.get_tracked_user_agents")
def get_empty_map(call: Call, host: str) -> Value:
    """Nothing to report."""
    call.db.row("host", host)
    return {}


@message("host.get_uncooperative_resident_VMs", "host.get_uncooperative_domains")
@message("host.list_timezones")
def get_empty_set(call: Call, host: str) -> Value:
    """Nothing to report."""
    call.db.row("host", host)
    return []


@message("host.is_in_emergency_mode", "host.ha_xapi_healthcheck")
def is_in_emergency_mode(call: Call) -> bool:
    """Whether the host lost its pool: no."""
    return call.name != "host.is_in_emergency_mode"


@message("host.get_ntp_synchronized")
def get_ntp_synchronized(call: Call, host: str) -> bool:
    """Whether the clock is set by a time server."""
    call.db.row("host", host)
    return True


@message("host.get_sched_gran")
def get_sched_gran(call: Call, host: str) -> str:
    """By which unit processors are shared out."""
    call.db.row("host", host)
    return call.pool.host_words.get((host, "sched-gran"), "cpu")


@message("host.sync_data", "host.backup_rrds", "host.refresh_pack_info", "host.tickle_heartbeat")
@message("host.syslog_reconfigure", "host.restart_agent")
def pass_time(call: Call, host: str, *rest: Value) -> Value:
    """Housekeeping that has no effect here."""
    del rest
    call.db.row("host", host)
    return {} if call.name == "host.tickle_heartbeat" else None


@message("host.send_debug_keys", "host.rescan_drivers", "host.apply_guest_agent_config")
@message("host.mxgpu_vf_setup", "host.write_uefi_certificates_to_disk")
@message("host.certificate_sync", "host.prepare_for_poweroff")
def nothing_to_do(call: Call, host: str, *keys: str) -> None:
    """What touches only hardware or files that are not there."""
    del keys
    call.db.row("host", host)


@message("host.signal_networking_change", "host.update_firewalld_service_status")
@message("host.local_assert_healthy")
def well(call: Call) -> None:
    """The host that is asked finds nothing wrong."""
    del call


@message("host.emergency_clear_mandatory_guidance")
def clear_guidance(call: Call) -> None:
    """Let the host that is asked forget what it should have done after an update."""
    call.db.put("host", call.host or call.db.refs("host")[0], pending_guidances=[])


@message("host.get_diagnostic_timing_stats")
def get_timing_stats(call: Call, host: str, counts: Value) -> Value:
    """How often each message was called; how long it took is not measured."""
    del counts
    call.db.row("host", host)
    return {name: f"{number} [count]" for name, number in call.pool.journal.counts().items()}


@message("host.get_ntp_servers_status")
def get_ntp_status(call: Call, host: str) -> Value:
    """What is known of the time servers the host was given."""
    return dict.fromkeys(call.db.get("host", host, "ntp_custom_servers"), "unknown")


@message("host.set_localdb_key")
def set_localdb_key(call: Call, host: str, key: str, value: str) -> None:
    """Keep a word on the host's own disk."""
    call.db.row("host", host)
    call.pool.host_words[host, key] = value


@message("host.set_sched_gran")
def set_sched_gran(call: Call, host: str, value: str) -> None:
    """Choose by which unit processors are shared out, from the next start on."""
    set_localdb_key(call, host, "sched-gran", value)

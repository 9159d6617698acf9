"""Messages that only set fields, under another name than the field's."""

from collections.abc import Callable

from lab.calls import Call
from lab.registry import message
from lab.wire.values import Value

HOST_SWITCHES: dict[str, dict[str, Value]] = {
    "enable_ssh": {"ssh_enabled": True},
    "disable_ssh": {"ssh_enabled": False},
    "enable_display": {"display": "enabled"},
    "disable_display": {"display": "disabled"},
}
POOL_SWITCHES: dict[str, dict[str, Value]] = {
    "enable_tls_verification": {"tls_verification_enabled": True},
    "disable_repository_proxy": {"repository_proxy_url": "", "repository_proxy_username": ""},
    "disable_client_certificate_auth": {"client_certificate_auth_enabled": False},
}


def _host_switch(name: str) -> Callable[..., Value]:
    def switch(call: Call, host: str) -> Value:
        call.db.put("host", host, **HOST_SWITCHES[name])
        return call.db.get("host", host, "display") if name.endswith("display") else None

    return switch


def _pool_switch(name: str) -> Callable[..., Value]:
    def switch(call: Call, *given: str) -> None:
        del given
        call.db.put("pool", call.db.refs("pool")[0], **POOL_SWITCHES[name])

    return switch


for _name in HOST_SWITCHES:
    message(f"host.{_name}")(_host_switch(_name))
for _name in POOL_SWITCHES:
    message(f"pool.{_name}")(_pool_switch(_name))


def _every_host(call: Call, **fields: Value) -> None:
    with call.db.lock:
        for host in call.db.refs("host"):
            call.db.put("host", host, **fields)


@message("pool.enable_ssh", "pool.disable_ssh")
def pool_ssh(call: Call, pool: str) -> None:
    """Open or close all hosts' shells."""
    del pool
    _every_host(call, ssh_enabled=call.name == "pool.enable_ssh")


@message("pool.set_ssh_enabled_timeout")
def pool_ssh_timeout(call: Call, pool: str, value: int) -> None:
    """Let all hosts' shells close after so many seconds."""
    del pool
    _every_host(call, ssh_enabled_timeout=value)


@message("pool.set_console_idle_timeout")
def pool_console_timeout(call: Call, pool: str, value: int) -> None:
    """Let all hosts' consoles close after so many idle seconds."""
    del pool
    _every_host(call, console_idle_timeout=value)


@message("pool.set_ssh_auto_mode", "pool.set_https_only")
def pool_flag(call: Call, pool: str, value: Value) -> None:
    """Set a flag on all hosts."""
    del pool
    _every_host(call, **{call.name.removeprefix("pool.set_"): value})


@message("pool.configure_update_sync")
def configure_update_sync(call: Call, pool: str, frequency: str, day: int) -> None:
    """Set when updates are looked for."""
    call.db.put("pool", pool, update_sync_frequency=frequency, update_sync_day=day)


@message("pool.configure_repository_proxy")
def configure_repository_proxy(
    call: Call, pool: str, url: str, username: str, password: str
) -> None:
    """Set how updates are fetched."""
    secret = call.db.create("secret", value=password)
    call.db.put(
        "pool",
        pool,
        repository_proxy_url=url,
        repository_proxy_username=username,
        repository_proxy_password=secret,
    )


@message("pool.enable_client_certificate_auth")
def enable_client_certificate_auth(call: Call, pool: str, name: str) -> None:
    """Let clients log in by certificate: only the setting is kept."""
    enabled: dict[str, Value] = {"client_certificate_auth_enabled": True}
    call.db.put("pool", pool, **enabled, client_certificate_auth_name=name)


@message("pool.set_vswitch_controller")
def set_vswitch_controller(call: Call, address: str) -> None:
    """Set who controls the virtual switches."""
    call.db.put("pool", call.db.refs("pool")[0], vswitch_controller=address)


@message("pool.audit_log_append", "host.notify")
def note(call: Call, *given: str) -> None:
    """Write to a log that is not kept."""
    del call, given


@message("pool.hello")
def hello(call: Call, host_uuid: str, host_address: str) -> str:
    """Answer a host that asks whether it belongs here."""
    del host_address
    return "ok" if call.db.where("host", uuid=host_uuid) else "unknown_host"


@message("host.set_hostname_live")
def set_hostname(call: Call, host: str, hostname: str) -> None:
    """Rename a host."""
    call.db.put("host", host, hostname=hostname)


@message("host.set_power_on_mode")
def set_power_on_mode(call: Call, host: str, mode: str, config: dict[str, str]) -> None:
    """Set how a host can be switched on."""
    call.db.put("host", host, power_on_mode=mode, power_on_config=config)


@message("host.set_multipathing", "host.set_iscsi_iqn", "host.set_max_cstate")
@message("host.set_uefi_certificates")
def set_host_field(call: Call, host: str, value: Value) -> None:
    """Set a field of a host."""
    call.db.put("host", host, **{call.name.removeprefix("host.set_"): value})


@message("VM.add_to_VCPUs_params_live")
def add_vcpus_params(call: Call, vm: str, key: str, value: str) -> None:
    """Set a scheduling parameter of a running VM."""
    call.db.set_pair("VM", vm, "VCPUs_params", key, value)


@message("VM.set_memory_target_live", "VM.wait_memory_target_live")
def set_memory_target(call: Call, vm: str, *target: int) -> None:
    """Set the memory target of a running VM; it is reached at once."""
    if target:
        call.db.put("VM", vm, memory_target=target[0])


@message("VM.set_shadow_multiplier_live")
def set_shadow_multiplier(call: Call, vm: str, multiplier: float) -> None:
    """Set the shadow memory of a running VM."""
    call.db.put("VM", vm, HVM_shadow_multiplier=multiplier)


@message("VM.set_NVRAM_EFI_variables")
def set_efi_variables(call: Call, vm: str, value: str, update: str) -> None:
    """Store the firmware's variables."""
    del update
    call.db.set_pair("VM", vm, "NVRAM", "EFI-variables", value)


@message("VM.copy_bios_strings")
def copy_bios_strings(call: Call, vm: str, host: str) -> None:
    """Give a VM the BIOS strings of a host."""
    call.db.put("VM", vm, bios_strings=call.db.get("host", host, "bios_strings"))


@message("network.pool_introduce")
def introduce_network(
    call: Call,
    name_label: str,
    name_description: str,
    mtu: int,
    other_config: dict[str, str],
    bridge: str,
    *rest: Value,
) -> str:
    """Make the record of a network."""
    managed, purpose = rest
    return call.db.create(
        "network",
        name_label=name_label,
        name_description=name_description,
        MTU=mtu,
        other_config=other_config,
        bridge=bridge,
        managed=managed,
        purpose=purpose,
    )

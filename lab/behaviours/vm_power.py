# ruff: noqa: FBT001, FBT003 - the order and the booleans are those of the API
"""VM power states, and which operations they allow."""

from lab.behaviours.common import attached_elsewhere, disk_vbds, refuse_blocked, require_power
from lab.behaviours.vbd import attach, detach
from lab.calls import Call
from lab.database import Database, Record
from lab.failures import XapiFailure
from lab.parts.operations import conflict
from lab.registry import message
from lab.wire.values import NULL, Value, is_null

ANY = ("Halted", "Paused", "Running", "Suspended")
ON = ("Running",)
OFF = ("Halted",)
ALLOWED_IN = {
    "start": OFF,
    "start_on": OFF,
    "provision": OFF,
    "make_into_template": OFF,
    "clone": OFF,
    "copy": OFF,
    "export": ("Halted", "Suspended"),
    "destroy": ("Halted", "Suspended"),
    "snapshot": ANY,
    "revert": ANY,
    "metadata_export": ANY,
    "checkpoint": ("Paused", "Suspended", "Running"),
    "hard_shutdown": ("Paused", "Suspended", "Running"),
    "clean_shutdown": ON,
    "clean_reboot": ON,
    "hard_reboot": ("Paused", "Running"),
    "pool_migrate": ON,
    "suspend": ON,
    "pause": ON,
    "unpause": ("Paused",),
    "resume": ("Suspended",),
    "resume_on": ("Suspended",),
    "migrate_send": ("Halted", "Running", "Suspended"),
    "send_sysrq": ON,
    "send_trigger": ON,
    "changing_VCPUs": OFF,
    "changing_VCPUs_live": ON,
    "changing_memory_live": ON,
    "awaiting_memory_live": ON,
    "changing_memory_limits": OFF,
    "changing_shadow_memory": OFF,
    "changing_shadow_memory_live": ON,
    "changing_NVRAM": OFF,
    "create_vtpm": OFF,
    "changing_dynamic_range": ("Halted", "Running"),
    "changing_static_range": OFF,
}
TEMPLATE_OPERATIONS = ("changing_static_range", "provision", "export", "clone", "copy", "destroy")
SNAPSHOT_OPERATIONS = ("revert", "export", "clone", "copy", "destroy", "metadata_export")
SUSPEND_IMAGE_BYTES = 16 << 20


def allowed_operations(database: Database, vm: str, record: Record) -> list[str]:
    """Which operations the VM's state, kind, blocks and running operations leave open."""
    del vm
    if record["is_control_domain"]:
        return []
    state = record["power_state"]
    names = [name for name, states in ALLOWED_IN.items() if state in states]
    if record["is_a_snapshot"]:
        allowed = [name for name in SNAPSHOT_OPERATIONS if name in names or name != "destroy"]
    elif record["is_a_template"]:
        allowed = [name for name in TEMPLATE_OPERATIONS if name in names]
    else:
        allowed = [name for name in names if name not in ("provision", "revert")]
    running = record["current_operations"].values()
    free = [name for name in allowed if not any(conflict(name, busy) for busy in running)]
    return [name for name in free if name not in record["blocked_operations"]]


def allowed_on_old_host(database: Database, vm: str, record: Record) -> list[str]:
    """The same on a host that can ask the guest to put its files in order first."""
    names = allowed_operations(database, vm, record)
    tools = database.exists("VM_guest_metrics", record["guest_metrics"])
    able = tools and record["power_state"] == "Running" and "snapshot" in names
    return [*names, "snapshot_with_quiesce"] if able else names


def _refuse_template(call: Call, vm: str) -> None:
    if call.db.get("VM", vm, "is_a_snapshot"):
        raise XapiFailure("VM_IS_SNAPSHOT", vm, call.name.split(".")[1])
    if call.db.get("VM", vm, "is_a_template"):
        raise XapiFailure("VM_IS_TEMPLATE", vm)


def _attach_all(call: Call, vm: str) -> None:
    for vbd in disk_vbds(call.db, vm):
        record = call.db.record("VBD", vbd)
        if attached_elsewhere(call, record["VDI"], writing=record["mode"] == "RW"):
            raise XapiFailure("VDI_IN_USE", record["VDI"], "attach")
        call.storage.require_storage(call.db.get("VDI", record["VDI"], "SR"))
    for vbd in call.db.get("VM", vm, "VBDs"):
        attach(call, vbd)
    for vif in call.db.get("VM", vm, "VIFs"):
        call.db.put("VIF", vif, currently_attached=True)


def _detach_all(call: Call, vm: str) -> None:
    for vbd in call.db.get("VM", vm, "VBDs"):
        if call.db.get("VBD", vbd, "currently_attached"):
            detach(call, vbd)
    for vif in call.db.get("VM", vm, "VIFs"):
        call.db.put("VIF", vif, currently_attached=False)


def bring_up(call: Call, vm: str, host: str, *, paused: bool = False) -> None:
    """Attach everything and let the VM run on a host; the guest's tools report at once."""
    with call.db.lock:
        _attach_all(call, vm)
        call.machines.begin_domain(vm, host)
        call.db.put("VM", vm, power_state="Paused" if paused else "Running")
    call.machines.guest_started(vm)
    call.pool.guests.started(vm)


def bring_down(call: Call, vm: str, state: str = "Halted") -> None:
    """Detach everything and leave the VM in a state without a domain."""
    call.pool.guests.stopped(vm)
    with call.db.lock:
        _detach_all(call, vm)
        call.machines.end_domain(vm)
        call.db.put("VM", vm, power_state=state)
    call.machines.guest_stopped(vm)


def choose_host(call: Call, vm: str) -> str:
    """A host that sees every SR of the VM's disks."""
    hosts = possible_hosts(call, vm)
    affinity = call.db.get("VM", vm, "affinity")
    if not hosts:
        raise XapiFailure("NO_HOSTS_AVAILABLE")
    return affinity if affinity in hosts else str(hosts[0])


def _usable(call: Call, host: str) -> bool:
    record = call.db.record("host", host)
    return bool(record["enabled"] and call.db.get("host_metrics", record["metrics"], "live"))


@message("VM.get_possible_hosts")
def possible_hosts(call: Call, vm: str) -> Value:
    """The hosts that are enabled and see every SR of the VM's disks."""
    with call.db.lock:
        disks = [call.db.get("VBD", vbd, "VDI") for vbd in disk_vbds(call.db, vm)]
        wanted = {call.db.get("VDI", disk, "SR") for disk in disks}
        return [
            host
            for host in call.db.refs("host")
            if _usable(call, host) and wanted <= call.storage.srs_seen_by(host)
        ]


@message("VM.start")
def start(call: Call, vm: str, start_paused: bool, force: bool) -> None:
    """Start a VM on any host that can."""
    del force
    start_on(call, vm, "", start_paused, False)


@message("VM.start_on")
def start_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> None:
    """Start a VM on one host."""
    del force
    refuse_blocked(call, vm, "start_on" if host else "start")
    _refuse_template(call, vm)
    with call.operation("VM", vm, "start_on" if host else "start"):
        require_power(call, vm, "Halted")
        if host and host not in possible_hosts(call, vm):
            first = call.db.get("VBD", disk_vbds(call.db, vm)[0], "VDI")
            raise XapiFailure("VM_REQUIRES_SR", vm, call.db.get("VDI", first, "SR"))
        bring_up(call, vm, host or choose_host(call, vm), paused=start_paused)


@message("VM.clean_shutdown", "VM.shutdown", "VM.hard_shutdown")
def shut_down(call: Call, vm: str) -> None:
    """Stop a VM; the hard way works from every state but halted."""
    name = call.name.split(".")[1]
    if name == "shutdown":
        name = "clean_shutdown"
    refuse_blocked(call, vm, name)
    with call.operation("VM", vm, name):
        require_power(call, vm, *ALLOWED_IN[name])
        _drop_suspend_image(call, vm)
        bring_down(call, vm)


@message("VM.clean_reboot", "VM.hard_reboot")
def reboot(call: Call, vm: str) -> None:
    """Stop and start a VM on its host."""
    name = call.name.split(".")[1].removesuffix("_internal")
    refuse_blocked(call, vm, name)
    with call.operation("VM", vm, name):
        require_power(call, vm, *ALLOWED_IN[name])
        host = call.db.get("VM", vm, "resident_on")
        bring_down(call, vm)
        bring_up(call, vm, host)


@message("VM.pause", "VM.unpause")
def pause(call: Call, vm: str) -> None:
    """Hold a running VM, or let it go on."""
    name = call.name.split(".")[1]
    refuse_blocked(call, vm, name)
    with call.operation("VM", vm, name):
        require_power(call, vm, *ALLOWED_IN[name])
        call.db.put("VM", vm, power_state="Paused" if name == "pause" else "Running")


@message("VM.suspend")
def suspend(call: Call, vm: str) -> None:
    """Put a VM's memory on disk and stop it."""
    refuse_blocked(call, vm, "suspend")
    with call.operation("VM", vm, "suspend"):
        require_power(call, vm, *ALLOWED_IN["suspend"])
        call.db.put("VM", vm, suspend_VDI=make_suspend_image(call, vm))
        bring_down(call, vm, "Suspended")


def make_suspend_image(call: Call, vm: str) -> str:
    """Make the disk that holds a VM's memory."""
    sr = call.storage.default_sr()
    call.storage.require_space(sr, SUSPEND_IMAGE_BYTES)
    disk = call.storage.empty_disk(SUSPEND_IMAGE_BYTES)
    label = f"Suspend image of {call.db.get('VM', vm, 'name_label')}"
    return call.storage.add_vdi(disk, SR=sr, type="suspend", name_label=label)


def _drop_suspend_image(call: Call, vm: str) -> None:
    image = call.db.get("VM", vm, "suspend_VDI")
    if not is_null(image) and call.db.exists("VDI", image):
        call.storage.drop_vdi(image)
    call.db.put("VM", vm, suspend_VDI=NULL)


@message("VM.resume")
def resume(call: Call, vm: str, start_paused: bool, force: bool) -> None:
    """Let a suspended VM go on, on any host that can."""
    resume_on(call, vm, choose_host(call, vm), start_paused, force)


@message("VM.resume_on")
def resume_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> None:
    """Let a suspended VM go on, on one host."""
    del force
    refuse_blocked(call, vm, call.name.split(".")[1])
    with call.operation("VM", vm, "resume"):
        require_power(call, vm, "Suspended")
        _drop_suspend_image(call, vm)
        bring_up(call, vm, host, paused=start_paused)

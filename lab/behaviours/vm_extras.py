"""What can be done to a VM besides: keys, triggers, recovery, archives from elsewhere."""

from lab.archive import ArchiveReader
from lab.behaviours.common import disk_vbds, require_power
from lab.behaviours.host import call_plugin
from lab.behaviours.vm_copies import clone
from lab.calls import Call
from lab.failures import XapiFailure
from lab.registry import message
from lab.remote import fetch
from lab.wire.values import Value

TRIGGERS = ("nmi", "reset", "init", "power", "sleep", "s3resume")


@message("VM.csvm")
def csvm(call: Call, vm: str) -> str:
    """Clone a VM under its own name; the old form."""
    return clone(call, vm, str(call.db.get("VM", vm, "name_label")))


@message("VM.send_sysrq")
def send_sysrq(call: Call, vm: str, key: str) -> None:
    """Press a key that the guest's kernel hears."""
    del key
    require_power(call, vm, "Running")


@message("VM.send_trigger")
def send_trigger(call: Call, vm: str, trigger: str) -> None:
    """Raise a signal in the virtual hardware."""
    require_power(call, vm, "Running")
    if trigger not in TRIGGERS:
        raise XapiFailure("INVALID_VALUE", "trigger", trigger)


@message("VM.restart_device_models")
def restart_device_models(call: Call, vm: str) -> None:
    """Start the emulator of a running VM anew."""
    require_power(call, vm, "Running")
    call.db.touch("VM", vm)


@message("VM.atomic_set_resident_on")
def set_resident_on(call: Call, vm: str, host: str) -> None:
    """Note where a VM runs."""
    call.db.put("VM", vm, resident_on=host)


@message("VM.call_host_plugin")
def call_host_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Run a script of the host where the VM is."""
    require_power(call, vm, "Running")
    return str(call_plugin(call, call.db.get("VM", vm, "resident_on"), plugin, fn, args))


@message("VM.assert_can_be_recovered")
def assert_can_be_recovered(call: Call, vm: str, session_to: str) -> None:
    """Fail unless the SRs of the VM's disks are there."""
    del session_to
    for vbd in disk_vbds(call.db, vm):
        sr = call.db.get("VDI", call.db.get("VBD", vbd, "VDI"), "SR")
        if sr not in {s for h in call.db.refs("host") for s in call.pool.srs_seen_by(h)}:
            raise XapiFailure("VM_REQUIRES_SR", vm, sr)


@message("VM.import")
def import_from(call: Call, url: str, sr: str, restore: Value, force: Value) -> Value:
    """Fetch an archive and bring its VMs in."""
    del force
    with fetch(url) as stream:
        return ArchiveReader(call.pool, sr, restore=bool(restore)).read(stream)


@message("VM.sysprep")
def sysprep(call: Call, vm: str, unattend: str, timeout: Value) -> None:
    """Prepare a Windows guest for cloning: the guests here are none."""
    del unattend, timeout
    require_power(call, vm, "Running")
    raise XapiFailure("SYSPREP", vm, "the guest does not run Windows")


@message("VM.update_secureboot_certificates_on_boot")
def update_secureboot(call: Call, vm: str, mark: Value) -> None:
    """Mark a VM to get new certificates when it starts, or unmark it."""
    state = "update_on_boot" if mark else "update_available"
    call.db.put("VM", vm, secureboot_certificates_state=state)

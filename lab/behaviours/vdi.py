"""VDI.*: disks, their snapshots and clones, and their end."""

from lab.behaviours.common import attached_elsewhere
from lab.calls import Call
from lab.failures import XapiFailure, storage_failure
from lab.registry import message
from lab.wire.values import NULL, Value, date_of

ROUNDING_BYTES = 2 << 20
MAX_CHAIN = 30
MAX_DISK_BYTES = 2040 << 30


def refuse_without_data(call: Call, vdi: str) -> None:
    """Refuse on a VDI that holds a change log only, or that the storage keeps for itself."""
    record = call.db.record("VDI", vdi)
    if record["type"] == "cbt_metadata":
        raise XapiFailure("VDI_INCOMPATIBLE_TYPE", vdi, record["type"])
    if not record["managed"]:
        raise XapiFailure("VDI_NOT_MANAGED", vdi)


@message("VDI.create")
def create(call: Call, fields: dict[str, Value]) -> str:
    """Make an empty disk; its size is rounded up to 2 MiB."""
    sr = fields["SR"]
    call.db.row("SR", sr)
    call.storage.require_storage(sr)
    if call.db.get("SR", sr, "content_type") == "iso":
        raise XapiFailure("SR_OPERATION_NOT_SUPPORTED", sr)
    size = int(fields.pop("virtual_size"))
    if size < 0 or size > MAX_DISK_BYTES:
        raise XapiFailure("SR_BACKEND_FAILURE_79", "", f"VDI Invalid size [opterr={size}]", "")
    rounded = max(-(-size // ROUNDING_BYTES), 1) * ROUNDING_BYTES
    with call.operation("SR", sr, "vdi_create"):
        call.storage.require_space(sr, rounded)
        return call.storage.add_vdi(call.storage.empty_disk(rounded), **fields)


def _copied_fields(record: dict[str, Value]) -> dict[str, Value]:
    kept = ("name_label", "name_description", "SR", "type", "sharable", "read_only", "tags")
    maps = ("other_config", "xenstore_data", "on_boot", "allow_caching")
    return {name: record[name] for name in (*kept, *maps)}


@message("VDI.snapshot")
def snapshot(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    """Freeze a disk; costs no copy."""
    del driver_params
    refuse_without_data(call, vdi)
    sr = call.db.get("VDI", vdi, "SR")
    call.storage.require_storage(sr)
    with call.operation("VDI", vdi, "snapshot"):
        call.pool.faults.strike(call, at="disk.snapshot")
        record = call.db.record("VDI", vdi)
        call.storage.require_space(sr, record["virtual_size"])
        if len(call.storage.disk(vdi).top.chain()) >= MAX_CHAIN:
            raise storage_failure(109, "The snapshot chain is too long")
        taken = call.storage.disk(vdi).snapshot_with_log()
        ref = call.storage.add_vdi(
            taken,
            **_copied_fields(record),
            is_a_snapshot=True,
            snapshot_of=vdi,
            snapshot_time=date_of(call.pool.settings.now()),
            cbt_enabled=record["cbt_enabled"],
        )
        call.storage.show_hidden(sr)
        return ref


@message("VDI.clone")
def clone(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    """Make a writable copy that shares what is there; costs no copy."""
    del driver_params
    refuse_without_data(call, vdi)
    record = call.db.record("VDI", vdi)
    call.storage.require_storage(record["SR"])
    if attached_elsewhere(call, vdi, writing=True) and not record["is_a_snapshot"]:
        raise XapiFailure("VDI_IN_USE", vdi, "clone")
    with call.operation("VDI", vdi, "clone"):
        call.storage.require_space(record["SR"], record["virtual_size"])
        copied = _copied_fields(record) | {"read_only": False}
        ref = call.storage.add_vdi(call.storage.disk(vdi).branch(), **copied)
        call.storage.show_hidden(record["SR"])
        return ref


@message("VDI.destroy")
def destroy(call: Call, vdi: str) -> None:
    """Remove a disk; nobody may have it attached."""
    with call.operation("VDI", vdi, "destroy"), call.db.lock:
        record = call.db.record("VDI", vdi)
        if not record["managed"]:
            raise XapiFailure("VDI_NOT_MANAGED", vdi)
        call.storage.require_storage(record["SR"])
        drop_drives(call, vdi, "destroy")
        call.storage.drop_vdi(vdi)


def drop_drives(call: Call, vdi: str, operation: str) -> None:
    """Take a disk out of every VM's record."""
    vbds = call.db.get("VDI", vdi, "VBDs")
    if any(call.db.get("VBD", vbd, "currently_attached") for vbd in vbds):
        raise XapiFailure("VDI_IN_USE", vdi, operation)
    for vbd in vbds:
        if call.db.get("VBD", vbd, "type") == "CD":
            call.db.put("VBD", vbd, VDI=NULL, empty=True)
        else:
            call.db.destroy("VBD", vbd)


@message("VDI.resize")
def resize(call: Call, vdi: str, size: int) -> None:
    """Make a disk larger, rounded up to 2 MiB; it may not be attached."""
    refuse_without_data(call, vdi)
    if attached_elsewhere(call, vdi, writing=True):
        raise XapiFailure("VDI_IN_USE", vdi, "resize")
    disk = call.storage.disk(vdi)
    rounded = -(-size // ROUNDING_BYTES) * ROUNDING_BYTES
    if rounded < disk.size:
        raise XapiFailure("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking]", "")
    with call.operation("VDI", vdi, "resize"):
        disk.grow(rounded)
        call.db.put("VDI", vdi, virtual_size=rounded)

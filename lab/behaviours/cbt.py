"""Changed block tracking, and who may read a disk over NBD."""

import base64
import time

from lab.behaviours.vdi import refuse_without_data
from lab.calls import Call
from lab.failures import XapiFailure, not_allowed, storage_failure
from lab.registry import message
from lab.storage.changes import ChangeLog, changed_blocks
from lab.wire.values import Value

POLL_SECONDS = 0.05


def _refuse_tracking(call: Call, vdi: str) -> None:
    refuse_without_data(call, vdi)
    record = call.db.record("VDI", vdi)
    call.storage.require_storage(record["SR"])
    if record["is_a_snapshot"]:
        raise not_allowed(f"VDI is a snapshot: {vdi}")
    if record["type"] not in ("user", "system"):
        raise XapiFailure("VDI_INCOMPATIBLE_TYPE", vdi, record["type"])
    if record["on_boot"] == "reset":
        raise XapiFailure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if not call.storage.sr_can(record["SR"], "VDI_CONFIG_CBT"):
        raise XapiFailure("SR_OPERATION_NOT_SUPPORTED", record["SR"])


@message("VDI.enable_cbt")
def enable_cbt(call: Call, vdi: str) -> None:
    """Begin to note which blocks are written; no more than that if it is on already."""
    _refuse_tracking(call, vdi)
    with call.operation("VDI", vdi, "enable_cbt"):
        disk = call.storage.disk(vdi)
        if disk.log is None:
            disk.track()
        call.db.put("VDI", vdi, cbt_enabled=True)


@message("VDI.disable_cbt")
def disable_cbt(call: Call, vdi: str) -> None:
    """Stop noting; the chain ends here."""
    _refuse_tracking(call, vdi)
    with call.operation("VDI", vdi, "disable_cbt"):
        call.storage.disk(vdi).stop_tracking()
        call.db.put("VDI", vdi, cbt_enabled=False)


@message("VDI.data_destroy")
def data_destroy(call: Call, vdi: str) -> None:
    """Drop the data of a snapshot and keep its change log."""
    record = call.db.record("VDI", vdi)
    if record["type"] == "cbt_metadata":
        return
    if not record["is_a_snapshot"]:
        raise not_allowed(f"VDI is not a snapshot: {vdi}")
    if not record["managed"]:
        raise XapiFailure("VDI_NOT_MANAGED", vdi)
    call.storage.require_storage(record["SR"])
    if not record["cbt_enabled"]:
        raise XapiFailure("VDI_NO_CBT_METADATA", vdi)
    with call.operation("VDI", vdi, "data_destroy"):
        _wait_for_vbds(call, vdi)
        call.storage.drop_vdi_data(vdi)


def _wait_for_vbds(call: Call, vdi: str) -> None:
    end = time.monotonic() + call.pool.settings.data_destroy_seconds
    while call.db.get("VDI", vdi, "VBDs"):
        call.check()
        if time.monotonic() >= end:
            raise XapiFailure("VDI_IN_USE", vdi, "data_destroy")
        time.sleep(POLL_SECONDS)


@message("VDI.list_changed_blocks")
def list_changed_blocks(call: Call, vdi_from: str, vdi_to: str) -> str:
    """Base64 of the bitmap of 64 KiB blocks written after one disk up to another of its chain."""
    call.storage.require_storage(call.db.get("VDI", vdi_to, "SR"))
    _refuse_attached(call, vdi_to)
    since, until = _log(call, vdi_from), _log(call, vdi_to)
    with call.operation("VDI", vdi_from, "list_changed_blocks"):
        try:
            bitmap = changed_blocks(since, until)
        except ValueError as cause:
            raise storage_failure(459, "CBT metadata inconsistent", "bad log") from cause
    if bitmap is None:
        raise _no_difference("Source and target VDI are unrelated")
    return base64.b64encode(bitmap).decode()


def _no_difference(detail: str) -> XapiFailure:
    return storage_failure(460, "Failed to calculate changed blocks for given VDIs.", detail)


def _log(call: Call, vdi: str) -> ChangeLog:
    log = call.storage.disk(vdi).log
    if log is None or not call.db.get("VDI", vdi, "cbt_enabled"):
        raise _no_difference("Changed block tracking is disabled")
    return log


def _refuse_attached(call: Call, vdi: str) -> None:
    for vbd in call.db.get("VDI", vdi, "VBDs"):
        record = call.db.record("VBD", vbd)
        if not record["currently_attached"]:
            continue
        vm = call.db.record("VM", record["VM"])
        if not vm["is_a_snapshot"] and not vm["is_control_domain"]:
            raise XapiFailure("VDI_IN_USE", vdi, "list_changed_blocks")


@message("VDI.get_nbd_info")
def get_nbd_info(call: Call, vdi: str) -> Value:
    """Where the disk can be read over NBD; empty while no network has the purpose."""
    refuse_without_data(call, vdi)
    return call.pool.hosts.nbd_addresses(vdi, call.session)

"""Bringing a VM back into a pool: made under a telling name, blocked from starting, then released.

Until `release_vm` the VM and its disks carry our mark of an unfinished restore, and whatever goes
wrong, `destroy_vm` takes all of it away again.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from likeness.errors import BadInput, HostBusy, TransferBroken
from likeness.model.disk import Segment
from likeness.model.ids import DiskId, from_uuid
from likeness.pacing import BandwidthCap
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.failures import Refusal, explained, reason, suppress_gone
from likeness.xen.holding import WHILE_HELD, until_free
from likeness.xen.http_exchange import SessionForgotten, Upload, put_body
from likeness.xen.marks import Owner
from likeness.xen.restored_records import (
    NetworkFinder,
    bios_strings,
    card_record,
    drive_record,
    left_behind,
    parsed,
    vm_record,
)
from likeness.xen.session import NULL, XenSession
from likeness.xen.tasks import outcome_of, own_task, run_task

PATH = "/import_raw_vdi"
_STEP_SECONDS = 120.0
_WRITTEN_SECONDS = 900.0
_RECORD = struct.Struct("<QI")
_MAX_RECORD = 4 << 20


@dataclass(frozen=True, slots=True)
class DiskToFill:
    """A disk that is to be filled.

    Attributes:
        disk: The live disk it was backed up from.
        position: Where it is plugged in.
        ref: XenServer's reference to the new disk.
        uuid: Its uuid, with dashes.
        size_bytes: Its size: as asked for, or more where the storage rounds up.
    """

    disk: DiskId
    position: str
    ref: str
    uuid: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RestoredVm:
    """A VM that is being restored.

    Attributes:
        ref: XenServer's reference to it.
        uuid: Its uuid, with dashes; a new one.
        name: The name it will have in the end.
        disks: In the order of their positions.
        notes: What could not be made as it was, one sentence each.
    """

    ref: str
    uuid: str
    name: str
    disks: tuple[DiskToFill, ...]
    notes: tuple[str, ...]


def create_vm(
    xen: XenSession,
    configuration: str,
    *,
    owner: Owner,
    storage_ref: str,
    sizes: Mapping[DiskId, int],
    name: str = "",
    keep_addresses: bool = False,
    networks: Mapping[str, str] | None = None,
    with_cards: bool = True,
) -> RestoredVm:
    """Make a VM as it was, with empty disks; it cannot be started until it is released.

    Args:
        xen: The session.
        configuration: As the version keeps it, see `configuration.configuration_of`.
        owner: Installation and run it is made for.
        storage_ref: Where its disks shall lie.
        sizes: The disks to make, by the live disk they were backed up from, and their sizes in
            bytes; disks that were not backed up are left out.
        name: Its name in the end; empty: as it was.
        keep_addresses: Give its network cards the hardware addresses they had; otherwise new ones.
        networks: Uuid or name of a network as it was to uuid or name of the one to use instead,
            or to `none` to leave its cards out.
        with_cards: Make its network cards; without them nobody reaches it.

    Raises:
        BadInput: The configuration cannot be read, or a network is not here; nothing was made.
        HostBusy, HostRefused, HostUnreachable: Not possible; what was made is removed again.
    """
    facts = parsed(configuration)
    final = name or str(facts["vm"]["name_label"])
    with explained(f"making VM {final}"):
        finder = NetworkFinder(xen, facts["networks"], networks or {})
        wanted = facts["cards"] if with_cards else ()
        cards = [(card, *finder.network_for(card)) for card in wanted]
        ref = str(xen.call("VM.create", vm_record(facts["vm"], final, owner)))
        try:
            marks.put_marks(xen, "VM", ref, owner=owner, kind=marks.RESTORED)
            disks = _with_disks(xen, ref, facts, owner, storage_ref, sizes)
            notes = (
                *_with_cards(xen, ref, cards, keep_addresses=keep_addresses),
                *_with_firmware(xen, ref, facts["vm"]),
                *left_behind(facts, sizes),
            )
            uuid = str(xen.call("VM.get_uuid", ref))
        except BaseException:
            destroy_vm(xen, ref)
            raise
    return RestoredVm(ref=ref, uuid=uuid, name=final, disks=disks, notes=notes)


def write_disk(
    xen: XenSession,
    disk: DiskToFill,
    segments: Iterable[Segment],
    *,
    stop: StopToken | None = None,
    cap: BandwidthCap | None = None,
    idle_seconds: float | None = None,
) -> int:
    """Fill a new disk; ranges in no segment are left as they are, that is zero.

    Args:
        xen: The session.
        disk: As `create_vm` or `create_disk` made it.
        segments: In ascending order.
        stop: Looked at for every segment.
        cap: A bandwidth cap.
        idle_seconds: Give up when the host takes nothing for so long; the session's own if not
            given.

    Returns:
        How many bytes were written.

    Raises:
        BadInput: A segment lies beyond the disk's end.
        TransferBroken: The host did not take it all; the disk's content is worthless.
        Stopped: Somebody asked to stop.
    """
    doing = f"writing disk {disk.position or disk.uuid}"
    token = stop or StopToken()
    with explained(doing), own_task(xen, doing) as task:
        query = {"vdi": disk.uuid, "task_id": task, "format": "raw", "chunked": "true"}
        longest = xen.idle_seconds if idle_seconds is None else idle_seconds
        upload = _upload(xen, query, longest, token, doing)
        try:
            written = _send_all(upload, disk, segments, cap, token)
            upload.finish()
        except TransferBroken as cause:
            raise TransferBroken(f"{doing}: {_why(xen, task) or cause}") from cause
        finally:
            upload.close()
        outcome_of(xen, task, doing, deadline_seconds=_WRITTEN_SECONDS)
    return written


def release_vm(xen: XenSession, vm: RestoredVm) -> None:
    """Give a restored VM its name and let it be started; from now on it is its owner's.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    with explained(f"releasing VM {vm.name}"):
        xen.call("VM.set_name_label", vm.ref, vm.name)
        for operation in ("start", "start_on"):
            xen.call("VM.remove_from_blocked_operations", vm.ref, operation)
        marks.drop_marks(xen, "VM", vm.ref)  # first: marked disks of an unmarked VM are safe
        for disk in vm.disks:
            marks.drop_marks(xen, "VDI", disk.ref)


def start_vm(xen: XenSession, vm: RestoredVm) -> None:
    """Start a VM that was released.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    with explained(f"starting VM {vm.name}"):
        run_task(xen, "VM.start", vm.ref, False, False, deadline_seconds=_STEP_SECONDS)  # noqa: FBT003


def destroy_vm(xen: XenSession, ref: str, *, pauses: Pauses = WHILE_HELD) -> None:
    """Take away an unfinished restore: the VM, then the disks that were made for it.

    A VM or disk without our mark is none of ours, or not any more, and stays. Safe to repeat.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now; the sweep tries again.
    """
    with explained("removing an unfinished restore"), suppress_gone():
        record = xen.call("VM.get_record", ref)
        if marks.owner_of_restore(record) is None:
            return
        drives = [xen.call("VBD.get_record", vbd) for vbd in record["VBDs"]]
        disks = [str(drive["VDI"]) for drive in drives if drive["VDI"] not in ("", NULL)]
        with suppress_gone():
            run_task(xen, "VM.destroy", ref, deadline_seconds=_STEP_SECONDS)
        for disk in disks:
            destroy_disk(xen, disk, pauses=pauses)


def destroy_disk(xen: XenSession, ref: str, *, pauses: Pauses = WHILE_HELD) -> None:
    """Take away a disk of an unfinished restore; one without our mark stays.

    Raises:
        HostBusy, HostRefused, HostUnreachable: Not possible now.
    """
    with explained("removing an unfinished disk"), suppress_gone():
        if marks.owner_of_restore(xen.call("VDI.get_record", ref)) is not None:
            until_free(
                lambda: run_task(xen, "VDI.destroy", ref, deadline_seconds=_STEP_SECONDS),
                pauses=pauses,
            )


def _with_disks(
    xen: XenSession,
    vm_ref: str,
    facts: Mapping[str, Any],
    owner: Owner,
    storage_ref: str,
    sizes: Mapping[DiskId, int],
) -> tuple[DiskToFill, ...]:
    made = []
    for drive in facts["drives"]:
        old = facts["disks"].get(drive["VDI"])
        if old is None:
            if drive["type"] == "CD":
                xen.call("VBD.create", drive_record(drive, vm_ref, NULL))
            continue
        disk = DiskId(from_uuid(old["uuid"]))
        if disk not in sizes:
            continue
        ref = _new_disk(xen, storage_ref, old, sizes[disk], owner)
        try:
            xen.call("VBD.create", drive_record(drive, vm_ref, ref))
        except BaseException:
            destroy_disk(xen, ref)
            raise
        made.append(
            DiskToFill(
                disk=disk,
                position=str(drive["userdevice"]),
                ref=ref,
                uuid=str(xen.call("VDI.get_uuid", ref)),
                size_bytes=int(xen.call("VDI.get_virtual_size", ref)),
            )
        )
    return tuple(sorted(made, key=lambda disk: disk.position.rjust(9)))


def _new_disk(
    xen: XenSession, storage_ref: str, old: Mapping[str, Any], size_bytes: int, owner: Owner
) -> str:
    record = {
        "name_label": str(old.get("name_label", "")),
        "name_description": str(old.get("name_description", "")),
        "SR": storage_ref,
        "virtual_size": str(size_bytes),
        "type": "system" if old.get("type") == "system" else "user",
        "sharable": False,
        "read_only": False,
        "other_config": marks.without_marks(old.get("other_config", {}))
        | marks.marks_to_be_made_with(owner),
        "xenstore_data": {},
        "sm_config": {},
        "tags": list(old.get("tags", [])),
    }
    ref = str(run_task(xen, "VDI.create", record, deadline_seconds=_STEP_SECONDS))
    try:
        marks.put_marks(xen, "VDI", ref, owner=owner, kind=marks.RESTORED)
    except BaseException:
        destroy_disk(xen, ref)
        raise
    return ref


def _with_cards(
    xen: XenSession,
    vm_ref: str,
    cards: Iterable[tuple[Mapping[str, Any], str, str]],
    *,
    keep_addresses: bool,
) -> tuple[str, ...]:
    notes = []
    for card, network, note in cards:
        if network:
            address = str(card["MAC"]) if keep_addresses else ""
            xen.call("VIF.create", card_record(card, vm_ref, network, address))
        if note:
            notes.append(note)
    return tuple(notes)


def _with_firmware(xen: XenSession, vm_ref: str, old: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the VM the firmware texts it had: licences inside the guest may hang on them."""
    wanted = bios_strings(old)
    if not wanted:
        return ()
    try:
        xen.call("VM.set_bios_strings", vm_ref, wanted)
    except Refusal as refusal:
        return (f"its firmware texts were not taken over: {reason(refusal)}",)
    return ()


def _upload(
    xen: XenSession, query: dict[str, str], idle_seconds: float, stop: StopToken, doing: str
) -> Upload:
    used = xen.ref
    try:
        return put_body(xen, PATH, query, length=None, idle_seconds=idle_seconds, stop=stop)
    except SessionForgotten:
        xen.renew(used)
        raise TransferBroken(f"{doing}: the session had ended; it is begun again") from None


def _send_all(
    upload: Upload,
    disk: DiskToFill,
    segments: Iterable[Segment],
    cap: BandwidthCap | None,
    stop: StopToken,
) -> int:
    """Records of offset, length and data; one of zeros ends them."""
    written = 0
    for segment in segments:
        if segment.offset + len(segment.data) > disk.size_bytes:
            raise BadInput(
                f"data at byte {segment.offset:,} does not fit on a disk of "
                f"{disk.size_bytes:,} bytes"
            )
        data = memoryview(segment.data)
        for start in range(0, len(data), _MAX_RECORD):
            part = data[start : start + _MAX_RECORD]
            if cap is not None:
                cap.take(len(part), stop=stop)
            upload.send(_RECORD.pack(segment.offset + start, len(part)))
            upload.send(part)
            written += len(part)
    upload.send(_RECORD.pack(0, 0))
    return written


def _why(xen: XenSession, task: str) -> str:
    """What the transfer's task says went wrong; empty when it says nothing."""
    try:
        outcome_of(xen, task, "the transfer", deadline_seconds=30.0)
    except (Refusal, HostBusy) as failure:
        return str(failure)
    return ""

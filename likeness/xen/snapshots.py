"""Freezing a VM's disks for one run: all of them, or nothing is left of it."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from likeness.clock import stopwatch
from likeness.errors import HostBusy, HostRefused, LikenessError, PermanentError
from likeness.model.disk import DiskFacts, VmFacts
from likeness.model.ids import DiskId, from_uuid
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.xen import marks
from likeness.xen.configuration import configuration_of
from likeness.xen.dropping import drop_leftover, leftovers_labelled
from likeness.xen.failures import NOT_OFFERED, Refusal, explained, reason
from likeness.xen.inventory import SeenVm, XenDisk, XenVm, disks_left_out, is_disk, position_order
from likeness.xen.marks import Owner
from likeness.xen.power import shut_down_for_snapshot, start_again
from likeness.xen.session import XenSession, is_null
from likeness.xen.snapshot_facts import MEMORY, Consistency, SnapshotDisk, XenSnapshot
from likeness.xen.tasks import run_task

STORAGE_PAUSE = 60.0
"""Seconds before the one retry after storage trouble that usually passes."""

_PASSING_TROUBLE = frozenset(f"SR_BACKEND_FAILURE_{number}" for number in (46, 81, 82, 453))
_NO_QUIESCE = NOT_OFFERED | {
    "VM_SNAPSHOT_WITH_QUIESCE_FAILED",
    "VM_SNAPSHOT_WITH_QUIESCE_TIMEOUT",
    "VM_SNAPSHOT_WITH_QUIESCE_PLUGIN_DEOS_NOT_RESPOND",
    "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED",
    "VM_MISSING_PV_DRIVERS",
    "VM_BAD_POWER_STATE",
}
_NO_CHECKPOINT = NOT_OFFERED | {
    "VM_BAD_POWER_STATE",
    "VM_CHECKPOINT_SUSPEND_FAILED",
    "VM_CHECKPOINT_RESUME_FAILED",
    "VM_MISSING_PV_DRIVERS",
}


def take_snapshot(
    xen: XenSession,
    vm: XenVm,
    *,
    owner: Owner,
    label: str,
    mode: Consistency = Consistency.STANDARD,
    strict: bool = False,
    exclude_disks: Collection[str] = (),
    stop: StopToken | None = None,
    deadline_seconds: float | None = None,
    storage_pause: float = STORAGE_PAUSE,
    seen: SeenVm | None = None,
) -> XenSnapshot:
    """Freeze a VM's disks.

    Either the snapshot stands, marked as ours, or nothing of it is left; should the pool stop
    answering half-way, the sweep finds it by its name.

    Args:
        xen: The session.
        vm: Which one, as `inventory.find_vm` gave it.
        owner: Installation and run it is made for.
        label: What people see in the pool; ownership is added to it.
        mode: The consistency to try for.
        strict: Fail rather than fall back to a lesser consistency.
        exclude_disks: Disks not to freeze, by position, uuid or name.
        stop: Ends it early.
        deadline_seconds: For the snapshot; after that it is cancelled and what was made removed.
            The session's own if not given.
        storage_pause: Seconds before the one retry after passing storage trouble; never longer
            than the session's longest task.
        seen: The VM's records, if they were asked for a moment ago.

    Raises:
        BadInput: A disk to exclude is not there, or no disk is left.
        HostBusy: Not possible at the moment.
        HostRefused: Not possible; the message says what to do.
        Stopped: Somebody asked to stop.
        HostUnreachable: The pool stopped answering.
    """
    began = stopwatch()
    attempt = _Attempt(
        xen=xen,
        vm=vm,
        owner=owner,
        name=marks.label_of(owner, label),
        left_out=disks_left_out(vm, exclude_disks),
        stop=stop or StopToken(),
        deadline_seconds=deadline_seconds,
        storage_pause=storage_pause,
        seen=seen,
    )
    with explained(f"snapshot of VM {vm.name}"):
        try:
            ref, obtained, notes = attempt.take(mode, strict=strict)
            return attempt.described(ref, mode, obtained, notes, began)
        except BaseException:
            attempt.undo()
            raise


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt to freeze one VM."""

    xen: XenSession
    vm: XenVm
    owner: Owner
    name: str
    left_out: tuple[XenDisk, ...]
    stop: StopToken
    deadline_seconds: float | None
    storage_pause: float
    seen: SeenVm | None

    def take(self, mode: Consistency, *, strict: bool) -> tuple[str, Consistency, str]:
        """The snapshot's reference, the consistency it has, and what there is to say."""
        if mode is Consistency.OFFLINE:
            return self._offline()
        if mode is Consistency.QUIESCED:
            return self._or_standard(mode, self._quiesced, _NO_QUIESCE, strict=strict)
        if mode is Consistency.MEMORY:
            return self._or_standard(mode, self._with_memory, _NO_CHECKPOINT, strict=strict)
        ref, note = self._standard()
        return ref, Consistency.STANDARD, note

    def described(
        self, ref: str, requested: Consistency, obtained: Consistency, note: str, began: float
    ) -> XenSnapshot:
        """Mark what was made and tell what it is."""
        record = self.xen.call("VM.get_record", ref)
        uuid = str(record["uuid"])
        marks.put_marks(
            self.xen,
            "VM",
            ref,
            owner=self.owner,
            kind=marks.SNAPSHOT,
            uuid=uuid,
            there=record["other_config"],
        )
        images: dict[str, Mapping[str, Any]] = {}
        frozen = self._frozen_disks(record, images)
        self._must_be_complete(frozen)
        disks = [
            self._marked(disk, images[disk.ref])
            for disk in (*frozen, *self._memory(record, images))
        ]
        return XenSnapshot(
            ref=ref,
            uuid=uuid,
            vm=VmFacts(
                vm=self.vm.vm,
                name=self.vm.name,
                configuration=configuration_of(self.xen, self.vm.ref, self.seen),
            ),
            disks=tuple(disk for disk in disks if not self._is_left_out(disk)),
            owner=self.owner,
            requested=requested,
            obtained=obtained,
            reason=note,
            seconds=stopwatch() - began,
            drives=tuple(record["VBDs"]),
            frozen=tuple(disk.ref for disk in frozen),
        )

    def _marked(self, disk: SnapshotDisk, image: Mapping[str, Any]) -> SnapshotDisk:
        labels = marks.put_marks(
            self.xen,
            "VDI",
            disk.ref,
            owner=self.owner,
            kind=marks.SNAPSHOT,
            uuid=disk.uuid,
            there=image["other_config"],
        )
        return replace(disk, labels=labels)

    def undo(self) -> None:
        """Remove whatever of this attempt exists; what cannot be removed now the sweep will."""
        with suppress(LikenessError):
            for leftover in leftovers_labelled(self.xen, self.name):
                drop_leftover(self.xen, leftover, pauses=Pauses(0.25, 1.0, tries=3))

    def _standard(self) -> tuple[str, str]:
        ignored = [disk.ref for disk in self.left_out]
        if not ignored:
            return self._run("VM.snapshot"), ""
        try:
            return self._run("VM.snapshot", ignored), ""
        except Refusal as refusal:
            if refusal.code != "MESSAGE_PARAMETER_COUNT_MISMATCH":
                raise
        return self._run("VM.snapshot"), self._frozen_all_the_same("this XenServer")

    def _offline(self) -> tuple[str, Consistency, str]:
        halted = shut_down_for_snapshot(
            self.xen,
            self.vm,
            owner=self.owner,
            stop=self.stop,
            deadline_seconds=self.deadline_seconds,
        )
        try:
            ref, note = self._standard()
        finally:
            if halted:
                start_again(self.xen, self.vm)
        return ref, Consistency.OFFLINE, note

    def _quiesced(self) -> str:
        allowed = self.xen.call("VM.get_allowed_operations", self.vm.ref)
        if "snapshot_with_quiesce" not in allowed:
            raise Refusal("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", [], method="VM.snapshot")
        return self._run("VM.snapshot_with_quiesce")

    def _with_memory(self) -> str:
        state = str(self.xen.call("VM.get_power_state", self.vm.ref))
        if state == "Halted":
            raise Refusal(
                "VM_BAD_POWER_STATE",
                [self.vm.ref, "running, paused or suspended", state.lower()],
                method="VM.checkpoint",
            )
        return self._run("VM.checkpoint")

    def _or_standard(
        self,
        mode: Consistency,
        better: Callable[[], str],
        curable: Collection[str],
        *,
        strict: bool,
    ) -> tuple[str, Consistency, str]:
        try:
            return better(), mode, self._frozen_all_the_same(f"a {mode} snapshot")
        except Refusal as refusal:
            if refusal.code not in curable:
                raise
            why = _why_not(mode, refusal)
            code = refusal.code
        if strict:
            raise HostRefused(
                f"snapshot of VM {self.vm.name}: {why}, and the job allows nothing less; "
                "clear that, or allow the job to fall back",
                code=code,
            )
        ref, note = self._standard()
        return ref, Consistency.STANDARD, "; ".join(part for part in (why, note) if part)

    def _frozen_all_the_same(self, who: str) -> str:
        """What to say where disks cannot be left out of the snapshot itself."""
        if not self.left_out:
            return ""
        which = ", ".join(disk.position for disk in self.left_out)
        return (
            f"{who} cannot leave disks out; disk {which} was frozen with the others and is not"
            " backed up"
        )

    def _run(self, method: str, *more: Any) -> str:
        """One attempt, and a second one after storage trouble that usually passes."""
        try:
            return self._run_once(method, *more)
        except Refusal as refusal:
            pause = min(self.storage_pause, self.xen.task_seconds)
            if refusal.code not in _PASSING_TROUBLE or self.stop.wait(pause):
                raise
        self.undo()
        return self._run_once(method, *more)

    def _run_once(self, method: str, *more: Any) -> str:
        self.stop.check()
        made = run_task(
            self.xen,
            method,
            self.vm.ref,
            self.name,
            *more,
            deadline_seconds=self.deadline_seconds,
            stop=self.stop,
        )
        return str(made)

    def _frozen_disks(
        self, snapshot: dict[str, Any], images: dict[str, Mapping[str, Any]]
    ) -> list[SnapshotDisk]:
        """The disks of a snapshot; `images` has their records afterwards."""
        live = {disk.ref: disk for disk in self.vm.disks}
        vbds = [self.xen.call("VBD.get_record", vbd) for vbd in snapshot["VBDs"]]
        drives = [vbd for vbd in vbds if is_disk(vbd)]
        images |= {vbd["VDI"]: self.xen.call("VDI.get_record", vbd["VDI"]) for vbd in drives}
        frozen = [self._frozen_disk(vbd, images[vbd["VDI"]], live) for vbd in drives]
        return sorted(frozen, key=lambda disk: position_order(disk.facts.position))

    def _frozen_disk(
        self, vbd: dict[str, Any], vdi: Mapping[str, Any], live: dict[str, XenDisk]
    ) -> SnapshotDisk:
        source = str(vdi["snapshot_of"])
        if is_null(source):
            raise PermanentError(
                f"snapshot of VM {self.vm.name}: XenServer does not say which disk "
                f"{vdi['uuid']} was frozen from; scan the storage and run the job again"
            )
        known = live.get(source)
        live_uuid = known.uuid if known else str(self.xen.call("VDI.get_uuid", source))
        return SnapshotDisk(
            facts=DiskFacts(
                disk=DiskId(from_uuid(live_uuid)),
                name=str(vdi["name_label"]),
                position=str(vbd["userdevice"]),
                size_bytes=int(vdi["virtual_size"]),
            ),
            ref=str(vbd["VDI"]),
            uuid=str(vdi["uuid"]),
            tracked=bool(vdi.get("cbt_enabled", False)),
            source=source,
        )

    def _must_be_complete(self, frozen: Collection[SnapshotDisk]) -> None:
        """A disk that was there a moment ago may be left out only on purpose."""
        there = {disk.facts.position for disk in frozen}
        there |= {disk.position for disk in self.left_out}
        lost = [disk for disk in self.vm.disks if disk.position not in there]
        if lost:
            which = ", ".join(f"{disk.position} ({disk.name})" for disk in lost)
            raise HostBusy(
                f"snapshot of VM {self.vm.name}: disk {which} is not in it and was plugged in when"
                " it began; look at the VM's disks, then run the job again",
                code="DISK_NOT_FROZEN",
            )

    def _memory(
        self, snapshot: dict[str, Any], images: dict[str, Mapping[str, Any]]
    ) -> list[SnapshotDisk]:
        """The image of the guest's memory, if the snapshot has one; each is a disk of its own."""
        ref = str(snapshot.get("suspend_VDI", ""))
        if is_null(ref):
            return []
        vdi = images[ref] = self.xen.call("VDI.get_record", ref)
        facts = DiskFacts(
            disk=DiskId(from_uuid(vdi["uuid"])),
            name=f"memory of {self.vm.name}",
            position=MEMORY,
            size_bytes=int(vdi["virtual_size"]),
        )
        return [SnapshotDisk(facts=facts, ref=ref, uuid=str(vdi["uuid"]), tracked=False)]

    def _is_left_out(self, disk: SnapshotDisk) -> bool:
        return any(disk.facts.disk == other.disk for other in self.left_out)


def _why_not(mode: Consistency, refusal: Refusal) -> str:
    if refusal.code.startswith("VM_SNAPSHOT_WITH_QUIESCE"):
        return f"a quiesced snapshot is not possible on this host or in this guest ({refusal.code})"
    return f"a snapshot with {mode} consistency is not possible: {reason(refusal)}"


__all__ = ["Consistency", "SnapshotDisk", "XenSnapshot", "take_snapshot"]

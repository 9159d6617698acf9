"""Looking before leaping: what would make a snapshot fail or do harm, found before it is taken."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from likeness.errors import HostBusy, HostRefused
from likeness.xen.failures import Refusal, explained
from likeness.xen.inventory import (
    SeenVm,
    XenDisk,
    XenVm,
    disks_left_out,
    is_thick,
    look_again,
)
from likeness.xen.session import LISTING_SECONDS, XenSession, is_null
from likeness.xen.snapshot_facts import Consistency

MAX_CHAIN = 30
"""Links a chain of disk images may have; XenServer refuses to add one more."""

MAX_UNCOALESCED = 5
"""Links that wait to be merged; more of them mean that the storage does not keep up."""

_OVERHEAD = 1.01  # what the image format itself needs
_CONFLICTS: Mapping[str, str] = {
    "migrate_send": "it is being moved to other storage",
    "pool_migrate": "it is being moved to another host",
    "snapshot": "another snapshot of it is being taken",
    "checkpoint": "another snapshot of it is being taken",
    "snapshot_with_quiesce": "another snapshot of it is being taken",
    "revert": "it is being put back to an earlier snapshot",
    "destroy": "it is being deleted",
    "copy": "it is being copied",
    "clone": "it is being cloned",
    "export": "it is being exported",
    "import": "it is being imported",
    "suspend": "it is being suspended",
    "resume": "it is being resumed",
}
_ALLOWED_AS: Mapping[Consistency, str] = {
    Consistency.STANDARD: "snapshot",
    Consistency.QUIESCED: "snapshot",
    Consistency.MEMORY: "snapshot",
    Consistency.OFFLINE: "clean_shutdown",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing in the way of a snapshot.

    Attributes:
        reason: A sentence: cause and next step.
        passing: Whether it goes away by itself.
        code: A short name for it, such as ``CHAIN_TOO_LONG``.
    """

    reason: str
    passing: bool
    code: str


def require_ready(
    xen: XenSession,
    vm: XenVm,
    *,
    mode: Consistency = Consistency.STANDARD,
    exclude_disks: Collection[str] = (),
    max_chain: int = MAX_CHAIN,
    max_uncoalesced: int = MAX_UNCOALESCED,
    seen: SeenVm | None = None,
) -> None:
    """Leave unless a snapshot of the VM can be taken now; see `preflight`.

    Raises:
        BadInput: A disk to exclude is not there, or no disk is left.
        HostBusy: Only things that go away by themselves are in the way.
        HostRefused: A person has to do something first.
        HostUnreachable: The pool does not answer.
    """
    found = preflight(
        xen,
        vm,
        mode=mode,
        exclude_disks=exclude_disks,
        max_chain=max_chain,
        max_uncoalesced=max_uncoalesced,
        seen=seen,
    )
    if not found:
        return
    sentence = f"VM {vm.name} is not backed up now: " + "; ".join(o.reason for o in found)
    lasting = [obstacle for obstacle in found if not obstacle.passing]
    if lasting:
        raise HostRefused(sentence, code=lasting[0].code)
    raise HostBusy(sentence, code=found[0].code)


def preflight(
    xen: XenSession,
    vm: XenVm,
    *,
    mode: Consistency = Consistency.STANDARD,
    exclude_disks: Collection[str] = (),
    max_chain: int = MAX_CHAIN,
    max_uncoalesced: int = MAX_UNCOALESCED,
    seen: SeenVm | None = None,
) -> tuple[Obstacle, ...]:
    """What is in the way of a snapshot of this VM; nothing is changed.

    Args:
        xen: The session.
        vm: As `inventory.find_vm` gave it.
        mode: The consistency that will be asked for.
        exclude_disks: Disks that will not be frozen, by position, uuid or name; what is the
            matter with them is no obstacle.
        max_chain: Links a chain of images may have with the snapshot's own.
        max_uncoalesced: Links of it that may wait to be merged.
        seen: The VM's records, if they were asked for a moment ago; else they are now.

    Returns:
        Obstacles, gravest first as far as one can tell; empty when nothing is in the way.

    Raises:
        BadInput: A disk to exclude is not there, or no disk is left.
        HostBusy, HostRefused, HostUnreachable: The pool did not say.
    """
    left_out = disks_left_out(vm, exclude_disks)
    wanted = tuple(disk for disk in vm.disks if disk not in left_out)
    with explained(f"looking at VM {vm.name} before its snapshot"):
        seen = seen or look_again(xen, vm)
        look = _Look(xen, vm, wanted, mode, max_chain, max_uncoalesced, seen)
        return tuple(look.all())


@dataclass(slots=True)
class _Look:
    xen: XenSession
    vm: XenVm
    wanted: tuple[XenDisk, ...]
    mode: Consistency
    max_chain: int
    max_uncoalesced: int
    seen: SeenVm
    images: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def all(self) -> list[Obstacle]:
        known, kept = self.seen.disks, self.seen.storages
        disks = [
            (disk, known.get(disk.ref) or self.xen.call("VDI.get_record", disk.ref))
            for disk in self.wanted
        ]
        storages = {
            ref: kept.get(ref) or self.xen.call("SR.get_record", ref) for ref in self._storages()
        }
        found = [*self._of_vm(self.seen.record), *self._of_drives()]
        for disk, vdi in disks:
            found += self._of_disk(disk, vdi)
        for ref, storage in storages.items():
            found += self._of_storage(ref, storage)
        if any(_chained(vdi) for _, vdi in disks):
            self.images = self._every_image()
            for disk, vdi in disks:
                found += self._of_chain(disk, vdi)
        return found

    def _storages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(disk.storage_ref for disk in self.wanted))

    def _of_vm(self, record: Mapping[str, Any]) -> list[Obstacle]:
        found = []
        for operation in dict.fromkeys(record["current_operations"].values()):
            if operation in _CONFLICTS:
                found.append(_passing(_CONFLICTS[operation], "wait until that is over", "BUSY"))
        blocked = record["blocked_operations"].get(_ALLOWED_AS[self.mode])
        if blocked is not None:
            found.append(
                _lasting(
                    f"its owner has blocked {_ALLOWED_AS[self.mode]} ({blocked or 'no reason'})",
                    "lift the block in the VM's settings, or leave the VM out of the job",
                    "OPERATION_BLOCKED",
                )
            )
        if record.get("VUSBs") and record["power_state"] != "Halted":
            found.append(
                _lasting("a USB device is plugged in", "unplug it for the backup", "VM_HAS_VUSBS")
            )
        return found + self._of_host(record)

    def _of_host(self, record: Mapping[str, Any]) -> list[Obstacle]:
        host = record["resident_on"]
        if record["power_state"] == "Halted" or is_null(host):
            return []
        try:
            metrics = self.seen.host["metrics"]
            live = is_null(metrics) or self.xen.lately("host_metrics.get_live", metrics, keep=bool)
        except Refusal:
            live = True  # not knowing is no obstacle: the snapshot itself will tell
        if live:
            return []
        name = self.vm.host or "its host"
        return [_passing(f"{name} does not answer the pool", "look at that host", "HOST_OFFLINE")]

    def _of_drives(self) -> list[Obstacle]:
        """A disk in two drives: leaving one of them out would leave out the disk itself."""
        positions: dict[str, list[str]] = {}
        for disk in self.vm.disks:
            positions.setdefault(disk.ref, []).append(disk.position)
        return [
            _lasting(
                f"one and the same disk is plugged in as {' and as '.join(several)}",
                "take out all drives of it but one",
                "DISK_PLUGGED_IN_TWICE",
            )
            for several in positions.values()
            if len(several) > 1
        ]

    def _of_disk(self, disk: XenDisk, vdi: Mapping[str, Any]) -> list[Obstacle]:
        facts = (
            (vdi["sharable"], "is shared between VMs and cannot be frozen", "VDI_IS_SHARABLE"),
            (vdi["missing"], "is missing from its storage", "VDI_MISSING"),
            (not vdi["managed"], "is not under XenServer's control", "VDI_NOT_MANAGED"),
            (
                vdi["on_boot"] == "reset",
                "is thrown away at every start and cannot be frozen",
                "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION",
            ),
        )
        return [
            _lasting(f"disk {disk.position} ({disk.name}) {what}", "leave it out of the job", code)
            for applies, what, code in facts
            if applies
        ]

    def _of_storage(self, ref: str, storage: Mapping[str, Any]) -> list[Obstacle]:
        name = storage["name_label"]
        plugs = [
            self.xen.lately("PBD.get_currently_attached", pbd, keep=bool) for pbd in storage["PBDs"]
        ]
        if not any(plugs):
            return [
                _lasting(f"storage {name} is not attached", "attach it", "SR_NOT_ATTACHED"),
            ]
        needed = sum(disk.size_bytes for disk in self.wanted if disk.storage_ref == ref)
        size = int(storage["physical_size"])
        free = size - int(storage["physical_utilisation"])
        if is_thick(storage) and size > 0 and free < needed * _OVERHEAD:
            return [
                _lasting(
                    f"storage {name} reserves a snapshot's full size, {_gib(needed)}, and has "
                    f"{_gib(free)} free",
                    "free space on it, or move the VM to storage that allocates as it is used",
                    "SR_FULL",
                )
            ]
        return []

    def _of_chain(self, disk: XenDisk, vdi: Mapping[str, Any]) -> list[Obstacle]:
        links = self._ancestors(vdi)
        length = len(links) + 1
        if length + 1 > self.max_chain:
            return [
                _lasting(
                    f"disk {disk.position} ({disk.name}) stands on a chain of {length} images and "
                    f"{self.max_chain} is the limit",
                    "delete old snapshots, scan the storage and wait until it has coalesced",
                    "CHAIN_TOO_LONG",
                )
            ]
        waiting = sum(1 for link in links if self._can_merge(link))
        if waiting > self.max_uncoalesced:
            return [
                _passing(
                    f"disk {disk.position} ({disk.name}) has {waiting} images that wait to be "
                    "merged",
                    "wait until the storage has coalesced; scan it if that never comes",
                    "CHAIN_NOT_COALESCED",
                )
            ]
        return []

    def _ancestors(self, vdi: Mapping[str, Any]) -> list[str]:
        """Uuids of the images a disk stands on, nearest first."""
        links: list[str] = []
        parent = vdi["sm_config"].get("vhd-parent", "")
        while parent and parent not in links:
            links.append(str(parent))
            parent = self.images.get(parent, {}).get("sm_config", {}).get("vhd-parent", "")
        return links

    def _can_merge(self, uuid: str) -> bool:
        """Whether an image is hidden and has a single child, so that the storage may merge it."""
        image = self.images.get(uuid)
        if image is None or image["managed"]:
            return False
        children = [i for i in self.images.values() if i["sm_config"].get("vhd-parent") == uuid]
        return len(children) == 1

    def _every_image(self) -> dict[str, Mapping[str, Any]]:
        records = self.seen.images
        if records is None:
            records = self.xen.call("VDI.get_all_records", deadline_seconds=LISTING_SECONDS)
        return {str(record["uuid"]): record for record in records.values()}


def _chained(vdi: Mapping[str, Any]) -> bool:
    return bool(vdi["sm_config"].get("vhd-parent"))


def _gib(count: int) -> str:
    return f"{max(count, 0) / (1 << 30):.1f} GiB"


def _lasting(cause: str, then: str, code: str) -> Obstacle:
    return Obstacle(reason=f"{cause}; {then}", passing=False, code=code)


def _passing(cause: str, then: str, code: str) -> Obstacle:
    return Obstacle(reason=f"{cause}; {then}", passing=True, code=code)

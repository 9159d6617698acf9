"""Which VMs a pool has, and which of them were meant."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from likeness.errors import BadInput, HostBusy, HostRefused, UnknownVm
from likeness.model.choosing import ambiguous, called, disk_called, offered, uuid_in
from likeness.model.ids import DiskId, VmId, as_uuid, from_uuid
from likeness.model.sizes import counted
from likeness.xen import marks
from likeness.xen.failures import GONE, Refusal, explained
from likeness.xen.session import LISTING_SECONDS, XenSession, is_null

_THICK = frozenset({"lvm", "lvmoiscsi", "lvmohba", "lvmofcoe"})
_THIN = frozenset({"thin", "xlvhd"})
Images = Mapping[str, Mapping[str, Any]]
"""VDI records by reference."""

EXCLUDED_TAG = "likeness-ignore"
"""A VM with this tag is in no job, however it was selected."""


@dataclass(frozen=True, slots=True)
class XenDisk:
    """A disk as it is plugged into a VM now.

    Attributes:
        disk: The same from version to version; its uuid without dashes.
        ref: XenServer's reference to it.
        uuid: Its uuid, with dashes.
        name: What its owner calls it.
        position: Where it is plugged in, such as ``0``.
        size_bytes: Its virtual size.
        storage: Name of the storage it lies on.
        storage_ref: XenServer's reference to that storage.
        tracked: Whether changed ranges are recorded.
    """

    disk: DiskId
    ref: str
    uuid: str
    name: str
    position: str
    size_bytes: int
    storage: str
    storage_ref: str
    tracked: bool


@dataclass(frozen=True, slots=True)
class XenVm:
    """A VM of a pool: no template, snapshot, control domain or unfinished restore.

    Attributes:
        vm: The same from version to version; its uuid without dashes.
        ref: XenServer's reference to it.
        uuid: Its uuid, with dashes.
        name: What its owner calls it.
        power_state: ``Running``, ``Halted``, ``Suspended`` or ``Paused``.
        tags: Its tags, sorted.
        host: Name of the host it runs on; empty when it does not run.
        pool: Name of its pool.
        disks: In the order of their positions.
        host_uuid: Of the host it runs on; empty when it does not run.
    """

    vm: VmId
    ref: str
    uuid: str
    name: str
    power_state: str
    tags: tuple[str, ...]
    host: str
    pool: str
    disks: tuple[XenDisk, ...]
    host_uuid: str = ""

    @property
    def size_bytes(self) -> int:
        """What its disks hold together."""
        return sum(disk.size_bytes for disk in self.disks)


@dataclass(frozen=True, slots=True)
class SeenVm:
    """A VM with the pool's own records of it, all of one moment; each was asked for once.

    Attributes:
        vm: The VM.
        record: Its record.
        drives: Records of its VBDs by reference.
        disks: Records of its VDIs by reference.
        storages: Records of their SRs by reference.
        host: The record of the host it is on; empty when there is none.
        images: VDI records of the whole pool by reference; none if they were not asked for.
    """

    vm: XenVm
    record: Mapping[str, Any]
    drives: Mapping[str, Mapping[str, Any]]
    disks: Mapping[str, Mapping[str, Any]]
    storages: Mapping[str, Mapping[str, Any]]
    host: Mapping[str, Any]
    images: Images | None


@dataclass(frozen=True, slots=True)
class VmSelection:
    """Which VMs a job means; looked up anew at every run.

    What `names`, `tags`, `hosts`, `pools` and `containing` find is added together, then narrowed
    by `power_states`; VMs with `excluded_tag` are left out last.

    Attributes:
        names: Names or uuids, in the order to start them.
        tags: VMs with any of these tags; upper and lower case differ.
        hosts: VMs that run on any of these hosts, by name or uuid.
        pools: All VMs, if the pool has one of these names or uuids.
        containing: VMs whose name contains one of these words, upper and lower case alike.
        power_states: Only VMs in one of these; empty: in any.
        excluded_tag: Leave these out; empty: none.
    """

    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    containing: tuple[str, ...] = ()
    power_states: tuple[str, ...] = ()
    excluded_tag: str = field(default=EXCLUDED_TAG)


def list_vms(xen: XenSession) -> tuple[XenVm, ...]:
    """Every VM of the pool, by name and then uuid; without standbys, which no job may mean.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained(f"listing the VMs of {xen.url}"):
        tables = _Tables.of_pool(xen)
    found = [
        tables.vm(ref, record)
        for ref, record in tables.vms.items()
        if _is_vm(record) and not marks.owner_in_marks(record, marks.STANDBY)
    ]
    return tuple(sorted(found, key=lambda vm: (vm.name.casefold(), vm.name, vm.uuid)))


def find_vm(xen: XenSession, name_or_uuid: str) -> XenVm:
    """The one VM of that name or uuid.

    Args:
        xen: The session.
        name_or_uuid: Its exact name, or its uuid with or without dashes.

    Raises:
        UnknownVm: There is none; the message names those that come near.
        BadInput: Several bear that name; the message gives their uuids.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    if not name_or_uuid.strip():
        raise UnknownVm(f"no VM was named: give a name or a uuid of a VM of {xen.url}")
    with explained(f"looking for VM {name_or_uuid}"):
        found = _found(xen, name_or_uuid)
        if found:
            return _seen(xen, *found, pool=_pool_name(xen.call("pool.get_all_records"))).vm
    return vm_called(name_or_uuid, list_vms(xen), xen.url)


def look_again(
    xen: XenSession, vm: XenVm, list_images: Callable[[XenSession], Images] | None = None
) -> SeenVm:
    """A VM that was listed before, as it is now.

    Args:
        xen: The session.
        vm: As it was listed.
        list_images: Asks for every VDI record of the pool, if all of them are wanted.

    Raises:
        UnknownVm: It is gone.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    with explained(f"looking at VM {vm.name}"):
        found = _still_there(xen, vm) or _found(xen, vm.uuid)
        if found:
            images = None
            with suppress(HostBusy, HostRefused):  # then each disk is asked for by itself
                images = list_images(xen) if list_images else None
            return _seen(xen, *found, pool=vm.pool, images=images)
    raise UnknownVm(f"VM {vm.name} ({vm.uuid}) is not in the pool {xen.url} any more")


def vm_called(name_or_uuid: str, everything: Sequence[XenVm], url: str) -> XenVm:
    """The same among VMs that were listed before, at the pool `url`.

    Raises:
        UnknownVm: There is none; the message names those that come near.
        BadInput: Several bear that name; the message gives their uuids.
    """
    found = called(name_or_uuid, everything)
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(ambiguous(name_or_uuid, "VMs", found))
    hint = offered(name_or_uuid, everything)
    raise UnknownVm(
        f"there is no VM {name_or_uuid!r} in the pool {url}; "
        + (hint or f"the pool has {counted(len(everything), 'VM')}")
    )


def select_vms(
    xen: XenSession, selection: VmSelection, everything: Sequence[XenVm] | None = None
) -> tuple[XenVm, ...]:
    """The VMs a selection means at this moment, in a stable order.

    Named ones come first, in the order of their names in the list; the others by name and uuid.

    Args:
        xen: The session.
        selection: Which are meant.
        everything: Every VM of the pool, if it was listed before.

    Raises:
        UnknownVm: A name in the list is no VM of the pool.
        BadInput: A name in the list is borne by several VMs.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    everything = list_vms(xen) if everything is None else everything
    named = (vm_called(name, everything, xen.url) for name in selection.names)
    chosen = {vm.uuid: vm for vm in named}
    hosts = {place.uuid for place in _meant_by(xen, "host", selection.hosts)}
    pools = {place.name for place in _meant_by(xen, "pool", selection.pools)}
    for vm in everything:
        if _matches(vm, selection, hosts, pools):
            chosen.setdefault(vm.uuid, vm)
    return tuple(vm for vm in chosen.values() if _stays(vm, selection))


def missing_hosts(
    xen: XenSession, *, hosts: Collection[str], pools: Collection[str]
) -> dict[str, str]:
    """Which of these hosts and pools there are not, or several of, each with a sentence.

    Raises:
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    missing = {}
    for class_name, wanted in (("host", hosts), ("pool", pools)):
        known = _every_named(xen, class_name) if wanted else []
        names = ", ".join(sorted(repr(place.name) for place in known))
        for name in wanted:
            found = called(name, known)
            if len(found) > 1:
                missing[f"{class_name} {name}"] = ambiguous(name, f"{class_name}s", found)
            elif not found:
                missing[f"{class_name} {name}"] = (
                    f"there is no {class_name} {name!r} at {xen.url}; there is {names}; correct"
                    " the job"
                )
    return missing


@dataclass(frozen=True, slots=True)
class _Named:
    """A host or a pool."""

    uuid: str
    name: str


def _every_named(xen: XenSession, class_name: str) -> list[_Named]:
    with explained(f"listing every {class_name} of {xen.url}"):
        records = xen.call(f"{class_name}.get_all_records").values()
    return [_Named(str(record["uuid"]), str(record["name_label"])) for record in records]


def _meant_by(xen: XenSession, class_name: str, wanted: Collection[str]) -> list[_Named]:
    """Those that are meant beyond doubt; `missing_hosts` tells of the others."""
    known = _every_named(xen, class_name) if wanted else []
    found = [called(name, known) for name in wanted]
    return [places[0] for places in found if len(places) == 1]


def _is_vm(record: Mapping[str, Any]) -> bool:
    """What a restore is still filling is none yet: it has its VM's tags, and half of its data."""
    return not (
        record["is_a_template"]
        or record["is_a_snapshot"]
        or record.get("is_control_domain")
        or marks.owner_of_restore(record)
        or marks.owner_in_marks(record, marks.DRILL)
        or marks.owner_of_delegate(record)
    )


_Found = tuple[str, Mapping[str, Any]]
"""A VM's reference and record."""


def _found(xen: XenSession, wanted: str) -> _Found | None:
    """A VM by uuid or exact name; nothing when there is not exactly one."""
    found = _of_uuid(xen, uuid_in(wanted))
    if found:
        return found
    named = [
        (str(ref), xen.call("VM.get_record", ref))
        for ref in xen.call("VM.get_by_name_label", wanted)
    ]
    meant = [each for each in named if _is_vm(each[1]) and each[1]["name_label"] == wanted]
    return meant[0] if len(meant) == 1 else None


def _of_uuid(xen: XenSession, uuid: str) -> _Found | None:
    if not uuid:
        return None
    try:
        ref = str(xen.call("VM.get_by_uuid", as_uuid(uuid)))
    except Refusal as refusal:
        if refusal.code == "UUID_INVALID":
            return None
        raise
    record = xen.call("VM.get_record", ref)
    return (ref, record) if _is_vm(record) else None


def _still_there(xen: XenSession, vm: XenVm) -> _Found | None:
    """By its reference, which a VM keeps unless the pool's database was put back."""
    try:
        record = xen.call("VM.get_record", vm.ref)
    except Refusal as refusal:
        if refusal.code in GONE:
            return None
        raise
    return (vm.ref, record) if record["uuid"] == vm.uuid and _is_vm(record) else None


def is_thick(storage: Mapping[str, Any]) -> bool:
    """Whether a storage reserves every disk's full size at once, so that its room must be known."""
    allocation = str(storage["sm_config"].get("allocation", ""))
    return storage["type"] in _THICK and allocation not in _THIN


def _seen(
    xen: XenSession,
    ref: str,
    vm: Mapping[str, Any],
    *,
    pool: str,
    images: Images | None = None,
) -> SeenVm:
    drives = {vbd: xen.call("VBD.get_record", vbd) for vbd in vm["VBDs"]}
    refs = dict.fromkeys(record["VDI"] for record in drives.values() if is_disk(record))
    known = images or {}
    disks = {vdi: known.get(vdi) or xen.call("VDI.get_record", vdi) for vdi in refs}
    storages = {
        sr: xen.lately("SR.get_record", sr, keep=lambda storage: not is_thick(storage))
        for sr in {vdi["SR"] for vdi in disks.values()}
    }
    on = vm["resident_on"]
    host = {} if is_null(on) else xen.once("host.get_record", on)
    tables = _Tables({ref: vm}, drives, disks, storages, {on: host} if host else {}, pool)
    return SeenVm(tables.vm(ref, vm), vm, drives, disks, storages, host, images)


def _matches(
    vm: XenVm, selection: VmSelection, hosts: Collection[str], pools: Collection[str]
) -> bool:
    return (
        any(tag in vm.tags for tag in selection.tags)
        or (vm.host_uuid != "" and vm.host_uuid in hosts)
        or vm.pool in pools
        or any(word.casefold() in vm.name.casefold() for word in selection.containing)
    )


def _stays(vm: XenVm, selection: VmSelection) -> bool:
    if selection.excluded_tag and selection.excluded_tag in vm.tags:
        return False
    return not selection.power_states or vm.power_state in selection.power_states


@dataclass(frozen=True, slots=True)
class _Tables:
    """The records that a VM's description is put together from."""

    vms: Mapping[str, Mapping[str, Any]]
    vbds: Mapping[str, Mapping[str, Any]]
    vdis: Mapping[str, Mapping[str, Any]]
    srs: Mapping[str, Mapping[str, Any]]
    hosts: Mapping[str, Mapping[str, Any]]
    pool: str

    @classmethod
    def of_pool(cls, xen: XenSession) -> "_Tables":
        def every(class_name: str) -> Mapping[str, Mapping[str, Any]]:
            records: Mapping[str, Mapping[str, Any]] = xen.call(
                f"{class_name}.get_all_records", deadline_seconds=LISTING_SECONDS
            )
            return records

        pools = every("pool")
        return cls(
            vms=every("VM"),
            vbds=every("VBD"),
            vdis=every("VDI"),
            srs=every("SR"),
            hosts=every("host"),
            pool=_pool_name(pools),
        )

    def vm(self, ref: str, record: Mapping[str, Any]) -> XenVm:
        runs = record["power_state"] == "Running"
        host = self.hosts.get(record["resident_on"], {}) if runs else {}
        return XenVm(
            vm=VmId(from_uuid(record["uuid"])),
            ref=ref,
            uuid=str(record["uuid"]),
            name=str(record["name_label"]),
            power_state=str(record["power_state"]),
            tags=tuple(sorted(record["tags"])),
            host=str(host.get("name_label", "")),
            pool=self.pool,
            disks=self._disks(record),
            host_uuid=str(host.get("uuid", "")),
        )

    def _disks(self, vm: Mapping[str, Any]) -> tuple[XenDisk, ...]:
        plugged = [self.vbds[vbd] for vbd in vm["VBDs"] if vbd in self.vbds]
        disks = [self._disk(vbd) for vbd in plugged if is_disk(vbd) and vbd["VDI"] in self.vdis]
        return tuple(sorted(disks, key=lambda disk: position_order(disk.position)))

    def _disk(self, vbd: Mapping[str, Any]) -> XenDisk:
        vdi = self.vdis[vbd["VDI"]]
        return XenDisk(
            disk=DiskId(from_uuid(vdi["uuid"])),
            ref=str(vbd["VDI"]),
            uuid=str(vdi["uuid"]),
            name=str(vdi["name_label"]),
            position=str(vbd["userdevice"]),
            size_bytes=int(vdi["virtual_size"]),
            storage=str(self.srs.get(vdi["SR"], {}).get("name_label", "")),
            storage_ref=str(vdi["SR"]),
            tracked=bool(vdi.get("cbt_enabled", False)),
        )


def _pool_name(pools: Mapping[str, Mapping[str, Any]]) -> str:
    return next((str(pool["name_label"]) for pool in pools.values()), "")


def disks_left_out(
    vm: XenVm, excluded: Collection[str], *, only: Collection[str] = ()
) -> tuple[XenDisk, ...]:
    """The disks of a VM that a job leaves out.

    Args:
        vm: The VM.
        excluded: By position, uuid or name.
        only: The same, of the disks that are meant; empty: all.

    Raises:
        BadInput: It has no such disk, or two that may be meant, or none would be left.
    """
    apart, meant = (
        {disk_called(each, vm.disks, f"VM {vm.name}").disk for each in wanted}
        for wanted in (excluded, only)
    )
    left_out = tuple(d for d in vm.disks if d.disk in apart or (only and d.disk not in meant))
    if vm.disks and len(left_out) == len(vm.disks):
        raise BadInput(f"VM {vm.name}: every disk is left out; nothing is left to back up")
    return left_out


def is_disk(vbd: Mapping[str, Any]) -> bool:
    """Whether a VBD record is a disk with something in it, not a CD drive."""
    return vbd["type"] == "Disk" and not vbd.get("empty") and not is_null(vbd["VDI"])


def position_order(position: str) -> tuple[int, int, str]:
    """Sorts ``0``, ``1``, ... ``10`` as numbers, and names such as ``xvda`` after them."""
    return (0, int(position), "") if position.isdigit() else (1, 0, position)

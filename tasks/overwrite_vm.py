"""Restore over a VM that is there: its disks become those of a version.

Only what differs is written where the store has a version whose changes since then the pool can
name. Until all of it is written the VM cannot be started; when that fails it is what it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError
from likeness.model.disk import Extent, Segment
from likeness.model.ids import DiskId, RunId, VersionId, random_name
from likeness.model.naming import disk_label
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import FlatMap
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.differences import unlike
from likeness.store.read.disk_view import first_whole_map
from likeness.store.read.versions import Version, find_version
from likeness.transport.tuning import keep_large_buffers
from likeness.xen.changed_blocks import changed_extents
from likeness.xen.inventory import XenDisk, XenVm, find_vm
from likeness.xen.overwriting import begin_overwriting, finish_overwriting, go_back
from likeness.xen.owner import Owner
from likeness.xen.references import Reference, list_references
from likeness.xen.restoring import DiskToFill, RestoredVm, start_vm, write_disk
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import MEMORY, SnapshotDisk, XenSnapshot
from tasks.claims import vm_claimed
from tasks.progress import shown
from tasks.restore_sources import Chosen, Notes, opened_disk, sources, version_in
from tasks.restore_vm import Reached, VmBack
from tasks.retries import STEP, task


@dataclass(frozen=True, slots=True)
class Known:
    """What a disk holds, as far as it is known.

    Attributes:
        version: It was once as this version's disk is.
        position: Of that disk in the version.
        touched: What was written to it since.
    """

    version: VersionId
    position: str
    touched: tuple[Extent, ...] = ()


@dataclass(frozen=True, slots=True)
class VmOverwrite:
    """Which VM becomes what.

    Attributes:
        version: Of this version.
        vm: Name or uuid of the VM that is there.
        pool: Name of the Xen Pool block it is in; empty: the site's own.
        start: Start it when it is whole.
        from_vault: Read from the vault alone.
        holds: The version it is known to hold, if that is known already; empty: ask the pool.
        note: What is written on the VM in the moment it is whole.
    """

    version: Chosen
    vm: str
    pool: str = ""
    start: bool = False
    from_vault: bool = False
    holds: str = ""
    note: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BegunOverwrite:
    """A VM that is being written over.

    Attributes:
        vm: Which.
        version: What it shall be.
        frozen: What it was.
        disks: Each disk of the version with the one that becomes it.
        known: What of these is known, by the frozen disk's uuid.
    """

    vm: XenVm
    version: Version
    frozen: XenSnapshot
    disks: tuple[tuple[DiskRecord, SnapshotDisk], ...]
    known: Mapping[str, Known]


def overwritten_vm(wanted: VmOverwrite, *, run: RunId, site: Site, stop: StopToken) -> VmBack:
    """Write a version over a VM; on any failure it is what it was.

    Raises:
        BadInput: The VM runs, or its disks are not those of the version; nothing was changed.
        DataLost: Some bytes of a disk are not to be had.
        HostRefused: The pool refused, such as for want of room.
        TransferBroken, HostUnreachable, ShareUnreachable: Tried three times in vain.
    """
    say, owner = Notes(get_run_logger().warning), Owner(site.installation, run)
    site.note_pool(wanted.pool)
    with site.pool_called(wanted.pool).open() as xen:
        there = find_vm(xen, wanted.vm)
    with vm_claimed(site, there.vm, there.name):
        begun = begin(wanted, there, owner=owner, site=site, stop=stop, say=say)
        written = 0
        try:
            for record, frozen in begun.disks:
                written += write_changes(
                    begun, record, frozen, wanted, owner=owner, site=site, stop=stop, say=say
                )
            stop.check()
            finish(begun, wanted, owner=owner, site=site)
        except BaseException:
            stop.stop()
            if left := _brought_back(begun, wanted, owner=owner, site=site):
                say(left)
            raise
    started = wanted.start and _started(begun, wanted, owner=owner, site=site, say=say)
    return VmBack(
        name=there.name,
        uuid=there.uuid,
        source=begun.version.vm,
        taken_at=begun.version.taken_at,
        version=begun.version.version,
        disks=tuple((disk_label(d.position, d.name), d.size_bytes) for d, _ in begun.disks),
        written_bytes=written,
        notes=tuple(say.said),
        started=started,
        over=True,
    )


@task(task_run_name="freeze VM {there.name}", **STEP)
def begin(
    wanted: VmOverwrite,
    there: XenVm,
    *,
    owner: Owner,
    site: Site,
    stop: StopToken,
    say: Callable[[str], None],
) -> BegunOverwrite:
    """Freeze what the VM is, and find out what its disks are known to hold."""
    with sources(site, from_vault=wanted.from_vault, say=say) as stores:
        version = version_in(stores, wanted.version)
    with site.pool_called(wanted.pool).open(owner=owner, stop=stop) as xen:
        _require_fitting(version, there, say)
        frozen = begin_overwriting(xen, there, owner=owner, stop=stop)
        by_position = {disk.facts.position: disk for disk in frozen.disks}
        disks = tuple(
            (disk, by_position[disk.position])
            for disk in version.record.disks
            if disk.position in by_position
        )
        try:
            if wanted.holds:
                holds = VersionId(wanted.holds)
                known = {d.uuid: Known(holds, r.position) for r, d in disks}
            else:
                known = _known_content(xen, [d for _, d in disks], site=site, stop=stop, say=say)
        except BaseException:
            finish_overwriting(xen, there, frozen)  # nothing is written yet
            raise
    get_run_logger().info("VM %s is frozen, and blocked until it is whole", there.name)
    return BegunOverwrite(there, version, frozen, disks, known)


def _require_fitting(version: Version, there: XenVm, say: Callable[[str], None]) -> None:
    """Leave if each disk of the version can become one of the VM's.

    Raises:
        BadInput: Not so.
    """
    here: dict[str, XenDisk] = {disk.position: disk for disk in there.disks}
    wanted = [disk for disk in version.record.disks if disk.position != MEMORY]
    if not wanted:
        raise BadInput(f"version {version.version[:12]} of {version.record.vm_name} has no disks")
    for disk in wanted:
        label, found = disk_label(disk.position, disk.name), here.pop(disk.position, None)
        if found is None:
            raise BadInput(
                f"VM {there.name} has no {label} any more; plug one of {disk.size_bytes:,} bytes"
                " in, or restore to a new VM"
            )
        if found.size_bytes < disk.size_bytes or found.size_bytes - disk.size_bytes >= 2 << 20:
            raise BadInput(
                f"VM {there.name}: {label} has {found.size_bytes:,} bytes now and had"
                f" {disk.size_bytes:,}; restore to a new VM"
            )
    if MEMORY in {disk.position for disk in version.record.disks}:
        say("the guest's memory is in the version; the VM itself starts from its disks")
    for left in here.values():
        say(f"{disk_label(left.position, left.name)} is not in the version and stays as it is")


def _known_content(
    xen: XenSession,
    disks: Sequence[SnapshotDisk],
    *,
    site: Site,
    stop: StopToken,
    say: Callable[[str], None],
) -> dict[str, Known]:
    """What frozen disks hold, by the records of changes that backups keep in the pool."""
    references = list_references(xen, site.installations)
    try:
        rows = list_versions(site.catalog.file, system_clock(), None) if references else []
    except LikenessError as problem:
        get_run_logger().info("the catalog does not say what disks hold: %s", problem)
        rows = []
    found: dict[str, Known] = {}
    for disk in disks:
        last = _last_version(disk.facts.disk, references, rows)
        label = disk_label(disk.facts.position, disk.facts.name)
        if last is None:
            say(f"{label}: what it holds is not known, so all of it is written")
            continue
        reference, row, position = last
        changes = changed_extents(xen, reference.uuid, disk, known=reference, stop=stop)
        if changes.extents is None:
            say(f"{label}: all of it is written, since {changes.reason}")
            continue
        found[disk.uuid] = Known(row.version, position, changes.extents)
    return found


def _last_version(
    disk: DiskId, references: Sequence[Reference], rows: Sequence[VersionRow]
) -> tuple[Reference, VersionRow, str] | None:
    """The newest version of a disk since which the pool has recorded what changed."""
    usable = {(r.vm, r.run): r for r in references if r.disk == disk and r.usable}
    for row in rows:
        reference = usable.get((row.vm, row.run))
        position = next((each.plugged_at for each in row.disks if each.disk == disk), None)
        if reference is not None and position is not None:
            return reference, row, position
    return None


@task(task_run_name="write over disk {record.position}", **STEP)
def write_changes(
    begun: BegunOverwrite,
    record: DiskRecord,
    frozen: SnapshotDisk,
    wanted: VmOverwrite,
    *,
    owner: Owner,
    site: Site,
    stop: StopToken,
    say: Callable[[str], None],
) -> int:
    """Write what may differ, every data block proved on its way; how much that is."""
    keep_large_buffers()
    label = disk_label(record.position, record.name)
    target = _live(begun, frozen)
    key = f"restore-{begun.version.version[:12]}-{target.position}"
    with (
        opened_disk(
            site, begun.version, record, run=owner.run, from_vault=wanted.from_vault, say=say
        ) as opened,
        site.pool_called(wanted.pool).open(owner=owner, stop=stop) as xen,
        first_whole_map(
            opened.stores, record, opened.scratch / f"{random_name()}.wanted-map"
        ) as wanted_map,
    ):
        known = begun.known.get(frozen.uuid)
        before = _disk_known(opened.stores, known, record)
        extents = _to_write(opened.stores, record, wanted_map, before, known, opened.scratch)
        todo = sum(extent.length for extent in extents)
        done = Reached(record.size_bytes)
        with shown(key, f"Restore over {label} of {begun.vm.name}", done.percent):
            segments = done.passing(opened.view.segments(stop=stop, within=extents))
            write_disk(xen, target, chain(segments, _rest(target, record)), stop=stop)
    get_run_logger().info(
        "%s: %s of %s could differ, were proved and written",
        label,
        readable_size(todo),
        readable_size(record.size_bytes),
    )
    return todo


def _to_write(
    stores: Sequence[DataStore],
    record: DiskRecord,
    wanted: FlatMap,
    before: DiskRecord | None,
    known: Known | None,
    scratch: Path,
) -> list[Extent]:
    size, chunk = record.size_bytes, record.chunk_bytes
    if before is None or known is None:
        return list(unlike(wanted, None, size_bytes=size, chunk_bytes=chunk))
    with first_whole_map(stores, before, scratch / f"{random_name()}.known-map") as its:
        return list(unlike(wanted, its, size_bytes=size, chunk_bytes=chunk, touched=known.touched))


def _rest(target: DiskToFill, record: DiskRecord) -> Iterator[Segment]:
    """Zeros where a storage that rounds sizes up has made the disk longer."""
    if rest := target.size_bytes - record.size_bytes:
        yield Segment(record.size_bytes, bytes(rest))


def _live(begun: BegunOverwrite, frozen: SnapshotDisk) -> DiskToFill:
    disk = next(each for each in begun.vm.disks if each.position == frozen.facts.position)
    return DiskToFill(frozen.facts.disk, disk.position, disk.ref, disk.uuid, disk.size_bytes)


def _disk_known(
    stores: Sequence[DataStore], known: Known | None, wanted: DiskRecord
) -> DiskRecord | None:
    """The disk of the version it is known to have been; none where the store has it no more."""
    for store in stores if known else ():
        try:
            version = find_version(store, known.version if known else "")
        except (BadInput, *UNREADABLE):
            continue
        for disk in version.record.disks:
            same = (disk.size_bytes, disk.chunk_bytes) == (wanted.size_bytes, wanted.chunk_bytes)
            if known and disk.position == known.position and same:
                return disk
    return None


@task(task_run_name="release VM {begun.vm.name}", **STEP)
def finish(begun: BegunOverwrite, wanted: VmOverwrite, *, owner: Owner, site: Site) -> None:
    """Let it be started again, and drop what it was before."""
    with site.pool_called(wanted.pool).open(owner=owner) as xen:
        finish_overwriting(xen, begun.vm, begun.frozen, note=wanted.note)


def _brought_back(begun: BegunOverwrite, wanted: VmOverwrite, *, owner: Owner, site: Site) -> str:
    """Make the VM what it was; a sentence if that must wait for the sweep."""
    try:
        with site.pool_called(wanted.pool).open(owner=owner) as xen:
            go_back(xen, begun.vm.ref)
            finish_overwriting(xen, begun.vm, begun.frozen)
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        return (
            f"VM {begun.vm.name} is blocked from starting until the next sweep has brought it back"
            f" to what it was: {cause}"
        )
    return ""


def _started(
    begun: BegunOverwrite,
    wanted: VmOverwrite,
    *,
    owner: Owner,
    site: Site,
    say: Callable[[str], None],
) -> bool:
    vm = RestoredVm(begun.vm.ref, begun.vm.uuid, begun.vm.name, (), ())
    try:
        with site.pool_called(wanted.pool).open(owner=owner) as xen:
            start_vm(xen, vm)
    except LikenessError as problem:
        say(f"it is whole but was not started: {problem}")
        return False
    return True

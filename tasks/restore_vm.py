"""Restore of a whole VM into the site's pool: made, filled, released, and started if asked for.

Until it is released it cannot be started, and whatever goes wrong it is taken away again; what a
run that was killed leaves carries our mark, and the sweep removes it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from prefect import get_run_logger

from blocks import Site
from likeness.errors import BadInput, LikenessError
from likeness.model.disk import Segment
from likeness.model.ids import DiskId, VmId
from likeness.model.naming import disk_label
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.format.documents import DiskRecord
from likeness.store.read.versions import Version
from likeness.transport.tuning import keep_large_buffers
from likeness.xen.inventory import list_vms
from likeness.xen.owner import Owner
from likeness.xen.restoring import (
    DiskToFill,
    RestoredVm,
    create_vm,
    destroy_vm,
    release_vm,
    start_vm,
    write_disk,
)
from likeness.xen.storages import find_storage
from tasks.progress import shown
from tasks.restore_sources import Chosen, Notes, opened_disk, sources, version_in
from tasks.retries import STEP, task


@dataclass(frozen=True, slots=True)
class VmRestore:
    """What is to be made, and where.

    Attributes:
        version: Which.
        name: What the new VM is called; empty: as it was, or so with a date where that is taken.
        storage: Name or uuid; empty: the pool's default.
        networks: Networks as they were, by uuid or name, to those to use instead.
        keep_addresses: Give its network cards the addresses they had.
        start: Start it when it is whole.
        from_vault: Read from the vault alone.
        pool: Name of the Xen Pool block to restore into; empty: the site's own.
        with_cards: Make its network cards.
    """

    version: Chosen
    name: str = ""
    storage: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    keep_addresses: bool = False
    start: bool = False
    from_vault: bool = False
    pool: str = ""
    with_cards: bool = True


@dataclass(frozen=True, slots=True)
class MadeVm:
    """A VM that is being restored, and the version it is made from."""

    vm: RestoredVm
    version: Version


@dataclass(frozen=True, slots=True)
class VmBack:
    """A VM that was restored whole.

    Attributes:
        name: What it is called.
        uuid: A new one, with dashes.
        source: The VM it was a version of.
        taken_at: When the version was taken.
        version: Its id.
        disks: Name and size of each.
        written_bytes: How much was proved and written.
        notes: What is not as it was, or was taken from elsewhere, in sentences.
        started: Whether it was started.
        over: Whether it was there before, and was written over.
    """

    name: str
    uuid: str
    source: VmId
    taken_at: datetime
    version: str
    disks: tuple[tuple[str, int], ...]
    written_bytes: int
    notes: tuple[str, ...]
    started: bool
    over: bool = False


def restored_vm(wanted: VmRestore, *, owner: Owner, site: Site, stop: StopToken) -> VmBack:
    """Restore a VM; on any failure nothing of it is left that can be reached.

    Args:
        wanted: Which version, as what.
        owner: Whose it is until it is whole.
        site: The installation.
        stop: Looked at everywhere.

    Raises:
        BadInput: There is no such storage or network, or the version cannot make a VM.
        DataLost: Some bytes of a disk are not to be had.
        HostRefused: The pool refused, such as for want of room.
        TransferBroken, HostUnreachable, ShareUnreachable: Tried three times in vain.
    """
    say, pool = Notes(get_run_logger().warning), wanted.pool
    with filled_vm(wanted, owner=owner, site=site, stop=stop, say=say) as (made, written):
        finish_vm(made, pool=pool, owner=owner, site=site)
    started = wanted.start and _started(made.vm, pool=pool, owner=owner, site=site, say=say)
    return VmBack(
        name=made.vm.name,
        uuid=made.vm.uuid,
        source=made.version.vm,
        taken_at=made.version.taken_at,
        version=made.version.version,
        disks=tuple(
            (disk_label(each.position, _record_of(made, each).name), each.size_bytes)
            for each in made.vm.disks
        ),
        written_bytes=written,
        notes=(*made.vm.notes, *say.said),
        started=started,
    )


@contextmanager
def filled_vm(
    wanted: VmRestore, *, owner: Owner, site: Site, stop: StopToken, say: Callable[[str], None]
) -> Generator[tuple[MadeVm, int], None, None]:
    """A VM that is whole and cannot be started yet, and how much was written.

    What fails, here or in the `with`, leaves nothing of it.
    """
    site.note_pool(wanted.pool)
    made = make_vm(wanted, owner=owner, site=site, say=say)
    written = 0
    try:
        for disk in made.vm.disks:
            written += fill_disk(made, disk, wanted, owner=owner, site=site, stop=stop, say=say)
        stop.check()
        yield made, written
    except BaseException:
        stop.stop()
        if left := taken_away(made.vm, pool=wanted.pool, owner=owner, site=site):
            say(left)
        raise


@task(task_run_name="make the VM", **STEP)
def make_vm(wanted: VmRestore, *, owner: Owner, site: Site, say: Callable[[str], None]) -> MadeVm:
    """Make the VM with empty disks, blocked from starting; nothing is left when that fails."""
    with sources(site, from_vault=wanted.from_vault, say=say) as stores:
        version = version_in(stores, wanted.version)
    record = version.record
    if not record.disks:
        raise BadInput(f"version {version.version[:12]} of VM {record.vm_name} has no disks")
    with site.pool_called(wanted.pool).open(owner=owner) as xen:
        taken = {vm.name for vm in list_vms(xen)}
        dated = f"{record.vm_name} (as of {version.taken_at:%Y-%m-%d %H:%M})"
        made = create_vm(
            xen,
            record.configuration,
            owner=owner,
            storage_ref=find_storage(xen, wanted.storage.strip()),
            sizes={DiskId(disk.disk): disk.size_bytes for disk in record.disks},
            name=wanted.name or (dated if record.vm_name in taken else ""),
            keep_addresses=wanted.keep_addresses,
            networks=wanted.networks,
            with_cards=wanted.with_cards,
        )
    get_run_logger().info("VM %s is made, and blocked until it is whole", made.name)
    return MadeVm(made, version)


@task(task_run_name="write disk {disk.position}", **STEP)
def fill_disk(
    made: MadeVm,
    disk: DiskToFill,
    wanted: VmRestore,
    *,
    owner: Owner,
    site: Site,
    stop: StopToken,
    say: Callable[[str], None],
) -> int:
    """Write what a disk holds, every data block proved on its way; how much that is.

    When it is tried again the same bytes go to the same places.
    """
    keep_large_buffers()
    record = _record_of(made, disk)
    label, done = disk_label(disk.position, record.name), Reached(record.size_bytes)
    key, title = f"restore-{made.version.version[:12]}-{disk.position}", f"Restore of {label}"
    with (
        opened_disk(
            site, made.version, record, run=owner.run, from_vault=wanted.from_vault, say=say
        ) as opened,
        site.pool_called(wanted.pool).open(owner=owner, stop=stop) as xen,
        shown(key, title, done.percent),
    ):
        written = write_disk(xen, disk, done.passing(opened.view.segments(stop=stop)), stop=stop)
    get_run_logger().info("%s: proved and written, %s", label, readable_size(written))
    return written


@task(task_run_name="release the VM", **STEP)
def finish_vm(made: MadeVm, *, pool: str, owner: Owner, site: Site) -> None:
    """Give it its name and let it be started."""
    with site.pool_called(pool).open(owner=owner) as xen:
        release_vm(xen, made.vm)


def taken_away(vm: RestoredVm, *, pool: str, owner: Owner, site: Site) -> str:
    """Remove an unfinished restore; a sentence if something is still there.

    No task, since it must also work while a run is being cancelled or the API is away.
    """
    try:
        with site.pool_called(pool).open(owner=owner) as xen:
            destroy_vm(xen, vm.ref)
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        return f"unfinished VM {vm.name} is still there and the next sweep will remove it: {cause}"
    return ""


def _started(
    vm: RestoredVm, *, pool: str, owner: Owner, site: Site, say: Callable[[str], None]
) -> bool:
    """Start it; it is whole in any case."""
    try:
        with site.pool_called(pool).open(owner=owner) as xen:
            start_vm(xen, vm)
    except LikenessError as problem:
        say(f"it is whole but was not started: {problem}")
        return False
    return True


def _record_of(made: MadeVm, disk: DiskToFill) -> DiskRecord:
    return next(each for each in made.version.record.disks if each.disk == disk.disk)


class Reached:
    """How far into a disk a restore has come."""

    def __init__(self, size_bytes: int) -> None:
        """Begin at its beginning."""
        self._size, self._end = max(size_bytes, 1), 0

    def passing(self, segments: Iterator[Segment]) -> Iterator[Segment]:
        """The same segments, noting where they are."""
        for segment in segments:
            yield segment
            self._end = segment.offset + len(segment.data)
        self._end = self._size

    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self._end / self._size

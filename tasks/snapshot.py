"""Snapshot: the VM's disks as they are at one moment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from prefect import get_run_logger

from blocks import Site
from likeness.errors import ShareFull, ShareRefused, ShareUnreachable, StoreMissing
from likeness.model.choosing import uuid_in
from likeness.model.ids import RunId
from likeness.model.job import BackupJob
from likeness.model.sizes import counted, readable_size
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.transport.base import Space
from likeness.xen.changed_blocks import enable_tracking
from likeness.xen.dropping import drop_snapshot
from likeness.xen.inventory import XenVm, disks_left_out, find_vm, look_again
from likeness.xen.marks import Owner
from likeness.xen.preflight import require_ready
from likeness.xen.references import list_images, list_references
from likeness.xen.session import XenSession
from likeness.xen.snapshots import Consistency, XenSnapshot
from likeness.xen.snapshots import take_snapshot as take
from tasks.changes import drop_own, keep_only_newest
from tasks.retries import ONCE, task

_FLOOR_BYTES, _FLOOR_SHARE = 1 << 30, 0.01
"""So much is left free: a gibibyte, or a hundredth of a small place."""


@task(task_run_name="snapshot {vm.name}", **ONCE)
def take_snapshot(
    vm: XenVm,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    stop: StopToken,
    tell: Callable[[XenSnapshot], None],
) -> XenSnapshot:
    """Freeze a VM's disks, after looking whether that can be done now.

    What is made carries the installation's and the run's id, so a sweep finds it whatever happens
    to this process. Not tried again by itself: the pool has retried already.

    Args:
        vm: Which.
        job: What to leave out, and how to freeze.
        run: Whose snapshot it is.
        site: The installation.
        stop: Looked at while the pool works.
        tell: Told of the snapshot as soon as it is there: what follows it here may fail.

    Raises:
        ShareUnreachable, StoreMissing, ShareRefused: The data store cannot be reached, so there
            is nowhere to put what the snapshot would be taken for.
        HostBusy: The VM is being moved, or another operation holds it.
        HostRefused: A person has to do something first.
    """
    require_store(vm, site)
    mode = Consistency(job.consistency)
    owner = Owner(site.installation, run)
    with site.xen_pool.open(stop=stop, owner=owner) as xen:
        excluded, only = (_of(xen, vm, disks) for disks in (job.exclude_disks, job.only_disks))
        seen = look_again(xen, vm, list_images)  # its turn may have come hours after the start
        vm = seen.vm
        apart = disks_left_out(vm, excluded, only=only)
        left_out = [disk.uuid for disk in apart]
        require_ready(xen, vm, mode=mode, exclude_disks=left_out, seen=seen)
        meant = replace(vm, disks=tuple(disk for disk in vm.disks if disk not in apart))
        for disk in enable_tracking(xen, meant) if job.changed_blocks else ():
            if not disk.on:
                get_run_logger().info("%s: disk %s: %s", vm.name, disk.position, disk.reason)
        snapshot = take(
            xen,
            vm,
            owner=owner,
            label=f"{vm.name} for {job.name}",
            mode=mode,
            strict=job.strict,
            exclude_disks=left_out,
            stop=stop,
            seen=seen,
        )
        tell(snapshot)
    get_run_logger().info(
        "%s: snapshot of %s in %.1f s (%s)%s",
        vm.name,
        counted(len(snapshot.disks), "disk"),
        snapshot.seconds,
        snapshot.obtained,
        f"; {snapshot.reason}" if snapshot.reason else "",
    )
    if seen.images is None:
        return snapshot  # the pool did not list them; the transfer asks once more, or reads all
    return replace(snapshot, references=list_references(xen, site.installations, seen.images))


def require_store(vm: XenVm, site: Site) -> None:
    """Leave unless the data store answers and opens at this moment.

    Raises:
        ShareUnreachable, StoreMissing, ShareRefused: It does not.
    """
    try:
        with site.data_store.open() as store:
            _require_room(vm, store.transport.space())
            return
    except (ShareUnreachable, StoreMissing, ShareRefused) as cause:
        raise type(cause)(
            f"VM {vm.name} is not backed up now: the data store {site.data_store.place} cannot be"
            f" reached ({cause}); no snapshot was taken. See that it answers from this machine,"
            " then run the job again"
        ) from cause


def _require_room(vm: XenVm, room: Space) -> None:
    """Leave before a snapshot is taken if a backup would only fill the store to its last byte.

    Raises:
        ShareFull: Less is free than a commit, a catalog copy and a forgetting may need.
    """
    floor = min(_FLOOR_BYTES, int(room.total_bytes * _FLOOR_SHARE))
    if room.free_bytes < floor:
        raise ShareFull(
            f"VM {vm.name} is not backed up now: the data store has"
            f" {readable_size(room.free_bytes)} free, less than {readable_size(floor)}; no snapshot"
            " was taken. Forget versions and reclaim, or give it more room"
        )


def _of(xen: XenSession, vm: XenVm, disks: Mapping[str, Sequence[str]]) -> list[str]:
    """What a job says of a VM's disks, under the name it had when the run began, or its uuid."""
    said: list[str] = []
    for key, names in disks.items():
        if uuid_in(key) == vm.vm:
            said += names
        elif key == vm.name and not (uuid_in(key) and find_vm(xen, key).vm != vm.vm):
            said += names  # and its name is not the uuid of another one
    return said


def release_snapshot(snapshot: XenSnapshot, site: Site, *, read: bool) -> str:
    """Remove a snapshot, whatever state its run is in; what cannot be removed is for the sweep.

    No task, since it must also work while a run is being cancelled or the API is away.

    Args:
        snapshot: Which.
        site: The installation.
        read: Whether all of it was: then the record of changes stays in the pool, without any
            data. It is the run's, so a later run compares with it only if the run's version was
            committed; see `settle_changes`.

    Returns:
        A sentence if something is still there, else nothing.
    """
    try:
        with site.xen_pool.open(owner=snapshot.owner) as xen:
            drop_snapshot(xen, snapshot, keep_references=read, pauses=Pauses(0.25, 1.0, tries=50))
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        return f"its snapshot is still there and the next sweep will remove it: {cause}"
    return ""


def settle_changes(snapshot: XenSnapshot, site: Site, *, committed: bool) -> None:
    """Keep the one record of changes that belongs to the VM's last version; the others go.

    What cannot be removed now is for the sweep.

    Args:
        snapshot: What the run has read.
        site: The installation.
        committed: Whether the run's version is: if not, the last version's record stays.
    """
    settle = keep_only_newest if committed else drop_own
    try:
        with site.xen_pool.open(owner=snapshot.owner) as xen:
            settle(xen, snapshot, site)
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        get_run_logger().warning(
            "%s: records of changes that nobody needs stay for the next sweep: %s",
            snapshot.vm.name,
            cause,
        )

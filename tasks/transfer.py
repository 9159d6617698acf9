"""Transfer: what is new of a VM's disks, from the snapshot straight to the store."""

import errno
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import task_run

from blocks import Site
from catalog.chunks import damaged_ids, must_read
from likeness.agent.transfer import DiskJob, TransferCounts, transfer
from likeness.errors import BadInput
from likeness.model.disk import Skips
from likeness.model.ids import RunId, random_name
from likeness.model.job import BackupJob
from likeness.model.sizes import readable_size
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack_log import PackLog
from likeness.store.read.versions import Version, last_version, list_records, load_map
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.transport.tuning import keep_large_buffers
from likeness.xen.reading import Way, open_reader
from likeness.xen.session import XenSession
from likeness.xen.snapshots import SnapshotDisk, XenSnapshot
from tasks.changes import Unread, unread_of
from tasks.delegates import Moved, ReadyDelegate, bundle_of, transfer_through
from tasks.known_ids import SharedIds, Sharing, shared_with
from tasks.progress import transferring
from tasks.retries import STEP, task


@contextmanager
def scratch_folder(site: Site, run: RunId) -> Generator[Path, None, None]:
    """A private folder for the block maps of one VM in flight, gone afterwards.

    Raises:
        BadInput: There was no room on this machine, here or at the catalog.
    """
    folder = site.catalog.scratch / run / random_name()
    try:
        folder.mkdir(mode=0o700, parents=True)
        yield folder
    except OSError as cause:
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(
            "no room left on this machine for what a run keeps meanwhile, in"
            f" {site.catalog.scratch} or beside the catalog; make room there, then run again"
        ) from cause
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@task(task_run_name="transfer {snapshot.vm.name}", **STEP)
def transfer_disks(
    snapshot: XenSnapshot,
    *,
    job: BackupJob,
    run: RunId,
    site: Site,
    scratch: Path,
    taken_at: datetime,
    stop: StopToken,
    cap: BandwidthCap | None,
    delegate: ReadyDelegate | None = None,
    sharing: Sharing = Sharing(),  # noqa: B008  # frozen
) -> TransferReceipt:
    """Read every disk of a snapshot and send what the store does not have.

    May run again from the same snapshot: what an attempt left in the inbox is swept.

    Raises:
        TransferBroken: A disk's data stopped half-way; tried again.
        ShareUnreachable: The store went away; tried again.
        ShareFull: The store has no room left.
    """
    keep_large_buffers()
    attempt = scratch / random_name()
    attempt.mkdir(mode=0o700)
    with ExitStack() as held:
        xen = held.enter_context(site.xen_pool.open(stop=stop, owner=snapshot.owner))
        store = held.enter_context(site.data_store.open())
        listed = list_records(store, snapshot.vm.vm)
        last = last_version(store, snapshot.vm.vm, listed)
        wanted = must_read(site.catalog.file, snapshot.vm.vm)
        unread = [
            unread_of(
                xen,
                disk,
                last,
                site=site,
                chunk_bytes=store.chunk_bytes,
                must_read=wanted,
                known=snapshot.references,
                stop=stop,
            )
            if job.changed_blocks
            else Unread()  # tracking may be on for another job's sake; this one wants all read
            for disk in snapshot.disks
        ]
        distrusted = frozenset(damaged_ids(site.catalog.file)) | {c[:16] for c in sharing.gone}
        skips = [each.skips for each in unread]
        known = held.enter_context(shared_with(run, attempt, sharing, site=site))
        work = _Work(job, xen, store, snapshot, last, skips, attempt, stop, cap, distrusted, known)
        moved = _send(work, delegate)
    counts = moved.counts
    get_run_logger().info(
        "%s: read %s, sent %s",
        snapshot.vm.name,
        readable_size(counts.read_bytes),
        readable_size(counts.sent_bytes),
    )
    return TransferReceipt(
        run=run,
        job=job.name,
        vm=snapshot.vm,
        taken_at=taken_at,
        consistency=snapshot.obtained,
        consistency_asked=snapshot.requested,
        note="; ".join(filter(None, (snapshot.reason, *(u.reason for u in unread)))),
        disks=moved.disks,
        packs=moved.log,
        counts=counts,
        from_agent=delegate is not None,
        read_by=moved.done_by,
        cpu_seconds=moved.cpu_seconds,
        relied_on=known.relied_on,
        last=last,
        listed=listed,
        keep=job.keep,
        locked_until=locked_until(job, taken_at),
    )


def locked_until(job: BackupJob, taken_at: datetime) -> str:
    """Before when nobody may forget a version of a job, as its record says it."""
    return (taken_at + timedelta(days=job.lock_days)).isoformat() if job.lock_days else ""


@dataclass(frozen=True, slots=True)
class _Work:
    """One attempt to transfer a VM."""

    job: BackupJob
    xen: XenSession
    store: DataStore
    snapshot: XenSnapshot
    last: Version | None
    skips: Sequence[Skips | None]
    attempt: Path
    stop: StopToken
    cap: BandwidthCap | None
    distrusted: frozenset[bytes]
    shared: SharedIds

    @property
    def records(self) -> list[DiskRecord | None]:
        """The disks as the VM's last version has them."""
        own = {disk.disk: disk for disk in self.last.record.disks} if self.last else {}
        return [own.get(disk.facts.disk) for disk in self.snapshot.disks]


def _send(work: _Work, delegate: ReadyDelegate | None) -> Moved:
    """From here, or through a delegate: the very same transfer runs in either place."""
    snapshot = work.snapshot
    todo = sum(disk.facts.size_bytes for disk in snapshot.disks)
    tally = TransferCounts(todo)
    run, vm = snapshot.owner.run, snapshot.vm
    with ExitStack() as held:
        held.enter_context(transferring(run, vm.vm, vm.name, todo, lambda: tally.passed_bytes))
        if delegate is not None:
            return _sent_by(delegate, work, tally)
        disks = [
            held.enter_context(_disk_job(work, disk, record, skip))
            for disk, record, skip in zip(snapshot.disks, work.records, work.skips, strict=True)
        ]
        log = PackLog(work.attempt / "packs")
        counts = transfer(
            disks,
            run=run,
            bundle=bundle_of(work.store, work.job),
            inbox=work.store.for_writing(),
            log=log,
            stop=work.stop,
            distrusted=work.distrusted,
            known=work.shared.ids,
            relied_on=work.shared.relied_on,
            tally=tally,
        )
        receipts = (DiskReceipt(d.facts, d.chunk_map, d.previous) for d in disks)
        return Moved(tuple(receipts), log, counts, tally.cpu_seconds)


def _sent_by(delegate: ReadyDelegate, work: _Work, tally: TransferCounts) -> Moved:
    previous = [
        next(_previous_map(work.store, record, disk, work.attempt), None)
        for disk, record in zip(work.snapshot.disks, work.records, strict=True)
    ]
    return transfer_through(
        delegate,
        work.snapshot,
        xen=work.xen,
        store=work.store,
        previous=previous,
        skips=work.skips,
        distrusted=work.distrusted,
        known=work.shared.told_to_delegate(first=work.last is None),
        relied_on=work.shared.relied_on,
        attempt=work.attempt,
        stop=work.stop,
        passed=tally.reached,
    )


@contextmanager
def _disk_job(
    work: _Work, disk: SnapshotDisk, record: DiskRecord | None, skip: Skips | None
) -> Generator[DiskJob, None, None]:
    """One disk, opened for reading, with its last map; its maps are closed if the `with` fails."""
    name = disk.facts.disk
    positions = positions_of(disk.facts.size_bytes, work.store.chunk_bytes)
    maps = [FlatMap(work.attempt / f"{name}.map", positions)]
    try:
        maps += _previous_map(work.store, record, disk, work.attempt)
        opened = open_reader(work.xen, disk, stop=work.stop, cap=work.cap, way=_way())
        get_run_logger().info(
            "disk %s (%s): %s", disk.facts.position, disk.facts.name, opened.reason
        )
        with closing(opened.reader) as reader:
            previous = maps[1] if len(maps) > 1 else None
            yield DiskJob(disk.facts, reader, maps[0], previous, skip if previous else None)
    except BaseException:
        for chunk_map in maps:
            chunk_map.close()
        raise


def _way() -> Way | None:
    """The best way there is; the last attempt takes the one that every pool can do."""
    return Way.HTTP if (task_run.run_count or 1) > STEP["retries"] else None


def _previous_map(
    store: DataStore, record: DiskRecord | None, disk: SnapshotDisk, scratch: Path
) -> Iterator[FlatMap]:
    """The disk's map in an earlier version; none where it cannot be had: all is read, then."""
    if record is None:
        return
    path = scratch / f"{disk.facts.disk}.previous"
    try:
        yield load_map(store, record, path)
    except UNREADABLE as cause:
        path.unlink(missing_ok=True)
        told = "disk %s: what the last version says of it cannot be read (%s); all is read"
        get_run_logger().warning(told, disk.facts.position, cause)

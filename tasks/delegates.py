"""Delegates: a small VM for each VM in flight, which reads its disks and sends them by itself."""

import secrets
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from likeness.agent.protocol import AGENT_PACK_BYTES, PROTOCOL, Header, OrderedDisk
from likeness.agent.remote import Address, Order, RemoteDisk, run_over_ssh
from likeness.agent.transfer import Bundle
from likeness.codec.records import Check
from likeness.errors import BadInput, ShareRefused, ShareUnreachable, StoreMissing
from likeness.model.disk import Skips
from likeness.model.ids import PackId, RunId, random_name
from likeness.model.job import BackupJob
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import Counts
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.pack_log import PackLog
from likeness.store.format.relied_on import ReliedOn
from likeness.store.write.receipts import DiskReceipt
from likeness.transport.place import is_share
from likeness.xen.delegate_network import find_network
from likeness.xen.delegates import (
    XenDelegate,
    find_template,
    plug_disks,
    unplug_disks,
)
from likeness.xen.failures import explained
from likeness.xen.inventory import XenVm
from likeness.xen.session import XenSession
from likeness.xen.snapshots import XenSnapshot
from tasks.delegate_machines import machine_for, wish_of
from tasks.progress import vm_at
from tasks.retries import STEP, task

MIB = 1 << 20
HERE = "this machine"


@dataclass(frozen=True, slots=True)
class ReadyDelegate:
    """A delegate that answers and reaches the data store.

    Attributes:
        delegate: The VM.
        address: Where its agent is started.
        job: The job that it was made for.
        site: Its installation.
    """

    delegate: XenDelegate
    address: Address = field(repr=False)
    job: BackupJob
    site: Site


@dataclass(frozen=True, slots=True)
class Moved:
    """What a transfer brought.

    Attributes:
        disks: Each with its new map.
        log: The packs.
        counts: What was measured.
        cpu_seconds: What it has cost where it was done.
        done_by: Where that was, in words.
    """

    disks: tuple[DiskReceipt, ...]
    log: PackLog
    counts: Counts
    cpu_seconds: float
    done_by: str = HERE


@task(task_run_name="look for delegates", **STEP)
def require_enhanced(job: BackupJob, *, site: Site) -> None:
    """Leave before anything begins if the job can never be done through delegates.

    Raises:
        BadInput: It cannot; why, and what to change.
        HostUnreachable, HostBusy, HostRefused: The pool did not say.
    """
    if job.source == "enhanced":
        _require_store(job, site)
        _require_pool(site)


def _require_store(job: BackupJob, site: Site) -> None:
    ads = site.data_store
    if not is_share(ads.place):
        raise BadInput(
            f"the data store {ads.place} is no SMB share, and delegates write to nothing else;"
            " choose source direct"
        )
    if not ads.drop_box_username:
        raise BadInput(
            "the data store's block names no account of delegates; make one that may add files"
            " below in/ alone and name it there, or choose source direct"
        )
    if job.consistency == "memory":
        raise BadInput(
            "a snapshot with memory cannot be read by a delegate; choose source direct, or another"
            " kind of snapshot"
        )


def _require_pool(site: Site) -> None:
    """A template, and every network that delegates may be on."""
    pool = site.xen_pool
    with site.xen_pool.open() as xen:
        find_template(xen, wish_of(site, None))
        networks = {each.network or pool.delegate_network for each in pool.static_addresses}
        for network in sorted(filter(None, networks or {pool.delegate_network})):
            with explained("looking for the network of delegates"):
                find_network(xen, network)


@contextmanager
def delegate_for(
    vm: XenVm, *, job: BackupJob, run: RunId, site: Site, scratch: Path, stop: StopToken
) -> Generator[ReadyDelegate | None, None, None]:
    """A delegate for one VM, as long as the `with` lasts; none for a job that is done directly.

    It was seen to write into the run's inbox before anything is frozen for its sake. What it wrote
    then keeps the inbox's folder until it goes: a delegate may make files there and no folder.

    Where there are static addresses it waits for one first.

    Raises:
        BadInput: The job cannot be done through delegates.
        HostBusy, HostRefused, HostUnreachable: No delegate can be had, or none answers.
        ShareUnreachable, ShareRefused: It does not reach the data store, or may not write there.
    """
    if job.source != "enhanced":
        yield None
        return
    _require_store(job, site)
    trial = layout.arriving_pack(run, PackId(random_name()))
    with machine_for(vm, run, site, stop) as machine:
        ready = ReadyDelegate(machine.delegate, machine.address, job, site)
        try:
            try:
                _try_out(ready, run, trial, scratch, stop)
            except (ShareUnreachable, ShareRefused, StoreMissing) as cause:
                raise type(cause)(
                    f"no snapshot of VM {vm.name} was taken: seen from its delegate, {cause}"
                ) from cause
            vm_at(run, vm.vm, "snapshot", f"ABD {machine.delegate.address}")
            yield ready
        finally:
            _forget_trial(trial, site)


def _try_out(ready: ReadyDelegate, run: RunId, trial: str, scratch: Path, stop: StopToken) -> None:
    """Let it write into the inbox, whose folder we make since it may not."""
    with ready.site.data_store.open() as store:
        hold = layout.arriving_pack(run, PackId(random_name()))
        store.for_writing().create(hold, [])
        try:
            header = header_of(run, bundle_of(store, ready.job), (), ready, trial=trial)
            log = PackLog(scratch / f"{random_name()}.packs")
            run_over_ssh(ready.address, Order(header, (), log, stop=stop))
        finally:
            store.for_writing().delete(hold)


def _forget_trial(trial: str, site: Site) -> None:
    """Remove what was tried; what cannot be removed now the sweep finds in the inbox."""
    try:
        with site.data_store.open() as store:
            store.for_writing().delete(trial)
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        get_run_logger().warning("%s stays for the next sweep: %s", trial, cause)


def transfer_through(
    ready: ReadyDelegate,
    snapshot: XenSnapshot,
    *,
    xen: XenSession,
    store: DataStore,
    previous: Sequence[FlatMap | None],
    skips: Sequence[Skips | None],
    distrusted: Collection[bytes],
    known: Path | None,
    relied_on: ReliedOn,
    attempt: Path,
    stop: StopToken,
    passed: Callable[[int], None],
) -> Moved:
    """Plug the frozen disks into a delegate, and let its agent send what is new of them.

    Packs that an earlier attempt of this transfer has sent are not sent again, nor what is in the
    file `known`; which of that was left out is told to `relied_on`.

    Raises:
        TransferBroken: The agent ended half-way; tried again.
        ShareUnreachable: The store went away; tried again.
    """
    disks = [
        RemoteDisk(
            FlatMap(
                attempt / f"{disk.facts.disk}.map",
                positions_of(disk.facts.size_bytes, store.chunk_bytes),
            ),
            old,
            skip if old is not None else None,
        )
        for disk, old, skip in zip(snapshot.disks, previous, skips, strict=True)
    ]
    log = PackLog.continued(attempt.parent / "packs")
    unplug_disks(xen, ready.delegate)  # an attempt before this one may have left some
    try:
        paths = plug_disks(xen, ready.delegate, snapshot.disks)
        ordered = tuple(
            OrderedDisk(
                disk=disk.facts.disk,
                name=disk.facts.name[:1000],
                position=disk.facts.position,
                path=path,
                size_bytes=disk.facts.size_bytes,
                previous=remote.previous is not None,
            )
            for disk, remote, path in zip(snapshot.disks, disks, paths, strict=True)
        )
        header = header_of(snapshot.owner.run, bundle_of(store, ready.job), ordered, ready)
        order = Order(
            header,
            disks,
            log,
            stop=stop,
            distrusted=distrusted,
            known=known,
            relied_on=relied_on,
            passed=passed,
            say=get_run_logger().info,
        )
        done = run_over_ssh(ready.address, order)
    finally:
        unplug_disks(xen, ready.delegate)
    get_run_logger().info(
        "%s: its delegate took %.1f s of CPU and %s of memory at most",
        snapshot.vm.name,
        done.cpu_seconds,
        readable_size(done.peak_bytes),
    )
    receipts = (
        DiskReceipt(disk.facts, remote.chunk_map, remote.previous)
        for disk, remote in zip(snapshot.disks, disks, strict=True)
    )
    return Moved(
        tuple(receipts), log, done.counts, done.cpu_seconds, f"ABD {ready.delegate.address}"
    )


def bundle_of(store: DataStore, job: BackupJob) -> Bundle:
    """What a source is told about the store and the job."""
    return Bundle(
        store=store.store_id,
        box=store.keys.public().box,
        chunk_id_key=store.keys.chunk_id_key,
        chunk_bytes=store.chunk_bytes,
        suite=store.suite,
        seed=secrets.token_bytes(32),
        check=Check(job.check_before_sending),
    )


def header_of(
    run: RunId,
    bundle: Bundle,
    disks: tuple[OrderedDisk, ...],
    ready: ReadyDelegate,
    *,
    trial: str = "",
) -> Header:
    """All that a delegate's agent is told before it begins."""
    ads, job = ready.site.data_store, ready.job
    return Header(
        protocol=PROTOCOL,
        run=run,
        store=bundle.store,
        box=bundle.box.hex(),
        chunk_id_key=bundle.chunk_id_key.hex(),
        scope=bundle.scope.hex(),
        chunk_bytes=bundle.chunk_bytes,
        suite=int(bundle.suite),
        level=bundle.level,
        seed=bundle.seed.hex(),
        check=bundle.check,
        pack_bytes=AGENT_PACK_BYTES,
        workers=0,
        place=ads.place,
        username=ads.drop_box_username,
        password=ads.drop_box_password.get_secret_value(),
        encrypt=ads.encrypt,
        disks=disks,
        trial=trial,
        bytes_per_second=job.bandwidth_mib * MIB // job.concurrency,
    )

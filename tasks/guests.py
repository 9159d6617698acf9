"""Guests (Q-Hybrid): the agent runs inside the VM, and the pool is asked nothing."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from blocks import Guest, Site
from blocks.loading import load_block
from catalog.chunks import damaged_ids
from likeness.agent.copying import copied
from likeness.agent.freezing import UNFROZEN
from likeness.agent.protocol import (
    AGENT_PACK_BYTES,
    PROTOCOL,
    FoundDisk,
    GuestOrder,
    Header,
    OrderedDisk,
)
from likeness.agent.remote import Address, Order, RemoteDisk, run_over_ssh
from likeness.agent.transfer import TransferCounts
from likeness.clock import system_clock
from likeness.codec.hashing import derived_key
from likeness.codec.keys import STORE_SCOPE
from likeness.errors import BadInput, LikenessError, Stopped
from likeness.model.disk import DiskFacts, VmFacts
from likeness.model.ids import DiskId, PackId, RunId, VmId, random_name
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack_log import PackLog
from likeness.store.read.versions import Version, last_version, load_map
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.transport.place import is_share
from likeness.transport.tuning import keep_large_buffers
from likeness.xen.inventory import XenVm, find_vm
from tasks.delegates import bundle_of
from tasks.progress import transferring
from tasks.retries import ONCE, STEP, task
from tasks.transfer import locked_until

MIB = 1 << 20


class GuestUnavailable(BadInput):
    """The agent cannot do its work in a guest; nothing was read."""


@dataclass(frozen=True, slots=True)
class GuestVm:
    """A VM that is read from inside.

    Attributes:
        vm: Which.
        name: What its owner calls it.
        guest: How to reach it.
    """

    vm: VmId
    name: str
    guest: Guest = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Not known before the guest was asked."""
        return 0


@dataclass(frozen=True, slots=True)
class ReadyGuest:
    """A guest whose agent answers and reaches the data store.

    Attributes:
        vm: Which.
        address: Where its agent is started.
        disks: What it shall read.
    """

    vm: GuestVm
    address: Address = field(repr=False)
    disks: tuple[FoundDisk, ...]


@task(task_run_name="look up the guests of {job.name}", **ONCE)
def select_guests(job: BackupJob, *, site: Site) -> tuple[list[GuestVm], list[VmOutcome]]:
    """The guests of a job in the order to start them, and a failure for each that is no block.

    Raises:
        BadInput: The job names none, or can never be done from inside.
    """
    if not job.guests:
        raise BadInput(f"job {job.name!r} names no guest; save Guest blocks and name them there")
    ads = site.data_store
    if not is_share(ads.place):
        raise BadInput(
            f"the data store {ads.place} is no SMB share, and guests write to nothing else; choose"
            " source direct"
        )
    if not ads.drop_box_username:
        raise BadInput(
            "the data store's block names no account of delegates; make one that may add files"
            " below in/ alone and name it there: guests use it too"
        )
    return guests_of(job)


def guests_of(job: BackupJob) -> tuple[list[GuestVm], list[VmOutcome]]:
    """The guests a job names, each VM once, and a failure for each that is no block."""
    found: dict[VmId, GuestVm] = {}
    unknown = []
    for name in dict.fromkeys(job.guests):
        try:
            guest = load_block(Guest, name)
        except BadInput as cause:
            unknown.append(VmOutcome(name, VmState.FAILED, sentence=str(cause)))
            continue
        found.setdefault(guest.vm_id, GuestVm(guest.vm_id, guest.vm_name, guest))
    return list(found.values()), unknown


@contextmanager
def guest_ready(
    vm: GuestVm, *, job: BackupJob, run: RunId, site: Site, scratch: Path, stop: StopToken
) -> Generator[ReadyGuest, None, None]:
    """The agent in a guest, as long as the `with` lasts; it was seen to write to the store.

    Raises:
        GuestUnavailable: It cannot be; why.
        Stopped: On request.
    """
    trial = layout.arriving_pack(run, PackId(random_name()))
    with site.data_store.open() as store, ExitStack() as held:
        held.callback(_forget, store, trial)
        try:
            address = held.enter_context(_agent_at(vm.guest, store))
            found = _look(vm, address, trial, job, run, site, store, scratch, stop)
        except Stopped:
            raise
        except LikenessError as cause:
            raise GuestUnavailable(f"VM {vm.name} cannot be read from inside: {cause}") from cause
        yield ReadyGuest(vm, address, found)


def _forget(store: DataStore, trial: str) -> None:
    with suppress(LikenessError):  # the sweep removes it with its inbox
        store.for_writing().delete(trial)


def _agent_at(guest: Guest, store: DataStore) -> AbstractContextManager[Address]:
    address = guest.ssh()
    if guest.agent == "installed":
        return nullcontext(address)
    return copied(
        address,
        guest.executable,
        folder=guest.folder,
        mark=store.store_id[:16],
        with_sudo=guest.with_sudo,
    )


def _look(
    vm: GuestVm,
    address: Address,
    trial: str,
    job: BackupJob,
    run: RunId,
    site: Site,
    store: DataStore,
    scratch: Path,
    stop: StopToken,
) -> tuple[FoundDisk, ...]:
    """Let it write into the inbox, whose folder we make since it may not, and name its disks."""
    hold = layout.arriving_pack(run, PackId(random_name()))
    store.for_writing().create(hold, [])
    try:
        order = GuestOrder(look=True, disks=tuple(vm.guest.disks))
        header = _header(vm, order, (), job, run, site, store, trial=trial)
        talk = Order(header, (), PackLog(scratch / f"{random_name()}.packs"), stop=stop)
        run_over_ssh(address, talk)
    finally:
        store.for_writing().delete(hold)
    if not talk.found:
        raise BadInput("its agent names no disk")
    return talk.found


@task(task_run_name="transfer {ready.vm.name} from inside", **STEP)
def transfer_guest(
    ready: ReadyGuest, *, job: BackupJob, run: RunId, site: Site, scratch: Path, stop: StopToken
) -> TransferReceipt:
    """Let a guest freeze its disks, and send what its last version does not have.

    Packs that an earlier attempt has sent are not sent again.

    Raises:
        TransferBroken: The agent ended half-way; tried again.
        ShareUnreachable: The store went away; tried again.
        BadInput: A script failed, or less was obtained than the job insists on.
    """
    keep_large_buffers()
    attempt = scratch / random_name()
    attempt.mkdir(mode=0o700)
    vm, taken_at = ready.vm, system_clock()
    with site.data_store.open() as store:
        last = last_version(store, vm.vm)
        facts, maps = _disks(ready, last, store, attempt)
        tally = TransferCounts(sum(each.size_bytes for each in facts))
        told = tuple(
            OrderedDisk(
                disk=fact.disk,
                name=fact.name,
                position=fact.position,
                path=found.path,
                size_bytes=fact.size_bytes,
                previous=disk.previous is not None,
            )
            for fact, found, disk in zip(facts, ready.disks, maps, strict=True)
        )
        log = PackLog.continued(scratch / "packs")
        order = Order(
            _header(vm, _freeze(vm.guest, store), told, job, run, site, store),
            maps,
            log,
            stop=stop,
            distrusted=damaged_ids(site.catalog.file),
            passed=tally.reached,
            say=get_run_logger().info,
        )
        size = sum(each.size_bytes for each in facts)
        with transferring(run, vm.vm, vm.name, size, lambda: tally.passed_bytes):
            done = run_over_ssh(ready.address, order)
    frozen = order.frozen
    if frozen is None:
        raise BadInput(f"the agent in VM {vm.name} does not say how it read; install it anew")
    if job.strict and frozen.consistency == UNFROZEN:
        raise BadInput(
            f"VM {vm.name} was not read as of one moment and its job does not fall back:"
            f" {frozen.note}. Put what changes on LVM, or let the job fall back"
        )
    get_run_logger().info(
        "%s: read %s from inside, sent %s; its agent took %.1f s of CPU and %s of memory at most",
        vm.name,
        readable_size(done.counts.read_bytes),
        readable_size(done.counts.sent_bytes),
        done.cpu_seconds,
        readable_size(done.peak_bytes),
    )
    return TransferReceipt(
        run=run,
        job=job.name,
        vm=VmFacts(vm.vm, vm.name, last.record.configuration if last else ""),
        taken_at=taken_at,
        consistency=frozen.consistency,
        consistency_asked=job.consistency,
        note="; ".join(filter(None, ("read from inside the guest", frozen.note))),
        disks=tuple(
            DiskReceipt(fact, disk.chunk_map, disk.previous)
            for fact, disk in zip(facts, maps, strict=True)
        ),
        packs=log,
        counts=done.counts,
        read_by="the guest",
        cpu_seconds=done.cpu_seconds,
        from_agent=True,
        scope=_scope(vm, job, store),
        last=last,
        keep=job.keep,
        locked_until=locked_until(job, taken_at),
    )


def _disks(
    ready: ReadyGuest, last: Version | None, store: DataStore, folder: Path
) -> tuple[list[DiskFacts], list[RemoteDisk]]:
    """The guest's disks, each with its map in the VM's last version.

    That one may have been made from outside: the disk at the same place with the same size is the
    same one. All of it is read and compared, so nothing is lost if it is not.
    """
    facts, maps = [], []
    records = {each.position: each for each in (last.record.disks if last else ())}
    for found in ready.disks:
        record = records.get(found.position)
        same = record is not None and record.size_bytes == found.size_bytes
        disk = DiskId(record.disk) if record is not None and same else _disk_id(ready.vm.vm, found)
        facts.append(DiskFacts(disk, found.name, found.position, found.size_bytes))
        previous = _previous(store, record, folder / f"{disk}.previous") if record else None
        positions = positions_of(found.size_bytes, store.chunk_bytes)
        maps.append(RemoteDisk(FlatMap(folder / f"{disk}.map", positions), previous))
    return facts, maps


def find_outside(vm: GuestVm, *, site: Site) -> XenVm:
    """The same VM as the pool knows it.

    Raises:
        UnknownVm: The pool has no VM of that uuid.
        HostUnreachable, HostBusy, HostRefused: It did not say.
    """
    with site.xen_pool.open() as xen:
        return find_vm(xen, vm.vm)


def _disk_id(vm: VmId, found: FoundDisk) -> DiskId:
    detail = found.position.encode().ljust(32, b"\0")
    return DiskId(derived_key(bytes(16) + bytes.fromhex(vm), "disk of a guest", detail).hex()[:32])


def _previous(store: DataStore, record: DiskRecord, path: Path) -> FlatMap | None:
    try:
        return load_map(store, record, path)
    except UNREADABLE as cause:
        path.unlink(missing_ok=True)
        get_run_logger().warning(
            "disk %s: what the last version says of it cannot be read (%s); all is sent",
            record.position,
            cause,
        )
        return None


def _scope(vm: GuestVm, job: BackupJob, store: DataStore) -> bytes:
    return STORE_SCOPE if job.trust_guests else store.keys.scope_of(vm.vm)


def _freeze(guest: Guest, store: DataStore) -> GuestOrder:
    return GuestOrder(
        disks=tuple(guest.disks),
        before=guest.before,
        after=guest.after,
        script_seconds=guest.script_seconds,
        mark=f"likeness-{store.store_id[:16]}",
    )


def _header(
    vm: GuestVm,
    order: GuestOrder,
    disks: Sequence[OrderedDisk],
    job: BackupJob,
    run: RunId,
    site: Site,
    store: DataStore,
    *,
    trial: str = "",
) -> Header:
    ads, guest, bundle = site.data_store, vm.guest, bundle_of(store, job)
    scope = _scope(vm, job, store)
    return Header(
        protocol=PROTOCOL,
        run=run,
        store=bundle.store,
        box=bundle.box.hex(),
        chunk_id_key=store.keys.chunk_id_key_in(scope).hex(),
        scope=scope.hex(),
        chunk_bytes=bundle.chunk_bytes,
        suite=int(bundle.suite),
        level=bundle.level,
        seed=bundle.seed.hex(),
        check=bundle.check,
        pack_bytes=AGENT_PACK_BYTES,
        workers=guest.threads,
        place=ads.place,
        username=ads.drop_box_username,
        password=ads.drop_box_password.get_secret_value(),
        encrypt=ads.encrypt,
        disks=tuple(disks),
        trial=trial,
        nice=guest.nice,
        bytes_per_second=job.bandwidth_mib * MIB // job.concurrency,
        memory_mib=guest.memory_mib,
        io_class=guest.io_class,
        guest=order,
    )

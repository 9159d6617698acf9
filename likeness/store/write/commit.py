"""Commit: what a transfer left in its inbox becomes a version.

The order is the whole point: packs into their place, then the maps, then the index, and the
signed version record last. A crash after any step leaves objects that nothing refers to, never a
version that lacks something.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import likeness
from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import BadInput, Damaged, NameTaken, ObjectMissing
from likeness.model.ids import DiskId, VersionId, VmId, random_name
from likeness.pipelining import bounded_map
from likeness.store.format import layout
from likeness.store.format.believing import surely
from likeness.store.format.copies import Copies, no_copies
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.documents import (
    MAX_DISKS,
    DiskRecord,
    MapPart,
    VersionClear,
    VersionRecord,
    encode,
)
from likeness.store.format.maps import Run, encode_part, plain_part
from likeness.store.format.pack import PackReceipt
from likeness.store.read.index import write_index
from likeness.store.read.salvaging import read_table
from likeness.store.read.versions import (
    ListedRecords,
    Version,
    last_version,
    list_records,
    read_version,
    read_version_surely,
    stretches,
)
from likeness.store.write.free_text import fitted
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.store.write.relying import look_again_for_shared, look_for_shared
from likeness.store.write.still_there import require_still_there, swept_statements
from likeness.store.write.torn_records import torn_records
from likeness.transport.base import Entry

MAX_DELTAS = 30
"""Versions whose deltas may lie on a full map before a new full map is written."""
MAX_PARTS = 1 << 12
"""Parts of one disk's map, or twice those of its full map, before a new full map is written; so a
record stays far shorter than a document may be."""
_MOVERS = 4
_FIRST = "0" * 64

Gate = Callable[[], AbstractContextManager[object]]
Step = Callable[[str], None]
"""Told the name of each step when it is done; tests crash here."""


def commit_version(
    store: DataStore,
    receipt: TransferReceipt,
    *,
    clock: Clock,
    above: int = 0,
    step: Step = lambda _: None,
    gate: Gate = nullcontext,
    copies: Copies = no_copies,
    listed: ListedRecords | None = None,
) -> Version:
    """Make a transfer permanent.

    May be repeated with the same receipt after any failure: what is in place stays, and a version
    of the run that is whole already is given back. However often it is repeated, one version comes
    of it, since its id follows from the run and the VM and a record is created under a name nobody
    has used: a share that was only frozen may still carry out what was given up long ago.

    Args:
        store: Where.
        receipt: What the transfer left.
        clock: The present.
        above: The highest number that is known to have been given to a version of the VM, also if
            the store does not know it any more; no number is used twice.
        step: Told of each step.
        gate: Held while the record is written: nobody forgets or deletes meanwhile.
        copies: Tells where the chunks are that the transfer relied on instead of sending them.
        listed: The VM's records, if nobody else made one since they were listed, nor an earlier
            attempt; else they are now.

    Raises:
        TransferBroken: The version it was compared with was forgotten meanwhile; transfer again.
        SharedDataGone: Chunks it relied on are gone meanwhile; transfer again, without those.
        ObjectMissing: A pack the transfer was told is durable is in neither place.
        ShareUnreachable: The share went away, or the store from the share; repeat.
        ShareFull: No room for the maps, the index or the record.
        BadInput: The VM has more disks than a version holds.
        StoreTooNew: A later release changed the store, or wrote the VM's newest version.
    """
    before = store.for_one_step()  # for all that is written before the record
    _require_few_disks(receipt)
    receipt = fitted(receipt)
    store.require_unchanged()
    vm = receipt.vm.vm
    version = _version_id(receipt)
    swept = swept_statements(store) if receipt.packs.packs else None
    listed = listed or list_records(store, vm)
    names = list(listed.names)
    done = _done_before(store, names, version)
    if done is not None:
        return done
    last = receipt.last
    if last is None or names[-1:] != [last.name]:
        _set_torn_aside(store, vm, names)
        last = last_version(store, vm)
    shared = look_for_shared(store, receipt, copies)
    if receipt.packs.packs:
        _admit_packs(before, receipt)
    step("packs admitted")
    disks = tuple(_write_map(before, disk, version, last) for disk in receipt.disks)
    step("maps written")
    index = tuple(write_index(before, receipt.packs, run=receipt.run, clock=clock))
    step("index written")
    parts = [part for disk in disks for part in disk.parts if part.version == version]
    clear = VersionClear(
        vm=vm,
        sequence=_next_sequence(store, vm, (*names, *listed.strange), above),
        version=version,
        taken_at=receipt.taken_at.isoformat(),
        committed_at=clock().isoformat(),
        previous=last.digest if last else _FIRST,
        objects=(*(s.name for s in index), *(name for p in parts for name in p.copies)),
        digests=(*(s.digest for s in index), *(each for p in parts for each in p.digests)),
    )
    name = layout.version_record(vm, clear.sequence, version)
    record = _record(receipt, disks)
    made: Version | None = None
    with gate(), suppress(NameTaken):  # an earlier attempt's record, which has just arrived
        require_still_there(store, receipt, last, swept)
        look_again_for_shared(store, receipt, copies, shared)
        written, _ = store.write(name, Kind.VERSION, clear, encode(record))
        made = Version(name, clear, record, written)
    store.require_unchanged()  # or else it was recorded beside the store
    step("version recorded")
    # Whose the store is, once more: a record that came too late is acknowledged to nobody.
    store.for_writing().delete_folder(layout.inbox(receipt.run))
    return made or read_version(store, name)


def _require_few_disks(receipt: TransferReceipt) -> None:
    if len(receipt.disks) > MAX_DISKS:
        raise BadInput(
            f"VM {receipt.vm.name[:80]!r} has {len(receipt.disks)} disks, and a version holds"
            f" {MAX_DISKS}; leave some out in the job"
        )


def _version_id(receipt: TransferReceipt) -> VersionId:
    """The same for every attempt to commit a receipt."""
    made_of = (b"version", bytes.fromhex(receipt.run), bytes.fromhex(receipt.vm.vm))
    return VersionId(digest(made_of).hex()[:32])


def _done_before(store: DataStore, names: list[str], version: VersionId) -> Version | None:
    """The version, if an earlier attempt came to its end and only its answer was lost.

    A record that it left torn was never given to anybody, and makes room for a whole one; `names`
    lacks it then.

    Raises:
        ObjectUnreadable: It is not known whether it came to its end.
    """
    for name in tuple(names):
        if name.endswith(f"-{version}"):
            try:
                return read_version_surely(store, name)
            except Damaged:
                set_aside(store, name)
                names.remove(name)
            except ObjectMissing:
                continue
    return None


def _set_torn_aside(store: DataStore, vm: VmId, names: list[str]) -> None:
    """Move records at the end that are not whole, and that no head covers, out of the way.

    A job that died left them before anybody was told of a version. The next head would cover them,
    and every audit from then on would miss a version that never was.
    """
    for name in torn_records(store, vm, names):
        set_aside(store, name)
        names.remove(name)


def _record(receipt: TransferReceipt, disks: tuple[DiskRecord, ...]) -> VersionRecord:
    return VersionRecord(
        vm_name=receipt.vm.name,
        run=receipt.run,
        job=receipt.job,
        consistency=receipt.consistency,
        consistency_asked=receipt.consistency_asked,
        note=receipt.note,
        disks=disks,
        configuration=receipt.vm.configuration,
        counts=receipt.counts,
        release=likeness.RELEASE,
        keep=receipt.keep,
        locked_until=receipt.locked_until,
    )


def _next_sequence(store: DataStore, vm: VmId, names: Sequence[str], above: int) -> int:
    """One more than anything there has, forgotten versions and folders in a record's place too."""
    folder = layout.forgotten_record(layout.versions_of(vm))
    forgotten = (entry.name for entry in store.transport.entries(folder))
    taken = (*names, *filter(layout.is_known, forgotten))
    return max((above, *map(layout.number_of, taken))) + 1


def _admit_packs(store: DataStore, receipt: TransferReceipt) -> None:
    """Move every pack of the run from its inbox to its place, where its length is as announced."""
    arrived = {
        entry.name: entry.size_bytes for entry in store.transport.entries(layout.inbox(receipt.run))
    }

    def require_size(at: DataStore, name: str, sent: int) -> None:
        size = at.transport.size(name)
        if size != sent:
            raise Damaged(name, f"it has {size} bytes and was sent with {sent}")

    def admit(pack: PackReceipt) -> None:
        source = layout.arriving_pack(receipt.run, pack.pack)
        target = layout.pack(pack.pack)
        here = source if source in arrived else target  # moved by an earlier attempt
        if arrived.get(here) != pack.size_bytes:
            surely(lambda at: require_size(at, here, pack.size_bytes), store)
        if receipt.from_agent:
            surely(lambda at: _require_own_table(at, here, pack, receipt.scope), store)
        if here == source:
            _move(store, source, target)

    for _ in bounded_map(admit, receipt.packs, workers=_MOVERS, name="admit"):
        pass


def _require_own_table(store: DataStore, name: str, pack: PackReceipt, scope: bytes) -> None:
    """A pack holds what another machine says it holds, as far as its own table tells.

    Raises:
        Damaged: It does not.
    """
    if read_table(store, Entry(name, pack.size_bytes), scope=scope) != pack.locations:
        raise Damaged(name, "it does not hold what its sender says; run the job again")


def _move(store: DataStore, source: str, target: str) -> None:
    try:
        store.for_writing().rename(source, target)
    except (NameTaken, ObjectMissing):
        _require_moved(store, source, target)


def _require_moved(store: DataStore, source: str, target: str) -> None:
    """The move happened although its answer was lost; or else another run's pack is in its place.

    Raises:
        Damaged: It did not happen, since a pack of that name is in the store already.
    """
    try:
        store.transport.size(source)
    except ObjectMissing:
        store.transport.size(target)
    else:
        raise Damaged(source, "the store has another pack of that name; it is not taken in")


def _write_map(
    store: DataStore, disk: DiskReceipt, version: VersionId, last: Version | None
) -> DiskRecord:
    """Write the map of one disk: a delta where its last map can bear one, else in full."""
    base = _base_record(disk, last)
    delta = base is not None and base.deltas < MAX_DELTAS and not _has_many_parts(base)
    previous = disk.previous if delta else None
    made = []
    for first, count in stretches(disk.chunk_map.positions):
        runs = list(disk.chunk_map.runs_unlike(previous, first, count))
        if runs:
            made.append(_write_part(store, runs, disk, version, first=first, delta=delta))
    kept = base.parts if base is not None and delta else ()
    return DiskRecord(
        disk=disk.facts.disk,
        name=disk.facts.name,
        position=disk.facts.position,
        size_bytes=disk.facts.size_bytes,
        chunk_bytes=store.chunk_bytes,
        parts=(*kept, *made),
        deltas=base.deltas + 1 if base is not None and delta else 0,
        root=disk.chunk_map.root(),
    )


def _has_many_parts(base: DiskRecord) -> bool:
    full = sum(not part.delta for part in base.parts)
    return len(base.parts) > max(MAX_PARTS, 2 * full)


def _base_record(disk: DiskReceipt, last: Version | None) -> DiskRecord | None:
    """The disk as the VM's last version has it, if the new map may be told as its difference."""
    if last is None or disk.previous is None:
        return None
    for record in last.record.disks:
        same_size = record.size_bytes == disk.facts.size_bytes
        if record.disk == disk.facts.disk and same_size:
            return record if disk.previous.root() == record.root else None
    return None


def _write_part(
    store: DataStore,
    runs: list[Run],
    disk: DiskReceipt,
    version: VersionId,
    *,
    first: int,
    delta: bool,
) -> MapPart:
    """Write one part in two copies, each sealed on its own."""
    owner, plain = DiskId(disk.facts.disk), plain_part(runs, first)
    names, digests, sizes = [], [], []
    for _ in range(2):
        data = encode_part(
            plain,
            disk=owner,
            version=version,
            first=first,
            delta=delta,
            keys=store.keys,
            suite=store.suite,
        )
        name = layout.map_object(owner, random_name())
        store.for_writing().create(name, [data])
        names.append(name)
        digests.append(digest([data]).hex())
        sizes.append(len(data))
    return MapPart(
        delta=delta,
        version=version,
        first=first,
        copies=(names[0], names[1]),
        digests=(digests[0], digests[1]),
        sizes=(sizes[0], sizes[1]),
        entries=sum(run.count for run in runs),
    )

"""Remember: what the store holds, written into the catalog."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from blocks import Site
from catalog.reconciling import known_packs_by_state
from catalog.recording import record_version
from catalog.staging import private_folder
from catalog.values import DiskMap
from likeness.clock import system_clock
from likeness.codec.hashing import digest
from likeness.errors import BadInput, Damaged, ObjectMissing
from likeness.model.ids import DiskId, RunId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.read.index import KnownPack, known_packs, read_segment, unindexed_packs
from likeness.store.read.versions import Version, load_map, map_runs
from likeness.store.write.receipts import DiskReceipt, TransferReceipt

Replaced = Callable[[], Collection[str]]


def remember_received(site: Site, version: Version, receipt: TransferReceipt) -> None:
    """Record a version that was just committed, from what its transfer left on this machine.

    The store has acknowledged all of it, so nothing is read back. Safe to repeat. Where the catalog
    lacks the version before, whole block maps are recorded.

    Args:
        site: Whose catalog.
        version: Which.
        receipt: What it was made of.
    """
    packs = receipt.packs
    try:
        maps = [_received_map(disk, version, whole=False) for disk in receipt.disks]
        record_version(site.catalog.file, version, maps, packs, system_clock())
    except BadInput:
        maps = [_received_map(disk, version, whole=True) for disk in receipt.disks]
        record_version(site.catalog.file, version, maps, packs, system_clock())


def _received_map(disk: DiskReceipt, version: Version, *, whole: bool) -> DiskMap:
    """The changes, if that is how the version tells them too; else the whole map."""
    (record,) = (each for each in version.record.disks if each.disk == disk.facts.disk)
    whole = whole or record.deltas == 0
    base = None if whole else disk.previous
    runs = disk.chunk_map.runs_unlike(base, 0, disk.chunk_map.positions)
    return DiskMap(DiskId(disk.facts.disk), whole, runs)


def remember_version(
    site: Site, store: DataStore, version: Version, *, replaced: Replaced = frozenset
) -> None:
    """Record a version that only the store knows, read from there; safe to repeat.

    Where the
    catalog lacks the version before, the difference to that says nothing, and whole block maps are
    recorded.

    Args:
        site: Whose catalog.
        store: Where the version is.
        version: Which.
        replaced: Names of index segments that are gone since later ones say what they said; of
            their packs the caller tells the catalog.
    """
    try:
        _record(site, store, version, replaced, whole=False)
    except BadInput:
        _record(site, store, version, replaced, whole=True)


def _record(
    site: Site, store: DataStore, version: Version, replaced: Replaced, *, whole: bool
) -> None:
    catalog = site.catalog.file
    with private_folder(catalog) as scratch, ExitStack() as held:
        maps = [
            whole_map(store, disk, scratch, held) if whole else _disk_map(store, version, disk)
            for disk in version.record.disks
        ]
        packs = _packs(site, store, version, replaced)
        record_version(catalog, version, maps, packs, system_clock())


def _disk_map(store: DataStore, version: Version, disk: DiskRecord) -> DiskMap:
    full = disk.deltas == 0
    runs = map_runs(store, disk, only=None if full else version.version)
    return DiskMap(DiskId(disk.disk), full, runs)


def whole_map(store: DataStore, disk: DiskRecord, scratch: Path, held: ExitStack) -> DiskMap:
    """A disk's map. Its parts put together, since a later one may tell a position once more."""
    chunk_map = held.enter_context(load_map(store, disk, scratch / f"{disk.disk}.map"))
    runs = chunk_map.runs_unlike(None, 0, chunk_map.positions)
    return DiskMap(DiskId(disk.disk), whole=True, runs=runs)


def _packs(
    site: Site, store: DataStore, version: Version, replaced: Replaced
) -> Iterator[KnownPack]:
    """What the version brought: by its index segments, or by the packs' own tables without."""
    lost = False
    for name in version.clear.objects:
        if name.startswith(f"{layout.INDEX}/"):
            try:
                yield from list(read_segment(store, name))
            except (Damaged, ObjectMissing):
                lost = lost or name not in replaced()
    if lost:
        yield from _by_their_own_tables(site, store, RunId(version.record.run))


def _by_their_own_tables(site: Site, store: DataStore, run: RunId) -> Iterator[KnownPack]:
    """Packs that neither the catalog nor what is left of the index knows; read whole, so slow."""
    indexed = {*known_packs_by_state(site.catalog.file)}
    indexed |= {pack.pack for pack in known_packs(store, damaged=lambda _: None)}
    for pack, locations in unindexed_packs(store, indexed, unread=lambda _: None):
        data = store.transport.read(layout.pack(pack))
        yield KnownPack(pack, len(data), digest([data]), run, locations)

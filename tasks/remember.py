"""Remember: what the store holds, written into the catalog."""

from collections.abc import Iterator

from blocks import Site
from catalog.recording import record_version
from catalog.values import DiskMap
from likeness.clock import system_clock
from likeness.model.ids import DiskId
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.index import KnownPack, read_segment
from likeness.store.versions import Version, map_runs


def remember_version(
    site: Site, store: DataStore, version: Version, *, whole: bool = False
) -> None:
    """Record a version that the store holds; safe to repeat.

    What is recorded is read back from the store, so the catalog never knows more than it.

    Args:
        site: Whose catalog.
        store: Where the version is.
        version: Which.
        whole: Give whole block maps although the version has deltas; for when the version before
            it is not known.
    """
    maps = [_disk_map(store, version, number, whole=whole) for number in _disks(version)]
    record_version(site.catalog.file, version, maps, _packs(store, version), system_clock())


def _disks(version: Version) -> range:
    return range(len(version.record.disks))


def _disk_map(store: DataStore, version: Version, number: int, *, whole: bool) -> DiskMap:
    disk = version.record.disks[number]
    full = whole or disk.deltas == 0
    runs = map_runs(store, disk, only=None if full else version.version)
    return DiskMap(DiskId(disk.disk), full, runs)


def _packs(store: DataStore, version: Version) -> Iterator[KnownPack]:
    for name in version.clear.objects:
        if name.startswith(f"{layout.INDEX}/"):
            yield from read_segment(store, name)

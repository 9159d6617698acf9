"""Remember many: versions of VMs that the catalog knows nothing of, read from the store in bulk.

Reading goes on in several threads while rows are written down; what cannot be read is passed over
here and told of by whoever records version by version afterwards (`tasks.catch_up`).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from blocks import Site
from catalog.recording_many import Told, record_new_vms
from catalog.staging import private_folder
from catalog.values import DiskMap
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.model.ids import DiskId, VmId
from likeness.pipelining import bounded_map
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import Run
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.index import KnownPack, read_segment
from likeness.store.read.versions import Version, map_runs, read_version, record_names
from tasks.logs import step_logger
from tasks.remember import whole_map

_READERS = 8
_ROWS = 1 << 21
"""Positions and places of one batch; about 100 MB of scratch."""
_MAX_ROWS = 1 << 24
"""Of one VM in a batch; what it has besides is recorded version by version."""
_AHEAD = 1 << 16
"""Of one version, if it is read before its turn."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A version as the store has it; its maps tell what it changed, or all."""

    version: Version
    runs: tuple[Iterable[Run], ...]
    packs: Iterable[KnownPack]
    rows: int


def remember_new_vms(site: Site, store: DataStore, vms: Sequence[VmId]) -> int:
    """Record all that the store has of VMs that the catalog knows nothing of; how many versions.

    Args:
        site: Whose catalog.
        store: Where from.
        vms: Which.
    """
    return _Many(site, store, vms).record()


class _Many:
    def __init__(self, site: Site, store: DataStore, vms: Sequence[VmId]) -> None:
        self._site, self._store = site, store
        self._read = bounded_map(self._look, self._names(vms), workers=_READERS, name="remember")
        self._next: _Read | None = None
        self._over = False

    def record(self) -> int:
        """See `remember_new_vms`."""
        recorded = 0
        while not self._over:
            try:
                recorded += record_new_vms(self._site.catalog.file, self._batch(), system_clock())
            except (BadInput, *UNREADABLE) as cause:
                step_logger().warning("some versions are recorded one by one: %s", cause)
        return recorded

    def _names(self, vms: Sequence[VmId]) -> Iterator[str]:
        for vm in vms:
            with suppress(*UNREADABLE):
                yield from record_names(self._store, vm)

    def _look(self, name: str) -> _Read | None:
        try:
            version = read_version(self._store, name)
            disks = version.record.disks
            runs: tuple[Iterable[Run], ...] = tuple(self._runs(version, disk) for disk in disks)
            packs: Iterable[KnownPack] = self._packs(version)
            rows = _rows_of(version)
            if rows <= _AHEAD:
                runs, packs = tuple(map(tuple, runs)), tuple(packs)
        except UNREADABLE:
            return None
        return _Read(version, runs, packs, rows)

    def _runs(self, version: Version, disk: DiskRecord) -> Iterator[Run]:
        return map_runs(self._store, disk, only=version.version if disk.deltas else None)

    def _packs(self, version: Version) -> Iterator[KnownPack]:
        for name in version.clear.objects:
            if name.startswith(f"{layout.INDEX}/"):
                yield from read_segment(self._store, name)

    def _batch(self) -> Iterator[Told]:
        """Versions of some VMs; a VM of which there is too much for one goes on one by one."""
        rows, before = 0, None
        for read in self._reads():
            same_vm = before is not None and before.vm == read.version.vm
            if rows >= _ROWS and not same_vm:
                self._next = read
                return
            if rows < _MAX_ROWS:
                yield from self._told(read, before if same_vm else None)
                rows += read.rows
            before = read.version
        self._over = True

    def _reads(self) -> Iterator[_Read]:
        if self._next is not None:
            held, self._next = self._next, None
            yield held
        yield from (read for read in self._read if read is not None)

    def _told(self, read: _Read, before: Version | None) -> Iterator[Told]:
        """As it tells itself if it follows the one before; else with whole maps."""
        version = read.version
        had = {disk.disk for disk in before.record.disks} if before else set()
        follows = before is not None and before.digest == version.clear.previous
        if all(not d.deltas or (follows and d.disk in had) for d in version.record.disks):
            maps = tuple(
                DiskMap(DiskId(disk.disk), not disk.deltas, runs)
                for disk, runs in zip(version.record.disks, read.runs, strict=True)
            )
            yield Told(version, maps, read.packs)
            return
        with private_folder(self._site.catalog.file) as scratch, ExitStack() as held:
            try:
                maps = tuple(
                    whole_map(self._store, disk, scratch, held) for disk in version.record.disks
                )
            except UNREADABLE:
                return
            yield Told(version, maps, read.packs)


def _rows_of(version: Version) -> int:
    """About how many positions and places a version tells, as its record says."""
    record = version.record
    told = sum(
        part.entries
        for disk in record.disks
        for part in disk.parts
        if not disk.deltas or part.version == version.version
    )
    brought = sum(disk.chunk_bytes for disk in record.disks) // max(len(record.disks), 1)
    return told + (record.counts.new_bytes // brought if brought else 0)

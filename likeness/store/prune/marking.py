"""Marking: which of some data blocks the versions on the share need, exactly.

No catalog is believed here: every record in `versions/` is read, and its block maps are put
together as a restore would. A disk's versions are taken in order, so that each part of its maps is
read once, and only what changed from one to the next is looked at. Asked again, a mark reads no
more than the records that came since.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from likeness.errors import ObjectMissing, ReclaimStopped
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, VmId, as_uuid, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord, MapPart
from likeness.store.format.maps import FlatMap, Run, positions_of
from likeness.store.format.observations import UNREADABLE
from likeness.store.read.versions import (
    Version,
    load_map,
    read_part,
    read_version_surely,
    stretches,
)

MAX_WANTED = 1 << 20
"""Data blocks of which one mark can tell: about 150 MB of memory, 256 GiB at 256 KiB a block."""
_WORDS = CHUNK_ID_BYTES // 8


@dataclass
class Mark:
    """What the versions need of some data blocks.

    Attributes:
        store: Where.
        scratch: A folder for one block map at a time.
        stop: Looked at before every version.
        needed: Those of them that a version needs.
        objects: Block maps and index segments that a version speaks of.
    """

    store: DataStore
    scratch: Path
    stop: StopToken
    needed: set[ChunkId] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    _wanted: set[ChunkId] = field(default_factory=set)
    _first_words: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    _seen: set[str] = field(default_factory=set)

    def want(self, chunks: set[ChunkId]) -> None:
        """Say which data blocks are asked about; before the first look."""
        self._wanted = chunks
        words = (int.from_bytes(chunk[:8], "little") for chunk in chunks)
        self._first_words = np.unique(np.fromiter(words, np.uint64, len(chunks)))

    def bring_up_to_date(self) -> int:
        """Look at every version that was not looked at yet; how many there were.

        Versions that are gone since count as needing what they needed: that errs on the safe side.

        Raises:
            ReclaimStopped: One cannot be read, so nobody knows what it needs.
            ShareUnreachable: The store does not answer.
        """
        names: dict[VmId, list[str]] = {}
        for entry in self.store.transport.entries(layout.VERSIONS):
            if layout.is_known(entry.name) and entry.name not in self._seen:
                names.setdefault(VmId(entry.name.split("/")[1]), []).append(entry.name)
        for new in names.values():
            self._take(sorted(new))
        return sum(map(len, names.values()))

    def _take(self, names: list[str]) -> None:
        """The new versions of one VM, oldest first."""
        disks: dict[str, _DiskSoFar] = {}
        try:
            for name in names:
                self.stop.check()
                with _understood(name), suppress(ObjectMissing):  # forgotten since it was listed
                    version = read_version_surely(self.store, name)
                    self._need(version, disks)
                    self._seen.add(name)
        finally:
            for disk in disks.values():
                disk.chunk_map.close()

    def _need(self, version: Version, disks: dict[str, "_DiskSoFar"]) -> None:
        self.objects.update(version.clear.objects)
        for disk in version.record.disks:
            self.objects.update(copy for part in disk.parts for copy in part.copies)
            if not self._wanted:
                continue
            so_far = disks.get(disk.disk)
            if so_far is None or not so_far.leads_to(disk):
                if so_far is not None:
                    disks.pop(disk.disk).chunk_map.close()
                path = self.scratch / f"{random_name()}.mark-map"
                so_far = _DiskSoFar(disk, load_map(self.store, disk, path))
                disks[disk.disk] = so_far
                for first, count in stretches(so_far.chunk_map.positions):
                    self._note(so_far.chunk_map.runs_unlike(None, first, count))
            else:
                self._note(so_far.go_on(self.store, disk))

    def _note(self, runs: Iterator[Run]) -> None:
        for run in runs:
            words = np.frombuffer(run.ids, "<u8")[::_WORDS]
            at = np.searchsorted(self._first_words, words)
            at[at == len(self._first_words)] = 0
            for hit in np.flatnonzero(self._first_words[at] == words).tolist():
                start = hit * CHUNK_ID_BYTES
                chunk = ChunkId(run.ids[start : start + CHUNK_ID_BYTES])
                if chunk in self._wanted:
                    self.needed.add(chunk)


@dataclass
class _DiskSoFar:
    """A disk's map as its last version had it."""

    disk: DiskRecord
    chunk_map: FlatMap

    def leads_to(self, later: DiskRecord) -> bool:
        """Whether a later version's map is this one with more parts on it."""
        known = len(self.disk.parts)
        same_size = self.disk.size_bytes == later.size_bytes
        return same_size and later.parts[:known] == self.disk.parts

    def go_on(self, store: DataStore, later: DiskRecord) -> Iterator[Run]:
        """Apply the parts that a later version has more; what it has where they speak."""
        added: tuple[MapPart, ...] = later.parts[len(self.disk.parts) :]
        positions = positions_of(later.size_bytes, later.chunk_bytes)
        spoken: list[tuple[int, int]] = []
        for part in added:
            for run in read_part(store, later, part, positions):
                self.chunk_map.write(run.first, run.ids)
                spoken.append((run.first, run.count))
        self.disk = later
        for first, count in spoken:
            yield Run(first, self.chunk_map.ids(first, count))


@contextmanager
def _understood(name: str) -> Generator[None, None, None]:
    """Make of what cannot be read a reason to delete nothing at all."""
    try:
        yield
    except UNREADABLE as cause:
        vm, version = name.split("/")[1], name.rpartition("-")[2]
        raise ReclaimStopped(
            f"nothing is deleted, since nobody knows what version {version[:8]} of VM"
            f" {as_uuid(vm)} needs ({cause}); validate and heal it, or forget it, then run again"
        ) from cause

"""A plain model of what the catalog should say, and random histories that drive both."""

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from catalog.connection import CatalogLocation
from catalog.keeping_parts import keep_parts
from catalog.recording import record_version
from catalog.values import DiskMap, Recorded
from likeness.model.ids import ChunkId, DiskId, PackId, VersionId
from likeness.store.format.pack import PackReceipt
from likeness.store.read.versions import Version
from tests.catalog.scenes import (
    CHUNK_BYTES,
    NOW,
    chunk,
    delta_map,
    disk,
    pack,
    version,
    vm,
    whole_map,
)

CHUNKS = [chunk("of", number) for number in range(14)]
POSITIONS = 12


@dataclass
class Remembered:
    """One version, as it was told."""

    vm: str
    sequence: int
    record: Version
    maps: dict[int, dict[int, ChunkId]]
    sizes: dict[int, int]
    brought: list[PackReceipt]


@dataclass
class History:
    """Every version that was recorded, beside the catalog that should know them.

    Attributes:
        catalog: Which.
        at_once: After how many places a part of the ids beside it is made; none are by default.
    """

    catalog: CatalogLocation
    at_once: int = 0
    versions: dict[VersionId, Remembered] = field(default_factory=dict)
    last: dict[str, Remembered] = field(default_factory=dict)
    packs: dict[PackId, PackReceipt] = field(default_factory=dict)

    @classmethod
    def beside(cls, empty: CatalogLocation, folder: Path, *, at_once: int = 0) -> "History":
        """A history that begins with a copy of an empty catalog."""
        folder.mkdir(parents=True)
        catalog = CatalogLocation(folder / "catalog.duckdb")
        shutil.copyfile(empty.path, catalog.path)
        return cls(catalog, at_once)

    def back_up(
        self,
        which: str,
        maps: Mapping[int, Mapping[int, ChunkId]],
        *,
        packs: int = 1,
        as_deltas: bool = True,
        now: datetime = NOW,
        sizes: Mapping[int, int] | None = None,
        lacking: frozenset[ChunkId] = frozenset(),
    ) -> Recorded:
        """Record a VM's next version; it brings whatever its last one did not have.

        Args:
            which: The VM.
            maps: The chunks of each disk.
            packs: Into how many packs what is new is divided.
            as_deltas: Tell only what changed, where that is possible.
            now: The present.
            sizes: Of the disks; all positions by default.
            lacking: Chunks that are in no pack although they should be.
        """
        before = self.last.get(which)
        had = {c for m in before.maps.values() for c in m.values()} if before else set()
        new = sorted({c for m in maps.values() for c in m.values()} - had - lacking)
        receipts = [pack(new[n::packs]) for n in range(packs) if new[n::packs]]
        full = {at: (sizes or {}).get(at, POSITIONS * CHUNK_BYTES) for at in maps}
        record = version(
            which,
            before.sequence + 1 if before else 1,
            full,
            previous=before.record if before else None,
            taken_at=now,
        )
        told = [
            self._told(which, at, dict(chunks), full[at], as_deltas=as_deltas)
            for at, chunks in maps.items()
        ]
        done = record_version(self.catalog, record, told, receipts, now)
        if self.at_once:
            keep_parts(self.catalog, merge=len(self.versions) % 3 == 0, at_once=self.at_once)
        mine = Remembered(
            which,
            record.sequence,
            record,
            {at: dict(chunks) for at, chunks in maps.items()},
            full,
            receipts,
        )
        self.versions[record.version] = self.last[which] = mine
        self.packs.update({p.pack: p for p in receipts})
        return done

    def _told(
        self, which: str, at: int, chunks: dict[int, ChunkId], size: int, *, as_deltas: bool
    ) -> DiskMap:
        before = self.last.get(which)
        if before is None or at not in before.maps or not as_deltas:
            return whole_map(which, chunks, at)
        kept = {p: c for p, c in before.maps[at].items() if p * CHUNK_BYTES < size}
        return delta_map(which, kept, chunks, at)

    def places_of_chunk(self, wanted: set[ChunkId]) -> set[tuple[str, int, DiskId, int]]:
        """VM, version, disk and position of every use of some chunks, by looking at each."""
        return {
            (vm(v.vm), v.sequence, disk(v.vm, at), position)
            for v in self.versions.values()
            for at, chunks in v.maps.items()
            for position, c in chunks.items()
            if c in wanted
        }


def random_map(dice: random.Random, positions: int = POSITIONS) -> dict[int, ChunkId]:
    """Some positions with some chunks; chunks repeat."""
    chosen = dice.sample(range(positions), dice.randint(0, positions))
    return {at: dice.choice(CHUNKS) for at in chosen}

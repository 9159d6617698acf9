"""Leftovers: what forgotten versions leave beside their packs.

Their block maps, where no other version builds on them; index segments whose packs are all gone;
and their records, last: as long as a record is there it can be asked what came with its version.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.errors import ObjectMissing, ObjectUnreadable, ShareRefused
from likeness.model.ids import PackId, RunId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import IndexClear
from likeness.store.format.observations import UNREADABLE
from likeness.store.prune.marking import Mark
from likeness.store.prune.sweeping import state_swept
from likeness.store.read.versions import read_version_at
from likeness.store.write.condemning import RUNS, Condemned
from likeness.store.write.forgetting import finish_moves

_MAX_AT_ONCE = 16
"""Records whose leftovers are deleted while the gate is held once."""
_REASON = "the versions they came with were forgotten"


@dataclass
class Leftovers:
    """Deletes them, a few at a time behind the gate.

    Attributes:
        store: Where.
        scratch: A folder of the run.
        stop: Looked at between objects.
        clock: The present.
        is_live: Whether a run of a job is still under way.
        objects: How many were deleted.
        objects_bytes: Their size.
    """

    store: DataStore
    scratch: Path
    stop: StopToken
    clock: Clock
    is_live: Callable[[RunId], bool]
    objects: int = 0
    objects_bytes: int = 0
    _named: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _named_by: Counter[str] = field(default_factory=Counter)

    def delete(
        self,
        known: Condemned,
        ripe: Collection[int],
        gate: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Delete what came with versions of which no pack is left.

        Args:
            known: What is condemned.
            ripe: Numbers of the statements that waited long enough.
            gate: See `reclaiming.Gate`.
        """
        waiting = self._numbers_waiting(known)
        records = [
            name
            for name, number in sorted(known.records.items())
            if number in ripe and not any(n <= number for n in waiting) and self._is_there(name)
        ]
        if records:
            mark = Mark(self.store, self.scratch, self.stop)
            mark.bring_up_to_date()
            self._read_forgotten()
            for start in range(0, len(records), _MAX_AT_ONCE):
                self.stop.check()
                with gate():
                    self._delete_some(records[start : start + _MAX_AT_ONCE], mark)
            with gate():
                finish_moves(self.store)
                mark.bring_up_to_date()
                self._remove(self._segments_without_packs(mark.objects | self._named_by.keys()))
        self._statements_that_are_done(known, waiting)

    def _delete_some(self, records: Collection[str], mark: Mark) -> None:
        """Delete some records with what came with them; the gate is held."""
        finish_moves(self.store)
        mark.bring_up_to_date()
        here = [name for name in records if self._is_there(name)]
        self._remove(self._came_with(here, mark.objects))
        self._remove(here, say=False)

    def _numbers_waiting(self, known: Condemned) -> set[int]:
        """Statements of which a pack is still there."""
        there = {
            PackId(entry.name.rpartition("/")[2])
            for entry in self.store.transport.entries(layout.PACKS)
        }
        return {each.number for pack, each in known.packs.items() if pack in there}

    def _read_forgotten(self) -> None:
        """Take in what forgotten versions name, each of them once."""
        there = {entry.name for entry in self.store.transport.entries(layout.FORGOTTEN)}
        for name in sorted(there - self._named.keys()):
            self.stop.check()
            with suppress(*UNREADABLE):  # one that is damaged tells of nothing, and leaves its maps
                version = read_version_at(self.store, layout.signed_name(name), name)
                parts = [part for disk in version.record.disks for part in disk.parts]
                named = {*version.clear.objects, *(copy for p in parts for copy in p.copies)}
                self._named[name] = tuple(map(intern, named))
                self._named_by.update(named)
        self._drop(self._named.keys() - there)

    def _drop(self, records: Collection[str]) -> None:
        """Count what some records name no more."""
        for record in records:
            for name in self._named.pop(record, ()):
                self._named_by[name] -= 1
                if not self._named_by[name]:
                    del self._named_by[name]

    def _came_with(self, records: Collection[str], needed: Collection[str]) -> list[str]:
        """Block maps that no version needs, nor one that may still be taken back."""
        self._read_forgotten()
        brought = {name for record in records for name in self._named.get(record, ())}
        self._drop(records)
        return sorted(
            name
            for name in brought
            if name not in needed
            and name not in self._named_by
            and name.startswith(f"{layout.MAPS}/")
        )

    def _segments_without_packs(self, needed: Collection[str]) -> list[str]:
        """Index segments that speak of nothing that is there; packs are listed after them."""
        clears = dict(self._segments())
        there = {entry.name for entry in self.store.transport.entries(layout.PACKS)}
        return [
            name
            for name, clear in clears.items()
            if name not in needed
            and not any(layout.pack(PackId(pack.pack)) in there for pack in clear.packs)
            and not self.is_live(RunId(clear.run))
        ]

    def _segments(self) -> Iterator[tuple[str, IndexClear]]:
        for entry in list(self.store.transport.entries(layout.INDEX)):
            self.stop.check()
            if layout.is_known(entry.name):
                with suppress(*UNREADABLE):
                    yield entry.name, self.store.read(entry.name, Kind.INDEX, IndexClear)[0]

    def _remove(self, names: Collection[str], *, say: bool = True) -> None:
        if say and names:
            state_swept(self.store, (), tuple(names), _REASON, self.clock)
        for name in names:
            with suppress(ObjectMissing, ObjectUnreadable, ShareRefused):  # the next run, then
                size = self.store.transport.size(name)
                self.store.for_writing().delete(name)
                self.objects += 1
                self.objects_bytes += size

    def _statements_that_are_done(self, known: Condemned, waiting: Collection[int]) -> None:
        """Delete statements whose packs and records are gone; the newest show when runs were."""
        newest = sorted(known.said)[-(RUNS + 1) :]
        recorded = {n for name, n in known.records.items() if self._is_there(name)}
        named = {*known.records.values(), *(each.number for each in known.packs.values())}
        done = named - set(waiting) - recorded
        done |= {n for n in known.empty if n < min(waiting, default=n + 1)}
        for number in sorted(done - set(newest)):
            self._remove((layout.numbered(layout.CONDEMNED, number),), say=False)

    def _is_there(self, name: str) -> bool:
        try:
            self.store.transport.size(name)
        except ObjectMissing:
            return False
        return True

"""Tidying: what lies in many small documents is written once more in few, and the small ones go.

Every job writes index segments, and whoever forgets or deletes says so in a statement: more each
night, all read by every audit and reclaim. So once there are many, one document is written that
says all they say. They stay beside it: it is true twice. A week and two runs later, once the new
one was looked at again and says it all, they are deleted, behind the gate. Only a *later* document
makes up for an earlier one, so no two ever make up for each other, however late somebody who lost
the store goes on. What a run that dies leaves is done by the next.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.errors import ObjectMissing, ObjectUnreadable, ShareRefused
from likeness.model.ids import PackId, RunId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import ForgetDocument, IndexClear, IndexedPack, SweptDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.pack import PackReceipt
from likeness.store.format.statements import state, whole_statements
from likeness.store.prune.sweeping import deleted_packs, state_swept
from likeness.store.read.index import (
    MAX_LOCATIONS,
    MAX_PACKS,
    KnownPack,
    read_segment,
    segments,
    write_index,
)
from likeness.store.write.condemning import Condemned
from likeness.store.write.forgetting import Forgotten, finish_moves
from likeness.store.write.heads import read_head_state

MANY = 32
"""Small documents of a kind that may lie in a store before they are written as one."""
_MAX_AT_ONCE = 16
"""Segments that are looked at and deleted while the gate is held once."""
_MAX_NAMES = 1 << 16
"""Packs, objects or records that one statement made of many tells of."""
_REASON = "a later document says all they say"
_MOMENT = timedelta(microseconds=1)
Gate = Callable[[], AbstractContextManager[object]]
_Said = Sequence[tuple[str, Collection[str]]]
"""Statements in their order, each with what must be said of it for ever."""


@dataclass
class Tidying:
    """Makes few documents of many.

    Attributes:
        store: Where; with the fence of its owner.
        run: Which run this is.
        stop: Looked at between objects.
        clock: The present.
        is_live: Whether a run of a job is still under way; its segments are left alone.
        known: What is condemned: it tells when runs were.
        wait: How old what makes up for others must be.
        runs: How many later runs there must have been.
        many: See `MANY`.
        objects: How many were deleted.
        objects_bytes: Their size.
    """

    store: DataStore
    run: RunId
    stop: StopToken
    clock: Clock
    is_live: Callable[[RunId], bool]
    known: Condemned
    wait: timedelta
    runs: int
    many: int = MANY
    objects: int = 0
    objects_bytes: int = 0
    _heads: frozenset[str] = field(default_factory=frozenset)

    def tidy(self, gate: Gate) -> None:
        """Do what is due; where a statement or a head cannot be read, statements stay."""
        if self._count(layout.INDEX) > self.many:
            self._tidy_index(gate)
        for folder, tidy in (
            (layout.FORGETS, self._tidy_forgets),
            (layout.SWEPT, self._tidy_swept),
        ):
            if self._count(folder) > self.many:
                with gate(), suppress(*UNREADABLE):
                    finish_moves(self.store)
                    self._heads = frozenset(read_head_state(self.store).objects)
                    tidy()

    def _count(self, folder: str) -> int:
        return sum(1 for _ in self.store.transport.entries(folder))

    def _is_ripe(self, made_at: datetime) -> bool:
        later = {run for number, run in self.known.runs if self.known.said[number] > made_at}
        return made_at + self.wait <= self.clock() and len(later) >= self.runs

    # index segments

    def _tidy_index(self, gate: Gate) -> None:
        index = _Index(self._segments(), self._packs_there(), self.clock())
        going = index.made_up_for(self._is_ripe, lambda: deleted_packs(self.store))
        names = sorted(going)
        for start in range(0, len(names), _MAX_AT_ONCE):
            self.stop.check()
            with gate():
                some = {name: going[name] for name in names[start : start + _MAX_AT_ONCE]}
                self._remove([name for name in some if self._is_said_again(name, some[name])])
        small = [
            name
            for name in index.only_here()
            if name not in going and index.is_small(name) and not self.is_live(index.run(name))
        ]
        if len(small) >= self.many:
            made_at = max(self.clock(), index.newest + _MOMENT)
            receipts = self._receipts(small, index)
            for _ in write_index(self.store, receipts, run=self.run, clock=lambda: made_at):
                self.stop.check()

    def _segments(self) -> dict[str, IndexClear]:
        found = {}
        for name in list(segments(self.store)):
            self.stop.check()
            with suppress(*UNREADABLE):  # it makes up for nothing, and stays
                found[name] = self.store.read(name, Kind.INDEX, IndexClear)[0]
        return found

    def _packs_there(self) -> set[str]:
        entries = self.store.transport.entries(layout.PACKS)
        return {entry.name.rpartition("/")[2] for entry in entries}

    def _is_said_again(self, name: str, instead: Mapping[PackId, str]) -> bool:
        """Whether others say of each pack just what a segment does, as they are read now."""
        try:
            mine = {pack.pack: pack for pack in read_segment(self.store, name, instead)}
            others = {
                pack.pack: pack
                for other in set(instead.values())
                for pack in read_segment(
                    self.store, other, {p for p, at in instead.items() if at == other}
                )
            }
            return mine.keys() == others.keys() and all(
                _same(pack, others[each]) for each, pack in mine.items()
            )
        except UNREADABLE:
            return False

    def _receipts(self, names: Iterable[str], index: "_Index") -> Iterator[PackReceipt]:
        """What small segments say of the packs that are there and that no other tells of."""
        for name in names:
            told = {PackId(pack.pack): pack for pack in index.only_here()[name]}
            for pack in read_segment(self.store, name, told):
                yield PackReceipt(
                    pack.pack,
                    pack.size_bytes,
                    pack.digest,
                    bytes.fromhex(told[pack.pack].checksum),
                    pack.locations,
                )

    # statements

    def _tidy_forgets(self) -> None:
        """Those of which every record is deleted for good are said by one."""
        said = whole_statements(self.store, layout.FORGETS, ForgetDocument)
        gone = Forgotten(tuple(said)).now - self._records_there()
        settled = [(name, each.records) for name, each in said if gone.issuperset(each.records)]
        says = [(n, e.records) for n, e in said if not e.back and self._counts(n, e.made_at)]
        soon = [(name, each.records) for name, each in said if not each.back]
        for part in self._remove_said_again(settled, says, soon):

            def forget(number: int, part: tuple[str, ...] = part) -> ForgetDocument:
                return ForgetDocument(
                    number=number, made_at=self.clock().isoformat(), reason=_REASON, records=part
                )

            state(self.store, layout.FORGETS, forget)

    def _records_there(self) -> set[str]:
        return {
            layout.signed_name(entry.name)
            for folder in (layout.VERSIONS, layout.FORGOTTEN)
            for entry in self.store.transport.entries(folder)
        }

    def _tidy_swept(self) -> None:
        """Those of which every pack is gone: nobody is deleting any of it any more."""
        said = whole_statements(self.store, layout.SWEPT, SweptDocument)
        there = self._packs_there()
        settled = [(n, self._swept(e)) for n, e in said if there.isdisjoint(e.packs)]
        says = [(n, self._swept(e)) for n, e in said if self._counts(n, e.made_at)]
        soon = [(name, self._swept(each)) for name, each in said]
        for part in self._remove_said_again(settled, says, soon):
            packs = tuple(PackId(each) for each in part if "/" not in each)
            objects = tuple(each for each in part if "/" in each)
            state_swept(self.store, packs, objects, _REASON, self.clock)

    def _swept(self, said: SweptDocument) -> list[str]:
        """What must be said for ever; nobody asks for statements that no head knows any more."""
        passing = (f"{layout.SWEPT}/", f"{layout.FORGETS}/")
        kept = (n for n in said.objects if n in self._heads or not n.startswith(passing))
        return [*said.packs, *kept]

    def _counts(self, name: str, made_at: str) -> bool:
        return name in self._heads and self._is_ripe(datetime.fromisoformat(made_at))

    def _remove_said_again(self, settled: _Said, says: _Said, soon: _Said) -> list[tuple[str, ...]]:
        """Delete settled statements that later ones make up for; what to say in one, if many stay.

        Args:
            settled: Those that may go.
            says: Those that may make up for others.
            soon: Likewise, with those that are not old enough.
        """
        ripe, newest = _newest(says), _newest(soon)
        last = soon[-1][0] if soon else ""
        counting = {name for name, _ in says}
        going = [
            name
            for name, said in settled
            if all(ripe.get(each, "") > name for each in said)
            and (said or (name in counting and name != last))
        ]
        self._remove(going)
        left = [
            (name, said)
            for name, said in settled
            if name not in going and any(newest.get(each, "") <= name for each in said)
        ]
        if len(left) < self.many:
            return []
        all_of_it = sorted({each for _, said in left for each in said})
        starts = range(0, len(all_of_it), _MAX_NAMES)
        return [tuple(all_of_it[start : start + _MAX_NAMES]) for start in starts]

    def _remove(self, names: Collection[str]) -> None:
        if names:
            state_swept(self.store, (), tuple(names), _REASON, self.clock)
        for name in names:
            with suppress(ObjectMissing, ObjectUnreadable, ShareRefused):  # the next run, then
                size = self.store.transport.size(name)
                self.store.for_writing().delete(name)
                self.objects += 1
                self.objects_bytes += size


class _Index:
    """Which segment tells of which packs, and which is the later one."""

    def __init__(
        self, clears: Mapping[str, IndexClear], there: Collection[str], now: datetime
    ) -> None:
        self._clears, self._there = clears, there
        made_at = {name: self._made_at(name) for name in clears}
        ahead = {name for name in clears if made_at[name] > now}  # when they were nobody knows
        self._order = sorted(clears, key=lambda name: (name not in ahead, made_at[name], name))
        self.newest = max((made_at[name] for name in clears if name not in ahead), default=now)
        self._only_here: dict[str, list[IndexedPack]] | None = None

    def _made_at(self, name: str) -> datetime:
        return datetime.fromisoformat(self._clears[name].made_at)

    def run(self, name: str) -> RunId:
        return RunId(self._clears[name].run)

    def is_small(self, name: str) -> bool:
        packs = self._clears[name].packs
        few = sum(pack.chunks for pack in packs) < MAX_LOCATIONS // 2
        return few and len(packs) < MAX_PACKS // 2

    def only_here(self) -> dict[str, list[IndexedPack]]:
        """Segments that are the last to tell of packs that are there, each with those packs."""
        if self._only_here is None:
            last = self._last(self._order)
            packs = {
                name: [p for p in clear.packs if p.pack in self._there and last[p.pack] == name]
                for name, clear in self._clears.items()
            }
            self._only_here = {name: packs[name] for name in self._order if packs[name]}
        return self._only_here

    def made_up_for(
        self, is_ripe: Callable[[datetime], bool], deleted: Callable[[], set[PackId]]
    ) -> dict[str, dict[PackId, str]]:
        """Segments that may go: each pack that is there, with the later segment that tells of it.

        Of a pack that is not there a statement must say that it went on purpose.
        """
        last = self._last([name for name in self._order if is_ripe(self._made_at(name))])
        place = {name: at for at, name in enumerate(self._order)}
        found: dict[str, dict[PackId, str]] = {}
        on_purpose: set[PackId] | None = None
        for name in self._order:
            here = [PackId(each.pack) for each in self._clears[name].packs]
            instead = {pack: last.get(pack, name) for pack in here if pack in self._there}
            if any(place[other] <= place[name] for other in instead.values()):
                continue
            if len(instead) < len(here) and on_purpose is None:
                on_purpose = deleted()
            if all(pack in instead or pack in (on_purpose or ()) for pack in here):
                found[name] = instead
        return found

    def _last(self, names: Iterable[str]) -> dict[str, str]:
        return {pack.pack: name for name in names for pack in self._clears[name].packs}


def _newest(said: _Said) -> dict[str, str]:
    """The last statement that tells of each."""
    return {each: name for name, all_of_it in said for each in all_of_it}


def _same(one: KnownPack, other: KnownPack) -> bool:
    facts = (one.size_bytes, one.digest, one.locations)
    return facts == (other.size_bytes, other.digest, other.locations)

"""Reclaim: what no version needs goes, in four steps: condemn, wait, look again, delete.

Of packs that hold little that is needed, that is moved into new ones first (`compacting`).

Which packs may go is asked of the versions on the share (`marking`), never of the catalog alone.
They are looked at once more right before they are deleted, behind a *gate* through which commits
and forgetting go too: whoever holds it is alone. A few packs are deleted each time it is held, so
that nobody waits long. Everything may be stopped anywhere, and goes on with the next run.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from likeness.clock import Clock
from likeness.errors import LikenessError, ObjectUnreadable, ShareRefused
from likeness.model.ids import ChunkId, PackId, RunId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.copies import Copies, Copy, no_copies
from likeness.store.format.data_store import DataStore
from likeness.store.format.locations import PackLocations
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.statements import set_aside_unfinished
from likeness.store.prune.brakes import MAX_SHARE, require_all_in_order, require_few
from likeness.store.prune.leftovers import Leftovers
from likeness.store.prune.marking import MAX_WANTED, Mark
from likeness.store.prune.sweeping import state_swept
from likeness.store.prune.tidying import MANY, Tidying
from likeness.store.read.index import known_packs
from likeness.store.read.salvaging import read_table
from likeness.store.write.condemning import (
    RUNS,
    WAIT,
    Condemned,
    owner_number,
    read_condemned,
    say_condemned,
)
from likeness.store.write.doomed import said_lately
from likeness.store.write.forgetting import finish_moves
from likeness.transport.base import Entry

MAX_AT_ONCE = 64
"""Packs deleted while the gate is held once."""
REASON = "no version needs anything of them"
Gate = Callable[[], AbstractContextManager[object]]
"""Makes whoever goes through it be alone with what commits, forgets or deletes."""


Rewrite = Callable[[Mapping[PackId, Collection[ChunkId]]], Mapping[ChunkId, Copy]]
"""Moves what is needed of packs into new ones, and tells where it is now, proved."""
Progress = Callable[[int, int], None]
"""Told how many packs are done, of how many."""
Unknown = Callable[[Collection[PackId]], Collection[PackId]]
"""Which of some packs nobody knows."""


@dataclass
class Reclaimed:
    """What a run did.

    Attributes:
        condemned: Packs that wait from now on, those that were rewritten included.
        rewritten: Packs of which what is needed lies in new ones now.
        moved_bytes: Sealed bytes of that.
        waiting: All that wait now, those included, with their sizes as far as they are there.
        deleted: Packs that are gone now, with their sizes.
        spared: Packs that were condemned, and are needed after all.
        objects: Other objects that are gone now: block maps, index segments, records.
        objects_bytes: Their size.
    """

    condemned: list[PackId] = field(default_factory=list)
    rewritten: list[PackId] = field(default_factory=list)
    moved_bytes: int = 0
    waiting: dict[PackId, int] = field(default_factory=dict)
    deleted: dict[PackId, int] = field(default_factory=dict)
    spared: set[PackId] = field(default_factory=set)
    objects: int = 0
    objects_bytes: int = 0

    @property
    def freed_bytes(self) -> int:
        """How much room there is more."""
        return sum(self.deleted.values()) + self.objects_bytes


@dataclass
class Reclaim:
    """One run of the reclaim.

    Attributes:
        store: Where; with the fence of its owner.
        run: Which run this is.
        clock: The present.
        scratch: A folder for one block map at a time.
        gate: See `Gate`.
        stop: Looked at everywhere.
        copies: Where else data blocks are; by default nothing is relied on.
        rewrite: See `Rewrite`; by default nothing is.
        is_live: Whether a run of a job is still under way; its packs are left alone.
        unknown: Told which packs lie there; those that nobody knows, and that have lain there for
            longer than any commit takes: what was left by runs that died before their index.
        progress: Told how far it is.
        wait: How long a pack is condemned before it is deleted.
        runs: In how many later runs at the earliest.
        most_share: How many of all packs may be condemned at once.
        many: How many small documents may lie there; see `tidying`.
    """

    store: DataStore
    run: RunId
    clock: Clock
    scratch: Path
    gate: Gate = nullcontext
    stop: StopToken = field(default_factory=StopToken)
    copies: Copies = no_copies
    rewrite: Rewrite = lambda _: {}
    is_live: Callable[[RunId], bool] = lambda _: False
    unknown: Unknown = lambda _: ()
    progress: Progress = lambda _done, _of: None
    wait: timedelta = WAIT
    runs: int = RUNS
    most_share: float = MAX_SHARE
    many: int = MANY
    done: Reclaimed = field(default_factory=Reclaimed)
    _sizes: dict[PackId, int] = field(default_factory=dict)
    _doomed: set[PackId] = field(default_factory=set)

    def work(self, candidates: Iterable[PackId], sparse: Iterable[PackId] = ()) -> Reclaimed:
        """Condemn what no version needs of these packs, and delete what waited long enough.

        Args:
            candidates: Packs that seem not to be needed; each is looked at.
            sparse: Packs of which little seems to be needed, the emptiest first; they are rewritten
                as far as the limit of what one run condemns goes.

        Raises:
            ReclaimStopped: Something is not as it should be; what was done is in `done`.
            StoreTakenOver: Another installation owns the store now.
            ShareUnreachable: The store does not answer; the next run goes on.
            Stopped: On request; likewise.
        """
        require_all_in_order(self.store, self.clock())
        with self.gate():
            finish_moves(self.store)
            set_aside_unfinished(self.store, layout.CONDEMNED)
        self._sizes = dict(self._listed())
        before = read_condemned(self.store)
        self._condemn([*candidates, *self.unknown(self._sizes)], before)
        self._compact(sparse)
        known = read_condemned(self.store)
        self._delete(known)
        self._tell(known)
        return self.done

    # condemning

    def _condemn(self, candidates: Iterable[PackId], before: Condemned) -> None:
        here = [p for p in dict.fromkeys(candidates) if p in self._sizes and p not in before.packs]
        self._doomed = {*before.packs, *said_lately(self.store)}
        for part in self._in_parts(here):
            mark = marked(self, part)
            with self.gate():
                look_again(mark)
                self._sizes = dict(self._listed()) if mark.needed else self._sizes
                self._condemn_some(self._not_needed(part, mark))
        records = [
            entry.name
            for entry in self.store.transport.entries(layout.FORGOTTEN)
            if layout.is_known(entry.name) and entry.name not in before.records
        ]
        say_condemned(self.store, (), records, run=self.run, clock=self.clock)

    def _condemn_some(self, packs: list[PackId]) -> None:
        condemned = self.done.condemned
        so_far, most = len(condemned), self.most_share
        require_few(so_far + len(packs), len(self._sizes), most_share=most, before=so_far)
        self._say_condemned(packs)

    def _say_condemned(self, packs: list[PackId]) -> None:
        condemned = self.done.condemned
        if packs:
            say_condemned(self.store, packs, (), run=self.run, clock=self.clock)
        self._doomed.update(packs)
        condemned += packs

    def _in_parts(self, packs: Collection[PackId]) -> Iterable[dict[PackId, set[ChunkId]]]:
        """Packs with what is in them, so many at a time that one mark can tell of all."""
        part: dict[PackId, set[ChunkId]] = {}
        chunks = 0
        for pack, locations in self._with_content(packs):
            if pack in part:
                continue
            part[pack] = set(locations.chunks())
            chunks += len(locations)
            if chunks >= MAX_WANTED:
                yield part
                part, chunks = {}, 0
        if part:
            yield part

    def _with_content(self, packs: Collection[PackId]) -> Iterator[tuple[PackId, PackLocations]]:
        """What the index says is in packs; of those that it does not know, what they say."""
        left = set(packs)
        unread: list[LikenessError] = []
        for known in known_packs(self.store, packs, damaged=unread.append):
            left.discard(known.pack)
            if not self.is_live(known.run):
                yield known.pack, known.locations
        if unread:
            return  # it may be the index that is not whole; the next run, then
        for pack in sorted(left):
            entry = Entry(layout.pack(pack), self._sizes.get(pack, 0))
            with suppress(*UNREADABLE):  # what is torn can be salvaged, and stays
                yield pack, read_table(self.store, entry)

    # compacting

    def _compact(self, sparse: Iterable[PackId]) -> None:
        """Rewrite packs, and condemn them once what is needed of them lies elsewhere, proved."""
        most = max(int(self.most_share * len(self._sizes)), 1) - len(self.done.condemned)
        here = (p for p in dict.fromkeys(sparse) if p in self._sizes and p not in self._doomed)
        for part in self._in_parts(list(islice(here, max(most, 0)))):
            mark = marked(self, part)
            moved = self.rewrite(self._to_move(part, mark))
            with self.gate():
                look_again(mark)
                self._sizes = dict(self._listed())
                going = self._not_needed(part, mark, moved)
                self._say_condemned(going)
                self.done.rewritten += going

    def _to_move(
        self, packs: Mapping[PackId, set[ChunkId]], mark: Mark
    ) -> Mapping[PackId, set[ChunkId]]:
        """What versions need of packs that is nowhere else; each data block once."""
        left = set().union(*(chunks & mark.needed for chunks in packs.values()))
        copies = self.copies(left) if left else {}
        left = {chunk for chunk in left if not self._is_held(copies.get(chunk), packs)}
        found: dict[PackId, set[ChunkId]] = {}
        for pack, chunks in packs.items():
            if mine := chunks & left:
                found[pack] = mine
                left -= mine
        return found

    def _not_needed(
        self,
        packs: Mapping[PackId, set[ChunkId]],
        mark: Mark,
        moved: Mapping[ChunkId, Copy] = MappingProxyType({}),
    ) -> list[PackId]:
        """Packs of which no version needs anything that no other pack holds, proved."""
        wanted = set().union(*(chunks & mark.needed for chunks in packs.values())) - moved.keys()
        copies = {**(self.copies(wanted) if wanted else {}), **moved}
        return [
            pack
            for pack, chunks in packs.items()
            if all(self._is_held(copies.get(chunk), packs) for chunk in chunks & mark.needed)
        ]

    def _is_held(self, copy: Copy | None, going: Collection[PackId]) -> bool:
        """Whether a copy is there in its full length, and neither goes as well nor is condemned."""
        return (
            copy is not None
            and copy.pack not in going
            and copy.pack not in self._doomed
            and self._sizes.get(copy.pack) == copy.size_bytes
        )

    # deleting

    def _delete(self, known: Condemned) -> None:
        ripe = known.ripe(self.clock(), self.wait, self.runs)
        here = [p for p, each in known.packs.items() if each.number in ripe and p in self._sizes]
        total = len(here)
        try:
            for part in self._in_parts(here):
                self._delete_part(part, total)
        finally:
            self._spare_for_good(known)
        left = Leftovers(self.store, self.scratch, self.stop, self.clock, self.is_live)
        left.delete(known, ripe, self.gate)
        few = Tidying(
            self.store,
            self.run,
            self.stop,
            self.clock,
            self.is_live,
            known,
            self.wait,
            self.runs,
            self.many,
        )
        few.tidy(self.gate)
        self.done.objects = left.objects + few.objects
        self.done.objects_bytes = left.objects_bytes + few.objects_bytes

    def _delete_part(self, part: Mapping[PackId, set[ChunkId]], total: int) -> None:
        mark = marked_again(self, part)
        packs = list(part)
        for start in range(0, len(packs), MAX_AT_ONCE):
            self.stop.check()
            batch = {pack: part[pack] for pack in packs[start : start + MAX_AT_ONCE]}
            with self.gate():
                self._delete_batch(batch, mark)
            self.progress(len(self.done.deleted) + len(self.done.spared), total)

    def _delete_batch(self, batch: Mapping[PackId, set[ChunkId]], mark: Mark) -> None:
        """Look once more, and delete; the gate is held."""
        look_again(mark)
        self._sizes = dict(self._listed()) if mark.needed else self._sizes
        going = self._not_needed(batch, mark)
        self.done.spared.update(set(batch) - set(going))
        if not going:
            return
        state_swept(self.store, tuple(sorted(going)), (), REASON, self.clock)
        for pack in going:
            with suppress(ObjectUnreadable, ShareRefused):  # the next run, then
                self.store.for_writing().delete(layout.pack(pack))
                self.done.deleted[pack] = self._sizes.pop(pack, 0)

    def _spare_for_good(self, known: Condemned) -> None:
        """Say that packs are needed after all.

        Not of those that an earlier owner condemned: it may be deleting them at this moment.
        """
        mine = self.done.spared - known.by_others(owner_number(self.store))
        if mine:
            say_condemned(self.store, mine, (), run=self.run, clock=self.clock, spared=True)

    def _listed(self) -> Iterable[tuple[PackId, int]]:
        for entry in self.store.transport.entries(layout.PACKS):
            if layout.is_known(entry.name):
                yield PackId(entry.name.rpartition("/")[2]), entry.size_bytes

    def _tell(self, known: Condemned) -> None:
        left = (p for p in known.packs if p not in self.done.deleted and p not in self.done.spared)
        self.done.waiting = {pack: self._sizes[pack] for pack in left if pack in self._sizes}


def marked(work: Reclaim, packs: Mapping[PackId, set[ChunkId]]) -> Mark:
    """What the versions on the share need of some packs."""
    mark = Mark(work.store, work.scratch, work.stop)
    mark.want(set().union(*packs.values()))
    mark.bring_up_to_date()
    return mark


def marked_again(work: Reclaim, packs: Mapping[PackId, set[ChunkId]]) -> Mark:
    """The same, right before they are deleted, whatever was found when they were condemned."""
    return marked(work, packs)


def look_again(mark: Mark) -> None:
    """Take in the versions that came since the mark was made; the gate is held.

    Also those that somebody was about to take back, and was killed.
    """
    finish_moves(mark.store)
    mark.bring_up_to_date()

"""A world of jobs, forgetting, deduplication and reclaim, in which everything may happen between
any two operations of the store: the product's own code, one seed after the other the same.

Each actor is a greenlet. Whenever it touches the store it gives way, and the seed decides who goes
on, who is killed there, who stands still for days, and what the clock says. So a history of months
takes a part of a second, and one that goes wrong goes wrong again.
"""

import hashlib
import random
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from greenlet import getcurrent, greenlet

from likeness.errors import LikenessError, UnknownVersion, WrittenLate
from likeness.model.disk import DiskFacts, VmFacts
from likeness.model.ids import ChunkId, DiskId, PackId, RunId, VmId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.copies import Copy
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import Counts
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.maps import FlatMap
from likeness.store.format.owning import Fence, take_over
from likeness.store.format.pack import PackReceipt
from likeness.store.format.relied_on import ReliedOn
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.prune.sweeping import delete_redundant_packs
from likeness.store.read.index import known_packs, write_index
from likeness.store.read.versions import last_version, load_map, read_version, record_names
from likeness.store.repair.undeleting import forgotten_records, undelete
from likeness.store.write.commit import commit_version
from likeness.store.write.forgetting import forget_versions, read_forgotten
from likeness.store.write.heads import write_head
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from tests.simulation.parts import (
    BEGIN,
    Actor,
    Controller,
    Killed,
    Lock,
    Packs,
    Rules,
    SimTransport,
)

HOUR = timedelta(hours=1)
DAY = 24 * HOUR
NEVER = datetime.max.replace(tzinfo=UTC)
POSITIONS = 5
CONTENTS = 30
WAIT = DAY
"""For which packs wait here; whoever stands still does so for longer, now and then."""
VMS = 2
REST = 12 * HOUR


class World:
    """One history."""

    def __init__(
        self, seed: int, store: DataStore, objects: Mapping[str, bytes], folder: Path, rules: Rules
    ) -> None:
        self.dice = random.Random(seed)
        self.rules, self.folder = rules, folder
        self.now, self.clock_error = BEGIN, timedelta()
        self.transport = SimTransport(self, objects)
        self._keys, self._facts = store.keys, store.facts
        self.actors: list[Actor] = []
        self.chunks_of_pack: dict[PackId, frozenset[ChunkId]] = {}
        self.needs: dict[str, frozenset[ChunkId]] = {}
        self.unflushed: list[PackId] = []
        self.quiet, self.take_over_is_due = True, False
        self.steps = self.kills = self.made = self.deleted = self.rewritten = self.relied_on = 0
        self.losses: list[str] = []
        self._main = getcurrent()
        self.owner = self.new_controller(first=True)
        self.quiet = False

    # -- time, and who goes on -------------------------------------------------------------------

    def name(self) -> str:
        return f"{self.dice.getrandbits(128):032x}"

    def clock(self) -> datetime:
        return self.now + self.clock_error

    def pause(self, *, risky: bool = False) -> None:
        """Let others go on; what is decided here is the seed's.

        Whoever is about to delete or condemn a pack, or to make a version, stands still more often:
        it is what every rule is about.
        """
        if self.quiet or getcurrent() is self._main:
            return
        actor = self._current
        if risky and self.dice.random() < 0.1:
            actor.wakes_at = self.now + (1 + 2 * self.dice.random()) * WAIT
            self.take_over_is_due = self.dice.random() < 0.3
        elif self.dice.random() < 0.004:
            hours = self.dice.choice((1, 12, 50, 200))
            actor.wakes_at = self.now + self.dice.random() * hours * HOUR
        self._main.switch()

    def rest(self, longest: timedelta) -> None:
        """Stand still for a while of one's own accord."""
        self._current.wakes_at = self.now + self.dice.random() * longest
        self._main.switch()

    def run(self, days: int) -> None:
        """Let it all happen."""
        end = BEGIN + days * DAY
        while self.now < end and not self.losses:
            ready = [each for each in self.actors if each.wakes_at <= self.now]
            if not ready:
                self.now = min((each.wakes_at for each in self.actors), default=end)
                continue
            self._current = self.dice.choice(ready)
            self.steps += 1
            self.now += timedelta(seconds=self.dice.random() * 20)
            self._go_on(self._current)
            self._happen()
        self.quiet = True
        self.look_for_losses()
        self._end()

    def _end(self) -> None:
        """Nobody goes on; what stands still would keep all of this in memory."""
        for actor in self.actors:
            if actor.thread is not None and actor.thread.gr_frame is not None:
                with suppress(Killed):
                    actor.thread.throw(Killed)
            actor.thread = None

    def _go_on(self, actor: Actor) -> None:
        if actor.thread is None or actor.thread.dead:
            actor.thread = greenlet(actor.work)
        kill = actor.thread and not self.quiet and self.dice.random() < 0.003
        try:
            if kill and actor.thread.gr_frame is not None:
                self.kills += 1
                with suppress(Killed):
                    actor.thread.throw(Killed)
                actor.thread = None
                actor.wakes_at = self.now + self.dice.random() * DAY
            else:
                actor.thread.switch()
        except LikenessError:
            actor.wakes_at = self.now + HOUR

    def _happen(self) -> None:
        luck = self.dice.random()
        if luck < 0.0001:
            self.clock_error = self.dice.choice((-40, 0, 0, 40)) * DAY
        elif (self.take_over_is_due or luck < 0.00015) and len(self.actors) <= VMS + 4:
            self.take_over()
        elif luck < 0.0007:
            self.power_cut()

    def power_cut(self) -> None:
        """What was not flushed is gone, at its far end."""
        for pack in self.unflushed[-12:]:
            for name in [n for n in self.transport.objects if n.endswith(f"/{pack}")]:
                self.transport.lose(name)
        self.unflushed.clear()

    def gate(self, controller: Controller) -> AbstractContextManager[None]:
        return self.held(controller.gate)

    @contextmanager
    def alone(self, controller: Controller) -> Generator[None, None, None]:
        """As the reclaim deletes: it relies on packs that the deduplication gives back."""
        with self.held(controller.claim), self.held(controller.gate):
            yield

    @contextmanager
    def held(self, lock: Lock) -> Generator[None, None, None]:
        while lock.holder is not None and self.rules.mutex:
            lock.waiting.append(self._current)
            self._current.wakes_at = NEVER
            self._main.switch()
        lock.holder = getcurrent()
        try:
            yield
        finally:
            lock.holder = None
            for actor in lock.waiting:
                actor.wakes_at = self.now
            lock.waiting.clear()

    # -- who is there ----------------------------------------------------------------------------

    def new_controller(self, *, first: bool = False) -> Controller:
        installation = self.name()
        store = DataStore(
            self.transport, self._facts, self._keys, fence=Fence(lambda: installation)
        )
        made = Controller(installation, store)
        if first:
            open_to_all = DataStore(self.transport, self._facts, self._keys)
            take_over(open_to_all, installation, host="", clock=self.clock)
        for at in range(VMS):
            vm = VmId(f"{at + 1:032x}")
            self.actors.append(Actor(f"job {at}", partial(self.job, made, vm), made))
        for work in (self.forgetting, self.reclaiming, self.deduplicating, self.taking_back):
            self.actors.append(Actor(work.__name__, partial(work, made), made))
        return made

    def take_over(self) -> None:
        """Another installation takes the store over; the old one does not know yet."""
        self.quiet = True
        made = self.new_controller()
        open_to_all = DataStore(self.transport, self._facts, self._keys)
        take_over(open_to_all, made.installation, host="", clock=self.clock)
        here = {layout.pack(p): p for p in self.chunks_of_pack}
        there = {here[n] for n in self.transport.objects if n in here}
        found = [
            (p.pack, p.size_bytes, [place.chunk for place in p.locations])
            for p in known_packs(made.store, damaged=lambda _: None)
            if p.pack in there
        ]
        made.learn(sorted(found))
        self.owner, self.quiet = made, False

    # -- what they do ----------------------------------------------------------------------------

    def job(self, controller: Controller, vm: VmId) -> None:
        """Back one VM up, for ever."""
        while True:
            self.rest(REST)
            store, run = controller.store, RunId(self.name())
            last = last_version(store, vm)
            disk = DiskId(vm)
            previous = None
            with ExitStack() as held:  # whoever is killed leaves no open file behind
                if last is not None:
                    path = self.folder / f"{self.name()}.previous"
                    previous = held.enter_context(load_map(store, last.record.disks[0], path))
                chunk_map = held.enter_context(
                    FlatMap(self.folder / f"{self.name()}.map", POSITIONS)
                )
                with suppress(LikenessError):
                    self._back_up(controller, vm, run, disk, previous, last, chunk_map)

    def _back_up(self, controller, vm, run, disk, previous, last, chunk_map) -> None:  # type: ignore[no-untyped-def]
        new: dict[ChunkId, None] = {}
        for at in range(POSITIONS):
            before = previous.ids(at, 1) if previous else bytes(32)
            changed = previous is None or self.dice.random() < 0.4
            chunk = _content(self.dice.randrange(CONTENTS)) if changed else ChunkId(before)
            chunk_map.write(at, chunk)
            if chunk != before:
                new[chunk] = None
        packs = Packs()
        relied_on = ReliedOn(self.folder / f"{self.name()}.relied")
        for chunk in new:
            if controller.copies([chunk]) and self.dice.random() < 0.7:
                relied_on.add(chunk)
            else:
                packs.append(self._pack(controller, run, [chunk]))
            self.pause()
        receipt = TransferReceipt(
            run=run,
            job="nightly",
            vm=VmFacts(vm, "web", "{}"),
            taken_at=self.clock(),
            consistency="standard",
            consistency_asked="standard",
            note="",
            disks=(DiskReceipt(DiskFacts(disk, "0", "0", POSITIONS << 16), chunk_map, previous),),
            packs=packs,  # type: ignore[arg-type]
            counts=Counts(),
            relied_on=relied_on,
            last=last,
        )
        ids = frozenset(ChunkId(chunk_map.ids(at, 1)) for at in range(POSITIONS))
        self._commit(controller, receipt, ids)
        controller.learn((p.pack, p.size_bytes, [x.chunk for x in p.locations]) for p in packs)

    def _commit(
        self, controller: Controller, receipt: TransferReceipt, ids: frozenset[ChunkId]
    ) -> None:
        def step(name: str) -> None:
            if name == "version recorded":
                self.made += 1

        name = ""
        try:
            made = commit_version(
                controller.store,
                receipt,
                clock=self.clock,
                step=step,
                gate=lambda: self.gate(controller),
                copies=controller.copies,
            )
            name = made.name
        finally:
            receipt.discard()
        self.needs[name] = ids
        self.relied_on += receipt.relied_on.chunks if receipt.relied_on else 0

    def _pack(self, controller: Controller, run: RunId, chunks: Sequence[ChunkId]) -> PackReceipt:
        pack = PackId(self.name())
        data = b"pack" + bytes.fromhex(pack)
        self.chunks_of_pack[pack] = frozenset(chunks)
        controller.store.for_writing().create(layout.arriving_pack(run, pack), [data])
        locations = PackLocations.of(
            Location(chunk, 100 * at, 100) for at, chunk in enumerate(chunks)
        )
        return PackReceipt(pack, len(data), hashlib.sha256(data).digest(), bytes(16), locations)

    def forgetting(self, controller: Controller) -> None:
        """Forget old versions, and now and then the newest."""
        while True:
            self.rest(REST)
            for vm in (VmId(f"{at + 1:032x}") for at in range(VMS)):
                names = record_names(controller.store, vm)
                old = [n for n in names[:-2] if self.dice.random() < 0.7]
                if names and self.dice.random() < 0.3:
                    old.append(names[-1])
                if old:
                    with self.gate(controller):
                        forget_versions(
                            controller.store, old, reason="", clock=self.clock, even_last=True
                        )
            if self.dice.random() < 0.3:
                write_head(controller.store, clock=self.clock)

    def taking_back(self, controller: Controller) -> None:
        """Take forgotten versions back."""
        while True:
            self.rest(REST)
            store = controller.store
            for record in [n for n in forgotten_records(store) if self.dice.random() < 0.4]:
                with suppress(UnknownVersion), self.alone(controller):
                    undelete(
                        store,
                        record,
                        run=RunId(self.name()),
                        clock=self.clock,
                        scratch=self.folder,
                        stop=StopToken(),
                    )

    def reclaiming(self, controller: Controller) -> None:
        """Reclaim, every day or so."""
        while True:
            self.rest(0.7 * REST)
            work = Reclaim(
                controller.store,
                RunId(self.name()),
                self.clock,
                self.folder,
                gate=lambda: self.alone(controller),
                copies=controller.copies,
                rewrite=partial(self._rewrite, controller),
                unknown=lambda there: [p for p in there if p not in controller.sizes],
                most_share=1.0,
                wait=WAIT,
                many=3,
            )
            packs = list(controller.sizes)
            try:
                work.work(packs, [p for p in packs if self.dice.random() < 0.2])
            finally:
                self.deleted += len(work.done.deleted)
                controller.condemned |= {*work.done.condemned} - work.done.spared
                controller.condemned -= work.done.spared
                controller.unlearn(work.done.deleted)

    def _rewrite(
        self, controller: Controller, needed: Mapping[PackId, Collection[ChunkId]]
    ) -> Mapping[ChunkId, Copy]:
        """Move data blocks into packs of up to three, and index them."""
        run = RunId(self.name())
        chunks = sorted(set().union(*needed.values()))
        made = []
        for start in range(0, len(chunks), 3):
            pack = self._pack(controller, run, chunks[start : start + 3])
            controller.store.for_writing().rename(
                layout.arriving_pack(run, pack.pack), layout.pack(pack.pack)
            )
            made.append(pack)
        list(write_index(controller.store, made, run=run, clock=self.clock))
        controller.learn((p.pack, p.size_bytes, [x.chunk for x in p.locations]) for p in made)
        self.rewritten += len(chunks)
        return {x.chunk: Copy(p.pack, p.size_bytes) for p in made for x in p.locations}

    def deduplicating(self, controller: Controller) -> None:
        """Give packs back that others make up for."""
        while True:
            self.rest(0.7 * REST)
            with self.held(controller.claim):
                if held := controller.holders():
                    given = delete_redundant_packs(
                        controller.store,
                        lambda held=held: held,  # type: ignore[misc]
                        reason="",
                        clock=self.clock,
                    )
                    controller.unlearn(given.packs)

    # -- what must be true -----------------------------------------------------------------------

    def look_for_losses(self) -> None:
        """Every version that is there, and every one that was acknowledged, must restore."""
        objects = self.transport.objects
        trash = f"{layout.FORGOTTEN}/"
        given_up = {layout.signed_name(name) for name in objects if name.startswith(trash)}
        given_up |= read_forgotten(self.owner.store).now
        there: set[ChunkId] = set()
        for pack in known_packs(self.owner.store, damaged=lambda _: None):
            if layout.pack(pack.pack) in objects:
                there |= self.chunks_of_pack[pack.pack]
        for name, needed in self.needs.items():
            if name in objects and self._is_void(name):
                continue
            if name in objects and not needed <= there:
                self.losses.append(f"{name} lacks {len(needed - there)} data blocks")
            elif name not in objects and name not in given_up:
                self.losses.append(f"{name} is gone")

    def _is_void(self, name: str) -> bool:
        """Whether somebody wrote it who had lost the store."""
        try:
            read_version(self.owner.store, name)
        except WrittenLate:
            return True
        return False


def _content(number: int) -> ChunkId:
    return ChunkId(hashlib.sha256(b"%d" % number).digest())

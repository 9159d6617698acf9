"""One installation owns a store; the one before it is refused at its next change."""

import random
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from likeness.codec.documents import Kind
from likeness.errors import LikenessError, NameTaken, ShareRefused, StoreTakenOver, WrittenLate
from likeness.model.ids import PackId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.recorded import recorded_versions
from likeness.store.check.scrubbing import scrub_signatures
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, read_frame
from likeness.store.format.documents import HeadDocument, SweptDocument, VersionClear
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.owning import Fence, newest_owner, owner_of, take_over
from likeness.store.format.public_view import open_public
from likeness.store.format.turns import Pens
from likeness.store.keys.keyring import add_recovery_words
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.prune.sweeping import delete_redundant_packs, deleted_packs
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version, last_version, read_version, record_names
from likeness.store.write.commit import Step, commit_version
from likeness.store.write.forgetting import forget_versions
from likeness.store.write.heads import read_head_state, write_head
from likeness.transport.base import Transport
from likeness.transport.metered import MeteredTransport
from tests.unit.workshop import CHUNK, Workshop, noise


def opened(workshop: Workshop, installation: str) -> DataStore:
    store = open_store_with_key_file(workshop.transport, workshop.key_file)
    store.fence = Fence(lambda: installation)
    return store


def test_who_owned_a_store_is_refused_and_the_new_owner_is_not(
    workshop: Workshop,
) -> None:
    old, new = owner_of(workshop.store), random_name()
    before = opened(workshop, old)
    before.require_writable()

    taken = take_over(workshop.store, new, host="new.example", clock=workshop.clock)

    assert (taken.number, owner_of(workshop.store)) == (2, new)
    with pytest.raises(StoreTakenOver, match=rf"by installation {new[:8]} on new\.example at"):
        add_recovery_words(before)
    with pytest.raises(StoreTakenOver), before.again() as second:
        second.for_writing()
    add_recovery_words(opened(workshop, new))
    assert take_over(workshop.store, new, host="", clock=workshop.clock) == taken, "safe to repeat"
    take_over(workshop.store, old, host="", clock=workshop.clock)
    before.require_writable()


def test_a_take_over_that_was_torn_in_mid_write_shuts_nobody_out(
    workshop: Workshop,
) -> None:
    old, new = owner_of(workshop.store), random_name()
    workshop.transport.create(layout.numbered(layout.OWNER, 2), [b"torn"])

    opened(workshop, old).require_writable()
    with pytest.raises(StoreTakenOver):
        opened(workshop, new).require_writable()

    take_over(workshop.store, new, host="", clock=workshop.clock)
    owner, _ = newest_owner(workshop.store)
    assert owner is not None
    assert (owner.number, owner.installation) == (3, new)


# --- what is written late, and copies ---


def paused_at(at: str, happens: Callable[[], object]) -> Step:
    """A step that something happens at, as if the process had slept there."""

    def told(step: str) -> None:
        if step == at:
            happens()

    return told


@pytest.mark.parametrize("at", ["packs admitted", "maps written", "index written"])
def test_an_old_controller_that_wakes_up_in_a_commit_is_refused(
    workshop: Workshop, at: str
) -> None:
    kept = workshop.back_up(noise(1, 3 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    old, new = opened(workshop, owner_of(workshop.store)), random_name()
    receipt = workshop.transfer(noise(2, 3 * CHUNK))
    taker = open_store_with_key_file(workshop.transport, workshop.key_file)

    with pytest.raises(StoreTakenOver):
        commit_version(
            old,
            receipt,
            clock=workshop.clock,
            step=paused_at(at, lambda: take_over(taker, new, host="", clock=workshop.clock)),
        )

    assert record_names(taker, workshop.vm) == [kept.name]
    assert workshop.restore(kept, store=taker) == noise(1, 3 * CHUNK)


def test_a_record_that_was_written_when_the_store_was_taken_over_is_acknowledged_to_nobody(
    workshop: Workshop,
) -> None:
    old, new = opened(workshop, owner_of(workshop.store)), random_name()
    receipt = workshop.transfer(noise(2, 3 * CHUNK))
    taker = open_store_with_key_file(workshop.transport, workshop.key_file)

    with pytest.raises(StoreTakenOver):
        commit_version(
            old,
            receipt,
            clock=workshop.clock,
            step=paused_at(
                "version recorded", lambda: take_over(taker, new, host="", clock=workshop.clock)
            ),
        )


def test_what_a_fenced_controller_finishes_late_counts_for_nothing(workshop: Workshop) -> None:
    kept = workshop.back_up(noise(1, 3 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    asleep = open_store_with_key_file(workshop.transport, workshop.key_file)  # past its last check
    receipt = workshop.transfer(noise(2, 3 * CHUNK))
    new = random_name()
    taken = take_over(workshop.store, new, host="", clock=workshop.clock)
    mine = opened(workshop, new)
    write_head(mine, clock=workshop.clock)

    late = commit_version(asleep, receipt, clock=workshop.clock)
    asleep.write(
        layout.numbered(layout.SWEPT, 1),
        Kind.SWEPT,
        SweptDocument(number=1, made_at="", reason="", packs=(PackId("ab" * 16),)),
    )
    head = HeadDocument(number=3, previous="0" * 64, made_at="")
    asleep.write(layout.numbered(layout.HEADS, 3), Kind.HEAD, head)

    again = open_store_with_key_file(workshop.transport, workshop.key_file)
    for reader in (again, open_public(workshop.transport), mine):
        with pytest.raises(WrittenLate, match=r"under owner 1, after owner 2 had taken"):
            reader.read(late.name, Kind.VERSION, VersionClear)
        assert reader.read(kept.name, Kind.VERSION, VersionClear)
        assert (read_head_state(again).number, deleted_packs(again)) == (2, set())
        whole = recorded_versions(reader)
        assert list(whole.versions) == [kept.name]
        assert {each.weight for each in whole.told} == {Weight.NOTICE}
        told = list(scrub_signatures(reader, stop=StopToken()))
        assert {each.weight for each in told} == {Weight.NOTICE}
        assert {each.name.split("/")[0] for each in told} == {"versions", "gc"}
        assert {each.weight for each in audit_presence(reader, stop=StopToken())} <= {Weight.NOTICE}
    assert last_version(again, workshop.vm) == read_version(again, kept.name)

    workshop.store = mine
    newer = workshop.back_up(noise(3, 3 * CHUNK))
    head_state = write_head(mine, clock=workshop.clock)

    assert (head_state.number, head_state.problem) == (3, "")
    assert record_names(mine, workshop.vm) == [kept.name, newer.name]
    assert taken.number == read_frame(workshop.transport, newer.name).owner == 2
    assert {each.weight for each in audit_presence(mine, stop=StopToken())} == {Weight.NOTICE}


def test_a_pack_that_was_to_go_when_the_store_was_taken_over_is_relied_on_by_nobody(
    workshop: Workshop,
) -> None:
    disk = noise(1, 3 * CHUNK)
    versions = [workshop.back_up(disk, vm=VmId(random_name())) for _ in range(2)]
    first, second = (
        workshop.packs_of(v) - workshop.packs_of(o) or workshop.packs_of(v)
        for v, o in (versions, versions[::-1])
    )
    packs = sorted(first | second)
    assert len(packs) == 2
    keeps, goes = packs
    asleep = open_store_with_key_file(workshop.transport, workshop.key_file)
    size = {each.pack: each.size_bytes for each in known_packs(asleep)}
    deletes = layout.pack(goes)

    class Sleeps(MeteredTransport):
        """Never gets to its delete: it is asleep then."""

        def delete(self, name: str) -> None:
            raise ShareRefused(name)

    asleep.transport = Sleeps(workshop.transport, folder=layout.PACKS)
    delete_redundant_packs(
        asleep, lambda: {goes: {keeps: size[keeps]}}, reason="", clock=workshop.clock
    )
    new = random_name()
    take_over(workshop.store, new, host="", clock=workshop.clock)
    mine = opened(workshop, new)

    gone = delete_redundant_packs(
        mine, lambda: {keeps: {goes: size[goes]}}, reason="", clock=workshop.clock
    )
    workshop.transport.delete(deletes)  # it wakes up

    assert gone.packs == ()
    assert workshop.restore(versions[0], store=mine) == disk
    assert workshop.restore(versions[1], store=mine) == disk


def test_of_two_copies_of_an_installation_one_is_refused(
    workshop: Workshop, tmp_path: Path
) -> None:
    owner = owner_of(workshop.store)

    def begun(folder: str) -> DataStore:
        store = open_store_with_key_file(workshop.transport, workshop.key_file)
        store.fence = Fence(lambda: owner, Pens(tmp_path / folder / "pens"))
        return store

    here, beside = begun("here"), begun("here")
    add_recovery_words(here)
    add_recovery_words(beside)
    add_recovery_words(here)  # another process of the same installation
    shutil.copytree(tmp_path / "here", tmp_path / "copy")

    add_recovery_words(begun("copy"))
    with pytest.raises(StoreTakenOver, match=r"a copy of this installation writes on .* since"):
        add_recovery_words(here)
    with pytest.raises(StoreTakenOver):
        begun("here").require_writable()
    begun("copy").require_writable()
    begun("lost").require_writable()  # a folder that was lost, on the same machine
    assert len([n for n in workshop.names(layout.OWNER) if layout.is_turn(n)]) == 2

    take_over(workshop.store, new := random_name(), host="", clock=workshop.clock)
    taken = open_store_with_key_file(workshop.transport, workshop.key_file)
    taken.fence = Fence(lambda: new, Pens(tmp_path / "here" / "pens"))
    add_recovery_words(taken)


def test_two_copies_that_interleave_lose_nothing_that_one_was_told_is_kept(
    tmp_path: Path,
) -> None:
    reclaimed = 0
    for seed in range(6):
        (folder := tmp_path / str(seed)).mkdir()
        reclaimed += interleave(folder, seed)
    assert reclaimed


@pytest.mark.torture
def test_two_hundred_interleavings_of_two_copies(tmp_path: Path) -> None:
    reclaimed = 0
    for seed in range(100, 300):
        (folder := tmp_path / str(seed)).mkdir()
        reclaimed += interleave(folder, seed)
    assert reclaimed > 200


class Stepped(MeteredTransport):
    """Hands over to somebody else before each change."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, folder=layout.PACKS)
        self.go, self.came = threading.Semaphore(0), threading.Semaphore(0)

    def step(self) -> None:
        self.came.release()
        self.go.acquire()

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self.step()
        super().create(name, parts)

    def rename(self, source: str, target: str) -> None:
        self.step()
        super().rename(source, target)

    def delete(self, name: str) -> None:
        self.step()
        super().delete(name)


class Copy:
    """One of two copies of an installation; what it does is done one change at a time."""

    def __init__(self, workshop: Workshop, folder: Path, owner: str, chance: random.Random) -> None:
        self.workshop, self.pens, self.owner, self.chance = workshop, folder / "pens", owner, chance
        self.scratch = folder
        self.kept: list[tuple[Version, bytes]] = []
        self.given_up: set[str] = set()
        self.reclaimed = 0
        self.failed: list[LikenessError] = []
        self.refused = False
        self._busy: threading.Thread | None = None

    def begin(self, work: Callable[[DataStore], None]) -> None:
        store = open_store_with_key_file(self.workshop.transport, self.workshop.key_file)
        store.fence = Fence(lambda: self.owner, Pens(self.pens))
        store.transport = self.stepped = Stepped(self.workshop.transport)

        def run() -> None:
            try:
                work(store)
            except StoreTakenOver:
                self.refused = True
            except NameTaken:
                pass  # the other was first; it is tried again
            except LikenessError as cause:  # what it needed is going: told, and not acknowledged
                self.failed.append(cause)
            finally:
                self._busy = None
                self.stepped.came.release()

        self._busy = threading.Thread(target=run)
        self._busy.start()
        self.stepped.came.acquire()

    def go_on(self, machines: list[VmId], disks: list[bytes]) -> None:
        if self._busy is not None:
            self.stepped.go.release()
            self.stepped.came.acquire()
        elif not self.refused:
            backs_up = partial(
                self.backs_up, self.chance.choice(machines), self.chance.choice(disks)
            )
            acts = (backs_up, backs_up, self.dedups, self.dedups, self.validates, self.reclaims)
            self.begin(self.chance.choice(acts))

    def does(self, work: Callable[[DataStore], None]) -> None:
        self.begin(work)
        self.finish()

    def finish(self) -> None:
        while self._busy is not None:
            self.go_on([], [])

    def backs_up(self, vm: VmId, disk: bytes, store: DataStore) -> None:
        receipt = self.workshop.transfer(disk, vm=vm)
        version = commit_version(store, receipt, clock=self.workshop.clock)
        self.kept.append((version, disk))

    def dedups(self, store: DataStore) -> None:
        """Of packs that hold the same, all but one go, whichever this copy thinks of."""
        alike: dict[frozenset[bytes], list[PackId]] = defaultdict(list)
        size = {}
        for each in known_packs(store):
            if layout.pack(each.pack) in self.workshop.objects:
                alike[frozenset(place.chunk for place in each.locations)].append(each.pack)
                size[each.pack] = each.size_bytes
        chosen: dict[PackId, dict[PackId, int]] = {}
        for packs in alike.values():
            keeps = self.chance.choice(packs)
            chosen |= {pack: {keeps: size[keeps]} for pack in packs if pack != keeps}
        delete_redundant_packs(store, lambda: chosen, reason="", clock=self.workshop.clock)

    def reclaims(self, store: DataStore) -> None:
        """Give a version up, and delete what nothing needs at once, without a week to think."""
        if self.kept:
            version, _ = self.chance.choice(self.kept)
            self.given_up.add(version.name)
            forget_versions(store, [version.name], reason="", clock=self.workshop.clock)
        work = Reclaim(
            *(store, RunId(random_name()), self.workshop.clock, self.scratch),
            wait=timedelta(0),
            runs=0,
            most_share=1.0,
        )
        try:
            work.work([pack.pack for pack in known_packs(store, damaged=lambda _: None)])
        finally:
            self.reclaimed += len(work.done.deleted) + work.done.objects

    def validates(self, store: DataStore) -> None:
        write_head(store, clock=self.workshop.clock)


def interleave(folder: Path, seed: int) -> int:
    """Everything that was acknowledged is there; how many objects were deleted on the way."""
    chance = random.Random(seed)
    workshop = Workshop(folder)
    owner = owner_of(workshop.store)
    machines, disks = [VmId(random_name()) for _ in range(2)], [noise(0, CHUNK), noise(1, CHUNK)]
    for name in ("a", "b"):
        (folder / name).mkdir()
    first = Copy(workshop, folder / "a", owner, chance)
    for _ in range(4):
        first.does(partial(first.backs_up, chance.choice(machines), chance.choice(disks)))
    shutil.copy(first.pens, folder / "b")
    second = Copy(workshop, folder / "b", owner, chance)
    alone = chance.randrange(30)  # so that the other begins in the middle of something
    for at in range(alone + 100):
        chance.choice((first, first if at < alone else second)).go_on(machines, disks)
    first.finish()
    second.finish()
    for each in (first, second, first):
        each.does(each.validates)
    assert first.refused != second.refused
    for version, disk in (*first.kept, *second.kept):
        if version.name not in first.given_up | second.given_up:
            assert workshop.restore(version) == disk
    return first.reclaimed + second.reclaimed

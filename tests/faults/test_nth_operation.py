"""Every single operation of a backup, a commit, a head and a restore fails once, in every way.

Afterwards a clean run must succeed, what was acknowledged must be there bit for bit, nothing may
ever restore to something else, and the sweep must find every orphan of the inboxes.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from likeness.errors import Damaged, LikenessError, TransientError
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.prune.sweeping import sweep_inboxes
from likeness.store.read.versions import Version, read_version, record_names, vms
from likeness.store.write.heads import read_head_state, write_head
from likeness.store.write.receipts import TransferReceipt
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from tests.support.faulty import Fault, FaultyTransport
from tests.unit.workshop import CHUNK, Maker, Workshop, changed, noise

FIRST = noise("first", 5 * CHUNK) + bytes(CHUNK) + noise("tail", 333)
SECOND = changed(FIRST, (CHUNK, noise("second", 2 * CHUNK)), (5 * CHUNK, b"not zero any more"))
THIRD = changed(SECOND, (0, b"third"))
EXPECTED = {1: FIRST}


@dataclass
class Walk:
    """A backup with a commit, a head and a restore; what of it was acknowledged."""

    workshop: Workshop
    receipt: TransferReceipt | None = None
    acknowledged: list[tuple[Version, bytes]] = field(default_factory=list)
    restored: bytes | None = None

    def go(self, transport: Transport) -> None:
        """Walk; whatever goes wrong leaves here."""
        workshop = self.workshop
        workshop.store = open_store_with_key_file(transport, workshop.key_file)
        bundle = workshop.bundle(workers=1, pack_bytes=CHUNK)
        self.receipt = workshop.transfer(SECOND, inbox=transport, bundle=bundle)
        self.acknowledged.append((workshop.commit(self.receipt), SECOND))
        write_head(workshop.store, clock=workshop.clock)
        self.restored = workshop.restore_in_memory(self.acknowledged[0][0])


def whole_store(workshop: Workshop, transport: Transport) -> DataStore:
    workshop.transport = transport
    workshop.store = open_store_with_key_file(transport, workshop.key_file)
    return workshop.store


def require_invariants(
    workshop: Workshop, transport: Transport, acknowledged: list[tuple[Version, bytes]]
) -> None:
    """Look at a store after a fault, with a transport that is well again."""
    store = whole_store(workshop, transport)
    for version, disk in acknowledged:
        assert read_version(store, version.name) == version, "nothing acknowledged vanishes"
        assert workshop.restore_in_memory(version) == disk
        assert workshop.is_proved(version, workshop.packs_of(version))

    clean = workshop.back_up(THIRD)
    assert workshop.restore_in_memory(clean) == THIRD
    write_head(store, clock=workshop.clock)
    assert read_head_state(store).vms.keys() == {workshop.vm}

    for name in record_names(store, vms(store)[0]):
        try:
            found = read_version(store, name)
        except Damaged:
            continue  # torn before it was acknowledged; it never was a version
        assert workshop.restore_in_memory(found) in (FIRST, SECOND, THIRD)

    sweep_inboxes(store, lambda _: False)
    assert list(transport.entries("in")) == []
    assert transport.folders("in") == []


def prepared(make_workshop: Maker) -> tuple[Workshop, list[tuple[Version, bytes]]]:
    workshop = make_workshop()
    first = workshop.back_up(FIRST)
    write_head(workshop.store, clock=workshop.clock)
    return workshop, [(first, FIRST)]


def operations_of(workshop: Workshop, transport: Transport) -> int:
    watched = FaultyTransport(transport)
    Walk(workshop).go(watched)
    return len(watched.operations)


RAISING = [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE]


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("fault", RAISING, ids=lambda fault: fault.value)
def test_a_share_may_fail_at_any_operation(
    make_workshop: Maker, fault: Fault, *, for_good: bool
) -> None:
    workshop, known = prepared(make_workshop)
    healthy, before = workshop.transport, dict(workshop.objects)
    count = operations_of(workshop, healthy)
    failed = repeated = 0
    problems: list[LikenessError] = []

    for at in range(1, count + 1):
        workshop.objects.clear()
        workshop.objects.update(before)
        walk = Walk(workshop)
        try:
            walk.go(FaultyTransport(healthy, at=at, fault=fault, for_good=for_good))
            assert walk.restored == SECOND
        except LikenessError as problem:
            failed += 1
            problems.append(problem)
        if walk.receipt is not None and not walk.acknowledged:
            whole_store(workshop, healthy)
            walk.acknowledged.append((workshop.commit(walk.receipt), SECOND))
            repeated += 1

        require_invariants(workshop, healthy, known + walk.acknowledged)

    assert all(isinstance(problem, TransientError) for problem in problems)
    assert all("injected" in str(problem) for problem in problems)
    assert count > 30
    assert failed > count // 2
    assert repeated > 5


def test_a_share_may_stall_at_any_operation(make_workshop: Maker) -> None:
    workshop, known = prepared(make_workshop)
    healthy, before = workshop.transport, dict(workshop.objects)
    count = operations_of(workshop, healthy)

    for at in range(1, count + 1):
        workshop.objects.clear()
        workshop.objects.update(before)
        stalling = FaultyTransport(healthy, at=at, fault=Fault.STALL, stall_seconds=0.01)
        walk = Walk(workshop)
        walk.go(stalling)

        assert stalling.stalled.is_set()
        assert walk.restored == SECOND
        assert len(walk.acknowledged) == 1
    require_invariants(workshop, healthy, known + walk.acknowledged)


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: these tests flush thousands of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def died_in(child: Callable[[], None]) -> bool:
    """Do something in a process of its own; say whether it was killed while at it."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover  # nobody counts there
        try:
            child()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    "fault",
    [Fault.KILL_BEFORE, Fault.KILL_TORN, Fault.KILL_AFTER],
    ids=lambda fault: fault.value,
)
def test_the_process_may_be_killed_at_any_operation(
    make_workshop: Maker, quick_folder: Path, fault: Fault
) -> None:
    root = quick_folder / "store"
    workshop = make_workshop(transport=LocalTransport(root, make=True))
    known = [(workshop.back_up(FIRST), FIRST)]
    write_head(workshop.store, clock=workshop.clock)
    whole = quick_folder / "whole"
    shutil.copytree(root, whole)
    count = operations_of(workshop, LocalTransport(root))

    killed = 0
    for at in range(1, count + 1):
        shutil.rmtree(root)
        shutil.copytree(whole, root)
        faulty = FaultyTransport(LocalTransport(root), at=at, fault=fault)
        killed += died_in(lambda faulty=faulty: Walk(workshop).go(faulty))  # type: ignore[misc]

        require_invariants(workshop, LocalTransport(root), known)

    assert killed == count

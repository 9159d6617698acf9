"""The fault-injecting transport goes wrong where it is told to, and nowhere else."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from likeness.errors import ShareRefused, ShareUnreachable
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport

ROOT = Path(__file__).parents[2]


def story(transport: Transport) -> None:
    """Five operations, three of which change something."""
    transport.create("a", [b"12", b"345678"])
    transport.read("a")
    transport.rename("a", "b")
    list(transport.entries(""))
    transport.delete("b")


def test_without_a_fault_it_only_counts() -> None:
    transport = FaultyTransport(MemoryTransport())

    story(transport)

    assert [(op.number, op.method, op.name) for op in transport.operations] == [
        (1, "create", "a"),
        (2, "read", "a"),
        (3, "rename", "a"),
        (4, "entries", ""),
        (5, "delete", "b"),
    ]
    assert not transport.happened


def test_only_what_is_asked_for_is_counted() -> None:
    transport = FaultyTransport(MemoryTransport(), counting=CHANGING)

    story(transport)

    assert [op.method for op in transport.operations] == ["create", "rename", "delete"]


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("fault", [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_it_raises_at_the_chosen_operation(fault: Fault, at: int) -> None:
    transport = FaultyTransport(MemoryTransport(), at=at, fault=fault)

    with pytest.raises(ShareUnreachable, match=f"operation {at}.*injected"):
        story(transport)

    assert len(transport.operations) == at
    assert transport.happened


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (Fault.RAISE_BEFORE, {}),
        (Fault.TORN_WRITE, {"a": b"1234"}),
        (Fault.RAISE_AFTER, {"a": b"12345678"}),
    ],
)
def test_what_a_spoilt_creation_leaves_behind(fault: Fault, left: dict[str, bytes]) -> None:
    memory = MemoryTransport()

    with pytest.raises(ShareUnreachable):
        story(FaultyTransport(memory, at=1, fault=fault))

    assert memory.objects == left


@pytest.mark.parametrize(
    ("fault", "left"),
    [(Fault.RAISE_BEFORE, {"a"}), (Fault.TORN_WRITE, {"a"}), (Fault.RAISE_AFTER, {"b"})],
)
def test_what_a_spoilt_rename_leaves_behind(fault: Fault, left: set[str]) -> None:
    memory = MemoryTransport()

    with pytest.raises(ShareUnreachable):
        story(FaultyTransport(memory, at=3, fault=fault))

    assert set(memory.objects) == left


def test_afterwards_it_works_again_or_never_again() -> None:
    for for_good in (False, True):
        transport = FaultyTransport(MemoryTransport(), at=1, for_good=for_good)
        with pytest.raises(ShareUnreachable):
            transport.create("a", [b"1"])
        if for_good:
            with pytest.raises(ShareUnreachable, match="gone"):
                transport.create("b", [b"1"])
            with pytest.raises(ShareUnreachable, match="gone"):
                transport.space()
        else:
            transport.create("b", [b"1"])
            assert transport.read("b") == b"1"


def test_the_error_can_be_chosen() -> None:
    transport = FaultyTransport(MemoryTransport(), at=1, error=ShareRefused)

    with pytest.raises(ShareRefused):
        transport.create("a", [b"1"])


def test_a_stall_lasts_until_it_is_ended() -> None:
    memory = MemoryTransport()
    transport = FaultyTransport(memory, at=1, fault=Fault.STALL)
    writing = threading.Thread(target=transport.create, args=("a", [b"1"]))

    writing.start()
    assert transport.stalled.wait(10)
    assert memory.objects == {}
    transport.go_on.set()
    writing.join(10)

    assert memory.objects == {"a": b"1"}


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        ("KILL_BEFORE", None),
        ("KILL_TORN", b"1234"),
        ("KILL_AFTER", b"12345678"),
    ],
)
def test_a_killed_process_leaves_what_it_had_written(
    tmp_path: Path, fault: str, left: bytes | None
) -> None:
    program = f"""
        from tests.support.faulty import Fault, FaultyTransport
        from likeness.transport.local import LocalTransport

        transport = FaultyTransport(LocalTransport({str(tmp_path)!r}), at=2, fault=Fault.{fault})
        transport.create("before", [b"1"])
        transport.create("object", [b"12345678"])
        print("still alive")
    """

    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (ended.returncode, ended.stdout) == (-9, "")
    store = LocalTransport(tmp_path)
    assert store.read("before") == b"1"
    assert [e.name for e in store.entries("")] == ["before", *(["object"] if left else [])]
    if left:
        assert store.read("object") == left

"""A transport that fails at a chosen operation: how crash safety is tried out, step by step."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from likeness.errors import LikenessError, ShareUnreachable
from likeness.transport.base import Entry, Listing, Space, Transport

_T = TypeVar("_T")

CHANGING = frozenset({"create", "rename", "delete", "delete_folder"})
"""Methods that change the store."""
READING = frozenset({"read", "size", "entries", "folders", "space"})


class Fault(Enum):
    """What happens at the chosen operation."""

    RAISE_BEFORE = "raise before"
    """Nothing is done, then `ShareUnreachable`."""
    RAISE_AFTER = "raise after"
    """The operation is carried out, but its caller sees `ShareUnreachable`."""
    TORN_WRITE = "torn write"
    """`create` stores only the first bytes under the name; any other operation is not done."""
    STALL = "stall"
    """Nothing happens until `FaultyTransport.go_on` is set, then the operation is carried out."""
    KILL_BEFORE = "kill before"
    """The process kills itself (SIGKILL)."""
    KILL_TORN = "kill in the middle"
    """As `TORN_WRITE`, but the process kills itself."""
    KILL_AFTER = "kill after"
    """The operation is carried out, then the process kills itself."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One counted call."""

    number: int
    """From 1."""
    method: str
    name: str
    """Object or folder; empty for `space`."""


class FaultyTransport:
    """Passes everything on to another transport, and goes wrong once.

    Attributes:
        inner: The transport underneath, which never fails on purpose.
        operations: What was counted so far, in order.
        unreadable: Objects to the error that reading them, and asking for their size, ends with.
        misread: Objects to how many more times reading them gives a flipped bit.
        go_on: Ends a stall.
        stalled: Set as soon as a stall has begun.
    """

    def __init__(
        self,
        inner: Transport,
        *,
        at: int | None = None,
        fault: Fault = Fault.RAISE_BEFORE,
        counting: Collection[str] = CHANGING | READING,
        for_good: bool = False,
        torn_share: float = 0.5,
        error: Callable[[str], LikenessError] = ShareUnreachable,
        stall_seconds: float = 60.0,
    ) -> None:
        """Choose the operation and what happens there.

        Args:
            inner: Where operations go.
            at: Number of the operation to spoil, from 1; none to only count.
            fault: What happens there.
            counting: Methods that count; `CHANGING` leaves out those that only read.
            for_good: Whether every later operation fails too, as after a crash of the client:
                then not even a clean-up reaches the store.
            torn_share: Share of the bytes that a torn write stores, 0 to 1.
            error: Makes the error from a sentence.
            stall_seconds: Longest stall, so that a test cannot hang for ever.
        """
        self.inner = inner
        self.operations: list[Operation] = []
        self.unreadable: dict[str, LikenessError] = {}
        self.misread: dict[str, int] = {}
        self.go_on = threading.Event()
        self.stalled = threading.Event()
        self._at = at
        self._fault = fault
        self._counting = frozenset(counting)
        self._for_good = for_good
        self._torn_share = torn_share
        self._error = error
        self._stall_seconds = stall_seconds
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        where = "nowhere" if self._at is None else f"at operation {self._at}"
        return f"FaultyTransport({self.inner!r}, {self._fault.value} {where})"

    @property
    def happened(self) -> bool:
        """Whether the chosen operation was reached."""
        return self._at is not None and len(self.operations) >= self._at

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`."""
        self._pass_on(
            "create",
            name,
            lambda: self.inner.create(name, parts),
            torn=lambda: self.inner.create(name, [self._prefix(parts)]),
        )

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        data = self._pass_on("read", name, lambda: self.inner.read(name, offset, length))
        with self._lock:
            left = self.misread.get(name, 0)
            self.misread[name] = max(left - 1, 0)
        if not left or not data:
            return data
        middle = len(data) // 2
        return b"".join((data[:middle], bytes([data[middle] ^ 1]), data[middle + 1 :]))

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        return self._pass_on("size", name, lambda: self.inner.size(name))

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`; counted, and failing, when it is called."""
        return self._pass_on("entries", folder, lambda: self.inner.entries(folder, deep=deep))

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        return self._pass_on("folders", folder, lambda: self.inner.folders(folder))

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`; one of `entries` to whoever counts."""
        return self._pass_on("entries", folder, lambda: self.inner.listing(folder))

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`."""
        self._pass_on("rename", name, lambda: self.inner.rename(name, new_name))

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        self._pass_on("delete", name, lambda: self.inner.delete(name))

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        self._pass_on("delete_folder", folder, lambda: self.inner.delete_folder(folder))

    def space(self) -> Space:
        """See `Transport.space`."""
        return self._pass_on("space", "", self.inner.space)

    def again(self) -> AbstractContextManager["FaultyTransport"]:
        """See `Transport.again`; what goes wrong goes wrong over every connection."""
        return nullcontext(self)

    def close(self) -> None:
        """See `Transport.close`; never counted."""
        self.inner.close()

    def _pass_on(
        self,
        method: str,
        name: str,
        action: Callable[[], _T],
        torn: Callable[[], None] = lambda: None,
    ) -> _T:
        with self._lock:
            dead = self._for_good and self.happened
            operation = Operation(len(self.operations) + 1, method, name)
            counted = method in self._counting
            if counted:
                self.operations.append(operation)
        if name in self.unreadable and method in ("read", "size"):
            raise self.unreadable[name]
        if dead:
            raise self._error(f"{method} {name}: the connection is gone (injected)")
        if counted and operation.number == self._at:
            return self._spoil(operation, action, torn)
        return action()

    def _spoil(
        self, operation: Operation, action: Callable[[], _T], torn: Callable[[], None]
    ) -> _T:
        if self._fault is Fault.STALL:
            self.stalled.set()
            self.go_on.wait(self._stall_seconds)
            return action()
        if self._fault in (Fault.RAISE_AFTER, Fault.KILL_AFTER):
            action()
        elif self._fault in (Fault.TORN_WRITE, Fault.KILL_TORN):
            torn()
        if self._fault in (Fault.KILL_BEFORE, Fault.KILL_TORN, Fault.KILL_AFTER):
            os.kill(os.getpid(), signal.SIGKILL)
        raise self._error(
            f"{operation.method} {operation.name}: {self._fault.value}"
            f" at operation {operation.number} (injected)"
        )

    def _prefix(self, parts: Sequence[bytes]) -> bytes:
        data = b"".join(parts)
        return data[: int(len(data) * self._torn_share)]

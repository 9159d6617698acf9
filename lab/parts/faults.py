"""Failures on demand, set by tests or through the control API."""

import re
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from lab.facts import load_facts
from lab.failures import XapiFailure

BACKEND_CODE = re.compile(r"SR_BACKEND_FAILURE_\d+\Z")
ASYNC = "Async."
LIST_METHODS = "system.listMethods"
POINTS = (LIST_METHODS, "disk.snapshot", "VDI.import", "VM.export", "VM.import")
EXPORT_KINDS = ("stall", "short", "second-answer", "session", "pending")


class Caller(Protocol):
    """What faults need of the call they are to strike."""

    name: str
    task: str

    def check(self) -> None:
        """Stop here when the task was cancelled."""


def _require_known(method: str) -> None:
    """Refuse the name of a message that does not exist: its fault would never strike."""
    known = {m.full_name: m for m in load_facts().messages()}
    message = known.get(method.removeprefix(ASYNC))
    if method not in POINTS and (
        message is None or (method.startswith(ASYNC) and not message.asynchronous)
    ):
        raise ValueError(f"the server knows no message {method}")


@dataclass
class CallFault:
    """A message, or a point inside one, that fails or hangs.

    Attributes:
        method: Such as `VM.snapshot` or `VDI.get_uuid`, in any form it is called by;
            `Async.VM.snapshot` is that form alone, and one of `POINTS` a step inside a call or a
            transfer: `disk.snapshot` is each disk inside `VM.snapshot`.
        code: What it fails with; empty means that it hangs until its task is cancelled.
        at: The first call to fail, counted from 1 and from the moment the fault is set.
        times: How many calls fail from there on; 0 means all.
    """

    method: str
    code: str = ""
    parameters: list[str] = field(default_factory=list)
    at: int = 1
    times: int = 1
    seen: int = 0

    def due(self) -> bool:
        """Count one call and say whether it has to fail."""
        self.seen += 1
        return self.seen >= self.at and (not self.times or self.seen < self.at + self.times)


@dataclass
class ExportFault:
    """A transfer of disk data that goes wrong.

    Attributes:
        kind: `stall` (no more data, connection open), `short` (ends early), `second-answer` (an
            HTTP 500 inside the body), `session` (all sessions end, the transfer fails), `pending`
            (all is sent, but the task never ends unless it is cancelled; HTTP only).
        after_bytes: How much of the disk is sent before.
        vdi: Uuid of the disk, or empty for any.
        times: How many transfers are hit.
    """

    kind: str
    after_bytes: int = 0
    vdi: str = ""
    times: int = 1


class Faults:
    """What is set to go wrong in one pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[CallFault] = []
        self._exports: deque[ExportFault] = deque()
        self._held_vbds: dict[str, int] = {}
        self._released = threading.Event()

    # -- setting ---------------------------------------------------------------------------------

    def fail(self, method: str, code: str, *parameters: str, at: int = 1, times: int = 1) -> None:
        """Let the `at`-th call of a message from now on fail; see `CallFault`.

        Raises:
            ValueError: The server knows no such message, or no such code.
        """
        _require_known(method)
        if code not in load_facts().errors and not BACKEND_CODE.match(code):
            raise ValueError(f"the server knows no code {code}")
        with self._lock:
            self._calls.append(CallFault(method, code, list(parameters), at, times))

    def hang(self, method: str, *, at: int = 1, times: int = 1) -> None:
        """Let a message never end, unless its task is cancelled or the faults are cleared.

        Raises:
            ValueError: The server knows no such message.
        """
        _require_known(method)
        with self._lock:
            self._calls.append(CallFault(method, at=at, times=times))

    def fail_export(
        self, kind: str, *, after_bytes: int = 0, vdi: str = "", times: int = 1
    ) -> None:
        """Let the next transfers of disk data go wrong; see `ExportFault`."""
        if kind not in EXPORT_KINDS:
            raise ValueError(f"{kind} is none of {', '.join(EXPORT_KINDS)}")
        with self._lock:
            self._exports.append(ExportFault(kind, after_bytes, vdi, times))

    def hold_vbd(self, vbd: str = "*", *, times: int = 1) -> None:
        """Let a VBD, or any, refuse the next polite unplugs."""
        with self._lock:
            self._held_vbds[vbd] = times

    def clear(self) -> None:
        """Forget all faults; what hangs goes on."""
        with self._lock:
            self._calls.clear()
            self._exports.clear()
            self._held_vbds.clear()
            self._released.set()
            self._released = threading.Event()

    def listing(self) -> dict[str, Any]:
        """What is set, as plain values."""
        with self._lock:
            return {
                "calls": [asdict(fault) for fault in self._calls],
                "exports": [asdict(fault) for fault in self._exports],
                "vbds": dict(self._held_vbds),
            }

    # -- striking --------------------------------------------------------------------------------

    def strike(self, call: Caller, at: str = "") -> None:
        """Fail or hang here if a fault says so."""
        names = [at or call.name] + ([f"{ASYNC}{call.name}"] if call.task and not at else [])
        with self._lock:
            due = [fault for fault in self._calls if fault.method in names and fault.due()]
            released = self._released
        for fault in due:
            if fault.code:
                raise XapiFailure(fault.code, *fault.parameters)
            while not released.wait(0.02):
                call.check()

    def refuse_unplug(self, vbd: str, *, force: bool) -> None:
        """Refuse the polite unplug of a VBD that is held."""
        with self._lock:
            key = vbd if vbd in self._held_vbds else "*"
            left = self._held_vbds.get(key, 0)
            if force or left <= 0:
                return
            self._held_vbds[key] = left - 1
        raise XapiFailure("DEVICE_DETACH_REJECTED", "VBD", vbd, "the guest still uses it")

    def take_export_fault(self, vdi: str) -> ExportFault | None:
        """Use up one fault for a transfer of this disk that begins now."""
        with self._lock:
            for fault in self._exports:
                if fault.vdi in ("", vdi):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._exports.remove(fault)
                    return fault
        return None

    def released(self) -> threading.Event:
        """Set when the faults of now are cleared."""
        with self._lock:
            return self._released

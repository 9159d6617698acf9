"""How much of its machine an agent takes."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass

from likeness.agent.protocol import Header

MIB = 1 << 20
_ALONE_MIB = 76
"""What an agent needs before it reads anything."""
_WORKER_MIB = 17
"""Segments that wait for a thread, and what it makes of one."""
_PACKS = 4
"""Packs in memory at once: one that fills, and those under way."""
_LEAST_PACK = MIB
_MAX_WORKERS = 4
_DEFAULT_MIB = 143
"""150 MB: what an agent takes of a machine whose owner has said nothing."""
_IO_CLASSES = {"best-effort": (2 << 13) | 7, "idle": 3 << 13}
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}


@dataclass(frozen=True, slots=True)
class Fitting:
    """What keeps an agent within its memory."""

    workers: int
    pack_bytes: int


def fitting(told: Header) -> Fitting:
    """As many threads and as large packs as were asked for, or as there is memory for."""
    workers = told.workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    memory = told.memory_mib or (0 if told.workers else _DEFAULT_MIB)
    if not memory:
        return Fitting(workers, told.pack_bytes)
    room = max(memory - _ALONE_MIB, 0)
    packs = min(told.pack_bytes, max(room * MIB // (2 * _PACKS), _LEAST_PACK))
    left = room - _PACKS * packs // MIB
    return Fitting(max(min(workers, left // _WORKER_MIB), 1), packs)


def step_back(told: Header) -> None:
    """Let others go first; to be called before any thread is started."""
    os.nice(min(told.nice, 19))
    number = _IOPRIO_SET.get(os.uname().machine)
    if told.io_class in _IO_CLASSES and number:
        with suppress(OSError, AttributeError):  # where it cannot be had it is not needed to work
            ctypes.CDLL(None).syscall(number, 1, 0, _IO_CLASSES[told.io_class])

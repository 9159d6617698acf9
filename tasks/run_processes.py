"""Whether a run that Prefect calls pending or running still has a process on this machine.

Prefect learns of an end only from the process itself or from its worker. When the machine loses
power both go, and the run keeps its deployment's turn until somebody says that it is dead.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

_RUN = b"PREFECT__FLOW_RUN_ID="
_ALL = Path("/proc")
_BEGINS_WITHIN = timedelta(seconds=10)
"""So soon a run whose worker is alive to start its process has one, at the latest."""
_BEGINS_WITHIN_AT_MOST = timedelta(minutes=2)
"""The same, where the worker that took the run may be at it still."""


def is_elsewhere(infrastructure: str | None) -> bool:
    """Whether a run is another machine's, by what its worker noted: its host and process."""
    host = (infrastructure or "").rpartition(":")[0]
    return host not in ("", socket.gethostname())


def has_process(run: UUID) -> bool:
    """Whether a process that was started for a run is still there."""
    wanted = (_RUN + str(run).encode(), _RUN + run.hex.encode())
    return any(line in wanted for each in _processes() for line in _read(each, "environ"))


def had_time_to_begin(since: datetime, now: datetime) -> bool:
    """Whether a run that was handed out then would have its process by now.

    Args:
        since: When a worker took it.
        now: The present.
    """
    if since < _booted_at():
        return True
    older = any(begun <= since for begun in _workers_begun())
    return now - since > (_BEGINS_WITHIN_AT_MOST if older else _BEGINS_WITHIN)


def _booted_at() -> datetime:
    facts = dict(line.split(" ", 1) for line in (_ALL / "stat").read_text().splitlines())
    return datetime.fromtimestamp(int(facts["btime"]), UTC)


def _workers_begun() -> Iterator[datetime]:
    """When each of Prefect's workers on this machine was started."""
    booted, ticks = _booted_at(), os.sysconf("SC_CLK_TCK")
    for each in _processes():
        words = _read(each, "cmdline")
        if b"worker" in words and b"start" in words:
            with suppress(OSError, IndexError, ValueError):
                facts = (each / "stat").read_text().rpartition(")")[2].split()
                yield booted + timedelta(seconds=int(facts[19]) / ticks)


def _processes() -> Iterator[Path]:
    return (each for each in _ALL.iterdir() if each.name.isdigit())


def _read(process: Path, what: str) -> list[bytes]:
    try:
        return (process / what).read_bytes().split(b"\0")
    except OSError:  # it is gone, or somebody else's
        return []

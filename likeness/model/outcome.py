"""What became of a VM in a run, for reports and for the job's final state."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from likeness.model.ids import VmId


class NamedVm(Protocol):
    """A VM, whoever knows it: the pool, or whoever set up its guest."""

    @property
    def vm(self) -> VmId:
        """Which."""

    @property
    def name(self) -> str:
        """What its owner calls it."""


class SizedVm(NamedVm, Protocol):
    """A VM of which the size is known too."""

    @property
    def size_bytes(self) -> int:
        """Of its disks together; 0 if nobody knows."""


class VmState(StrEnum):
    """How a VM's part of a run ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class VmOutcome:
    """One VM's part of a run; all sizes measured, in bytes.

    Attributes:
        vm: Which; empty if the pool does not know it.
        name: What its owner calls it.
        state: How it ended.
        version: The version that was made; empty if none was.
        disk_bytes: Virtual size of its disks.
        read_bytes: Read from the snapshot.
        sent_bytes: Sealed bytes sent to the store.
        new_bytes: Uncompressed bytes in them.
        known_bytes: Uncompressed bytes that were not sent, since the store had them of any VM.
        dropped_bytes: Sealed bytes that the global deduplication found another VM to have.
        freed_bytes: Of these, bytes given back at once.
        snapshot_seconds: How long the snapshot existed.
        read_by: Who read its disks, in words; empty if nobody did.
        cpu_seconds: What reading, sealing and sending has cost there.
        sentence: What a person should know: why it failed, or why it got less than was asked for.
        warnings: What went wrong once its version was there, and the next run does again.
    """

    name: str
    state: VmState
    vm: VmId = field(default=VmId(""))
    version: str = ""
    disk_bytes: int = 0
    read_bytes: int = 0
    sent_bytes: int = 0
    new_bytes: int = 0
    known_bytes: int = 0
    dropped_bytes: int = 0
    freed_bytes: int = 0
    snapshot_seconds: float = 0.0
    read_by: str = ""
    cpu_seconds: float = 0.0
    sentence: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def kept_bytes(self) -> int:
        """Sealed bytes this version added to the store."""
        return self.sent_bytes - self.freed_bytes

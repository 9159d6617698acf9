"""What a snapshot is, told in values that may be handed from task to task."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from likeness.model.disk import DiskFacts, VmFacts
from likeness.xen.marks import Owner
from likeness.xen.references import Reference

MEMORY = "memory"
"""The position of the guest's memory among a snapshot's disks."""


class Consistency(enum.StrEnum):
    """In which state a snapshot finds the guest."""

    STANDARD = "standard"
    """As after a power cut: every disk at its own instant."""
    QUIESCED = "quiesced"
    """The guest's own agent has brought files to rest; old hosts only."""
    MEMORY = "memory"
    """With the guest's memory: suspended for a moment, then going on."""
    OFFLINE = "offline"
    """Shut down first, started again after."""


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """One frozen disk.

    Attributes:
        facts: The live disk at the moment of the snapshot.
        ref: XenServer's reference to the frozen disk.
        uuid: Uuid of the frozen disk, with dashes.
        tracked: Whether changes since an earlier snapshot can be asked for.
        source: XenServer's reference to the live disk; empty for the guest's memory.
        labels: Its `other_config` since it was marked as ours.
    """

    facts: DiskFacts
    ref: str
    uuid: str
    tracked: bool
    source: str = ""
    labels: Mapping[str, str] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class XenSnapshot:
    """What the hypervisor has frozen for one run; ours to delete.

    A description, no live thing: it may be handed from task to task.

    Attributes:
        ref: XenServer's reference to the snapshot.
        uuid: Its uuid, with dashes.
        vm: The VM it was taken of, with its full configuration.
        disks: In the order of their positions; with memory, its image last, at `MEMORY`.
        owner: Whose it is.
        requested: The consistency that was asked for.
        obtained: The consistency it has.
        reason: Why these differ, and anything else worth recording; empty when there is nothing.
        seconds: How long it took to take.
        references: What the disks can be compared with, as listed right before; none: not known.
        drives: XenServer's references to the snapshot's drives.
        frozen: The same to every frozen disk in them, also of those that were not asked for.
    """

    ref: str
    uuid: str
    vm: VmFacts
    disks: tuple[SnapshotDisk, ...]
    owner: Owner
    requested: Consistency
    obtained: Consistency
    reason: str
    seconds: float
    references: tuple[Reference, ...] | None = None
    drives: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

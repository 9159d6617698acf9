"""What can be read: a disk, as the agent sees it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from likeness.model.ids import DiskId, VmId


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of a disk."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk at the moment of a snapshot.

    Attributes:
        disk: The live disk, the same from version to version.
        name: What its owner calls it.
        position: Where it is plugged in, such as ``0``.
        size_bytes: Its virtual size.
    """

    disk: DiskId
    name: str
    position: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class VmFacts:
    """A VM as it is when its snapshot is taken.

    Attributes:
        vm: Its uuid, without dashes.
        name: What its owner calls it.
        configuration: Everything XenServer says about it, to make it again; JSON text.
    """

    vm: VmId
    name: str
    configuration: str


class DiskReader(Protocol):
    """Gives the bytes of one frozen disk, once, in order.

    A reader may leave out ranges it knows to be zero (`holes`) or unchanged since the last
    version (`unchanged`); everything else comes as segments.
    """

    @property
    def size_bytes(self) -> int:
        """Virtual size of the disk."""

    def segments(self, segment_bytes: int, *, skip: "Skips | None" = None) -> Iterator["Segment"]:
        """Read the disk from its start to its end.

        Args:
            segment_bytes: Length of every segment but the last; a multiple of the chunk size.
                Segments start at multiples of it.
            skip: Ranges that need not be read.

        Yields:
            Segments in ascending order. A range in no segment is zero, or lies in `skip`.

        Raises:
            TransferBroken: The source stopped half-way.
            DiskShrank: The source ended before `size_bytes`.
        """

    def close(self) -> None:
        """Let go of the source; safe to repeat."""


@dataclass(frozen=True, slots=True)
class Skips:
    """Ranges of a disk that have not changed since its last version, in order."""

    unchanged: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive bytes of a disk."""

    offset: int
    data: bytes

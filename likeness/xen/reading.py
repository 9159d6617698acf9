"""Choosing how a frozen disk is read."""

from dataclasses import dataclass

from likeness.stopping import StopToken
from likeness.xen.http_reader import IDLE_SECONDS, HttpDiskReader
from likeness.xen.pacing import BandwidthCap
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import SnapshotDisk


@dataclass(frozen=True, slots=True)
class Opened:
    """A reader, and why it is this one.

    Attributes:
        reader: Gives the disk's bytes; to be closed.
        way: ``nbd`` or ``http``.
        reason: One sentence for the report.
    """

    reader: HttpDiskReader
    way: str
    reason: str


def open_reader(
    xen: XenSession,
    disk: SnapshotDisk,
    *,
    stop: StopToken | None = None,
    cap: BandwidthCap | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> Opened:
    """The best way to read a frozen disk that this pool offers."""
    reader = HttpDiskReader(xen, disk, stop=stop, cap=cap, idle_seconds=idle_seconds)
    return Opened(reader=reader, way="http", reason="read as one stream")

"""Choosing how a frozen disk is read."""

import enum
from dataclasses import dataclass

from likeness.errors import BadInput
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.nbd_reader import NbdDiskReader, NotOffered
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import SnapshotDisk


class Way(enum.StrEnum):
    """How a frozen disk's bytes come out of the pool."""

    NBD = "nbd"
    """Range by range, many requests at once; only what changed is read."""
    HTTP = "http"
    """As one stream from start to end; every pool can do it."""


@dataclass(frozen=True, slots=True)
class ChosenReader:
    """A reader, and why it is this one.

    Attributes:
        reader: Gives the disk's bytes; to be closed by whoever asked for it.
        way: How it reads.
        reason: One sentence for the report.
    """

    reader: NbdDiskReader | HttpDiskReader
    way: Way
    reason: str


def open_reader(
    xen: XenSession,
    disk: SnapshotDisk,
    *,
    stop: StopToken | None = None,
    cap: BandwidthCap | None = None,
    idle_seconds: float | None = None,
    way: Way | None = None,
) -> ChosenReader:
    """The best way to read a frozen disk that this pool offers: NBD where it works, else HTTP.

    Args:
        xen: Must stay open as long as the reader is used.
        disk: One of a snapshot's disks.
        stop: Ends reading early.
        cap: A bandwidth cap, shared with other readers of the job.
        idle_seconds: Give up when nothing comes for so long; the session's own if not given.
        way: Use this one and no other.

    Raises:
        BadInput: NBD was asked for and is not to be had; the message says why.
        DiskShrank: The disk is smaller than it was when it was frozen.
        Stopped: Somebody asked to stop.
    """
    if way is not Way.HTTP:
        try:
            reader = NbdDiskReader(xen, disk, stop=stop, cap=cap, idle_seconds=idle_seconds)
        except NotOffered as cause:
            why = f"NBD cannot be used: {cause}"
        else:
            return ChosenReader(reader, Way.NBD, "the pool offers NBD and it answers")
        if way is Way.NBD:
            raise BadInput(
                f"disk {disk.facts.position} ({disk.facts.name}) was to be read by NBD, but {why}"
            )
    else:
        why = "NBD was not asked for"
    stream = HttpDiskReader(xen, disk, stop=stop, cap=cap, idle_seconds=idle_seconds)
    return ChosenReader(stream, Way.HTTP, f"read as one stream; {why}")

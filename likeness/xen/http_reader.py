"""Reading a frozen disk as one stream from the host's HTTP handler.

The host says 200 before it has attached the disk, and its body has no length: a failure shows as
an early end, as a second HTTP answer in the middle of the data, or only in the task. So the bytes
are counted and the task is asked at the end, always.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from likeness.errors import DiskShrank, HostBusy, LikenessError, TransferBroken
from likeness.model.disk import Segment, Skips
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.xen.failures import Refusal, explained
from likeness.xen.http_exchange import Body, SessionForgotten, get_body, second_answer
from likeness.xen.pieces import pieces_to_read
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import SnapshotDisk
from likeness.xen.tasks import outcome_of, own_task

PATH = "/export_raw_vdi"
TASK_SECONDS = 60.0
_TAIL_BYTES = 8192


class HttpDiskReader:
    """Gives a frozen disk's bytes once, in order; every byte of it crosses the wire."""

    def __init__(
        self,
        xen: XenSession,
        disk: SnapshotDisk,
        *,
        stop: StopToken | None = None,
        cap: BandwidthCap | None = None,
        idle_seconds: float | None = None,
        task_seconds: float = TASK_SECONDS,
    ) -> None:
        """Only remember what to read; the transfer begins with the first segment.

        Args:
            xen: Must stay open as long as the reader is used.
            disk: One of a snapshot's disks.
            stop: Looked at for every piece.
            cap: Shared with other readers of the job.
            idle_seconds: Give up when nothing comes for so long; the session's own if not given.
            task_seconds: How long the host may take, after the last byte, to say whether what
                it sent is to be trusted; never longer than the session's own.
        """
        self._xen, self._disk = xen, disk
        self._stop = stop or StopToken()
        self._cap = cap
        self._idle_seconds = xen.idle_seconds if idle_seconds is None else idle_seconds
        self._body: Body | None = None
        self._task_seconds = min(task_seconds, xen.task_seconds)
        self.read_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Virtual size of the disk."""
        return self._disk.facts.size_bytes

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        """Read the disk from its start to its end.

        Args:
            segment_bytes: No segment is longer, none crosses a multiple of it; without `skip`
                all are so long but the last.
            skip: Ranges to leave out; they cross the wire all the same.

        Yields:
            Segments in ascending order.

        Raises:
            TransferBroken: The host did not give the whole disk, or says afterwards that what
                it gave is not to be trusted; nothing of it may be kept.
            DiskShrank: The disk is smaller than it was when it was frozen.
            Stopped: Somebody asked to stop.
        """
        if self.size_bytes == 0:
            return
        for last in (False, True):
            used = self._xen.ref
            with explained(f"reading {self._name}"), self._task() as task:
                try:
                    self._body = self._ask(task)
                except SessionForgotten:
                    if last:
                        raise self._broken("the host accepts no session for it") from None
                else:
                    yield from self._read(self._body, task, segment_bytes, skip)
                    return
                finally:
                    self.close()
            self._xen.renew(used)

    def close(self) -> None:
        """Hang up; safe to repeat."""
        if self._body is not None:
            self._body.close()
            self._body = None

    @property
    def _name(self) -> str:
        return f"disk {self._disk.facts.position} ({self._disk.facts.name})"

    def _task(self) -> AbstractContextManager[str]:
        return own_task(self._xen, f"reading {self._name}")

    def _ask(self, task: str) -> Body:
        query = {"vdi": self._disk.uuid, "task_id": task, "format": "raw"}
        return get_body(self._xen, PATH, query, idle_seconds=self._idle_seconds, stop=self._stop)

    def _read(
        self, body: Body, task: str, segment_bytes: int, skip: Skips | None
    ) -> Iterator[Segment]:
        buffer = memoryview(bytearray(min(segment_bytes, self.size_bytes)))
        at = 0
        for piece in pieces_to_read(self.size_bytes, segment_bytes, skip):
            at = self._passed_over(body, task, buffer, at, piece.offset)
            view = buffer[: piece.length]
            self._filled(body, task, view, at)
            at = piece.end
            yield Segment(piece.offset, bytes(view))
        self._passed_over(body, task, buffer, at, self.size_bytes)
        self._must_be_whole(body, task)

    def _passed_over(self, body: Body, task: str, buffer: memoryview, at: int, end: int) -> int:
        while at < end:
            view = buffer[: min(len(buffer), end - at)]
            self._filled(body, task, view, at)
            at += len(view)
        return end

    def _filled(self, body: Body, task: str, view: memoryview, at: int) -> None:
        if self._cap is not None:
            self._cap.take(len(view), stop=self._stop)
        try:
            got = body.fill(view)
        except TransferBroken as cause:
            raise self._broken(str(cause)) from cause
        self.read_bytes += got
        if got < len(view):
            raise self._too_short(task, at + got, bytes(view[max(0, got - _TAIL_BYTES) : got]))

    def _too_short(self, task: str, got: int, tail: bytes) -> LikenessError:
        """Why the body ended early: a failure of the transfer, or a disk that shrank."""
        amount = f"the host sent {got:,} of {self.size_bytes:,} bytes"
        failure = self._failure_of(task) or second_answer(tail)
        if failure:
            return self._broken(f"{amount}, then failed: {failure}")
        return DiskShrank(
            f"{self._name}: {amount} and calls that complete: the disk is smaller than it was "
            "when it was frozen. Scan its storage, then run the job again"
        )

    def _must_be_whole(self, body: Body, task: str) -> None:
        try:
            more = body.fill(memoryview(bytearray(1)))
        except TransferBroken:
            more = 0  # every byte was there; the task says whether they count
        if more:
            raise self._broken(f"the host sent more than the disk's {self.size_bytes:,} bytes")
        failure = self._failure_of(task)
        if failure:
            raise self._broken(f"the host sent every byte, then took it back: {failure}")

    def _failure_of(self, task: str) -> str:
        """What the transfer's task says went wrong; empty when it succeeded."""
        try:
            outcome_of(self._xen, task, "the transfer", deadline_seconds=self._task_seconds)
        except (Refusal, HostBusy) as failure:
            return str(failure)
        return ""

    def _broken(self, cause: str) -> TransferBroken:
        return TransferBroken(
            f"{self._name}: {cause}. Nothing of this transfer is kept; the disk is read again "
            "from the same snapshot"
        )

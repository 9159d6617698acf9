"""Reading a frozen disk range by range: only what is needed crosses the wire."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from likeness.errors import DiskShrank, TransferBroken
from likeness.model.disk import Extent, Segment, Skips
from likeness.pacing import BandwidthCap
from likeness.retrying import Attempts, Pauses
from likeness.stopping import StopToken
from likeness.xen.endpoints import fingerprint_of_pem
from likeness.xen.failures import Refusal, reason
from likeness.xen.nbd import READ_LIMIT, NbdAddress, NbdConnection, first_that_answers
from likeness.xen.pieces import pieces_to_read
from likeness.xen.session import XenSession
from likeness.xen.snapshot_facts import SnapshotDisk

CONNECT_SECONDS = 5.0
_AHEAD_BYTES = 16 << 20
_AHEAD_REQUESTS = 32
_WHILE_BROKEN = Pauses(1.0, 1.0, tries=3)


class NotOffered(Exception):
    """The pool does not offer the disk this way; says why. Inside `likeness.xen` only."""


@dataclass(slots=True)
class _Piece:
    """A piece that was asked for: its bytes, and what of it is still missing."""

    extent: Extent
    view: memoryview
    missing: set[int] = field(default_factory=set)
    whole: bool = False


class NbdDiskReader:
    """Gives a frozen disk's bytes once, in order, asking ahead for what comes next.

    When a connection breaks, another one goes on where it stopped: a frozen disk does not change.
    """

    def __init__(
        self,
        xen: XenSession,
        disk: SnapshotDisk,
        *,
        stop: StopToken | None = None,
        cap: BandwidthCap | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Connect, so that whoever chooses a way knows whether this one works.

        Args:
            xen: Must stay open as long as the reader is used.
            disk: One of a snapshot's disks.
            stop: Looked at while waiting.
            cap: Shared with other readers of the job.
            idle_seconds: Give up when nothing comes for so long; the session's own if not given.

        Raises:
            NotOffered: The pool does not offer this, or no address answers.
            DiskShrank: The disk is smaller than it was when it was frozen.
            Stopped: Somebody asked to stop.
        """
        self._xen, self._disk = xen, disk
        self._stop = stop or StopToken()
        self._cap = cap
        self._idle_seconds = xen.idle_seconds if idle_seconds is None else idle_seconds
        self._closed = False
        self.read_bytes = 0
        try:
            self._connection: NbdConnection | None = self._connected()
        except TransferBroken as cause:
            raise NotOffered(f"no address of the pool gives it: {cause}") from cause

    @property
    def size_bytes(self) -> int:
        """Virtual size of the disk."""
        return self._disk.facts.size_bytes

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        """Read what is needed of the disk, from its start to its end.

        Args:
            segment_bytes: No segment is longer, none crosses a multiple of it; without `skip`
                all are so long but the last.
            skip: Ranges that are not read at all.

        Yields:
            Segments in ascending order.

        Raises:
            TransferBroken: The disk cannot be read any more.
            DiskShrank: The disk is smaller than it was when it was frozen.
            Stopped: Somebody asked to stop.
        """
        to_ask = pieces_to_read(self.size_bytes, segment_bytes, skip)
        asked: deque[_Piece] = deque()
        exhausted = False
        attempts: Attempts | None = None
        while not exhausted or asked:
            if self._closed:
                raise self._broken("it was let go of half-way")
            try:
                self._reconnect(asked)
                exhausted = exhausted or self._ask_ahead(to_ask, asked)
                if asked:
                    self._take_one(asked)
                    attempts = None
            except TransferBroken as cause:
                self._hang_up()
                attempts = attempts or Attempts(_WHILE_BROKEN, wait=self._wait)
                if not attempts.again():
                    raise self._broken(cause) from cause
            while asked and asked[0].whole:
                done = asked.popleft()
                yield Segment(done.extent.offset, bytes(done.view))

    def close(self) -> None:
        """Let go of the disk; safe to repeat."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask_ahead(self, to_ask: Iterator[Extent], asked: deque[_Piece]) -> bool:
        """Send requests for the next pieces; whether that was the last one."""
        while self._has_room(asked):
            extent = next(to_ask, None)
            if extent is None:
                return True
            piece = _Piece(extent, memoryview(bytearray(extent.length)))
            asked.append(piece)
            self._ask_for(piece)
        return False

    def _has_room(self, asked: deque[_Piece]) -> bool:
        return (
            self._live().outstanding < _AHEAD_REQUESTS
            and sum(piece.extent.length for piece in asked) < _AHEAD_BYTES
        )

    def _ask_for(self, piece: _Piece) -> None:
        piece.missing.clear()
        for start in range(0, piece.extent.length, READ_LIMIT):
            part = piece.view[start : start + READ_LIMIT]
            if self._cap is not None:
                self._cap.take(len(part), stop=self._stop)
            piece.missing.add(self._live().request(piece.extent.offset + start, part))

    def _take_one(self, asked: deque[_Piece]) -> None:
        handle = self._live().receive()
        for piece in asked:
            if handle in piece.missing:
                piece.missing.discard(handle)
                if not piece.missing:
                    piece.whole = True
                    self.read_bytes += piece.extent.length
                return

    def _hang_up(self) -> None:
        """Leave a broken connection."""
        if self._connection is not None:
            self._connection.hang_up()
            self._connection = None

    def _wait(self, seconds: float) -> None:
        self._stop.wait(seconds)
        self._stop.check()

    def _reconnect(self, asked: deque[_Piece]) -> None:
        """Where the connection is lost: a new one, and everything that has not come once more."""
        if self._connection is not None:
            return
        try:
            self._connection = self._connected()
        except NotOffered as cause:
            raise TransferBroken(str(cause)) from cause
        for piece in asked:
            if not piece.whole:
                self._ask_for(piece)

    def _live(self) -> NbdConnection:
        if self._connection is None:
            raise TransferBroken("the connection is lost")
        return self._connection

    def _connected(self) -> NbdConnection:
        connection = first_that_answers(
            servers_of(self._xen, self._disk.ref),
            connect_seconds=CONNECT_SECONDS,
            idle_seconds=self._idle_seconds,
            stop=self._stop,
        )
        if connection.size_bytes < self.size_bytes:
            connection.close()
            raise DiskShrank(
                f"disk {self._disk.facts.position} ({self._disk.facts.name}) has "
                f"{connection.size_bytes:,} bytes now and had {self.size_bytes:,} when it was "
                "frozen. Scan its storage, then run the job again"
            )
        return connection

    def _broken(self, cause: object) -> TransferBroken:
        return TransferBroken(
            f"disk {self._disk.facts.position} ({self._disk.facts.name}): {cause}; "
            "it is read again from the same snapshot"
        )


def servers_of(xen: XenSession, disk_ref: str) -> list[NbdAddress]:
    """Where the pool offers a frozen disk.

    Raises:
        NotOffered: Nowhere, or this pool cannot.
    """
    try:
        offers = xen.call("VDI.get_nbd_info", disk_ref)
    except Refusal as refusal:
        raise NotOffered(reason(refusal)) from refusal
    if not offers:
        raise NotOffered("no network of the pool has the purpose nbd")
    return [
        NbdAddress(
            address=str(offer["address"]),
            port=int(offer["port"]),
            export=str(offer["exportname"]),
            fingerprint=_fingerprint(str(offer.get("cert", ""))),
            subject=str(offer.get("subject", "")),
        )
        for offer in offers
    ]


def _fingerprint(pem: str) -> str:
    try:
        return fingerprint_of_pem(pem) if pem.strip() else ""
    except ValueError:
        return ""

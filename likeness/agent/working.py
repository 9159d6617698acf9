"""The agent's side of the protocol: takes an order, transfers, tells what became of it."""

import os
import resource
import select
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import likeness
from likeness.agent import limits
from likeness.agent.freezing import Freezing, find_disks
from likeness.agent.known_ids import KnownIds, UnsortedIds
from likeness.agent.patched import Patch, PatchedReader
from likeness.agent.protocol import (
    ALIVE_SECONDS,
    DISTRUSTED_BYTES,
    HEAD_BYTES,
    PROTOCOL,
    SILENCE_SECONDS,
    End,
    Failure,
    Found,
    FrameKind,
    Header,
    Hello,
    Log,
    Progress,
    frame,
    head_of,
    map_frames,
    opening,
    read_skips,
    runs_between,
    split,
    take_run,
)
from likeness.agent.scratch import scratch_folder
from likeness.agent.transfer import Bundle, DiskJob, TransferCounts, transfer
from likeness.codec.aead import known_suite
from likeness.errors import BadInput, LikenessError, Stopped, TransferBroken, TransientError
from likeness.model.disk import DiskFacts, Extent, Segment, Skips
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, DiskId, RunId, StoreId
from likeness.pacing import BandwidthCap
from likeness.stopping import StopToken
from likeness.store.format.documents import Document, encode
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.pack import PackReceipt
from likeness.store.format.pack_log import encode_receipt
from likeness.transport.base import Transport
from likeness.transport.place import open_place
from likeness.transport.tuning import keep_large_buffers, share_buffers

GRACE_SECONDS = 8.0
"""How long an agent that was asked to end may take, before it ends in the middle of whatever."""
_PROGRESS_SECONDS = min(1.0, ALIVE_SECONDS)
_RELIED_ON_AT_ONCE = 1 << 12
_DONE, _FAILED, _ALONE = 0, 1, 2


class ControllerLost(Stopped):
    """The controller is gone, or has been silent for too long."""


class _Incoming:
    """Frames from the controller."""

    def __init__(self, source: int) -> None:
        self._source, self.patience = source, float(SILENCE_SECONDS)

    def next(self) -> tuple[FrameKind, bytes]:
        kind, length = head_of(self._exactly(HEAD_BYTES))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            ready, _, _ = select.select([self._source], [], [], self.patience)
            piece = os.read(self._source, length - len(data)) if ready else b""
            if not piece:
                raise ControllerLost("the controller is gone")
            data += piece
        return bytes(data)


class _Outgoing:
    """Frames to the controller, from many threads; takes what local lists take elsewhere."""

    def __init__(self, sink: int) -> None:
        self._sink, self._lock, self._noting = sink, threading.Lock(), threading.Lock()
        self._relied_on: list[ChunkId] = []
        self.packs = 0

    def append(self, receipt: PackReceipt) -> None:
        """See `Acknowledged.append`."""
        self.send(frame(FrameKind.RECEIPT, encode_receipt(receipt)))
        self.packs += 1

    def add(self, chunk: ChunkId) -> None:
        """See `TakesReliedOn.add`."""
        with self._noting:
            self._relied_on.append(chunk)
            full = self._relied_on if len(self._relied_on) == _RELIED_ON_AT_ONCE else []
            self._relied_on = [] if full else self._relied_on
        if full:
            self.send(frame(FrameKind.RELIED_ON, b"".join(full)))

    def rest_relied_on(self) -> None:
        """Tell what was relied on and is not told yet."""
        self.send(frame(FrameKind.RELIED_ON, b"".join(self._relied_on)))
        self._relied_on = []

    def say(self, kind: FrameKind, document: Document) -> None:
        self.send(frame(kind, encode(document)))

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        with self._lock:
            while view:
                try:
                    view = view[os.write(self._sink, view) :]
                except OSError as cause:
                    raise ControllerLost("the controller is gone") from cause


class _Order:
    """All that a controller ordered; its maps lie on scratch files."""

    def __init__(self, header: Header, scratch: Path) -> None:
        self.header = header
        size = header.chunk_bytes
        self.maps: list[FlatMap] = []
        self.previous: list[FlatMap | None] = []
        for at, disk in enumerate(header.disks):
            positions = positions_of(disk.size_bytes, size)
            self.maps.append(FlatMap(scratch / f"{at}.map", positions))
            old = FlatMap(scratch / f"{at}.previous", positions) if disk.previous else None
            self.previous.append(old)
        self.skips: list[list[Extent]] = [[] for _ in header.disks]
        self.distrusted = UnsortedIds(scratch / "distrusted")
        self.sent = UnsortedIds(scratch / "sent")
        self.known = scratch / "known ids"
        self.known.touch(mode=0o600)

    def take(self, incoming: _Incoming) -> None:
        """Read on until the controller says go."""
        while (found := incoming.next())[0] is not FrameKind.GO:
            kind, payload = found
            if kind is FrameKind.PREVIOUS:
                take_run(payload, self.previous)
            elif kind is FrameKind.SKIP:
                disk, extents = read_skips(payload, len(self.skips))
                self.skips[disk] += extents
            elif kind is FrameKind.DISTRUSTED:
                self.distrusted.add(split(payload, DISTRUSTED_BYTES))
            elif kind is FrameKind.KNOWN:
                with self.known.open("ab") as file:
                    file.write(payload)
            elif kind is FrameKind.SENT:
                self.sent.add(split(payload, CHUNK_ID_BYTES))

    def bundle(self) -> Bundle:
        told = self.header
        fitting = limits.fitting(told)
        return Bundle(
            store=StoreId(told.store),
            box=bytes.fromhex(told.box),
            chunk_id_key=bytes.fromhex(told.chunk_id_key),
            scope=bytes.fromhex(told.scope),
            chunk_bytes=told.chunk_bytes,
            suite=known_suite(told.suite, name="the order"),
            level=told.level,
            seed=bytes.fromhex(told.seed),
            check=told.check,
            pack_bytes=fitting.pack_bytes,
            workers=fitting.workers,
        )

    def disks(
        self, held: ExitStack, stop: StopToken, patches: Sequence[Sequence[Patch]] = ()
    ) -> list[DiskJob]:
        rate = self.header.bytes_per_second
        cap = BandwidthCap(rate) if rate else None
        jobs = []
        for at, disk in enumerate(self.header.disks):
            reader = _PacedReader(Path(disk.path), patches[at] if patches else (), cap, stop)
            held.callback(reader.close)
            facts = DiskFacts(DiskId(disk.disk), disk.name, disk.position, disk.size_bytes)
            skip = Skips(tuple(self.skips[at])) if self.skips[at] else None
            jobs.append(DiskJob(facts, reader, self.maps[at], self.previous[at], skip))
        return jobs


class _PacedReader(PatchedReader):
    """Reads no faster than it may."""

    def __init__(
        self, path: Path, patches: Sequence[Patch], cap: BandwidthCap | None, stop: StopToken
    ) -> None:
        super().__init__(path, patches)
        self._cap, self._stop = cap, stop

    def segments(self, segment_bytes: int, *, skip: Skips | None = None) -> Iterator[Segment]:
        """See `DiskReader.segments`."""
        for segment in super().segments(segment_bytes, skip=skip):
            if self._cap is not None:
                self._cap.take(len(segment.data), stop=self._stop)
            yield segment


def work(source: int, sink: int) -> int:
    """Do what comes in at `source`, tell it at `sink`; the exit code of the process."""
    share_buffers()
    incoming, outgoing, stop = _Incoming(source), _Outgoing(sink), StopToken()
    with scratch_folder() as scratch:
        ending = _Ending(stop, scratch)
        signal.signal(signal.SIGTERM, lambda *_: ending.begin())
        try:
            outgoing.say(FrameKind.HELLO, Hello(protocol=PROTOCOL, release=likeness.RELEASE))
            order = _ordered(incoming, scratch)
            threading.Thread(target=ending.watch, args=(incoming,), daemon=True).start()
            _fulfil(order, outgoing, stop)
        except ControllerLost:
            return _ALONE
        except Exception as problem:  # noqa: BLE001  # whatever it is, the controller shall know
            with suppress(ControllerLost):
                outgoing.say(FrameKind.ERROR, _failure(problem))
            return _FAILED
    return _DONE


class _Ending:
    """Ends the agent cleanly when it is asked to, or when nobody is there any more."""

    def __init__(self, stop: StopToken, scratch: Path) -> None:
        self._stop, self._scratch = stop, scratch

    def watch(self, incoming: _Incoming) -> None:
        """Listen to the controller as long as there is one."""
        with suppress(LikenessError, OSError):
            while True:
                incoming.next()
        self.begin()

    def begin(self) -> None:
        """Ask for the end; what hangs in a call to a dead share is cut off."""
        self._stop.stop()
        cut = threading.Timer(GRACE_SECONDS, self._cut_off)
        cut.daemon = True
        cut.start()

    def _cut_off(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)
        os._exit(_ALONE)


def _ordered(incoming: _Incoming, scratch: Path) -> _Order:
    kind, payload = incoming.next()
    if kind is not FrameKind.HEADER:
        raise BadInput("the controller says nothing that an agent understands")
    order = _Order(opening(payload, Header, of="controller"), scratch)
    incoming.patience = float(order.header.silence_seconds)
    order.take(incoming)
    return order


def _fulfil(order: _Order, outgoing: _Outgoing, stop: StopToken) -> None:
    told = order.header
    limits.step_back(told)
    keep_large_buffers()
    inbox = open_place(
        told.place, username=told.username, password=told.password, encrypt=told.encrypt
    )
    with ExitStack() as held:
        held.callback(inbox.close)
        if told.trial:
            inbox.create(told.trial, [b"likeness"])
        if told.guest is not None and told.guest.look:
            outgoing.say(FrameKind.FOUND, Found(disks=find_disks(told.guest.disks)))
        tally = TransferCounts(sum(disk.size_bytes for disk in told.disks))
        with _telling(tally, outgoing):
            frozen = _frozen(order, held, outgoing, stop)
            disks = order.disks(held, stop, frozen.patches if frozen else ())
            _send(disks, order, inbox, outgoing, tally, stop)
        if frozen is not None:
            outgoing.say(FrameKind.FROZEN, frozen.result())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    end = End(
        roots=tuple(each.root() for each in order.maps),
        packs=outgoing.packs,
        counts=tally.counts(),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 3),
        peak_bytes=_peak_bytes(),
    )
    outgoing.say(FrameKind.END, end)


def _frozen(
    order: _Order, held: ExitStack, outgoing: _Outgoing, stop: StopToken
) -> Freezing | None:
    """The disks of the guest that this is, still until they are read; none where it is not one."""
    told = order.header
    if told.guest is None or told.guest.look:
        return None
    paths = [disk.path for disk in told.disks]

    def say(message: str) -> None:
        outgoing.say(FrameKind.LOG, Log(message=message[:1000]))

    return held.enter_context(Freezing(paths, told.guest, stop, say))


def _send(
    disks: list[DiskJob],
    order: _Order,
    inbox: Transport,
    outgoing: _Outgoing,
    tally: TransferCounts,
    stop: StopToken,
) -> None:
    with (
        closing(KnownIds(order.known)) as known,
        closing(order.sent.sorted()) as sent,
        closing(order.distrusted.sorted()) as distrusted,
    ):
        transfer(
            disks,
            run=RunId(order.header.run),
            bundle=order.bundle(),
            inbox=inbox,
            log=outgoing,
            stop=stop,
            distrusted=distrusted,
            sent=sent,
            known=known,
            relied_on=outgoing,
            tally=tally,
        )
    outgoing.rest_relied_on()
    for at, disk in enumerate(disks):
        for piece in map_frames(FrameKind.MAP, at, runs_between(disk.chunk_map, disk.previous)):
            stop.check()
            outgoing.send(piece)


@contextmanager
def _telling(tally: TransferCounts, outgoing: _Outgoing) -> Generator[None, None, None]:
    """Tell how far it is, all the time."""
    over = threading.Event()

    def tell() -> None:
        with suppress(ControllerLost):
            while not over.wait(_PROGRESS_SECONDS):
                now = Progress(passed_bytes=tally.passed_bytes, counts=tally.counts())
                outgoing.say(FrameKind.PROGRESS, now)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _failure(problem: Exception) -> Failure:
    if isinstance(problem, Stopped):
        problem = TransferBroken(
            "the agent was told to end before it was done; see its machine's log, then run the job"
            " again"
        )
    if not isinstance(problem, LikenessError):
        problem = TransferBroken(f"the agent failed: {type(problem).__name__}: {problem}")
    return Failure(
        type=type(problem).__name__,
        message=str(problem)[:1000],
        retry=isinstance(problem, TransientError),
    )


def _peak_bytes() -> int:
    """The most memory this process had; `getrusage` tells that of whoever started it, if more."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0

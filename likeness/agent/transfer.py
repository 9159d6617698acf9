"""Transfer: every disk of a VM from a snapshot into the inbox of a run.

One reader thread a disk hands segments to as many workers as there are cores, the same for all VMs;
a worker takes a segment the whole way (zero test, chunk id, comparison, compression, sealing), and
packs leave while the next ones fill. Readers wait for the slowest part, so memory stays the same
whatever the size of the disk.
"""

import os
import threading
from collections.abc import Container, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from likeness.agent.local_dedup import ChunkState, LocalDedup, previous_id
from likeness.agent.sealers import Sealers, sealers
from likeness.agent.sender import PAUSES, Sender
from likeness.clock import cpu_stopwatch
from likeness.codec.aead import Suite
from likeness.codec.compression import DEFAULT_LEVEL
from likeness.codec.keys import STORE_SCOPE, SessionKey
from likeness.codec.records import Check, Sealer
from likeness.errors import DiskShrank, TransferBroken
from likeness.model.disk import DiskFacts, DiskReader, Extent, Segment, Skips
from likeness.model.ids import CHUNK_ID_BYTES, RunId, StoreId
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.store.format.documents import Counts
from likeness.store.format.maps import FlatMap
from likeness.store.format.pack import PACK_TARGET_BYTES
from likeness.store.format.pack_log import Acknowledged
from likeness.store.format.relied_on import TakesReliedOn
from likeness.transport.base import Transport

SEGMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """All a source is told about the store: nothing in it opens a stored byte.

    Attributes:
        store: Its id.
        box: Public box key, 32 bytes.
        chunk_id_key: 32 bytes; the one of `scope`.
        chunk_bytes: The unit of deduplication.
        suite: How to seal.
        level: zstd level.
        seed: 32 random bytes from the controller, mixed into nonces; none of its own if empty.
        pack_bytes: When a pack is full.
        workers: How many threads compress and seal.
        scope: Whose chunk ids these are.
        check: Which records are opened again before they are sent.
    """

    store: StoreId
    box: bytes
    chunk_id_key: bytes = field(repr=False)
    chunk_bytes: int
    suite: Suite
    level: int = DEFAULT_LEVEL
    seed: bytes = field(default=b"", repr=False)
    pack_bytes: int = PACK_TARGET_BYTES
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    scope: bytes = STORE_SCOPE
    check: Check = Check.ALL


@dataclass(frozen=True, slots=True)
class DiskJob:
    """One disk to transfer.

    Attributes:
        facts: Which disk.
        reader: Gives its bytes.
        chunk_map: Its new block map, empty; filled here.
        previous: Its block map in the VM's last version, if any.
        skip: Ranges known to be unchanged since that version; needs `previous`.
    """

    facts: DiskFacts
    reader: DiskReader
    chunk_map: FlatMap
    previous: FlatMap | None = None
    skip: Skips | None = None


class TransferCounts:
    """Counts of a transfer under way; for many threads."""

    def __init__(self, disk_bytes: int) -> None:
        """Begin at zero for disks of so many bytes in all."""
        self._lock = threading.Lock()
        self._counted = {"disk_bytes": disk_bytes}
        self.passed_bytes = 0
        self.cpu_seconds = 0.0

    def worked(self, cpu_seconds: float) -> None:
        """Add processor time that a thread of this process has spent on it."""
        with self._lock:
            self.cpu_seconds += cpu_seconds

    def add(self, **counted: int) -> None:
        """Add to some of the fields of `Counts`."""
        with self._lock:
            for name, amount in counted.items():
                self._counted[name] = self._counted.get(name, 0) + amount

    def passed(self, segment_end: int, before: int) -> None:
        """Note how far a disk has come, for progress."""
        with self._lock:
            self.passed_bytes += segment_end - before

    def reached(self, passed_bytes: int) -> None:
        """Note how far all disks have come, as another process tells."""
        with self._lock:
            self.passed_bytes = max(self.passed_bytes, passed_bytes)

    def percent(self) -> float:
        """How far all disks together have come, 0 to 100."""
        with self._lock:
            return 100.0 * self.passed_bytes / max(self._counted["disk_bytes"], 1)

    def counts(self) -> Counts:
        """The counts so far."""
        with self._lock:
            return Counts(**self._counted)


def transfer(
    disks: Sequence[DiskJob],
    *,
    run: RunId,
    bundle: Bundle,
    inbox: Transport,
    log: Acknowledged,
    stop: StopToken,
    distrusted: Container[bytes] = (),
    sent: Container[bytes] = (),
    known: Container[bytes] = (),
    relied_on: TakesReliedOn | None = None,
    tally: TransferCounts | None = None,
    pauses: Pauses = PAUSES,
) -> Counts:
    """Send what is new of some disks, and fill their block maps.

    Args:
        disks: All disks of one VM; they are read at the same time.
        run: Whose inbox the packs go to.
        bundle: What is known of the store.
        inbox: Where the inbox is.
        log: Filled with the packs that were acknowledged.
        stop: Looked at between segments.
        distrusted: First 16 bytes of chunk ids to send again even where nothing changed.
        sent: Chunks that lie in packs of an earlier attempt of this run; not sent again.
        known: Chunks that the store has already, proved; not sent either.
        relied_on: Told of each of those.
        tally: Counts to watch from another thread.
        pauses: Between attempts to write a pack that the store did not acknowledge.

    Returns:
        What was read, left out and sent.

    Raises:
        Stopped: On request.
        TransferBroken: A disk stopped half-way.
        DiskShrank: A disk is shorter than its size.
        ShareUnreachable: The store went away for longer than all attempts together.
        ShareFull: No room.
    """
    tally = tally or TransferCounts(sum(disk.facts.size_bytes for disk in disks))
    dedup = LocalDedup(
        id_key=bundle.chunk_id_key,
        distrusted=distrusted,
        sent=sent,
        known=known if relied_on is not None else (),
        most=sum(disk.chunk_map.positions for disk in disks),
    )
    session = SessionKey.fresh(bundle.box, scope=bundle.scope)
    sealer = Sealer(
        bundle.store,
        session,
        suite=bundle.suite,
        level=bundle.level,
        seed=bundle.seed or None,
        check=bundle.check,
    )
    with Sender(
        inbox,
        run,
        log,
        store=bundle.store,
        session=session,
        suite=bundle.suite,
        pack_bytes=bundle.pack_bytes,
        stop=stop,
        pauses=pauses,
    ) as sender:
        line = _Pipeline(bundle, dedup, sealer, sender, tally, relied_on)
        _run_all(disks, line, stop)
        sender.finish()
        tally.add(sent_bytes=sender.sent_bytes)
        tally.worked(sender.cpu_seconds)
    return tally.counts()


class _Pipeline:
    """The work done on one segment."""

    def __init__(
        self,
        bundle: Bundle,
        dedup: LocalDedup,
        sealer: Sealer,
        sender: Sender,
        tally: TransferCounts,
        relied_on: TakesReliedOn | None,
    ) -> None:
        self.bundle, self._dedup, self._sealer = bundle, dedup, sealer
        self._sender, self._tally, self._relied_on = sender, tally, relied_on

    def process(self, disk: DiskJob, segment: Segment) -> None:
        """Sort, seal and send the chunks of a segment, and write their ids into the map.

        Raises:
            TransferBroken: A segment is not made of whole chunks; the map would be wrong.
        """
        begun, size = cpu_stopwatch(), self.bundle.chunk_bytes
        end = segment.offset + len(segment.data)
        if segment.offset % size or (end % size and end != disk.facts.size_bytes):
            raise TransferBroken(
                f"disk {disk.facts.name or disk.facts.disk} came in pieces that are no whole chunks"
                f" (bytes {segment.offset} to {end}); run the job again, reading the disk whole"
            )
        first = segment.offset // size
        count = -(-len(segment.data) // size)
        previous = disk.previous.ids(first, count) if disk.previous else b""
        ids: list[bytes] = []
        found = dict.fromkeys(ChunkState, 0)
        data = memoryview(segment.data)
        for at in range(count):
            plaintext = data[at * size : (at + 1) * size]
            finding, chunk = self._dedup.sort(plaintext, previous_id(previous, at))
            if finding is ChunkState.NEW:
                self._sender.add(chunk, self._sealer.seal(chunk, plaintext))
            elif finding is ChunkState.KNOWN and self._relied_on is not None:
                self._relied_on.add(chunk)
            found[finding] += len(plaintext)
            ids.append(chunk)
        disk.chunk_map.write(first, b"".join(ids))
        self._tally.add(
            read_bytes=len(segment.data),
            zero_bytes=found[ChunkState.ZERO],
            unchanged_bytes=found[ChunkState.UNCHANGED],
            repeated_bytes=found[ChunkState.REPEATED],
            known_bytes=found[ChunkState.KNOWN],
            new_bytes=found[ChunkState.NEW],
        )
        self._tally.worked(cpu_stopwatch() - begun)

    def wait_for_room(self) -> None:
        """Until packs have left, if they leave more slowly than they fill."""
        self._sender.wait_for_room()

    def abandon(self) -> None:
        self._sender.abandon()

    def worked(self, cpu_seconds: float) -> None:
        self._tally.worked(cpu_seconds)

    def passed(self, end: int, before: int) -> None:
        self._tally.passed(end, before)


def _run_all(disks: Sequence[DiskJob], line: _Pipeline, stop: StopToken) -> None:
    """Read every disk in a thread of its own, and work on segments in the process's pool."""
    queue = _ChunkQueue(sealers(line.bundle.workers), line)
    try:
        with ThreadPoolExecutor(max(len(disks), 1), thread_name_prefix="disk reader") as readers:
            for disk in disks:
                readers.submit(_read_disk, disk, queue, stop).add_done_callback(queue.note)
    finally:
        queue.wait_until_done()
    if queue.problems:
        raise queue.problems[0]


class _ChunkQueue:
    """Gives the segments of one transfer to the workers, never more than there is room for."""

    def __init__(self, workers: Sealers, line: _Pipeline) -> None:
        self._workers, self.line = workers, line
        self._under_way, self._changed = 0, threading.Condition()
        self.problems: list[BaseException] = []

    def give(self, disk: DiskJob, segment: Segment) -> None:
        self.line.wait_for_room()
        if self.problems:
            raise self.problems[0]
        done = self._workers.submit(partial(self._process, disk, segment))
        with self._changed:
            self._under_way += 1
        done.add_done_callback(self._done)

    def wait_until_done(self) -> None:
        """Until no worker has anything of this transfer in its hands."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def _process(self, disk: DiskJob, segment: Segment) -> None:
        if not self.problems:  # what is lost already need not be sealed
            self.line.process(disk, segment)

    def note(self, future: Future[None]) -> None:
        """Keep a problem, so that every disk stops at its next segment."""
        if (problem := future.exception()) is not None:
            self.problems.append(problem)
            self.line.abandon()

    def _done(self, future: Future[None]) -> None:
        self.note(future)
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()


def _read_disk(disk: DiskJob, queue: _ChunkQueue, stop: StopToken) -> None:
    if disk.reader.size_bytes != disk.facts.size_bytes:
        raise DiskShrank(
            f"disk {disk.facts.name or disk.facts.disk} has {disk.reader.size_bytes} bytes now and"
            f" {disk.facts.size_bytes} when its snapshot was taken; run the job again"
        )
    begun, size = cpu_stopwatch(), queue.line.bundle.chunk_bytes
    if disk.skip is not None and disk.previous is not None:
        for extent in disk.skip.unchanged:
            _carry_over(
                disk.previous,
                disk.chunk_map,
                extent,
                chunk_bytes=size,
                size_bytes=disk.facts.size_bytes,
            )
    reached = 0
    skip = disk.skip if disk.previous is not None else None
    for segment in disk.reader.segments(SEGMENT_BYTES, skip=skip):
        stop.check()
        queue.give(disk, segment)
        end = segment.offset + len(segment.data)
        queue.line.passed(end, reached)
        reached = end
    queue.line.passed(disk.facts.size_bytes, reached)
    queue.line.worked(cpu_stopwatch() - begun)


def _carry_over(
    old: FlatMap, new: FlatMap, extent: Extent, *, chunk_bytes: int, size_bytes: int
) -> None:
    """Copy the ids of all chunks that lie wholly in an unchanged extent."""
    first = -(-extent.offset // chunk_bytes)
    end = new.positions if extent.end >= size_bytes else extent.end // chunk_bytes
    window = 1 << 16
    for start in range(first, end, window):
        count = min(window, end - start)
        ids = old.ids(start, count)
        if ids.count(0) != count * CHUNK_ID_BYTES:
            new.write(start, ids)

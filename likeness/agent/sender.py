"""Gathers sealed chunks into packs and writes them, a few at a time, to the inbox of a run."""

import queue
import threading

from likeness.clock import cpu_stopwatch
from likeness.codec.aead import Suite
from likeness.codec.buffers import Buffer
from likeness.codec.keys import SessionKey
from likeness.errors import NameTaken, ShareUnreachable
from likeness.model.ids import ChunkId, RunId, StoreId
from likeness.retrying import Attempts, Pauses
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.pack import FinishedPack, PackBuilder
from likeness.store.format.pack_log import Acknowledged
from likeness.transport.base import Transport

_WRITERS = 2
_LOOK_SECONDS = 0.5
_MAX_AFLOAT = 6
"""Full packs in memory for all VMs in flight together, before a VM may have no more than one."""
PAUSES = Pauses(1.0, 20.0, tries=7)
"""Seconds between attempts to write a pack that the share did not acknowledge."""


class _Afloat:
    """Full packs in memory, of all transfers of this process."""

    def __init__(self) -> None:
        self.changed, self.packs = threading.Condition(), 0


_afloat = _Afloat()


class Sender:
    """Takes records from many threads; one pack is filled while others are on their way.

    Whoever adds a record never waits for the share. Whoever reads a disk does, in `wait_for_room`,
    so at most a handful of packs is in memory.
    """

    def __init__(
        self,
        inbox: Transport,
        run: RunId,
        log: Acknowledged,
        *,
        store: StoreId,
        session: SessionKey,
        suite: Suite,
        pack_bytes: int,
        stop: StopToken,
        pauses: Pauses = PAUSES,
    ) -> None:
        """Start the writers; use it in a `with` statement."""
        self._pauses = pauses
        self._inbox, self._run, self._log, self._stop = inbox, run, log, stop
        self._store, self._session, self._suite = store, session, suite
        self._pack_bytes = pack_bytes
        self._builder = self._new_builder()
        self._filling = threading.Lock()
        self._logging = threading.Lock()
        self._queue: queue.Queue[FinishedPack | None] = queue.Queue()
        self._afloat = 0
        self._problem: Exception | None = None
        self.sent_bytes = 0
        self._worked: dict[str, float] = {}
        self._writers = [
            threading.Thread(target=self._write_packs, name=f"pack writer {n}", daemon=True)
            for n in range(_WRITERS)
        ]
        for writer in self._writers:
            writer.start()

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        if kind is not None:
            self.abandon()
        for _ in self._writers:
            self._queue.put(None)
        for writer in self._writers:
            writer.join()

    @property
    def cpu_seconds(self) -> float:
        """What writing has cost here so far."""
        return sum(self._worked.values())

    def add(self, chunk: ChunkId, record: Buffer) -> None:
        """Send a record with the next pack.

        Raises:
            LikenessError: A pack could not be written; the transfer is lost.
        """
        with self._filling:
            self._builder.add(chunk, record)
            if self._builder.size_bytes < self._pack_bytes:
                return
            full, self._builder = self._builder, self._new_builder()
        self._send(full)

    def finish(self) -> None:
        """Send what is left, and wait until everything is durable.

        Raises:
            LikenessError: A pack could not be written.
        """
        if self._builder.size_bytes:
            self._send(self._builder)
        self._queue.join()
        self._raise_problem()

    def _new_builder(self) -> PackBuilder:
        return PackBuilder(self._store, self._session, self._suite)

    def wait_for_room(self) -> None:
        """Wait while packs leave more slowly than they fill.

        Raises:
            Stopped: On request.
            LikenessError: A pack could not be written.
        """
        with _afloat.changed:
            while self._has_no_room():
                _afloat.changed.wait(_LOOK_SECONDS)
                self._stop.check()
                self._raise_problem()

    def _has_no_room(self) -> bool:
        """Whether too much waits here, or in the whole process; one pack each is always allowed."""
        return self._afloat > _WRITERS or (self._afloat > 0 and _afloat.packs >= _MAX_AFLOAT)

    def _send(self, builder: PackBuilder) -> None:
        self._raise_problem()
        pack = builder.finish()
        self._count(1)
        self._queue.put(pack)

    def _count(self, more: int) -> None:
        with _afloat.changed:
            self._afloat += more
            _afloat.packs += more
            _afloat.changed.notify_all()

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    def abandon(self) -> None:
        """The transfer is lost: send nothing more, and keep nobody waiting; safe to repeat."""
        if self._problem is None:
            self._problem = ShareUnreachable("the transfer was given up")

    def _write_packs(self) -> None:
        while (pack := self._queue.get()) is not None:
            try:
                if self._problem is None:
                    self._write(pack)
            except Exception as problem:  # noqa: BLE001  # a dead writer would hang the transfer
                self._problem = self._problem or problem
            finally:
                self._worked[threading.current_thread().name] = cpu_stopwatch()
                del pack
                self._count(-1)
                self._queue.task_done()
        self._queue.task_done()

    def _wait(self, seconds: float) -> None:
        """Wait, but no longer than the transfer is still wanted."""
        while self._problem is None and seconds > 0:
            self._stop.wait(min(seconds, _LOOK_SECONDS))
            self._stop.check()
            seconds -= _LOOK_SECONDS

    def _write(self, pack: FinishedPack) -> None:
        """Write a pack, under a new name after every attempt with an unknown outcome."""
        attempts = Attempts(self._pauses, wait=self._wait)
        while True:
            receipt = pack.receipt
            try:
                self._inbox.create(layout.arriving_pack(self._run, receipt.pack), pack.parts)
            except (ShareUnreachable, NameTaken):
                if not attempts.again() or self._problem is not None:
                    raise
                pack = pack.renamed()
                continue
            with self._logging:
                self._log.append(receipt)
                self.sent_bytes += receipt.size_bytes
            return

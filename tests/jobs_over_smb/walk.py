"""A backup job over a share: what is there before, what happens, what must hold after."""

import atexit
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from likeness.agent.transfer import Bundle
from likeness.errors import Damaged, LikenessError, ShareUnreachable
from likeness.model.ids import RunId, random_name
from likeness.retrying import Pauses
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.proving import Finding
from likeness.store.format import layout
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.prune.sweeping import sweep_inboxes
from likeness.store.read.versions import Version, read_version, record_names
from likeness.store.write.heads import read_head_state, write_head
from likeness.store.write.receipts import TransferReceipt
from likeness.transport.base import Entry, Listing, Space, Transport
from likeness.transport.local import LocalTransport
from tests.smb.server import SmbServer
from tests.unit.workshop import CHUNK, Workshop, changed, noise

PACK_BYTES = 8 * CHUNK
SIZE = 40 * CHUNK
FIRST = noise("first", SIZE)
SECOND = changed(FIRST, (3 * CHUNK, noise("second", 9 * CHUNK)), (20 * CHUNK, bytes(CHUNK)))
THIRD = noise("third", SIZE - 777) + bytes(777)
LAST = changed(THIRD, (CHUNK, b"last"), (30 * CHUNK, noise("last", 2 * CHUNK)))
ALL = (FIRST, SECOND, THIRD, LAST)
PACKS_OF_THIRD = -(-SIZE // PACK_BYTES)

SHORT = 3.0
"""Seconds of silence after which a call is given up, where a test waits for that."""
BOUND = 90.0
"""Seconds after which something hangs."""
PAUSES = Pauses(0.3, 1.0, tries=4)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Moment:
    """A call of a job, and whether something happens before it or while it is under way."""

    call: str
    folder: str
    number: int = 1
    during: bool = False

    def __str__(self) -> str:
        when = "during" if self.during else "before"
        return f"{when} {self.call} {self.number} in {self.folder}"


class Watched:
    """A transport that lets something happen at a chosen moment."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self._moment: Moment | None = None
        self._act: Callable[[], object] = lambda: None
        self._met = 0
        self._counting = threading.Lock()
        self._acting: threading.Thread | None = None

    def strike(self, moment: Moment, act: Callable[[], object]) -> None:
        self._moment, self._act, self._met = moment, act, 0

    def settled(self) -> bool:
        """Whether the moment came; what happened at it is over then."""
        if self._acting is not None:
            self._acting.join(BOUND)
        return self._moment is not None and self._met >= self._moment.number

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self._reach("create", name)
        self.inner.create(name, parts)

    def rename(self, name: str, new_name: str) -> None:
        self._reach("rename", name)
        self.inner.rename(name, new_name)

    def delete_folder(self, folder: str) -> None:
        self._reach("delete_folder", folder)
        self.inner.delete_folder(folder)

    def delete(self, name: str) -> None:
        self.inner.delete(name)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._reach("read", name)
        return self.inner.read(name, offset, length)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        return self.inner.entries(folder, deep=deep)

    def folders(self, folder: str) -> list[str]:
        return self.inner.folders(folder)

    def listing(self, folder: str) -> Listing:
        return self.inner.listing(folder)

    def space(self) -> Space:
        return self.inner.space()

    def again(self) -> AbstractContextManager[Transport]:
        return self.inner.again()

    def close(self) -> None:
        self.inner.close()

    def _reach(self, call: str, name: str) -> None:
        moment = self._moment
        if moment is None or call != moment.call or not name.startswith(f"{moment.folder}/"):
            return
        with self._counting:
            self._met += 1
            if self._met != moment.number:
                return
        if moment.during:
            self._acting = threading.Thread(target=self._act)
            self._acting.start()
        else:
            self._act()


@dataclass
class Ended:
    """How a job ended."""

    receipt: TransferReceipt | None = None
    version: Version | None = None
    problem: Exception | None = None
    seconds: float = 0.0


@dataclass
class Prepared:
    """A store in a folder with two versions of a VM, to be copied.

    Attributes:
        known: The versions, and the disk each must restore to.
    """

    folder: Path
    workshop: Workshop
    known: list[tuple[Version, bytes]]


@cache
def prepared() -> Prepared:
    """Made once by each process that runs tests."""
    holder = tempfile.TemporaryDirectory()
    atexit.register(holder.cleanup)
    folder = Path(holder.name)
    workshop = Workshop(folder, transport=LocalTransport(folder / "store", make=True))
    bundle = workshop.bundle(pack_bytes=PACK_BYTES)
    known = []
    for disk in (FIRST, SECOND):
        receipt = workshop.transfer(disk, bundle=bundle, pauses=PAUSES)
        known.append((workshop.commit(receipt), disk))
    write_head(workshop.store, clock=workshop.clock)
    return Prepared(folder, workshop, known)


@dataclass
class Job:
    """A store on a share with two versions of a VM, and a job that makes the third.

    Attributes:
        known: Versions that were acknowledged, and the disk each must restore to.
    """

    server: SmbServer
    folder: Path
    deadline_seconds: float = 20.0
    share: str = "ads"
    path: str = field(default_factory=lambda: f"store-{secrets.token_hex(4)}")
    known: list[tuple[Version, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        made = prepared()
        shutil.copytree(made.folder / "store", self.place)
        shutil.copy(made.workshop.key_file, self.folder / made.workshop.key_file.name)
        self.workshop = made.workshop.copied(self.folder, LocalTransport(self.place))
        self.workshop.clock = copy(self.workshop.clock)
        self.known = list(made.known)
        self.transport = self._connect()
        self._use(self.transport)

    @property
    def place(self) -> Path:
        """Where the store lies on the server's disk."""
        return self.server.folder(self.share) / self.path

    def reconnect(self) -> None:
        """As a new process would: new connections, the password of today."""
        self.transport.close()
        self.transport = self._connect()
        self._use(self.transport)

    def transfer(self, disk: bytes = THIRD, run: RunId | None = None) -> TransferReceipt:
        return self.workshop.transfer(disk, bundle=self._bundle(), pauses=PAUSES, run=run)

    def commit(self, receipt: TransferReceipt, disk: bytes = THIRD) -> Version:
        version = self.workshop.commit(receipt)
        self.known.append((version, disk))
        return version

    def go(self) -> Ended:
        """Transfer and commit, and be told if that hangs."""
        ended = Ended()

        def walk() -> None:
            begun = time.monotonic()
            try:
                ended.receipt = self.transfer()
                ended.version = self.commit(ended.receipt)
            except Exception as problem:  # noqa: BLE001  # whatever it is, a test looks at it
                ended.problem = problem
            ended.seconds = time.monotonic() - begun

        within_bound(walk)
        return ended

    def repeat(self, receipt: TransferReceipt) -> Version:
        """Commit once more what a transfer brought."""
        return within_bound(lambda: patiently(lambda: self.commit(receipt)))

    def require_whole(self) -> None:
        """Nothing is lost, nothing wrong restores, and the next run leaves nothing behind."""
        self.reconnect()
        self._back_up(LAST)
        for version, disk in self.known[2:]:
            assert self.workshop.restore_in_memory(version) == disk
        self.look_closely()
        patiently(lambda: sweep_inboxes(self.workshop.store, lambda _: False))
        assert list(self.transport.entries(layout.INBOX)) == []
        assert self.transport.folders(layout.INBOX) == []
        patiently(lambda: write_head(self.workshop.store, clock=self.workshop.clock))
        assert not read_head_state(self.workshop.store).problem
        assert self.troubles() == []

    def look_closely(self) -> None:
        """At what lies on the server's disk: every version there is, and every pack."""
        workshop = self.workshop
        self._use(LocalTransport(self.place))
        for version, disk in self.known:
            assert read_version(workshop.store, version.name) == version
            assert workshop.restore_in_memory(version) == disk
        packs = set().union(*(workshop.packs_of(version) for version, _ in self.known))
        assert {proof.finding for proof in workshop.prove(packs)} == {Finding.PROVED}
        found = self.versions()
        names = {version.name for version, _ in self.known}
        assert names <= {each.name for each in found}
        for version in found:
            assert version.name in names or workshop.restore_in_memory(version) in ALL
            assert workshop.prove_documents(version).readable
        assert len({each.record.run for each in found}) == len(found), "two versions of one run"
        assert len({each.sequence for each in found}) == len(found), "two versions of one number"
        self._use(self.transport)

    def troubles(self) -> list[str]:
        """What an audit says, but for notices."""
        seen = audit_presence(self.workshop.store, stop=StopToken())
        return [f"{each.name}: {each.cause}" for each in seen if each.weight is not Weight.NOTICE]

    def versions(self) -> list[Version]:
        """Every version whose record is whole, acknowledged or not."""
        found = []
        for name in record_names(self.workshop.store, self.workshop.vm):
            try:
                found.append(read_version(self.workshop.store, name))
            except Damaged:
                continue  # torn before anybody relied on it
        return found

    def _back_up(self, disk: bytes) -> None:
        """With nothing in the way."""
        receipt = self.transfer(disk)
        patiently(lambda: self.commit(receipt, disk))

    def _use(self, transport: Transport) -> None:
        self.workshop.transport = transport
        self.workshop.store = open_store_with_key_file(transport, self.workshop.key_file)

    def _bundle(self) -> Bundle:
        return self.workshop.bundle(pack_bytes=PACK_BYTES)

    def _connect(self) -> Watched:
        settings = {"deadline_seconds": self.deadline_seconds}
        return Watched(self.server.transport(self.share, path=self.path, **settings))


def within_bound(action: Callable[[], _T]) -> _T:
    """Do something that must not hang."""
    results: list[_T] = []
    problems: list[BaseException] = []

    def act() -> None:
        try:
            results.append(action())
        except BaseException as problem:  # noqa: BLE001  # raised again below
            problems.append(problem)

    thread = threading.Thread(target=act, daemon=True, name=random_name())
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive(), f"it still runs after {BOUND:.0f} seconds"
    if problems:
        raise problems[0]
    return results[0]


def patiently(action: Callable[[], _T]) -> _T:
    """Do something again when the connection was lost, as the steps of a job are done again.

    Samba 4.17 ends the process that serves a connection now and then when two connections close one
    folder at the same moment ("Could not store share mode data").
    """
    for _ in range(4):
        try:
            return action()
        except ShareUnreachable:
            time.sleep(0.2)
    return action()


def is_a_sentence(problem: Exception | None) -> bool:
    """Whether a problem is one of this house, and says what to do."""
    return isinstance(problem, LikenessError) and len(str(problem).split()) > 6

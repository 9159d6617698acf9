"""The controller's side of the protocol: gives an agent its order, and believes it little.

What an agent says is checked as far as it can be here: its receipts must be possible, its maps must
lie in their disks. The commit asks every pack's own table, and only validation makes a version
green: a lying agent wastes room, and makes no version wrong.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import asyncssh
from msgspec import structs

from likeness import errors
from likeness.agent.protocol import (
    ALIVE_SECONDS,
    HEAD_BYTES,
    End,
    Failure,
    Found,
    FoundDisk,
    FrameKind,
    Frozen,
    Header,
    Hello,
    Log,
    Progress,
    file_frames,
    frame,
    head_of,
    joined_frames,
    map_frames,
    opening,
    runs_within,
    skip_frames,
    split,
    take_run,
)
from likeness.errors import BadInput, HostUnreachable, LikenessError, TransferBroken
from likeness.model.disk import Skips
from likeness.model.ids import CHUNK_ID_BYTES, ZERO_CHUNK
from likeness.stopping import StopToken
from likeness.store.format.documents import Counts, decode, encode
from likeness.store.format.maps import FlatMap
from likeness.store.format.pack import MAX_PACK_BYTES, PackHeader, PackReceipt
from likeness.store.format.pack_log import PackLog, decode_receipt
from likeness.store.format.relied_on import ReliedOn

AGENT_COMMAND = (
    "if command -v likeness-agent >/dev/null; then exec likeness-agent; fi;"
    " exec python3 -m likeness.agent"
)
LOST_AFTER_SECONDS = 60.0
"""An agent that says nothing for so long is given up; it tells every second how far it is."""
CONNECT_SECONDS = 30.0
_LOOK_SECONDS = 0.2
_TOLD_AS_IT_IS = (
    "BadInput",
    "DiskShrank",
    "ShareFull",
    "ShareRefused",
    "ShareUnreachable",
    "StoreMissing",
    "TransferBroken",
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an agent can be started, and how one knows that it is the right machine.

    Attributes:
        host: Address or name.
        port: Of its SSH server.
        host_key: Its public key, in OpenSSH's form; no other is accepted.
        private_key: The key to log in with, in OpenSSH's form.
        username: Whom to log in as.
        command: What starts the agent.
        what: What kind of machine it is, for people.
    """

    host: str
    port: int
    host_key: str
    private_key: str = field(repr=False)
    username: str = "root"
    command: str = AGENT_COMMAND
    what: str = "delegate"


@dataclass(frozen=True, slots=True)
class RemoteDisk:
    """What belongs to a disk of the header, in its order.

    Attributes:
        chunk_map: Its new block map, empty; filled here.
        previous: Its block map in the VM's last version, if any.
        skip: Ranges known to be unchanged.
    """

    chunk_map: FlatMap
    previous: FlatMap | None = None
    skip: Skips | None = None


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """What an agent measured.

    Attributes:
        counts: Of this attempt; what earlier ones sent counts as repeated.
        cpu_seconds: Of its process.
        peak_bytes: The most memory it had.
    """

    counts: Counts
    cpu_seconds: float
    peak_bytes: int


class _Reader(Protocol):
    async def readexactly(self, n: int) -> bytes: ...


class _Writer(Protocol):
    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


class Order:
    """An order for an agent, and what comes of it."""

    def __init__(
        self,
        header: Header,
        disks: Sequence[RemoteDisk],
        log: PackLog,
        *,
        stop: StopToken,
        distrusted: Iterable[bytes] = (),
        known: Path | None = None,
        relied_on: ReliedOn | None = None,
        passed: Callable[[int], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing begins yet; `found` and `frozen` are what an agent in a guest tells.

        Args:
            header: What to do.
            disks: Maps of the header's disks.
            log: Filled with receipts; what it holds already was sent by an earlier attempt.
            stop: Ends it early.
            distrusted: First 16 bytes of chunk ids to send again.
            known: A file of chunk ids that need not be sent, as `KnownIds` reads it; goes with
                `relied_on`.
            relied_on: Filled with those that were not.
            passed: Told how many bytes of the disks are behind it.
            say: Told what the agent has to say.
        """
        self.header, self._disks, self._log, self._stop = header, disks, log, stop
        self._distrusted, self._passed, self._say = distrusted, passed, say
        self._known, self._relied_on = known, relied_on
        self._maps: list[FlatMap | None] = [disk.chunk_map for disk in disks]
        self.found: tuple[FoundDisk, ...] = ()
        self.frozen: Frozen | None = None
        self._earlier_bytes = sum(pack.size_bytes for pack in log)
        self._sent_bytes = 0

    def frames(self) -> Iterator[bytes]:
        """What to tell the agent."""
        yield frame(FrameKind.HEADER, encode(self.header))
        for at, disk in enumerate(self._disks):
            if disk.previous is not None:
                runs = runs_within(disk.previous, disk.chunk_map.positions)
                yield from map_frames(FrameKind.PREVIOUS, at, runs)
                if disk.skip is not None:
                    yield from skip_frames(at, disk.skip.unchanged)
        yield from joined_frames(FrameKind.DISTRUSTED, self._distrusted)
        if self._known is not None and self._relied_on is not None:
            yield from file_frames(FrameKind.KNOWN, self._known)
        sent = (chunk for pack in self._log for chunk in pack.locations.chunks())
        yield from joined_frames(FrameKind.SENT, sent)
        yield frame(FrameKind.GO)

    def carry_over(self) -> None:
        """Begin with the last version's maps: the agent tells where its own are different."""
        for disk in self._disks:
            if disk.previous is not None:
                for run in runs_within(disk.previous, disk.chunk_map.positions):
                    disk.chunk_map.write(run.first, run.ids)

    def take(self, kind: FrameKind, payload: bytes) -> AgentFigures | None:
        """Take what the agent says; what it measured, once it is done.

        Raises:
            TransferBroken: It says what cannot be.
            LikenessError: It failed.
        """
        if kind in (FrameKind.FOUND, FrameKind.FROZEN):
            self._take_of_guest(kind, payload)
        elif kind in (FrameKind.RECEIPT, FrameKind.MAP, FrameKind.RELIED_ON):
            self._take_of_disks(kind, payload)
        elif kind is FrameKind.PROGRESS:
            self._passed(decode(payload, Progress, name="the agent's progress").passed_bytes)
        elif kind is FrameKind.LOG:
            self._say(decode(payload, Log, name="the agent's log").message)
        elif kind is FrameKind.ERROR:
            raise _error(decode(payload, Failure, name="the agent's failure"))
        elif kind is FrameKind.END:
            return self._finished(decode(payload, End, name="the agent's report"))
        return None

    def _take_of_disks(self, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.RECEIPT:
            self._take_receipt(payload)
        elif kind is FrameKind.MAP:
            take_run(payload, self._maps)
        else:
            self._take_relied_on(payload)

    def _take_relied_on(self, payload: bytes) -> None:
        if payload and self._relied_on is None:
            raise TransferBroken("the agent left out what it was not told of; run the job again")
        for chunk in split(payload, CHUNK_ID_BYTES):
            if self._relied_on is not None:
                self._relied_on.add(chunk)

    def _take_of_guest(self, kind: FrameKind, payload: bytes) -> None:
        if kind is FrameKind.FOUND:
            self.found = decode(payload, Found, name="the guest's disks").disks
        else:
            self.frozen = decode(payload, Frozen, name="how the guest's disks were read")

    def _take_receipt(self, payload: bytes) -> None:
        try:
            receipt = decode_receipt(payload)
        except ValueError as cause:
            raise TransferBroken(f"the agent sent {cause}; run the job again") from cause
        _require_possible(receipt)
        self._log.append(receipt)
        self._sent_bytes += receipt.size_bytes

    def _finished(self, end: End) -> AgentFigures:
        if end.roots != tuple(disk.chunk_map.root() for disk in self._disks):
            raise TransferBroken("the agent's block maps came over incomplete; run the job again")
        all_sent = self._earlier_bytes + self._sent_bytes
        return AgentFigures(
            structs.replace(end.counts, sent_bytes=all_sent), end.cpu_seconds, end.peak_bytes
        )

    async def converse(self, reader: _Reader, writer: _Writer) -> AgentFigures:
        """Give the order over a connection, and take what comes until the end.

        Raises:
            BadInput: The other side is no agent of this version.
            TransferBroken: It ended, or fell silent, before it was done.
            Stopped: On request.
        """
        kind, payload = await self._next(reader, "it began (is likeness-agent installed there?)")
        if kind is not FrameKind.HELLO:
            raise BadInput("the delegate's agent does not greet as an agent does; install it anew")
        opening(payload, Hello, of="agent")
        self.carry_over()
        speaking = asyncio.create_task(self._speak(writer))
        try:
            while True:
                done = self.take(*await self._next(reader))
                if done is not None:
                    return done
        finally:
            speaking.cancel()
            with suppress(asyncio.CancelledError, OSError, asyncssh.Error):
                await speaking

    async def _speak(self, writer: _Writer) -> None:
        for piece in self.frames():
            writer.write(piece)
            await writer.drain()
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            writer.write(frame(FrameKind.ALIVE))
            await writer.drain()

    async def _next(self, reader: _Reader, before: str = "it was done") -> tuple[FrameKind, bytes]:
        reading = asyncio.ensure_future(_frame(reader, before))
        waited = 0.0
        try:
            while not reading.done():
                self._stop.check()
                if waited > LOST_AFTER_SECONDS:
                    raise TransferBroken("the agent has fallen silent; run the job again")
                await asyncio.wait({reading}, timeout=_LOOK_SECONDS)
                waited += _LOOK_SECONDS
            return reading.result()
        finally:
            reading.cancel()


def run_over_ssh(address: Address, order: Order) -> AgentFigures:
    """Start an agent over SSH, and see its order through; it ends when this does.

    Raises:
        HostUnreachable: Nobody answers there, or another machine does.
        TransferBroken: The agent ended before it was done.
        Stopped: On request.
        LikenessError: What went wrong there.
    """
    return asyncio.run(_over_ssh(address, order))


async def _over_ssh(address: Address, order: Order) -> AgentFigures:
    async with logged_in(address) as connection:
        process = await connection.create_process(
            address.command, encoding=None, stderr=asyncssh.DEVNULL
        )
        return await order.converse(process.stdout, process.stdin)


@asynccontextmanager
async def logged_in(address: Address) -> AsyncGenerator[asyncssh.SSHClientConnection, None]:
    """A connection to where an agent can be started; what still runs there ends with it.

    Raises:
        HostUnreachable: Nobody answers there, or another machine does.
        TransferBroken: The connection was lost.
    """
    try:
        connection = await asyncio.wait_for(_connected(address), CONNECT_SECONDS)
    except (OSError, asyncssh.Error, TimeoutError) as cause:
        raise HostUnreachable(
            f"the {address.what} at {address.host} cannot be logged in to ({_said(cause)}); see"
            " that its network reaches this machine, then run the job again"
        ) from cause
    try:
        yield connection
    except asyncssh.Error as cause:
        raise TransferBroken(
            f"the connection to the {address.what} at {address.host} was lost ({_said(cause)}); run"
            " the job again"
        ) from cause
    finally:
        connection.abort()
        await connection.wait_closed()


async def _connected(address: Address) -> asyncssh.SSHClientConnection:
    host_key = asyncssh.import_public_key(address.host_key)
    return await asyncssh.connect(
        address.host,
        address.port,
        username=address.username,
        client_keys=[asyncssh.import_private_key(address.private_key)],
        known_hosts=([host_key], [], []),
        config=None,
        agent_path=None,
        keepalive_interval=ALIVE_SECONDS,
    )


async def _frame(reader: _Reader, before: str) -> tuple[FrameKind, bytes]:
    try:
        kind, length = head_of(await reader.readexactly(HEAD_BYTES))
        return kind, await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError, asyncssh.Error) as cause:
        raise TransferBroken(
            f"the agent ended before {before}; see its machine's log, then run the job again"
        ) from cause


def _require_possible(receipt: PackReceipt) -> None:
    """Locations must lie in their pack, in order, and not in each other."""
    reached = PackHeader.max_bytes(sessions=1)
    fits = reached < receipt.size_bytes <= MAX_PACK_BYTES
    for place in receipt.locations:
        fits = fits and place.offset >= reached and place.length > 0 and place.chunk != ZERO_CHUNK
        reached = place.offset + place.length
    if not fits or reached > receipt.size_bytes:
        raise TransferBroken(
            f"what the agent says lies in pack {receipt.pack} cannot lie there; run the job again"
        )


def _error(failure: Failure) -> LikenessError:
    """What an agent failed with, as if it had happened here."""
    if failure.type in _TOLD_AS_IT_IS:
        kind: type[LikenessError] = getattr(errors, failure.type)
        return kind(failure.message)
    return TransferBroken(failure.message) if failure.retry else BadInput(failure.message)


def _said(cause: BaseException) -> str:
    return str(cause) or type(cause).__name__

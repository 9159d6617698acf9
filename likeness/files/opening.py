"""Files of a version's disks, asked of a process that has no secret and cannot open anything."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import msgspec

from likeness.errors import BadInput, Damaged
from likeness.files.messages import (
    MAX_READ,
    Ask,
    Channel,
    Disk,
    Done,
    FromReader,
    Got,
    Lacking,
    Need,
    Volume,
)

_SILENT_SECONDS = 300
HOW_TO_INSTALL = "pip install --require-hashes -r requirements/files.txt"


class Readable(Protocol):
    """A disk, as `likeness.store.read.disk_view.DiskView` gives it."""

    @property
    def size_bytes(self) -> int:
        """Length of the disk."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes of a range inside the disk."""


class GuestFiles:
    """The file systems of some disks."""

    def __init__(self, channel: Channel, disks: Sequence[Readable]) -> None:
        """Talk over `channel` to a reader; see `open_files`."""
        self._channel, self._disks = channel, disks
        self._decoder = msgspec.msgpack.Decoder(FromReader)

    def volumes(self) -> list[Volume]:
        """Partitions, whole disks and logical volumes, with or without a file system."""
        return [told for told in self.asked(Ask("volumes")) if isinstance(told, Volume)]

    def asked(self, ask: Ask) -> Iterator[FromReader]:
        """What the reader answers, one by one; the disks are read for it on the way.

        Raises:
            BadInput: There is no such thing, or the reader broke at it.
            ShareUnreachable: The store could not be read at the moment.
        """
        try:
            self._channel.send(ask)
            while not isinstance(told := self._channel.receive(self._decoder), Done):
                if isinstance(told, Need):
                    self._channel.send(self._got(told))
                elif isinstance(told, Lacking):
                    raise BadInput(_lacking(told))
                else:
                    yield told
        except (EOFError, BrokenPipeError, ConnectionError, TimeoutError, ValueError) as cause:
            raise BadInput(
                "the reader of the guest's files broke at what is on these disks; restore the disk"
                " and look at it in a VM"
            ) from cause
        if told.refused:
            raise BadInput(told.refused)

    def _got(self, need: Need) -> Got:
        if not (0 <= need.disk < len(self._disks) and need.offset >= 0):
            raise ValueError("a disk that is not there")
        if not 0 < need.length <= MAX_READ:
            raise ValueError("a length that cannot be")
        try:
            return Got(self._disks[need.disk].read(need.offset, need.length))
        except Damaged:
            return Got(b"", lost=True)


@contextmanager
def open_files(disks: Sequence[tuple[str, Readable]]) -> Generator[GuestFiles, None, None]:
    """Look into disks, named by their positions; the process ends with the block.

    Raises:
        BadInput: The library that reads file systems is not installed.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_SILENT_SECONDS)
        reader = _start(theirs)
        theirs.close()
        try:
            channel = Channel(ours)
            with suppress(BrokenPipeError, ConnectionError):  # what it said before is read below
                for position, disk in disks:
                    channel.send(Disk(position, disk.size_bytes))
                channel.send(Done())
            yield GuestFiles(channel, [disk for _, disk in disks])
        finally:
            reader.send_signal(signal.SIGKILL)
            reader.wait()


def _start(end: socket.socket) -> "subprocess.Popen[bytes]":
    """A process with nothing of this one's but the place of its libraries."""
    handle = end.fileno()
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "likeness.files.reader", str(handle)],
        env={
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUTF8": "1",
        },
        cwd="/",
        pass_fds=[handle],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _lacking(told: Lacking) -> str:
    return (
        f"files in disks are read with the library dissect, and {told.module[:60]} is not"
        f" installed; run {HOW_TO_INSTALL}, then again"
    )

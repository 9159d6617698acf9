"""In the reader's process: a version's disks as files, read by asking the process that has them."""

import io
import os
from collections import OrderedDict

import msgspec

from likeness.files.messages import MAX_READ, Channel, Disk, Done, Got, Need, ToReader

_BLOCK = 64 << 10
_BLOCKS_KEPT = 512


class Asking:
    """The other process, as the reader sees it."""

    def __init__(self, channel: Channel) -> None:
        """Ask over this channel."""
        self.channel = channel
        self._decoder: msgspec.msgpack.Decoder[ToReader] = msgspec.msgpack.Decoder(ToReader)

    def next(self) -> ToReader:
        """What it says next."""
        return self.channel.receive(self._decoder)

    def disks(self) -> list[tuple[str, "DiskFile"]]:
        """The disks it tells of at the start, by position."""
        found: list[tuple[str, DiskFile]] = []
        while not isinstance(told := self.next(), Done):
            if isinstance(told, Disk):
                found.append((told.position, DiskFile(self, len(found), told.size_bytes)))
        return found

    def bytes_of(self, disk: int, offset: int, length: int) -> bytes:
        """A range of a disk.

        Raises:
            OSError: The store has it no more.
        """
        self.channel.send(Need(disk, offset, length))
        answer = self.next()
        if not isinstance(answer, Got) or answer.lost:
            raise OSError("the store has these bytes no more")
        return answer.data


class DiskFile(io.RawIOBase):
    """One disk; small reads are answered from the blocks around them."""

    def __init__(self, asking: Asking, number: int, size: int) -> None:
        """The disk of this number and length."""
        super().__init__()
        self.number, self.size = number, size
        self._asking, self._at = asking, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def readinto(self, into: object) -> int:
        """Fill a buffer."""
        view = memoryview(into).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, length: int = -1, /) -> bytes:
        """The next bytes; fewer only at the end."""
        room = max(self.size - self._at, 0)
        length = room if length < 0 else min(length, room)
        parts, end = [], self._at + length
        while self._at < end:
            part = self._some(self._at, end)
            parts.append(part)
            self._at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, offset: int, end: int) -> bytes:
        begin = offset % _BLOCK
        if begin == 0 and end - offset >= 2 * _BLOCK:
            return self._asking.bytes_of(self.number, offset, min(end - offset, MAX_READ))
        whole = self._block(offset // _BLOCK)
        return whole[begin : begin + end - offset]

    def _block(self, number: int) -> bytes:
        if (known := self._kept.get(number)) is not None:
            self._kept.move_to_end(number)
            return known
        offset = number * _BLOCK
        fresh = self._asking.bytes_of(self.number, offset, min(_BLOCK, self.size - offset))
        self._kept[number] = fresh
        if len(self._kept) > _BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return fresh

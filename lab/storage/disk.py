"""One disk: its size, its top layer and its change log."""

import threading
from pathlib import Path

from lab.storage.changes import ChangeLog
from lab.storage.extents import Segment
from lab.storage.files import DataFile
from lab.storage.layers import Layer


class Disk:
    """The data behind one VDI.

    Attributes:
        size: Bytes the guest sees.
        top: The layer that takes writes.
        log: What was written since the disk before it in its chain, when tracking is on.
        read_bytes: How many bytes readers took, by export or NBD.
        written_bytes: How many bytes were written to it.
    """

    def __init__(self, size: int, top: Layer, folder: Path) -> None:
        self.size = size
        self.top = top
        self.log: ChangeLog | None = None
        self.read_bytes = 0
        self.written_bytes = 0
        self._folder = folder
        self._writing = threading.Lock()
        self._counting = threading.Lock()

    @classmethod
    def empty(cls, size: int, folder: Path) -> "Disk":
        """A disk of zeros."""
        return cls(size, Layer(folder), folder)

    @classmethod
    def over_image(cls, path: Path, folder: Path) -> "Disk":
        """A disk that starts with the content of a file, which is never written."""
        image = DataFile.image(path)
        return cls(image.size, Layer(folder, image=image), folder)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """The one way in: guests and transfers alike, so that the change log sees every write.

        Raises:
            ValueError: The range does not lie inside the disk.
        """
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"{len(view)} bytes at {offset} do not fit a disk of {self.size}")
        with self._writing:
            if self.log is not None:
                self.log.mark(offset, len(view))
            self.top.write(offset, view)
            self.written_bytes += len(view)

    def read(self, offset: int, length: int) -> bytes:
        """Read a range; the caller keeps it inside the disk."""
        return self.top.read(offset, length)

    def segments(self, start: int, end: int) -> list[Segment]:
        """Where a range lies, for transfers that move it without copying."""
        return self.top.resolve(start, end)

    def count_read(self, length: int) -> None:
        """Add to `read_bytes`."""
        with self._counting:
            self.read_bytes += length

    def branch(self) -> "Disk":
        """Freeze what is there; both this disk and the new one go on above it.

        Costs no copy. The new disk has no change log.
        """
        with self._writing:
            frozen = self.top
            self.top = Layer(self._folder, parent=frozen)
            return Disk(self.size, Layer(self._folder, parent=frozen), self._folder)

    def snapshot_with_log(self) -> "Disk":
        """Branch, and hand the log gathered so far to the snapshot; a new one begins here."""
        with self._writing:
            frozen = self.top
            self.top = Layer(self._folder, parent=frozen)
            taken = Disk(self.size, Layer(self._folder, parent=frozen), self._folder)
            if self.log is not None:
                taken.log, self.log = self.log, self.log.begin_next()
            return taken

    def track(self) -> None:
        """Begin a change log: nothing was written before it."""
        with self._writing:
            self.log = ChangeLog(self.size)

    def stop_tracking(self) -> None:
        """Drop the change log; the chain ends with the log before it."""
        with self._writing:
            if self.log is not None:
                self.log.leave()
            self.log = None

    def drop(self) -> None:
        """Let go of data and log."""
        self.stop_tracking()
        self.top.drop()

    def drop_data(self) -> None:
        """Let go of the data and keep the log."""
        with self._writing:
            self.top.drop_data()

    def grow(self, size: int) -> None:
        """Make the disk larger; the new part reads as zeros."""
        with self._writing:
            self.size = size
            if self.log is not None:
                self.log.grow(size)

"""Copy-on-write layers: a disk is its top layer, over that one's parent, and so on."""

import threading
from pathlib import Path

from lab.storage.extents import ExtentMap, Segment, gaps_between
from lab.storage.files import DataFile

ALLOCATION_BYTES = 2 << 20
ZEROS = bytes(4 << 20)
ZERO_RUN_BYTES = 64 << 10


def _is_long_zero(data: memoryview) -> bool:
    """Whether written zeros are many enough to be kept as a note instead of as bytes."""
    return ZERO_RUN_BYTES <= len(data) <= len(ZEROS) and bytes(data) == ZEROS[: len(data)]


class Layer:
    """One node of a tree of layers, like one VHD file.

    All layers of a tree share one lock; it covers the maps, never a read or a transfer of data. A
    layer that has children is frozen: nobody writes to it, and what a child does not hold itself is
    read through it.

    Attributes:
        image: Read-only file below the layer's own extents, or None.
        parent: Where to look for what this layer does not hold.
    """

    def __init__(
        self, folder: Path, *, parent: "Layer | None" = None, image: DataFile | None = None
    ) -> None:
        self._folder = folder
        self._own: DataFile | None = None
        self._touched: set[int] = set()
        self.extents = ExtentMap()
        self.image = image
        self.parent = parent
        self.children = 0
        self.lock: threading.RLock = parent.lock if parent else threading.RLock()
        if parent:
            with self.lock:
                parent.children += 1

    def write(self, start: int, data: memoryview) -> None:
        """Write to this layer; the caller sees to it that it has no children."""
        if not data:
            return
        own: DataFile | None = None
        if not _is_long_zero(data):
            with self.lock:
                if self._own is None:
                    self._own = DataFile.overlay(self._folder)
                own = self._own
            own.write(start, data)
        with self.lock:
            end = start + len(data)
            self.extents.put(start, end, own)
            self._touched.update(range(start // ALLOCATION_BYTES, -(-end // ALLOCATION_BYTES)))

    def resolve(self, start: int, end: int) -> list[Segment]:
        """Where the bytes of a range lie, in order, without a gap; zeros have no file."""
        with self.lock:
            found: list[Segment] = []
            open_ranges = [(start, end)]
            layer: Layer | None = self
            while layer is not None and open_ranges:
                open_ranges = layer._take(open_ranges, found)
                layer = layer.parent
        found.extend(Segment(low, high, None) for low, high in open_ranges)
        return sorted(found, key=lambda segment: segment.start)

    def _take(self, ranges: list[tuple[int, int]], found: list[Segment]) -> list[tuple[int, int]]:
        missing = []
        for start, end in ranges:
            held = self.extents.cut(start, end)
            found.extend(held)
            missing.extend(gaps_between(held, start, end))
        if self.image is None:
            return missing
        below, size = [], self.image.size
        for start, end in missing:
            if start < size:
                found.append(Segment(start, min(end, size), self.image))
            if end > size:
                below.append((max(start, size), end))
        return below

    def read(self, start: int, length: int) -> bytes:
        """Read through all layers."""
        parts = [
            bytes(end - low) if file is None else file.read(low, end - low)
            for low, end, file in self.resolve(start, start + length)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fold_parent(self) -> bool:
        """Swallow a parent that has no other child, as the storage does after a deletion.

        Data stays where it is; only maps change. Returns whether there was such a parent.
        """
        with self.lock:
            parent = self.parent
            if parent is None or parent.children != 1:
                return False
            merged = parent.extents
            merged.overlay(self.extents)
            self.extents, self._touched = merged, self._touched | parent._touched
            self.image, self.parent = parent.image, parent.parent
            return True

    def chain(self) -> list["Layer"]:
        """This layer, its parent, and so on."""
        with self.lock:
            layers: list[Layer] = []
            layer: Layer | None = self
            while layer is not None:
                layers.append(layer)
                layer = layer.parent
            return layers

    def drop(self) -> None:
        """Let go of the layer; a frozen parent that nobody reads through any more goes with it."""
        with self.lock:
            layer = self
            while layer.parent is not None:
                layer.parent.children -= 1
                if layer.parent.children:
                    return
                layer = layer.parent

    def drop_data(self) -> None:
        """Forget the data but keep the node."""
        with self.lock:
            self.drop()
            self.parent, self.image, self._own = None, None, None
            self.extents, self._touched = ExtentMap(), set()

    def allocated_bytes(self) -> int:
        """Space this layer alone takes up, in steps of the storage's allocation unit."""
        image = self.image.allocated_bytes if self.image else 0
        return image + len(self._touched) * ALLOCATION_BYTES

"""What a transfer hands to the commit.

The packs of a big transfer are too many to keep in memory with all their places, so they are
written to a local log as they are acknowledged, and read back once.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from likeness.model.disk import DiskFacts, VmFacts
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, PackId, RunId
from likeness.store.documents import Counts
from likeness.store.maps import FlatMap
from likeness.store.pack import PackReceipt, Place
from likeness.store.versions import Version

_PACK = struct.Struct("<16sQ32s16sI")
_PLACE = struct.Struct(f"<{CHUNK_ID_BYTES}sII")


class PackLog:
    """Receipts of packs in a local file; one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Begin an empty log at `path`."""
        self._path = path
        self._path.touch(mode=0o600, exist_ok=False)
        self.packs = 0

    def append(self, receipt: PackReceipt) -> None:
        """Add a pack that the store has acknowledged."""
        head = _PACK.pack(
            bytes.fromhex(receipt.pack),
            receipt.size_bytes,
            receipt.digest,
            receipt.checksum,
            len(receipt.places),
        )
        body = b"".join(_PLACE.pack(p.chunk, p.offset, p.length) for p in receipt.places)
        with self._path.open("ab") as file:
            file.write(head + body)
        self.packs += 1

    def __iter__(self) -> Iterator[PackReceipt]:
        """Every pack, in the order they were acknowledged."""
        with self._path.open("rb") as file:
            while head := file.read(_PACK.size):
                pack, size, digest, checksum, count = _PACK.unpack(head)
                body = file.read(count * _PLACE.size)
                places = tuple(Place(ChunkId(c), o, n) for c, o, n in _PLACE.iter_unpack(body))
                yield PackReceipt(PackId(pack.hex()), size, digest, checksum, places)


@dataclass(frozen=True, slots=True)
class DiskReceipt:
    """One disk as it was transferred.

    Attributes:
        facts: Which disk.
        chunk_map: Its block map now.
        previous: Its block map in the VM's last version, if it had one.
    """

    facts: DiskFacts
    chunk_map: FlatMap
    previous: FlatMap | None


@dataclass(frozen=True, slots=True)
class TransferReceipt:
    """Everything the commit needs to make a version of what a transfer brought.

    Attributes:
        last: The VM's last version as the transfer read it, if it had one; see `last_version`.
    """

    run: RunId
    job: str
    vm: VmFacts
    taken_at: datetime
    consistency: str
    consistency_asked: str
    note: str
    disks: tuple[DiskReceipt, ...]
    packs: PackLog
    counts: Counts
    last: Version | None = None

    def discard(self) -> None:
        """Let go of the maps once the version is recorded; safe to repeat."""
        for disk in self.disks:
            disk.chunk_map.close()
            if disk.previous is not None:
                disk.previous.close()

"""What a sender keeps and tells of packs that the store has acknowledged.

The packs of a big transfer are too many to keep in memory with all their places, so they are
written to a local log as they are acknowledged, and read back once.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from likeness.model.ids import PackId
from likeness.store.format.locations import LOCATION_BYTES, PackLocations
from likeness.store.format.pack import PackReceipt

_PACK = struct.Struct("<16sQ32s16sI")


class Acknowledged(Protocol):
    """Takes the receipts of packs, one at a time, as the store acknowledges them."""

    def append(self, receipt: PackReceipt) -> None:
        """Add a pack that the store has acknowledged."""


def encode_receipt(receipt: PackReceipt) -> bytes:
    """A pack's receipt as it lies in a log and travels from an agent, integers little-endian.

    pack 16 | size u64 | digest 32 | checksum 16 | places u32, and for each place
    chunk id 32 | offset u32 | length u32.
    """
    head = _PACK.pack(
        bytes.fromhex(receipt.pack),
        receipt.size_bytes,
        receipt.digest,
        receipt.checksum,
        len(receipt.locations),
    )
    return head + receipt.locations.packed


def decode_receipt(data: bytes) -> PackReceipt:
    """The receipt that `encode_receipt` wrote.

    Raises:
        ValueError: It is cut short, or longer than its places.
    """
    if len(data) < _PACK.size:
        raise ValueError("a receipt is cut short")
    pack, size, digest, checksum, count = _PACK.unpack_from(data)
    if len(data) != _PACK.size + count * LOCATION_BYTES:
        raise ValueError("a receipt has another length than its places")
    return PackReceipt(
        PackId(pack.hex()), size, digest, checksum, PackLocations(data[_PACK.size :])
    )


class PackLog:
    """Receipts of packs in a local file; one writer at a time."""

    def __init__(self, path: Path) -> None:
        """Begin an empty log at `path`."""
        self._path = path
        self._path.touch(mode=0o600, exist_ok=False)
        self.packs = 0

    @classmethod
    def continued(cls, path: Path) -> "PackLog":
        """The log of an earlier attempt at `path`, or an empty one."""
        found = cls.__new__(cls)
        found._path = path
        found._path.touch(mode=0o600)
        found.packs = sum(1 for _ in found)
        return found

    def append(self, receipt: PackReceipt) -> None:
        """Add a pack that the store has acknowledged."""
        with self._path.open("ab") as file:
            file.write(encode_receipt(receipt))
        self.packs += 1

    def __iter__(self) -> Iterator[PackReceipt]:
        """Every pack, in the order they were acknowledged."""
        with self._path.open("rb") as file:
            while head := file.read(_PACK.size):
                *_, count = _PACK.unpack(head)
                yield decode_receipt(head + file.read(count * LOCATION_BYTES))

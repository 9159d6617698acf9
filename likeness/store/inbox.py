"""The inbox, from the side of a source that holds no key of the store: it leaves a manifest.

A manifest says what a transfer made: where each disk's map differs from the VM's last version, and
which packs hold the new chunks. It is written in parts, each sealed on its own, as soon as there
is enough for one, so the size of a disk never matters to memory; the last part says how many there
are. `likeness.store.arrivals` reads it on the controller's side.

A part's plaintext, integers little-endian, is a kind u8 and then::

    map      disk u16 | runs u32 | runs x (first position u64 | length u32)
             chunk ids of all runs, 32 bytes each; the zero id means "zero now"
    packs    packs x (pack 16 | size u64 | digest 32 | checksum 16 | places u32
                      places x (chunk id 32 | offset u32 | length u32))
    closing  JSON, see `Closing`
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated

from msgspec import Meta

from likeness.codec.manifests import LAST_PART, Seal
from likeness.errors import NameTaken, ShareUnreachable
from likeness.model.ids import CHUNK_ID_BYTES, random_name
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.documents import Count, Counts, Document, Hex32, Hex64, encode
from likeness.store.maps import STRETCH, FlatMap, Run
from likeness.store.pack import PackReceipt
from likeness.store.receipts import DiskReceipt, PackLog
from likeness.transport.base import Transport

PART_BYTES = 4 << 20
"""A part is closed once it has this many bytes."""
PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between attempts to write a part that the share did not acknowledge."""
MAP_HEAD = struct.Struct("<HI")
MAP_RUN = struct.Struct("<QI")
PACK_HEAD = struct.Struct("<16sQ32s16sI")
PLACE = struct.Struct(f"<{CHUNK_ID_BYTES}sII")
MOST_DISKS = 1024


class PartKind(IntEnum):
    """What a part tells."""

    MAP = 1
    PACKS = 2
    CLOSING = 3


class ClosingDisk(Document, frozen=True):
    """A disk, as the source read it.

    Attributes:
        root: BLAKE3 over the ids of all positions in order.
    """

    disk: Hex32
    size_bytes: Count
    root: Hex64


class Closing(Document, frozen=True):
    """The last part.

    Attributes:
        parts: How many parts there are besides it, numbered from 0.
        packs: How many packs they tell of.
        places: How many chunks those hold.
        disks: In the order that map parts number them.
        counts: What the source measured.
    """

    parts: Count
    packs: Count
    places: Count
    disks: Annotated[tuple[ClosingDisk, ...], Meta(max_length=MOST_DISKS)]
    counts: Counts


def write_manifest(
    inbox: Transport,
    seal: Seal,
    *,
    disks: Sequence[DiskReceipt],
    packs: PackLog,
    counts: Counts,
    stop: StopToken,
    pauses: Sequence[float] = PAUSES,
) -> tuple[str, ...]:
    """Leave a manifest in the run's inbox.

    Args:
        inbox: Where the inbox is; nothing is read, listed or changed there.
        seal: Of this attempt.
        disks: What was transferred: each new map, and the one it differs from.
        packs: What was sent.
        counts: What was measured.
        stop: Looked at before every part.
        pauses: Seconds to wait before each further attempt to write a part.

    Returns:
        Names of the parts, in order.

    Raises:
        ShareUnreachable: The store went away for longer than all attempts together.
        ShareFull: No room.
        Stopped: On request.
    """
    writer = _Writer(inbox, seal, stop, pauses)
    for number, disk in enumerate(disks):
        for plaintext in _map_parts(number, disk.chunk_map, disk.previous):
            writer.write(plaintext)
    places = 0
    for plaintext, held in _pack_parts(packs):
        places += held
        writer.write(plaintext)
    writer.close(
        packs=packs.packs,
        places=places,
        disks=tuple(
            ClosingDisk(
                disk=disk.facts.disk, size_bytes=disk.facts.size_bytes, root=disk.chunk_map.root()
            )
            for disk in disks
        ),
        counts=counts,
    )
    return tuple(writer.names)


class _Writer:
    """Numbers, seals and writes parts."""

    def __init__(
        self, inbox: Transport, seal: Seal, stop: StopToken, pauses: Sequence[float]
    ) -> None:
        self._inbox, self._seal, self._stop, self._pauses = inbox, seal, stop, pauses
        self.names: list[str] = []

    def write(self, plaintext: bytes) -> None:
        self._send(self._seal.write(len(self.names), plaintext))

    def close(
        self, *, packs: int, places: int, disks: tuple[ClosingDisk, ...], counts: Counts
    ) -> None:
        closing = Closing(
            parts=len(self.names), packs=packs, places=places, disks=disks, counts=counts
        )
        plaintext = bytes([PartKind.CLOSING]) + encode(closing)
        self._send(self._seal.write(LAST_PART, plaintext))

    def _send(self, data: bytes) -> None:
        """Write one part, under a new name after every attempt with an unknown outcome."""
        for pause in (*self._pauses, None):
            self._stop.check()
            name = layout.arriving_manifest(self._seal.run, random_name())
            try:
                self._inbox.create(name, [data])
            except (ShareUnreachable, NameTaken):
                if pause is None or self._stop.wait(pause):
                    self._stop.check()
                    raise
                continue
            self.names.append(name)
            return


def _map_parts(number: int, chunk_map: FlatMap, previous: FlatMap | None) -> Iterator[bytes]:
    """Where a map differs from the one before; nothing if it does not."""
    runs: list[Run] = []
    size = 0
    for first in range(0, chunk_map.positions, STRETCH):
        count = min(STRETCH, chunk_map.positions - first)
        for run in chunk_map.runs_unlike(previous, first, count):
            runs.append(run)
            size += MAP_RUN.size + len(run.ids)
            if size >= PART_BYTES:
                yield _map_part(number, runs)
                runs, size = [], 0
    if runs:
        yield _map_part(number, runs)


def _map_part(number: int, runs: Sequence[Run]) -> bytes:
    return b"".join(
        (
            bytes([PartKind.MAP]),
            MAP_HEAD.pack(number, len(runs)),
            *(MAP_RUN.pack(run.first, run.count) for run in runs),
            *(run.ids for run in runs),
        )
    )


def _pack_parts(packs: PackLog) -> Iterator[tuple[bytes, int]]:
    """Parts that tell of packs, and how many places are in each part."""
    told = [bytes([PartKind.PACKS])]
    size = places = 0
    for pack in packs:
        data = _pack(pack)
        told.append(data)
        size += len(data)
        places += len(pack.places)
        if size >= PART_BYTES:
            yield b"".join(told), places
            told, size, places = told[:1], 0, 0
    if size:
        yield b"".join(told), places


def _pack(pack: PackReceipt) -> bytes:
    head = PACK_HEAD.pack(
        bytes.fromhex(pack.pack), pack.size_bytes, pack.digest, pack.checksum, len(pack.places)
    )
    return head + b"".join(PLACE.pack(p.chunk, p.offset, p.length) for p in pack.places)

"""Restore: a version's disks, every chunk proved on its way.

Chunks are fetched pack by pack, whatever their order on the disk. A chunk that fails its proof is
looked for in every other place that may have it; if there is none, the restore fails and says
which bytes of the disk are lost, or, where that is accepted, leaves zeros there and a map of them.
It never writes a byte that was not proved.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from likeness.errors import ObjectUnreadable
from likeness.model.ids import random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.read.chunk_source import ChunkSource, DataLost, Say
from likeness.store.read.disk_view import first_whole_map
from likeness.store.read.disk_writers import DiskWriter
from likeness.store.read.locating import Locator

Progress = Callable[[int], None]
"""Told how many more bytes of the disk are done."""


def restore_disk(
    stores: DataStore | Sequence[DataStore],
    disk: DiskRecord,
    target: DiskWriter,
    *,
    scratch: Path,
    stop: StopToken,
    progress: Progress = lambda _: None,
    say: Say = lambda _: None,
    accept_damage: bool = False,
    locator: Locator | None = None,
) -> DataLost | None:
    """Write one disk of a version.

    Args:
        stores: Where from; the vault will do, or may follow the data store.
        disk: Which.
        target: Where to; finished on success, abandoned on failure.
        scratch: A folder for the block map while it is needed.
        stop: Looked at between packs.
        progress: Told of bytes done.
        say: Told of what had to be taken from elsewhere, and why.
        accept_damage: Go on where bytes are lost for good: the target is told which they are, and
            has zeros there.
        locator: Knows where the chunks are to be had in the first store, perhaps.

    Returns:
        What is lost, if that was accepted; nothing when the disk is whole.

    Raises:
        DataLost: Some bytes are not to be had; nothing is left at the target.
        Damaged: The map or the index is damaged.
        ShareUnreachable: The store went away, or something of it that cannot be done without
            cannot be read at the moment.
        Stopped: On request.
    """
    among = [stores] if isinstance(stores, DataStore) else list(stores)
    try:
        with first_whole_map(among, disk, scratch / f"{random_name()}.restore-map") as chunk_map:
            source = ChunkSource(among, disk, chunk_map, say=say, locator=locator)
            damage = _write_all(source, target, stop, progress, accept_damage=accept_damage)
        if damage is not None:
            if not accept_damage:
                raise damage
            target.mark_lost(damage.extents, damage.cause)
        target.finish()
    except BaseException:
        target.abandon()
        raise
    return damage


def _write_all(
    source: ChunkSource,
    target: DiskWriter,
    stop: StopToken,
    progress: Progress,
    *,
    accept_damage: bool,
) -> DataLost | None:
    """Write what is to be had; what is lost.

    Raises:
        ShareUnreachable: What may hold the rest cannot be read at the moment.
    """
    size = source.disk.chunk_bytes
    telling = threading.Lock()
    progress(source.zero_bytes)
    target.reserve(source.data_extents(), source.disk.size_bytes - source.zero_bytes)

    def write(number: int, plaintext: bytes) -> None:
        positions = source.positions(number).tolist()
        for position in positions:
            target.write(position * size, plaintext)
        with telling:
            progress(len(positions) * len(plaintext))

    every = np.arange(source.chunks.count)
    lost = source.fetch(every, write, stop=stop, workers=_workers())
    if not len(lost):
        return None
    if source.unread is not None and not (
        accept_damage and isinstance(source.unread, ObjectUnreadable)
    ):
        raise source.unread  # another attempt may find it whole
    return source.lost(lost)


def _workers() -> int:
    """More than there are processors: some of them wait for a disk."""
    return (os.cpu_count() or 1) + 2

"""Consequences: which versions need data that is in no whole pack any more.

Exact, and as slow as that takes: every block map of every version is put together, so it is asked
only once something is known to be lost. An installation's catalog answers the same at once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, PackId, random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.maps import STRETCH
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.read.index import known_packs, read_segment, segments
from likeness.store.read.versions import Version, load_map, read_version, record_names, vms

MOST_AT_ONCE = 1 << 12
"""Packs looked into at once: about 100 MB of memory for their chunk ids."""
_WINDOW = 1 << 14


def versions_that_need(
    store: DataStore, packs: Collection[PackId], *, scratch: Path, stop: StopToken
) -> dict[PackId, list[str]]:
    """Which versions cannot do without these packs.

    A chunk that another pack holds as well is not missed.

    Args:
        store: Where.
        packs: Which are missing or damaged.
        scratch: A folder for one block map at a time.
        stop: Looked at between maps.

    Returns:
        For each pack that is needed, the names of the version records that need it. Versions whose
        record or maps are damaged themselves are not among them.
    """
    needed: dict[PackId, list[str]] = defaultdict(list)
    lost = sorted(packs)
    for start in range(0, len(lost), MOST_AT_ONCE):
        chunks = _only_there(store, frozenset(lost[start : start + MOST_AT_ONCE]), frozenset(lost))
        for name, found in _users(store, chunks, scratch, stop):
            for pack in found:
                needed[pack].append(name)
    return dict(needed)


def packs_of(store: DataStore, version: Version, *, scratch: Path, stop: StopToken) -> set[PackId]:
    """Every pack that holds a chunk of a version, as far as the index can be read.

    The index is read once for every 64 GiB of disk (at 256 KiB a chunk), so that memory does not
    grow with it.

    Raises:
        Damaged: A block map of the version is.
    """
    packs: set[PackId] = set()
    for disk in version.record.disks:
        with load_map(store, disk, scratch / f"{random_name()}.packs-map") as chunk_map:
            for first in range(0, chunk_map.positions, STRETCH):
                stop.check()
                count = min(STRETCH, chunk_map.positions - first)
                runs = chunk_map.runs_unlike(None, first, count)
                chunks = {chunk for run in runs for _, chunk in run.each()}
                for name in segments(store, unread=lambda _: None):
                    with suppress(*NOT_READ, *UNREADABLE):
                        known = read_segment(store, name, chunks=chunks)
                        packs.update(pack.pack for pack in known if pack.places)
    return packs


def _only_there(
    store: DataStore, packs: frozenset[PackId], lost: frozenset[PackId]
) -> dict[ChunkId, PackId]:
    """Chunks of some packs that no pack outside `lost` holds."""
    chunks: dict[ChunkId, PackId] = {}
    for pack in known_packs(store, packs, damaged=lambda _: None):
        chunks.update((place.chunk, pack.pack) for place in pack.places)
    for pack in known_packs(store, damaged=lambda _: None):
        if pack.pack not in lost:
            for place in pack.places:
                chunks.pop(place.chunk, None)
    return chunks


def _users(
    store: DataStore, chunks: dict[ChunkId, PackId], scratch: Path, stop: StopToken
) -> Iterator[tuple[str, set[PackId]]]:
    for vm in vms(store) if chunks else ():
        for name in record_names(store, vm):
            found: set[PackId] = set()
            try:
                for disk in read_version(store, name).record.disks:
                    stop.check()
                    found |= _packs_of(store, disk, chunks, scratch)
            except UNREADABLE:
                continue
            if found:
                yield name, found


def _packs_of(
    store: DataStore, disk: DiskRecord, chunks: dict[ChunkId, PackId], scratch: Path
) -> set[PackId]:
    found: set[PackId] = set()
    with load_map(store, disk, scratch / f"{random_name()}.needed-map") as chunk_map:
        for first in range(0, chunk_map.positions, _WINDOW):
            ids = chunk_map.ids(first, min(_WINDOW, chunk_map.positions - first))
            for at in range(0, len(ids), CHUNK_ID_BYTES):
                pack = chunks.get(ChunkId(ids[at : at + CHUNK_ID_BYTES]))
                if pack is not None:
                    found.add(pack)
    return found

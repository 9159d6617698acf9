"""Which packs a version needs, asked of the index alone."""

from contextlib import suppress
from pathlib import Path

from likeness.model.ids import PackId, random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.maps import STRETCH
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.read.index import read_segment, segments
from likeness.store.read.versions import Version, load_map


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
                        packs.update(pack.pack for pack in known if pack.locations)
    return packs

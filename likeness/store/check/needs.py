"""Needs: does every version have all its data blocks? Asked of the versions, never of the index.

The index may be damaged, or set back together with the packs, and then speaks of less than the
versions need. So their block maps are read, and each block of each map must have been proved.
"""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from likeness.model.ids import CHUNK_ID_BYTES, ZERO_CHUNK, ChunkId, random_name
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.ledger import Ledger
from likeness.store.read.versions import load_map, read_version_at

_WINDOW = 1 << 14
MAX_LACKING = 1 << 14
"""Blocks remembered one by one of what a version lacks."""


@dataclass
class Lack:
    """What a version needs and nobody proved.

    Attributes:
        lost_bytes: How much of its disks that is.
        chunks: The blocks; of very many, the first.
    """

    lost_bytes: int = 0
    chunks: set[ChunkId] = field(default_factory=set)

    def add(self, chunk: ChunkId, size_bytes: int) -> None:
        """Note one position of a disk."""
        self.lost_bytes += size_bytes
        if len(self.chunks) < MAX_LACKING:
            self.chunks.add(chunk)


@dataclass
class Needs:
    """What versions need, against what was proved.

    Attributes:
        lacking: By the name of each version that lacks something, what.
        users: For each suspect block that some version needs, the names of those versions.
    """

    lacking: dict[str, Lack] = field(default_factory=dict)
    users: dict[ChunkId, set[str]] = field(default_factory=lambda: defaultdict(set))


def needs_of(
    store: DataStore,
    versions: Mapping[str, str],
    proved: Ledger,
    suspects: Container[ChunkId],
    *,
    scratch: Path,
    stop: StopToken,
) -> Needs:
    """Compare what versions need with what was proved.

    Args:
        store: Where.
        versions: Whose record and block maps are readable: names, and where the records lie.
        proved: Every block that was proved.
        suspects: Blocks of which is asked who needs them, lacking or not.
        scratch: A folder for one block map at a time.
        stop: Looked at before every disk.
    """
    needs = Needs()
    for firsts, have in proved.turns():
        for name, lies_at in versions.items():
            for disk in read_version_at(store, name, lies_at).record.disks:
                stop.check()
                for chunk, size in _chunks(store, disk, scratch):
                    if chunk[0] in firsts and chunk not in have:
                        needs.lacking.setdefault(name, Lack()).add(chunk, size)
                    if chunk in suspects:
                        needs.users[chunk].add(name)
    return needs


def _chunks(store: DataStore, disk: DiskRecord, scratch: Path) -> Iterator[tuple[ChunkId, int]]:
    with load_map(store, disk, scratch / f"{random_name()}.needs-map") as chunk_map:
        for first in range(0, chunk_map.positions, _WINDOW):
            ids = chunk_map.ids(first, min(_WINDOW, chunk_map.positions - first))
            for at in range(len(ids) // CHUNK_ID_BYTES):
                chunk = ChunkId(ids[at * CHUNK_ID_BYTES : (at + 1) * CHUNK_ID_BYTES])
                if chunk != ZERO_CHUNK:
                    start = (first + at) * disk.chunk_bytes
                    yield chunk, min(disk.chunk_bytes, disk.size_bytes - start)

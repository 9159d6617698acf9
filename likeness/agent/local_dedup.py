"""The first deduplication, at the source: what need not be sent, told without asking anybody."""

import threading
from collections.abc import Container, Iterable
from enum import Enum, auto
from itertools import islice

from likeness.codec.hashing import chunk_id, is_zero
from likeness.model.ids import CHUNK_ID_BYTES, ZERO_CHUNK, ChunkId

MOST_REMEMBERED = 1 << 19
"""New chunk ids kept in mind in one transfer: about 70 MB. Repeats beyond that are sent, and the
global deduplication drops them."""

_KEY_BYTES = 16


class Finding(Enum):
    """What became of a chunk."""

    ZERO = auto()
    UNCHANGED = auto()
    REPEATED = auto()
    KNOWN = auto()
    NEW = auto()


class LocalDedup:
    """Sorts chunks into zero, unchanged, repeated, known and new; for many threads."""

    def __init__(
        self,
        *,
        id_key: bytes,
        distrusted: frozenset[bytes] = frozenset(),
        sent: Iterable[ChunkId] = (),
        known: Container[bytes] = (),
    ) -> None:
        """Begin with what an earlier attempt has sent in mind, usually nothing.

        Args:
            id_key: 32 bytes, the chunk id key.
            distrusted: The first 16 bytes of chunk ids whose stored bytes are damaged or missing;
                they are sent again although nothing changed.
            sent: Chunks that are in the inbox already.
            known: Chunks that the store has, proved.
        """
        self._id_key = id_key
        self._distrusted = distrusted
        self._known = known
        self._seen: set[bytes] = set(islice(sent, MOST_REMEMBERED))
        self._lock = threading.Lock()

    def sort(self, plaintext: bytes, previous: bytes) -> tuple[Finding, ChunkId]:
        """Say what a chunk is, and its id.

        A chunk called new or known is remembered: the caller must send it, or note that it relies
        on it.

        Args:
            plaintext: The chunk.
            previous: The chunk id at this position in the VM's last version; the zero id for none.
        """
        if is_zero(plaintext):
            return Finding.ZERO, ZERO_CHUNK
        chunk = chunk_id(plaintext, id_key=self._id_key)
        if chunk == previous and chunk[:_KEY_BYTES] not in self._distrusted:
            return Finding.UNCHANGED, chunk
        if not self._is_first(chunk):
            return Finding.REPEATED, chunk
        known = chunk in self._known and chunk[:_KEY_BYTES] not in self._distrusted
        return (Finding.KNOWN if known else Finding.NEW), chunk

    def _is_first(self, chunk: ChunkId) -> bool:
        with self._lock:
            if chunk in self._seen:
                return False
            if len(self._seen) < MOST_REMEMBERED:
                self._seen.add(chunk)
            return True


def previous_id(ids: bytes, at: int) -> bytes:
    """The `at`-th chunk id of a joined list."""
    return ids[at * CHUNK_ID_BYTES : (at + 1) * CHUNK_ID_BYTES]

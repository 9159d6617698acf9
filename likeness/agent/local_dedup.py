"""The first deduplication, at the source: what need not be sent, told without asking anybody."""

import threading
from collections.abc import Container
from enum import Enum, auto
from mmap import mmap

from likeness.codec.buffers import Buffer
from likeness.codec.hashing import chunk_id, is_zero
from likeness.model.ids import CHUNK_ID_BYTES, ZERO_CHUNK, ChunkId

MAX_REMEMBERED = 1 << 18
"""New chunk ids kept in mind in one transfer: 8 MB. Repeats beyond that are sent, and the global
deduplication drops them."""

_KEY_BYTES = 16
_NEVER_USED = bytes(_KEY_BYTES)


class ChunkState(Enum):
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
        distrusted: Container[bytes] = (),
        sent: Container[bytes] = (),
        known: Container[bytes] = (),
        most: int = MAX_REMEMBERED,
    ) -> None:
        """Begin with nothing in mind.

        Args:
            id_key: 32 bytes, the chunk id key.
            distrusted: The first 16 bytes of chunk ids whose stored bytes are damaged or missing;
                they are sent again although nothing changed.
            sent: Chunks that an earlier attempt brought into the inbox.
            known: Chunks that the store has, proved.
            most: How many there can be; fewer take less memory.
        """
        self._id_key = id_key
        self._distrusted, self._sent = distrusted, sent
        self._known = known
        self._seen = _SeenIds(min(most, MAX_REMEMBERED))
        self._lock = threading.Lock()

    def sort(self, plaintext: Buffer, previous: bytes) -> tuple[ChunkState, ChunkId]:
        """Say what a chunk is, and its id.

        A chunk called new or known is remembered: the caller must send it, or note that it relies
        on it.

        Args:
            plaintext: The chunk.
            previous: The chunk id at this position in the VM's last version; the zero id for none.
        """
        if is_zero(plaintext):
            return ChunkState.ZERO, ZERO_CHUNK
        chunk = chunk_id(plaintext, id_key=self._id_key)
        if chunk == previous and chunk[:_KEY_BYTES] not in self._distrusted:
            return ChunkState.UNCHANGED, chunk
        if chunk in self._sent or not self._is_first(chunk):
            return ChunkState.REPEATED, chunk
        known = chunk in self._known and chunk[:_KEY_BYTES] not in self._distrusted
        return (ChunkState.KNOWN if known else ChunkState.NEW), chunk

    def _is_first(self, chunk: ChunkId) -> bool:
        with self._lock:
            return self._seen.add(chunk[:_KEY_BYTES])


class _SeenIds:
    """A set of keys without an object for each: a table that is at most half full.

    They are as good as random, so their first bytes say where to look.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        slots = 1 << (2 * max(most, 1) - 1).bit_length()
        self._last = slots - 1
        self._table = mmap(-1, slots * _KEY_BYTES)

    def add(self, key: bytes) -> bool:
        """Remember a key if there is room; whether it was not known yet."""
        at = int.from_bytes(key[:4], "little") & self._last
        while True:
            slot = slice(at * _KEY_BYTES, (at + 1) * _KEY_BYTES)
            found = self._table[slot]
            if found == key:
                return False
            if found == _NEVER_USED:  # no chunk of data has that id
                break
            at = (at + 1) & self._last
        if self._left:
            self._left -= 1
            self._table[slot] = key
        return True


def previous_id(ids: bytes, at: int) -> bytes:
    """The `at`-th chunk id of a joined list."""
    return ids[at * CHUNK_ID_BYTES : (at + 1) * CHUNK_ID_BYTES]

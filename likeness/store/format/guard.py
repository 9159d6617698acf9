"""The guard: what must hold before a store is read, and before anything in it is changed.

Everybody who creates, renames or deletes an object does so over `DataStore.for_writing`, which
asks here, and the fence of `owning`. A store says itself what one must know to read it, and to
change it.
"""

from likeness.codec.aead import Suite
from likeness.codec.records import LARGEST_CHUNK_BYTES, SMALLEST_CHUNK_BYTES
from likeness.errors import StoreTooNew
from likeness.store.format.documents import FormatDocument

STORE_FORMAT = 1
NEEDS_LISTS = "needs lists"
"""A feature: the store says for each version which objects it needs; see `needs_lists`."""
_WRITTEN = frozenset({NEEDS_LISTS})
"""Features that this release knows all about when it changes a store."""


def require_reader(facts: FormatDocument) -> None:
    """Return, if this release knows all it must to read the store.

    Args:
        facts: From a format document whose signature was verified: it is not damaged, whatever it
            says.

    Raises:
        StoreTooNew: It does not.
    """
    unknown = ""
    if facts.oldest_reader > STORE_FORMAT:
        unknown = f"it has format {facts.format}, and this one reads format {STORE_FORMAT}"
    elif facts.must_know_to_read:
        unknown = f"it needs {', '.join(facts.must_know_to_read[:3])}"
    elif facts.suite not in {int(suite) for suite in Suite}:
        unknown = f"it is sealed with suite {facts.suite}"
    elif not is_chunk_size(facts.chunk_bytes):
        unknown = f"its data blocks have {facts.chunk_bytes} bytes"
    if unknown:
        raise StoreTooNew(
            f"data store {facts.store[:8]} was written by a later release: {unknown}; install a"
            " later release"
        )


def require_writer(facts: FormatDocument) -> None:
    """Return, if this release knows all it must to change the store.

    Raises:
        StoreTooNew: It may read it only.
    """
    require_reader(facts)
    if facts.oldest_writer > STORE_FORMAT or set(facts.must_know_to_write) - _WRITTEN:
        raise StoreTooNew(
            f"data store {facts.store[:8]} was written by a later release; this one can read and"
            " restore from it, but not write to it: install a later release"
        )


def is_chunk_size(chunk_bytes: int) -> bool:
    """Whether a store can have such chunks: a power of two from 64 KiB to 4 MiB."""
    inside = SMALLEST_CHUNK_BYTES <= chunk_bytes <= LARGEST_CHUNK_BYTES
    return inside and not chunk_bytes & (chunk_bytes - 1)

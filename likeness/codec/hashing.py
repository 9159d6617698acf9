"""Names and checksums of bytes.

BLAKE3 is the only cryptographic hash in the store: keyed for chunk ids, plain for the digests
that anybody may check, in its derive-key mode for keys. XXH3 finds accidents, nothing else.

Source:
    BLAKE3, https://github.com/BLAKE3-team/BLAKE3-specs; xxHash, https://xxhash.com.
"""

from collections.abc import Iterable

import xxhash
from blake3 import blake3

from likeness.codec.buffers import Buffer
from likeness.model.ids import ChunkId

DIGEST_BYTES = 32
_ZEROS = bytes(4 << 20)


def chunk_id(plaintext: Buffer, *, id_key: bytes) -> ChunkId:
    """Name a chunk by its content.

    The id is keyed, so someone who can list the share cannot test whether a known file is on it.
    Equal plaintext gives equal ids only under one `id_key`: that is the reach of deduplication.

    Args:
        plaintext: One chunk, uncompressed.
        id_key: 32 bytes; never a sealing key.

    Returns:
        32 bytes.
    """
    return ChunkId(blake3(plaintext, key=id_key).digest())


def is_zero(plaintext: Buffer) -> bool:
    """Whether every byte is zero. `plaintext` has at most 4 MiB.

    (`startswith` is a memcmp; comparing a memoryview walks element by element.)
    """
    return _ZEROS.startswith(plaintext)


def digest(parts: Iterable[Buffer]) -> bytes:
    """32 bytes of plain BLAKE3 over `parts`, as one."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def checksum64(*parts: Buffer) -> bytes:
    """8 bytes of XXH3 over `parts`, as one; big-endian, as xxHash writes it."""
    hasher = xxhash.xxh3_64()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def checksum128(parts: Iterable[Buffer]) -> bytes:
    """16 bytes of XXH3 over `parts`, as one; big-endian, as xxHash writes it."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


class RunningSums:
    """Checksum and digest of the same bytes in one pass: each part is read once from memory."""

    def __init__(self, parts: Iterable[Buffer]) -> None:
        """Take in `parts`, as one."""
        self._checksum, self._digest = xxhash.xxh3_128(), blake3()
        for part in parts:
            self._checksum.update(part)
            self._digest.update(part)

    def checksum128(self) -> bytes:
        """See the function of that name."""
        return self._checksum.digest()

    def digest_with(self, end: bytes) -> bytes:
        """See `digest`: of all parts, with `end` after them."""
        return self._digest.update(end).digest()


def derived_key(parent: bytes, context: str, *detail: bytes) -> bytes:
    """Make a key from another one, for one purpose.

    Args:
        parent: 32 secret bytes.
        context: The purpose; fixed text, unique among all callers.
        detail: What tells several keys of one purpose apart, such as an epoch; each of a length
            fixed by the context, so that no two details read the same.

    Returns:
        32 bytes.

    Source:
        BLAKE3's derive-key mode.
    """
    hasher = blake3(derive_key_context=f"likeness v1 {context}")
    hasher.update(parent)
    for part in detail:
        hasher.update(part)
    return hasher.digest()

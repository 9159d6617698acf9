"""Names of things, as types.

Names that appear in the store are lower-case hex of a fixed length; XenServer's uuids lose their
dashes there. Chunk ids stay bytes, because there are millions of them.
"""

import re
import secrets
import uuid
from typing import NewType

ChunkId = NewType("ChunkId", bytes)
"""32 bytes: keyed hash of a chunk's plaintext."""

PackId = NewType("PackId", str)
"""32 hex digits, random."""

VersionId = NewType("VersionId", str)
"""32 hex digits, random."""

RunId = NewType("RunId", str)
"""32 hex digits; a Prefect flow run id without dashes, or random."""

VmId = NewType("VmId", str)
"""32 hex digits; the VM's XenServer uuid without dashes."""

DiskId = NewType("DiskId", str)
"""32 hex digits; the live VDI's XenServer uuid without dashes."""

StoreId = NewType("StoreId", str)
"""32 hex digits, random, made with the store."""

CHUNK_ID_BYTES = 32
ZERO_CHUNK = ChunkId(bytes(CHUNK_ID_BYTES))
"""Stands in a map for a chunk of zeros, which is never stored."""

_HEX32 = re.compile(r"[0-9a-f]{32}\Z")


def random_name() -> str:
    """32 hex digits nobody has used."""
    return secrets.token_hex(16)


def is_name(text: str) -> bool:
    """Whether `text` is 32 lower-case hex digits and nothing else."""
    return _HEX32.match(text) is not None


def from_uuid(text: str) -> str:
    """`ab12…-…` as the store writes it: 32 hex digits without dashes.

    Raises:
        ValueError: `text` is no uuid.
    """
    return uuid.UUID(text).hex


def as_uuid(name: str) -> str:
    """32 hex digits as XenServer writes a uuid, with dashes."""
    return str(uuid.UUID(hex=name))

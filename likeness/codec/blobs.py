"""Sealed objects that a signed document names by digest: block maps, catalog copies.

Layout, integers little-endian::

    "ADSBLOB1" | kind u8 | format u8 | suite u8 | 0 u8 | epoch u32 | store 16 | length u32
    nonce, ciphertext, tag | xxh3-64 | "ADSBEND1"
"""

import struct
from enum import IntEnum

from likeness.codec import aead
from likeness.codec.aead import NotAuthentic, Suite
from likeness.codec.hashing import checksum64
from likeness.codec.keys import StoreKeys
from likeness.errors import Damaged, StoreTooNew

MAX_BLOB_BYTES = 64 << 20
BLOB_FORMAT = 1
_MAGIC, _END = b"ADSBLOB1", b"ADSBEND1"
_HEADER = struct.Struct("<8sBBBBI16sI")
_TAIL_BYTES = 8 + len(_END)


class BlobKind(IntEnum):
    """What a sealed object is; bound to it."""

    MAP = 1
    CATALOG_PART = 2
    INSTALLATION = 3


def write_blob(
    kind: BlobKind, context: bytes, plaintext: bytes, *, keys: StoreKeys, suite: Suite
) -> bytes:
    """Seal an object.

    Args:
        kind: What it is.
        context: What it belongs to, such as disk and version; opening it for another fails.
        plaintext: At most about 64 MiB.
        keys: The store's keys; the newest epoch's meta key is used.
        suite: How to seal.
    """
    nonce = aead.Nonces().next(suite)
    place = _place(kind, keys.store, context)
    key = keys.meta_key(keys.epoch)
    sealed = aead.seal(plaintext, key=key, place=place, nonce=nonce, suite=suite)
    header = _HEADER.pack(
        _MAGIC,
        kind,
        BLOB_FORMAT,
        suite,
        0,
        keys.epoch,
        bytes.fromhex(keys.store),
        len(nonce) + len(sealed),
    )
    if _HEADER.size + len(nonce) + len(sealed) + _TAIL_BYTES > MAX_BLOB_BYTES:
        raise ValueError("a sealed object of that size would never be read again")
    body = b"".join((header, nonce, sealed))
    return b"".join((body, checksum64(body), _END))


def check_blob(data: bytes, *, name: str) -> None:
    """Check the frame: lengths, magic numbers, checksum; needs no key, proves no origin.

    Raises:
        Damaged: Not a whole sealed object.
        StoreTooNew: A later release wrote it.
    """
    if len(data) > MAX_BLOB_BYTES or len(data) < _HEADER.size + _TAIL_BYTES:
        raise Damaged(name, "its length is not that of a sealed object")
    if data[: len(_MAGIC)] != _MAGIC or data[-len(_END) :] != _END:
        raise Damaged(name, "not a sealed object")
    _, _, form, _, _, _, _, length = _HEADER.unpack_from(data)
    if _HEADER.size + length + _TAIL_BYTES != len(data):
        raise Damaged(name, "its length is not what it says")
    if checksum64(data[:-_TAIL_BYTES]) != data[-_TAIL_BYTES : -len(_END)]:
        raise Damaged(name, "its checksum does not match")
    if form != BLOB_FORMAT:
        raise StoreTooNew(
            f"{name} was written by a later release (format {form}, and this one reads"
            f" {BLOB_FORMAT}); install a later release"
        )


def is_unfinished_blob(data: bytes) -> bool:
    """Whether this is only the beginning of a sealed object."""
    if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
        return False
    if len(data) < _HEADER.size:
        return True
    *_, length = _HEADER.unpack_from(data)
    return len(data) < _HEADER.size + int(length) + _TAIL_BYTES


def read_blob(data: bytes, kind: BlobKind, context: bytes, *, keys: StoreKeys, name: str) -> bytes:
    """The plaintext of a sealed object.

    Raises:
        Damaged: Altered, cut short, or made for another place or store.
        StoreTooNew: A later release wrote it.
    """
    check_blob(data, name=name)
    _, _, _, suite_number, _, epoch, _, length = _HEADER.unpack_from(data)
    suite = aead.known_suite(suite_number, name=name)
    try:
        start = _HEADER.size + aead.nonce_bytes(suite)
        return aead.unseal(
            data[start : _HEADER.size + length],
            key=keys.meta_key(epoch),
            place=_place(kind, keys.store, context),
            nonce=data[_HEADER.size : start],
            suite=suite,
        )
    except NotAuthentic as cause:
        raise Damaged(name, "it does not open for this place") from cause


def _place(kind: BlobKind, store: str, context: bytes) -> bytes:
    return b"ads-blob-v1" + struct.pack("<B16s", kind, bytes.fromhex(store)) + context

"""Signed documents: everything the controller writes, bound to one store, kind and name.

Layout, integers little-endian::

    "ADSDOC01" | kind u8 | format u8 | suite u8 | signer u8 | epoch u32 | owner u32
    clear u32 | sealed u32
    clear part | sealed part: nonce, ciphertext, tag | signature 64 | xxh3-64 | "ADSDEND1"

What was stored is signed, and verified before a byte of it is parsed.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from likeness.codec import aead
from likeness.codec.aead import NotAuthentic, Suite
from likeness.codec.hashing import checksum64, digest
from likeness.codec.keys import SIGNATURE_BYTES, PublicKeys, StoreKeys
from likeness.errors import BadInput, Damaged, DocumentForged, StoreTooNew

MAX_DOCUMENT_BYTES = 64 << 20
DOCUMENT_FORMAT = 1
_MAGIC, _END = b"ADSDOC01", b"ADSDEND1"
_HEADER = struct.Struct("<8sBBBBIIII")
_TAIL_BYTES = SIGNATURE_BYTES + 8 + len(_END)


class Kind(IntEnum):
    """What a document is; the number is signed with it."""

    FORMAT = 1
    SLOT = 2
    PUBLIC_KEYS = 3
    OWNER = 4
    VERSION = 5
    INDEX = 6
    HEAD = 7
    SWEPT = 8
    CATALOG_COPY = 9
    FORGET = 10
    TURN = 11
    ADOPTED = 12
    HOLD = 13
    CONDEMNED = 14
    VAULT_KEYS = 15
    NEEDS = 16


OF_VAULTS = frozenset({Kind.INDEX, Kind.HEAD, Kind.SWEPT, Kind.FORGET, Kind.HOLD, Kind.CONDEMNED})
"""What a vault may say itself; all else in it are copies of what the data store signed."""
_STORE, _VAULT = 0, 1


@dataclass(frozen=True, slots=True)
class Frame:
    """A document taken apart, not yet believed.

    Attributes:
        kind: As its header says.
        epoch: Which sign and meta keys it was made with.
        owner: Number of the owner document that it was written under; 0 before there was one.
        clear: What everybody may read.
        by_vault: Whether a vault claims to have signed it, and not the data store.
    """

    kind: int
    epoch: int
    owner: int
    suite: int
    clear: bytes
    sealed: bytes
    signature: bytes
    signed: bytes
    name: str
    by_vault: bool = False

    @classmethod
    def parse(cls, data: bytes, *, name: str) -> "Frame":
        """Check the frame: lengths, magic numbers, checksum. Proves no origin.

        Raises:
            Damaged: Not a whole document.
            StoreTooNew: A later release wrote it.
        """
        if len(data) > MAX_DOCUMENT_BYTES:
            raise Damaged(name, "longer than any document may be")
        if len(data) < _HEADER.size + _TAIL_BYTES or data[: len(_MAGIC)] != _MAGIC:
            raise Damaged(name, "not a document")
        _, kind, form, suite, signer, epoch, owner, clear, sealed = _HEADER.unpack_from(data)
        end = _HEADER.size + clear + sealed
        if len(data) != end + _TAIL_BYTES or data[-len(_END) :] != _END:
            raise Damaged(name, "its length is not what it says")
        if checksum64(data[: end + SIGNATURE_BYTES]) != data[-16:-8]:
            raise Damaged(name, "its checksum does not match")
        if form != DOCUMENT_FORMAT:
            raise StoreTooNew(
                f"{name} was written by a later release (format {form}, and this one reads"
                f" {DOCUMENT_FORMAT}); install a later release"
            )
        if signer not in (_STORE, _VAULT):
            raise StoreTooNew(
                f"{name} is signed in a way that this release does not know; install a later one"
            )
        body = data[_HEADER.size : end]
        return cls(
            kind,
            epoch,
            owner,
            suite,
            body[:clear],
            body[clear:],
            data[end : end + SIGNATURE_BYTES],
            data[:end],
            name,
            signer == _VAULT,
        )

    @staticmethod
    def is_unfinished(data: bytes) -> bool:
        """Whether this is only the beginning of a document: whoever wrote it died meanwhile."""
        if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
            return False
        if len(data) < _HEADER.size:
            return True
        *_, clear, sealed = _HEADER.unpack_from(data)
        return len(data) < _HEADER.size + int(clear) + int(sealed) + _TAIL_BYTES

    @property
    def digest(self) -> str:
        """BLAKE3 of the whole object, as hex: of the very bytes that were checked."""
        tail = checksum64(self.signed, self.signature) + _END
        return digest([self.signed, self.signature, tail]).hex()

    def require_signature(self, kind: Kind, keys: PublicKeys) -> None:
        """Believe it, if the store's key signed it as this kind under this name.

        Raises:
            DocumentForged: Another key, kind, store or name.
        """
        message = _signed_message(kind, keys.store, self.name, self.signed)
        if self.kind != kind or not keys.verifies(self.signature, message):
            raise DocumentForged(self.name, f"not signed as {kind.name.lower()} of this store")

    def unseal(self, keys: StoreKeys) -> bytes:
        """The sealed part in the clear; call after `require_signature`.

        Raises:
            DocumentForged: It was not sealed by this store for this name.
            StoreTooNew: It is sealed in a way that this release does not know.
        """
        suite = aead.known_suite(self.suite, name=self.name)
        try:
            length = aead.nonce_bytes(suite)
            return aead.unseal(
                self.sealed[length:],
                key=keys.meta_key(self.epoch),
                place=_place(self.kind, keys.store, self.name),
                nonce=self.sealed[:length],
                suite=suite,
            )
        except NotAuthentic as cause:
            raise DocumentForged(self.name, "its sealed part does not open") from cause


def is_torn(data: bytes) -> bool:
    """Whether this is at most the beginning of a document, as a write that broke off leaves it."""
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        return True
    *_, clear, sealed = _HEADER.unpack_from(data)
    return len(data) < _HEADER.size + int(clear) + int(sealed) + _TAIL_BYTES


def write_document(
    kind: Kind,
    name: str,
    clear: bytes,
    sealed: bytes = b"",
    *,
    keys: StoreKeys,
    suite: Suite,
    owner: int = 0,
    vault: str = "",
) -> bytes:
    """Make a signed document.

    Args:
        kind: What it is.
        name: The object it will be stored as.
        clear: Bytes that whoever can list the share may read.
        sealed: Bytes that only the controller may read; none if empty.
        keys: The store's keys; the newest epoch is used.
        suite: How to seal.
        owner: Number of the owner document that it is written under.
        vault: Sign it as this vault, not as the store.

    Raises:
        BadInput: It is longer than any reader accepts.
    """
    hidden = b""
    if sealed:
        nonce = aead.Nonces().next(suite)
        place = _place(kind, keys.store, name)
        key = keys.meta_key(keys.epoch)
        hidden = nonce + aead.seal(sealed, key=key, place=place, nonce=nonce, suite=suite)
    signer = _VAULT if vault else _STORE
    header = _HEADER.pack(
        _MAGIC, kind, DOCUMENT_FORMAT, suite, signer, keys.epoch, owner, len(clear), len(hidden)
    )
    signed = header + clear + hidden
    if len(signed) + _TAIL_BYTES > MAX_DOCUMENT_BYTES:
        raise BadInput(
            f"{name} would have {len(signed)} bytes and would never be read again: documents of"
            f" more than {MAX_DOCUMENT_BYTES >> 20} MiB are refused"
        )
    signature = keys.sign(_signed_message(kind, keys.store, name, signed), vault=vault)
    return signed + signature + checksum64(signed, signature) + _END


def _signed_message(kind: Kind, store: str, name: str, signed: bytes) -> bytes:
    return b"ads-doc-v1" + _place(kind, store, name) + digest([signed])


def _place(kind: int, store: str, name: str) -> bytes:
    path = name.encode()
    return struct.pack("<B16sH", kind, bytes.fromhex(store), len(path)) + path

"""Parts of a staged manifest: what a source without any key of the store leaves the controller.

Layout, integers little-endian::

    "ADSMANI1" | format u8 | suite u8 | 0 u16 | part u32 | store 16 | run 16 | attempt 16
    boxed key 80 | length u32 | nonce, ciphertext, tag | xxh3-64 | "ADSMEND1"

A part is sealed with a key made of two: a random one, boxed for the holder of the store's private
box key, and the job's token. Whoever writes into the drop box without the token can make no part
that opens; whoever holds the token without the store's key can read none. Run and VM go into the
key as well, so that a part of another run or another VM does not open here.

Nothing in a part is looked at before it opened, but the header, which says which key to try.
"""

import struct
from dataclasses import dataclass, field

from likeness.codec import aead
from likeness.codec.aead import NotAuthentic, Suite
from likeness.codec.hashing import checksum64, derived_key
from likeness.codec.keys import BOXED_KEY_BYTES, SESSION_ID_BYTES, SessionKey, StoreKeys
from likeness.errors import Damaged, DocumentForged, StoreTooNew
from likeness.model.ids import RunId, StoreId, VmId

MANIFEST_FORMAT = 1
TOKEN_BYTES = 32
MOST_PART_BYTES = 32 << 20
"""Plaintext of one part."""
LAST_PART = 0xFFFFFFFF
"""Number of the part that is written last, and says how many there are."""
_MAGIC, _END = b"ADSMANI1", b"ADSMEND1"
_HEADER = struct.Struct(f"<8sBBHI16s16s{SESSION_ID_BYTES}s{BOXED_KEY_BYTES}sI")
_TAIL_BYTES = 8 + len(_END)
HEADER_BYTES = _HEADER.size
MOST_OBJECT_BYTES = HEADER_BYTES + 64 + MOST_PART_BYTES + _TAIL_BYTES
"""Length of the longest object: nonce and tag have at most 64 bytes together."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What a source seals the parts of one attempt with.

    Attributes:
        store: Whose controller may read them.
        run: For which run.
        vm: Of which VM.
        session: A fresh key, boxed for the store; names the attempt.
        token: 32 secret bytes that the controller gave to this job alone.
        suite: How to seal.
        seed: Mixed into nonces; see `Nonces`.
    """

    store: StoreId
    run: RunId
    vm: VmId
    session: SessionKey
    token: bytes = field(repr=False)
    suite: Suite
    seed: bytes = field(default=b"", repr=False)

    @classmethod
    def fresh(
        cls,
        *,
        store: StoreId,
        box: bytes,
        run: RunId,
        vm: VmId,
        token: bytes,
        suite: Suite,
        seed: bytes = b"",
    ) -> "Seal":
        """Begin an attempt; `box` is the store's public box key."""
        return cls(store, run, vm, SessionKey.fresh(box), token, suite, seed)

    def write(self, part: int, plaintext: bytes) -> bytes:
        """Seal one part; two parts of one attempt never have the same number.

        Raises:
            ValueError: It is longer than any reader takes, or the token has a wrong length.
        """
        if len(plaintext) > MOST_PART_BYTES or len(self.token) != TOKEN_BYTES:
            raise ValueError("a part of that length, or with such a token, would never be read")
        nonce = aead.Nonces(self.seed or None).next(self.suite)
        length = len(plaintext) + aead.overhead_bytes(self.suite)
        header = _HEADER.pack(
            _MAGIC,
            MANIFEST_FORMAT,
            self.suite,
            0,
            part,
            bytes.fromhex(self.store),
            bytes.fromhex(self.run),
            self.session.session,
            self.session.boxed,
            length,
        )
        key = _part_key(self.session.key, self.token, self.run, self.vm)
        sealed = aead.seal(plaintext, key=key, place=header, nonce=nonce, suite=self.suite)
        body = b"".join((header, nonce, sealed))
        return b"".join((body, checksum64(body), _END))


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What a part says about itself; not to be believed before it opened.

    Attributes:
        part: Its number in its attempt.
        attempt: 16 bytes that name the attempt.
        boxed: The key of the attempt, boxed.
        length: Of nonce, ciphertext and tag.
    """

    part: int
    attempt: bytes
    boxed: bytes
    length: int
    suite: Suite

    @classmethod
    def parse(cls, data: bytes, *, name: str, store: StoreId, run: RunId) -> "PartHeader":
        """Read the header at the start of `data`.

        Raises:
            Damaged: No part of a manifest for this store and run begins so.
            StoreTooNew: A later release wrote it.
        """
        if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
            raise Damaged(name, "it does not begin as a manifest does")
        fields = _HEADER.unpack_from(data)
        _, form, suite, _, part, of_store, of_run, attempt, boxed, length = fields
        if of_store.hex() != store or of_run.hex() != run:
            raise Damaged(name, "it was made for another store or another run")
        if form != MANIFEST_FORMAT:
            raise StoreTooNew(f"{name} has format {form}; this release reads {MANIFEST_FORMAT}")
        try:
            return cls(part, attempt, boxed, length, Suite(suite))
        except ValueError as cause:
            raise StoreTooNew(f"{name} is sealed with unknown suite {suite}") from cause


def read_part(
    data: bytes, *, name: str, keys: StoreKeys, run: RunId, vm: VmId, token: bytes
) -> tuple[PartHeader, bytes]:
    """Open a part: its header, now to be believed, and its plaintext.

    Args:
        data: The whole object.
        name: Its name, for errors.
        keys: The store's.
        run: The run it must be for.
        vm: The VM it must be of.
        token: What the controller gave to the job.

    Raises:
        Damaged: It is torn.
        DocumentForged: It was not made by a holder of the token, for this store, run and VM.
        StoreTooNew: A later release wrote it.
    """
    header = PartHeader.parse(data, name=name, store=keys.store, run=run)
    end = _HEADER.size + header.length
    if len(data) != end + _TAIL_BYTES or data[-len(_END) :] != _END:
        raise Damaged(name, "its length is not what it says; its writing was never finished")
    if checksum64(data[:end]) != data[end : end + 8]:
        raise Damaged(name, "its checksum does not match")
    split = _HEADER.size + aead.nonce_bytes(header.suite)
    try:
        plaintext = aead.unseal(
            data[split:end],
            key=_part_key(keys.open_session(header.boxed), token, run, vm),
            place=data[: _HEADER.size],
            nonce=data[_HEADER.size : split],
            suite=header.suite,
        )
    except NotAuthentic as cause:
        raise DocumentForged(name, "it was not made by this job") from cause
    return header, plaintext


def _part_key(session: bytes, token: bytes, run: RunId, vm: VmId) -> bytes:
    return derived_key(session, "manifest", token, bytes.fromhex(run), bytes.fromhex(vm))

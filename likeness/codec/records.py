"""Sealed chunks: one record each, in a pack.

Layout, integers little-endian::

    "ADSR" | length u32 | session number u16 | flags u16 | nonce | ciphertext and tag | xxh3-64

where `length` counts nonce, ciphertext and tag, and the plaintext is::

    chunk id 32 | raw length u32 | payload length u32 | encoding u8 | payload | zeros

The chunk id is inside, so a record moved elsewhere is found out as soon as it is opened. The
zeros round the length up (PADMÉ), so that lengths say little about contents.

Source:
    PADMÉ: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files", 2019.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from likeness.codec import aead
from likeness.codec.aead import Nonces, NotAuthentic, Suite
from likeness.codec.compression import BadFrame, Compressor, decompress
from likeness.codec.hashing import checksum64, chunk_id
from likeness.codec.keys import STORE_SCOPE, SessionKey
from likeness.errors import ChunkCorrupt, Damaged
from likeness.model.ids import CHUNK_ID_BYTES, ChunkId, StoreId

RECORD_MAGIC = b"ADSR"
_HEADER = struct.Struct("<4sIHH")
_INNER = struct.Struct(f"<{CHUNK_ID_BYTES}sIIB")
HEADER_BYTES = _HEADER.size
CHECKSUM_BYTES = 8
_ZEROS = bytes(4 << 20)
SMALLEST_CHUNK_BYTES = 64 << 10
LARGEST_CHUNK_BYTES = 4 << 20


def largest_record_bytes(chunk_bytes: int, suite: Suite) -> int:
    """An upper bound for the length of a record."""
    inner = padded(_INNER.size + chunk_bytes)
    return _HEADER.size + aead.overhead_bytes(suite) + inner + CHECKSUM_BYTES


def padded(length: int) -> int:
    """`length` rounded up so that at most log2(log2(length)) bits of it remain."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    free_bits = exponent - exponent.bit_length()
    mask = (1 << free_bits) - 1
    return (length + mask) & ~mask


@dataclass(frozen=True, slots=True)
class Opened:
    """A record's content: its name and the bytes that bear it out."""

    chunk: ChunkId
    plaintext: bytes
    scope: bytes = STORE_SCOPE


class Sealer:
    """Turns chunks into records, in many threads, under one session key."""

    def __init__(
        self,
        store: StoreId,
        session: SessionKey,
        *,
        suite: Suite,
        level: int,
        seed: bytes | None = None,
    ) -> None:
        """Seal for `store`.

        Args:
            store: Bound to every record.
            session: Whose key to use.
            suite: How to encrypt.
            level: zstd level, 1 (fast) to 19 (small).
            seed: 32 bytes mixed into every nonce; random if none.
        """
        self._session = session
        self._suite = suite
        self._place = record_place(store, session.session)
        self._compressor = Compressor(level)
        self._nonces = Nonces(seed)

    def seal(self, chunk: ChunkId, plaintext: bytes) -> bytes:
        """Make a record, and prove that it opens to the very same bytes before it leaves.

        Opening it at once costs a fraction of sealing it, and catches a faulty compressor or bad
        memory while the disk can still be read again.

        Raises:
            ChunkCorrupt: What was sealed does not open; this machine is not well.
        """
        encoding, payload = self._compressor.compress(plaintext)
        used = _INNER.size + len(payload)
        inner = b"".join(
            (
                _INNER.pack(chunk, len(plaintext), len(payload), encoding),
                payload,
                _ZEROS[: padded(used) - used],
            )
        )
        nonce = self._nonces.next(self._suite)
        key = self._session.key
        sealed = aead.seal(inner, key=key, place=self._place, nonce=nonce, suite=self._suite)
        header = _HEADER.pack(RECORD_MAGIC, len(nonce) + len(sealed), 0, 0)
        self._prove(sealed, nonce, chunk, plaintext)
        return b"".join((header, nonce, sealed, checksum64(header, nonce, sealed)))

    def _prove(self, sealed: bytes, nonce: bytes, chunk: ChunkId, plaintext: bytes) -> None:
        try:
            inner = aead.unseal(
                sealed, key=self._session.key, place=self._place, nonce=nonce, suite=self._suite
            )
            found, opened = _content(inner, len(plaintext))
        except (NotAuthentic, BadFrame) as cause:
            raise _unwell(chunk) from cause
        if found != chunk or opened != plaintext:
            raise _unwell(chunk)


def _unwell(chunk: ChunkId) -> ChunkCorrupt:
    return ChunkCorrupt(
        chunk.hex(),
        name="a record just made",
        offset=0,
        cause="it does not open to what was sealed; test this machine's memory",
    )


def record_place(store: StoreId, session: bytes) -> bytes:
    """What a record is bound to: its store and its session, not its pack or position.

    So compaction, healing and vaulting move sealed records byte for byte, without any key.
    """
    return b"ads-record-v1" + bytes.fromhex(store) + session


def record_length(data: bytes | memoryview, offset: int, *, name: str) -> int:
    """Length of the whole record that starts at `offset`, header and checksum included.

    Raises:
        Damaged: No record starts there.
    """
    if len(data) - offset < _HEADER.size + CHECKSUM_BYTES:
        raise Damaged(name, f"cut short at byte {offset}")
    magic, length, _, _ = _HEADER.unpack_from(data, offset)
    if magic != RECORD_MAGIC:
        raise Damaged(name, f"no record starts at byte {offset}")
    return int(_HEADER.size + length + CHECKSUM_BYTES)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """What opens the records of one session.

    Attributes:
        key: The session key.
        place: What its records are bound to.
        scope: Whose chunk ids they have.
        id_key: The chunk id key of that scope.
    """

    key: bytes = field(repr=False)
    place: bytes
    scope: bytes
    id_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the records of one pack.

    Attributes:
        sessions: Of the pack, in the header's order.
        suite: How they are encrypted.
        chunk_bytes: The longest plaintext to accept.
    """

    sessions: tuple[OpenSession, ...]
    suite: Suite
    chunk_bytes: int

    def open(self, record: bytes, *, name: str, offset: int) -> Opened:
        """Open a record and prove its content: authentic, whole, and named by its id.

        Args:
            record: From magic number to checksum.
            name: The pack it is from, for the error.
            offset: Where in the pack, for the error.

        Raises:
            ChunkCorrupt: Anything else.
        """
        problem = self._problem(name, offset)
        try:
            if record_length(record, 0, name=name) != len(record):
                raise problem("its length is not what it says")
            number = _HEADER.unpack_from(record)[2]
            session = self.sessions[number]
        except (Damaged, IndexError) as cause:
            raise problem("it is no record of this pack") from cause
        split = _HEADER.size + aead.nonce_bytes(self.suite)
        try:
            inner = aead.unseal(
                record[split:-CHECKSUM_BYTES],
                key=session.key,
                place=session.place,
                nonce=record[_HEADER.size : split],
                suite=self.suite,
            )
        except NotAuthentic as cause:
            raise problem("it was altered") from cause
        try:
            chunk, plaintext = _content(inner, self.chunk_bytes)
        except BadFrame as cause:
            raise problem(str(cause)) from cause
        if chunk_id(plaintext, id_key=session.id_key) != chunk:
            raise problem("its content does not match its chunk id", chunk)
        return Opened(chunk, plaintext, session.scope)

    @staticmethod
    def _problem(name: str, offset: int) -> Callable[..., ChunkCorrupt]:
        def make(cause: str, chunk: bytes = b"") -> ChunkCorrupt:
            return ChunkCorrupt(chunk.hex(), name=name, offset=offset, cause=cause)

        return make


def _content(inner: bytes, most_bytes: int) -> tuple[ChunkId, bytes]:
    if len(inner) < _INNER.size:
        raise BadFrame("it is too short")
    chunk, raw, payload, encoding = _INNER.unpack_from(inner)
    if not 0 < raw <= most_bytes or _INNER.size + payload > len(inner):
        raise BadFrame("its lengths cannot be")
    view = memoryview(inner)[_INNER.size : _INNER.size + payload]
    return ChunkId(chunk), decompress(encoding, view, raw_bytes=raw)


def checksum_matches(record: bytes | memoryview) -> bool:
    """Whether the record's keyless checksum does; tells accidents, not forgeries."""
    return checksum64(bytes(record[:-CHECKSUM_BYTES])) == bytes(record[-CHECKSUM_BYTES:])

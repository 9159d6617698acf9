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

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from likeness.codec import aead
from likeness.codec.aead import Nonces, NotAuthentic, Suite
from likeness.codec.buffers import Buffer, Scratch, same
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


class Check(StrEnum):
    """Which records are opened again before they leave their source."""

    ALL = "all"
    SAMPLED = "sampled"
    OFF = "off"


SAMPLE = 16
"""Of so many records one is opened again where they are sampled, the very first among them."""
_inner, _opened = Scratch(), Scratch()


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
        check: Check = Check.ALL,
    ) -> None:
        """Seal for `store`.

        Args:
            store: Bound to every record.
            session: Whose key to use.
            suite: How to encrypt.
            level: zstd level, 1 (fast) to 19 (small).
            seed: 32 bytes mixed into every nonce; random if none.
            check: Which records to open again at once.
        """
        self._check, self._sealed = check, itertools.count()
        self._session = session
        self._suite = suite
        self._place = record_place(store, session.session)
        self._compressor = Compressor(level)
        self._nonces = Nonces(seed)

    def seal(self, chunk: ChunkId, plaintext: Buffer) -> bytearray:
        """Make a record, and prove that it opens to the very same bytes before it leaves.

        Opening it at once catches a faulty compressor or bad memory while the disk can still be
        read again; where records are sampled, what is wrong with all or many of them.

        Raises:
            ChunkCorrupt: What was sealed does not open; this machine is not well.
        """
        encoding, payload = self._compressor.compress(plaintext)
        used = _INNER.size + len(payload)
        inner = _inner.of(padded(used))
        _INNER.pack_into(inner, 0, chunk, len(plaintext), len(payload), encoding)
        inner[_INNER.size : used] = payload
        inner[used:] = _ZEROS[: len(inner) - used]
        nonce = self._nonces.next(self._suite)
        split = _HEADER.size + len(nonce)
        end = split + len(inner) + aead.tag_bytes(self._suite)
        record = bytearray(end + CHECKSUM_BYTES)
        _HEADER.pack_into(record, 0, RECORD_MAGIC, end - _HEADER.size, 0, 0)
        record[_HEADER.size : split] = nonce
        with memoryview(record) as whole, whole[split:end] as sealed, whole[:end] as summed:
            self._encrypt(sealed, inner, nonce)
            if self._is_checked():
                self._prove(sealed, nonce, chunk, plaintext)
            whole[end:] = checksum64(summed)
        return record

    def _encrypt(self, sealed: memoryview, inner: memoryview, nonce: bytes) -> None:
        key, place = self._session.key, self._place
        aead.seal_into(sealed, inner, key=key, place=place, nonce=nonce, suite=self._suite)

    def _is_checked(self) -> bool:
        if self._check is Check.SAMPLED:
            return next(self._sealed) % SAMPLE == 0
        return self._check is Check.ALL

    def _prove(self, sealed: memoryview, nonce: bytes, chunk: ChunkId, plaintext: Buffer) -> None:
        key, suite = self._session.key, self._suite
        inner = _opened.of(len(sealed) - aead.tag_bytes(suite))
        try:
            aead.unseal_into(inner, sealed, key=key, place=self._place, nonce=nonce, suite=suite)
            found, opened = _content(inner, len(plaintext))
        except (NotAuthentic, BadFrame) as cause:
            raise _unwell(chunk) from cause
        if found != chunk or not same(opened, plaintext):
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


def record_length(data: Buffer, offset: int, *, name: str) -> int:
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


def session_number(record: bytes) -> int:
    """Which of its pack's sessions a record names."""
    return int(_HEADER.unpack_from(record)[2])


def renumbered(record: bytes, number: int) -> bytes:
    """A record as it stands in a pack where its session has another number; no key is needed."""
    magic, length, _, flags = _HEADER.unpack_from(record)
    head = _HEADER.pack(magic, length, number, flags)
    body = record[_HEADER.size : -CHECKSUM_BYTES]
    return b"".join((head, body, checksum64(head, body)))


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

    def open(self, record: Buffer, *, name: str, offset: int) -> Opened:
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
        try:
            inner = self._unsealed(memoryview(record), session)
        except NotAuthentic as cause:
            raise problem("it was altered") from cause
        try:
            chunk, plaintext = _content(inner, self.chunk_bytes)
        except BadFrame as cause:
            raise problem(str(cause)) from cause
        if chunk_id(plaintext, id_key=session.id_key) != chunk:
            raise problem("its content does not match its chunk id", chunk)
        return Opened(chunk, plaintext, session.scope)

    def _unsealed(self, record: memoryview, session: OpenSession) -> memoryview:
        """What a record seals, until this thread opens another one."""
        split = _HEADER.size + aead.nonce_bytes(self.suite)
        sealed = record[split:-CHECKSUM_BYTES]
        if len(sealed) < aead.tag_bytes(self.suite):
            raise NotAuthentic
        inner = _opened.of(len(sealed) - aead.tag_bytes(self.suite))
        aead.unseal_into(
            inner,
            sealed,
            key=session.key,
            place=session.place,
            nonce=bytes(record[_HEADER.size : split]),
            suite=self.suite,
        )
        return inner

    @staticmethod
    def _problem(name: str, offset: int) -> Callable[..., ChunkCorrupt]:
        def make(cause: str, chunk: bytes = b"") -> ChunkCorrupt:
            return ChunkCorrupt(chunk.hex(), name=name, offset=offset, cause=cause)

        return make


def _content(inner: memoryview, max_bytes: int) -> tuple[ChunkId, bytes]:
    if len(inner) < _INNER.size:
        raise BadFrame("it is too short")
    chunk, raw, payload, encoding = _INNER.unpack_from(inner)
    if not 0 < raw <= max_bytes or _INNER.size + payload > len(inner):
        raise BadFrame("its lengths cannot be")
    view = inner[_INNER.size : _INNER.size + payload]
    return ChunkId(chunk), decompress(encoding, view, raw_bytes=raw)


def checksum_matches(record: Buffer) -> bool:
    """Whether the record's keyless checksum does; tells accidents, not forgeries."""
    return checksum64(record[:-CHECKSUM_BYTES]) == bytes(record[-CHECKSUM_BYTES:])

"""Packs: many sealed chunks in one object that is written once and never changed.

Layout, integers little-endian::

    header   "ADSPACK1" | format u8 | suite u8 | sessions u16 | store 16 | pack 16
             sessions x (session id 16 | scope of chunk ids 16 | boxed session key 80) | xxh3-64
    records  see `likeness.codec.records`
    table    nonce, ciphertext, tag of: records x (chunk id 32 | offset u64 | length u32)
    boxes    the header's session list once more, and its xxh3-64
    trailer  table offset u64 | table length u32 | records u32 | total length u64
             pack 16 | xxh3-128 of everything before | "ADSPEND1"

Every session's key opens every record that names the session; the table is sealed with the first
session's key. The trailer makes a pack complete: whatever does not end in a matching one was never
finished.
"""

import itertools
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from likeness.codec import aead
from likeness.codec.aead import NotAuthentic, Suite
from likeness.codec.buffers import Buffer
from likeness.codec.hashing import RunningSums, checksum64, checksum128
from likeness.codec.keys import (
    BOXED_KEY_BYTES,
    SCOPE_BYTES,
    SESSION_ID_BYTES,
    SessionKey,
    StoreKeys,
)
from likeness.codec.records import (
    Opener,
    OpenSession,
    checksum_matches,
    record_length,
    record_place,
)
from likeness.errors import Damaged, StoreTooNew
from likeness.model.ids import ChunkId, PackId, StoreId, random_name
from likeness.store.format.locations import Location, PackLocations

PACK_FORMAT = 1
PACK_TARGET_BYTES = 16 << 20
MAX_PACK_BYTES = 64 << 20
_MAGIC, _END = b"ADSPACK1", b"ADSPEND1"
_HEADER = struct.Struct("<8sBBH16s16s")
_SESSION = struct.Struct(f"<{SESSION_ID_BYTES}s{SCOPE_BYTES}s{BOXED_KEY_BYTES}s")
_SESSION_BYTES = _SESSION.size
_TRAILER = struct.Struct("<QIIQ16s16s8s")
TRAILER_BYTES = _TRAILER.size
_MAX_SESSIONS = 1024
_Record = tuple[ChunkId, Buffer]


@dataclass(frozen=True, slots=True)
class PackReceipt:
    """What a writer says about a pack it wrote; facts once the pack was read back.

    Attributes:
        pack: Its name.
        size_bytes: Length of the object.
        digest: BLAKE3 of the object, 32 bytes.
        checksum: XXH3-128 of all but the trailer's last 24 bytes; as in the trailer, 16 bytes.
        locations: Its chunks, by offset.
    """

    pack: PackId
    size_bytes: int
    digest: bytes
    checksum: bytes
    locations: PackLocations


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A pack in memory, ready to be written."""

    receipt: PackReceipt
    parts: Sequence[bytes]
    rebuild: "Callable[[], FinishedPack]"

    def renamed(self) -> "FinishedPack":
        """The same records as a pack of another name, for when the first one is spoilt."""
        return self.rebuild()


class PackBuilder:
    """Gathers sealed records and makes a pack of them."""

    def __init__(self, store: StoreId, session: SessionKey, suite: Suite) -> None:
        """Build packs for one store under one session."""
        self._store, self._session, self._suite = store, session, suite
        self._records: list[_Record] = []
        self.size_bytes = 0

    def add(self, chunk: ChunkId, record: Buffer) -> None:
        """Add one record that `Sealer.seal` made."""
        self._records.append((chunk, record))
        self.size_bytes += len(record)

    def finish(self) -> FinishedPack:
        """Close the pack, and begin another.

        Records are shuffled, so that neighbours on disk are not neighbours here.
        """
        records, self._records, self.size_bytes = self._records, [], 0
        random.SystemRandom().shuffle(records)
        return self._assembled(records)

    def _assembled(self, records: list[_Record]) -> FinishedPack:
        pack, listed = PackId(random_name()), self._sessions()
        sessions = b"".join(_SESSION.pack(e.session, e.scope, e.boxed) for e in listed)
        header = _HEADER.pack(
            _MAGIC,
            PACK_FORMAT,
            self._suite,
            len(listed),
            bytes.fromhex(self._store),
            bytes.fromhex(pack),
        )
        header += sessions
        parts: list[Buffer] = [header, checksum64(header)]
        locations = _laid_out(records, len(header) + 8)
        offset = len(header) + 8 + sum(len(record) for _, record in records)
        parts += [record for _, record in records]
        table = self._sealed_table(pack, locations)
        parts += [table, sessions, checksum64(sessions)]
        total = offset + len(table) + len(sessions) + 8 + _TRAILER.size
        sums = RunningSums(parts)
        checksum = sums.checksum128()
        trailer = _TRAILER.pack(
            offset, len(table), len(locations), total, bytes.fromhex(pack), checksum, _END
        )
        parts.append(trailer)
        receipt = PackReceipt(pack, total, sums.digest_with(trailer), checksum, locations)
        return FinishedPack(receipt, _as_bytes(parts), lambda: self._assembled(records))

    def _sessions(self) -> "Sequence[BoxedSession]":
        mine = self._session
        return (BoxedSession(mine.session, mine.scope, mine.boxed),)

    def _sealed_table(self, pack: PackId, locations: PackLocations) -> bytes:
        nonce = aead.Nonces().next(self._suite)
        place = _table_location(self._store, self._session.session, pack)
        key = self._session.key
        plain = locations.as_table()
        return nonce + aead.seal(plain, key=key, place=place, nonce=nonce, suite=self._suite)


def _as_bytes(parts: list[Buffer]) -> list[bytes]:
    """Transports join them or write them as they are: any buffer will do, and no copy is made."""
    return cast("list[bytes]", parts)


def _laid_out(records: Sequence[_Record], offset: int) -> PackLocations:
    """Where records come to lie, one after the other from `offset` on."""
    ends = itertools.accumulate((len(record) for _, record in records), initial=offset)
    return PackLocations.of(
        Location(chunk, at, len(record)) for (chunk, record), at in zip(records, ends, strict=False)
    )


class Pack:
    """A pack that was read back whole.

    Making one checks the frame: magic numbers, lengths, checksums. That needs no key and proves
    that the bytes are as written, not that they were right.
    """

    def __init__(self, data: bytes, *, name: str, store: StoreId) -> None:
        """Check the frame of `data`.

        Args:
            data: The whole object.
            name: Its name; the last part must be the pack's id.
            store: The store it must belong to.

        Raises:
            Damaged: Torn, altered, or another pack than its name says.
            StoreTooNew: A later release wrote it.
        """
        self._data, self._name, self.store = data, name, store
        with suppress(Damaged):  # a later format, whose end is another, must not pass for damage
            PackHeader.parse(data, name=name, store=store)
        if not _TRAILER.size + _HEADER.size <= len(data) <= MAX_PACK_BYTES:
            raise Damaged(name, f"{len(data)} bytes cannot be a pack")
        self._table_offset, self._table_bytes, self.records, total, pack, checksum, end = (
            _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
        )
        if end != _END or total != len(data):
            raise Damaged(name, "it does not end as a pack does; its writing was never finished")
        if checksum128([data[: -_TRAILER.size]]) != checksum:
            raise Damaged(name, "its checksum does not match")
        header = PackHeader.parse(data, name=name, store=store)
        if pack.hex() != header.pack or header.pack != name.rpartition("/")[2]:
            raise Damaged(name, f"it is pack {header.pack} under another's name")
        self.header, self.checksum = header, checksum

    def locations(self, keys: StoreKeys) -> PackLocations:
        """The table: which chunks lie where.

        Raises:
            Damaged: The table does not open, or says what cannot be.
        """
        sealed = self._data[self._table_offset : self._table_offset + self._table_bytes]
        found = self.header.locations(sealed, keys)
        if len(found) != self.records:
            raise Damaged(self._name, "its table has another length than its trailer says")
        return found

    def opener(self, keys: StoreKeys, *, chunk_bytes: int) -> Opener:
        """What opens this pack's records; see `PackHeader.opener`."""
        return self.header.opener(keys, chunk_bytes=chunk_bytes)

    def record(self, place: Location) -> bytes:
        """The bytes of one record, not yet believed."""
        return self._data[place.offset : place.offset + place.length]

    def frames(self) -> Iterator[tuple[int, bool]]:
        """Walk the records without any key: offset, and whether its checksum matches.

        Raises:
            Damaged: Something between header and table is no record.
        """
        offset = self.header.size_bytes
        view = memoryview(self._data)
        while offset < self._table_offset:
            length = record_length(self._data, offset, name=self._name)
            yield offset, checksum_matches(view[offset : offset + length])
            offset += length


@dataclass(frozen=True, slots=True)
class BoxedSession:
    """A session as a pack has it: its key is sealed to the store's box key."""

    session: bytes
    scope: bytes
    boxed: bytes


@dataclass(frozen=True, slots=True)
class PackHeader:
    """A pack's beginning: enough to open records read by range."""

    pack: PackId
    suite: Suite
    sessions: tuple[BoxedSession, ...]
    store: StoreId
    size_bytes: int
    name: str

    @classmethod
    def parse(cls, data: bytes, *, name: str, store: StoreId) -> "PackHeader":
        """Check and read the header at the start of `data`.

        Raises:
            Damaged: No pack of this store begins so.
            StoreTooNew: A later release wrote it.
        """
        if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
            raise Damaged(name, "it does not begin as a pack does")
        _, form, suite, count, of_store, pack = _HEADER.unpack_from(data)
        end = _HEADER.size + count * _SESSION_BYTES
        if not 1 <= count <= _MAX_SESSIONS or len(data) < end + 8:
            raise Damaged(name, "its header is cut short")
        if checksum64(data[:end]) != data[end : end + 8]:
            raise Damaged(name, "its header's checksum does not match")
        if form != PACK_FORMAT:
            raise StoreTooNew(
                f"{name} was written by a later release (format {form}, and this one reads"
                f" {PACK_FORMAT}); install a later release"
            )
        if of_store.hex() != store:
            raise Damaged(name, f"it belongs to another store, {of_store.hex()}")
        known = aead.known_suite(suite, name=name)
        sessions = _sessions(data[_HEADER.size : end])
        return cls(PackId(pack.hex()), known, sessions, store, end + 8, name)

    @classmethod
    def parse_any(cls, data: bytes, *, name: str, store: StoreId, suite: Suite) -> "PackHeader":
        """The header of a whole pack; where it is damaged, what its second copy gives.

        Args:
            data: The whole object, or what is left of it.
            name: Its name.
            store: The store it must belong to.
            suite: How it was sealed, as far as the store knows; taken where the header is lost.

        Raises:
            Damaged: Neither copy of the session boxes is left.
            StoreTooNew: A later release wrote it.
        """
        try:
            return cls.parse(data, name=name, store=store)
        except Damaged:
            boxes = _second_boxes(data)
            if boxes is None:
                raise
            pack = PackId(name.rpartition("/")[2])
            return cls(pack, suite, _sessions(boxes), store, 0, name)

    def locations(self, sealed: bytes, keys: StoreKeys) -> PackLocations:
        """What a pack's sealed table says: which chunks lie where.

        Raises:
            Damaged: It does not open.
        """
        session = self.sessions[0]
        split = aead.nonce_bytes(self.suite)
        try:
            plain = aead.unseal(
                sealed[split:],
                key=keys.open_session(session.boxed),
                place=_table_location(self.store, session.session, self.pack),
                nonce=sealed[:split],
                suite=self.suite,
            )
        except (NotAuthentic, ValueError) as cause:
            raise Damaged(self.name, "its table was altered or is another store's") from cause
        try:
            return PackLocations.from_table(plain)
        except ValueError as cause:
            raise Damaged(self.name, "its table says what cannot be") from cause

    @staticmethod
    def max_bytes(sessions: int = 1) -> int:
        """How many bytes to read for the header of a pack with so many sessions."""
        return _HEADER.size + sessions * _SESSION_BYTES + 8

    def opener(self, keys: StoreKeys, *, chunk_bytes: int) -> Opener:
        """What opens this pack's records.

        Raises:
            Damaged: The session boxes do not open with the store's keys.
        """
        try:
            opened = tuple(
                OpenSession(
                    keys.open_session(each.boxed),
                    record_place(self.store, each.session),
                    each.scope,
                    keys.chunk_id_key_in(each.scope),
                )
                for each in self.sessions
            )
        except NotAuthentic as cause:
            raise Damaged(self.name, "its session key was altered or is another store's") from cause
        return Opener(opened, self.suite, chunk_bytes)


def table_at(end: bytes, size_bytes: int, *, name: str) -> tuple[int, int]:
    """Where the table of a pack lies, by the pack's last bytes: offset and length.

    Raises:
        Damaged: No pack of this length ends so.
    """
    if len(end) < TRAILER_BYTES:
        raise Damaged(name, "it is too short for a pack")
    offset, length, _, total, _, _, magic = _TRAILER.unpack_from(end, len(end) - TRAILER_BYTES)
    if magic != _END or total != size_bytes or offset + length > size_bytes:
        raise Damaged(name, "it does not end as a pack does; its writing was never finished")
    return offset, length


def _second_boxes(data: bytes) -> bytes | None:
    """The session list that stands before the trailer, if its checksum matches."""
    if len(data) < _TRAILER.size:
        return None
    end = len(data) - _TRAILER.size - 8
    table_offset, table_bytes, *_ = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    for start in (table_offset + table_bytes, end - _SESSION_BYTES):
        boxes = data[start:end] if 0 <= start < end else b""
        fits = len(boxes) % _SESSION_BYTES == 0 and len(boxes) <= _MAX_SESSIONS * _SESSION_BYTES
        if boxes and fits and checksum64(boxes) == data[end : end + 8]:
            return boxes
    return None


def _sessions(boxes: bytes) -> tuple[BoxedSession, ...]:
    return tuple(BoxedSession(*each) for each in _SESSION.iter_unpack(boxes))


def _table_location(store: StoreId, session: bytes, pack: PackId) -> bytes:
    return b"ads-table-v1" + bytes.fromhex(store) + session + bytes.fromhex(pack)

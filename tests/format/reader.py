"""Reads a data store of format 1 with nothing of the product: written from docs/format.md alone.

It is what somebody would write in ten years, and short on purpose.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from nacl import bindings, pwhash
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox
from nacl.signing import SigningKey
from xxhash import xxh3_64_digest, xxh3_128_digest

SUITES: dict[int, tuple[int, Callable[[bytes, bytes, bytes, bytes], bytes]]] = {
    1: (24, bindings.crypto_aead_xchacha20poly1305_ietf_decrypt),
    2: (32, bindings.crypto_aead_aegis256_decrypt),
}
STRETCH = 262_144
ZERO = bytes(32)
FORMAT, SLOT, VERSION, INDEX, ADOPTED = 1, 2, 5, 6, 12
OF_VAULTS = (6, 7, 8, 10, 13, 14)


class Bad(Exception):
    """Something is not as the format says."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Bad(what)


def derived(parent: bytes, purpose: str, *detail: bytes) -> bytes:
    material = parent + b"".join(detail)
    return blake3(material, derive_key_context=f"likeness v1 {purpose}").digest()


def unseal(sealed: bytes, key: bytes, place: bytes, suite: int) -> bytes:
    nonce, opening = SUITES[suite]
    return opening(sealed[nonce:], place, sealed[:nonce], key)


@dataclass
class Document:
    kind: int
    suite: int
    signer: int
    epoch: int
    owner: int
    clear: bytes
    sealed: bytes
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Document":
        need(data[:8] == b"ADSDOC01" and data[-8:] == b"ADSDEND1", "not a document")
        head = struct.unpack_from("<BBBBIIII", data, 8)
        kind, form, suite, signer, epoch, owner, clear, sealed = head
        need(form == 1, "a later format")
        end = 28 + clear + sealed
        need(len(data) == end + 80, "its length")
        need(xxh3_64_digest(data[:-16]) == data[-16:-8], "its checksum")
        signature = data[end : end + 64]
        body = data[28:end]
        parts = body[:clear], body[clear:], data[:end], signature
        return cls(kind, suite, signer, epoch, owner, *parts)


@dataclass
class Reader:
    """A store in a folder, opened with one key."""

    root: Path
    store: bytes = b""
    master: bytes = b""
    chunk_bytes: int = 0
    suite: int = 0
    vault: bytes = b""
    places: dict[bytes, list[tuple[Path, int, int]]] = field(default_factory=dict)
    openers: dict[Path, list[tuple[bytes, bytes, bytes]]] = field(default_factory=dict)

    # --- opening ---

    def open(self, kind: str, secret: bytes) -> None:
        claimed = json.loads(Document.parse(self.bytes_of("ADS-FORMAT")).clear)
        self.store = bytes.fromhex(claimed["store"])
        for path in sorted((self.root / "keys").glob("slot-*")):
            slot = json.loads(Document.parse(path.read_bytes()).clear)
            if slot["kind"] == kind:
                try:
                    self.master = self._unwrapped(slot, secret)
                    break
                except CryptoError:
                    continue
        need(self.master, "no slot opens")
        facts = json.loads(self.document("ADS-FORMAT", FORMAT)[0])
        need(facts["format"] == 1 and facts["oldest_reader"] == 1, "a later format")
        need(not facts["must_know_to_read"], "something that must be known")
        self.chunk_bytes, self.suite = facts["chunk_bytes"], facts["suite"]
        self.vault = bytes.fromhex(facts.get("vault", ""))

    def _unwrapped(self, slot: dict[str, Any], secret: bytes) -> bytes:
        salt, wrapped = bytes.fromhex(slot["salt"]), bytes.fromhex(slot["wrapped"])
        if slot["operations"]:
            need(slot["operations"] <= 10 and slot["memory_bytes"] <= 4 << 30, "asks too much")
            secret = pwhash.argon2id.kdf(
                32, secret, salt, opslimit=slot["operations"], memlimit=slot["memory_bytes"]
            )
        place = b"likeness slot v1" + self.store + slot["kind"].encode()
        return unseal(wrapped, derived(secret, "slot", salt), place, 1)

    # --- documents ---

    def bytes_of(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def document(self, name: str, kind: int) -> tuple[bytes, bytes]:
        """Both parts of a document whose signature verifies."""
        document = Document.parse(self.bytes_of(name))
        need(document.kind == kind, "another kind")
        path = name.encode()
        place = struct.pack("<B16sH", kind, self.store, len(path)) + path
        epoch = struct.pack("<I", document.epoch)
        message = b"ads-doc-v1" + place + blake3(document.signed).digest()
        signer = SigningKey(derived(self.master, "sign", epoch))
        if document.signer:
            need(document.signer == 1 and self.vault and kind in OF_VAULTS, "who signed it")
            signer = SigningKey(derived(self.master, "vault sign", epoch, self.vault))
        signer.verify_key.verify(message, document.signature)
        hidden = b""
        if document.sealed:
            meta = derived(self.master, "meta", epoch)
            hidden = unseal(document.sealed, meta, place, document.suite)
        return document.clear, hidden

    def records(self) -> Iterator[str]:
        """Names of version records that nobody wrote who had lost the store."""
        found = self.adopted()
        for path in sorted((self.root / "versions").glob("*/*")):
            name = path.relative_to(self.root).as_posix()
            owner, version = Document.parse(path.read_bytes()).owner, name.rpartition("-")[2]
            if all(version in ids for number, ids in found.items() if number > owner):
                yield name

    def adopted(self) -> dict[int, set[str]]:
        """The versions that each owner found that took the store over."""
        parts: dict[int, list[dict[str, Any]]] = {}
        for path in sorted((self.root / "adopted").glob("*")):
            said = json.loads(self.document(path.relative_to(self.root).as_posix(), ADOPTED)[0])
            parts.setdefault(said["number"], []).append(said)
        return {
            number: {version for part in found for version in part["versions"]}
            for number, found in parts.items()
            if len(found) == found[0]["parts"]
        }

    def version(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        clear, hidden = map(json.loads, self.document(name, VERSION))
        expected = f"versions/{clear['vm']}/{clear['sequence']:016x}-{clear['version']}"
        need(name == expected, "the record of another version")
        return clear, hidden

    # --- maps ---

    def chunk_map(self, disk: dict[str, Any]) -> list[bytes]:
        positions = -(-disk["size_bytes"] // disk["chunk_bytes"])
        ids = [ZERO] * positions
        for part in disk["parts"]:
            plain = self._part(disk, part)
            (runs,) = struct.unpack_from("<I", plain)
            at = 4 + 8 * runs
            for first, length in struct.iter_unpack("<II", plain[4:at]):
                need(first + length <= STRETCH, "a run beyond its stretch")
                for position in range(part["first"] + first, part["first"] + first + length):
                    ids[position] = plain[at : at + 32]
                    at += 32
            need(at == len(plain), "more than its runs")
        need(blake3(b"".join(ids)).hexdigest() == disk["root"], "the root of the map")
        return ids

    def _part(self, disk: dict[str, Any], part: dict[str, Any]) -> bytes:
        for name, digest in zip(part["copies"], part["digests"], strict=True):
            if not (self.root / name).exists():
                continue
            data = self.bytes_of(name)
            if blake3(data).hexdigest() != digest:
                continue
            need(data[:8] == b"ADSBLOB1" and data[-8:] == b"ADSBEND1", "not a sealed object")
            kind, form, suite, _, epoch, store, length = struct.unpack_from("<BBBBI16sI", data, 8)
            need((kind, form, store) == (1, 1, self.store), "another object")
            need(xxh3_64_digest(data[:-16]) == data[-16:-8], "its checksum")
            context = bytes.fromhex(disk["disk"]) + bytes.fromhex(part["version"])
            context += struct.pack("<QB", part["first"], part["delta"])
            place = b"ads-blob-v1" + bytes([1]) + self.store + context
            meta = derived(self.master, "meta", struct.pack("<I", epoch))
            return unseal(data[36 : 36 + length], meta, place, suite)
        raise Bad("no whole copy of a map")

    # --- packs ---

    def read_index(self) -> None:
        for path in (self.root / "index").iterdir():
            clear, hidden = self.document(f"index/{path.name}", INDEX)
            at = 0
            for pack in json.loads(clear)["packs"]:
                where = self.root / "packs" / pack["pack"][:2] / pack["pack"]
                for _ in range(pack["chunks"]):
                    chunk, offset, length = struct.unpack_from("<32sII", hidden, at)
                    self.places.setdefault(chunk, []).append((where, offset, length))
                    at += 40
            need(at == len(hidden), "places and packs do not fit")

    def read_tables(self) -> None:
        """What the packs say themselves, for a store without an index."""
        for path in (self.root / "packs").glob("*/*"):
            data = path.read_bytes()
            offset, length, count, total, pack, checksum, end = struct.unpack(
                "<QIIQ16s16s8s", data[-64:]
            )
            need(end == b"ADSPEND1" and total == len(data) and pack.hex() == path.name, "trailer")
            need(xxh3_128_digest(data[:-64]) == checksum, "checksum of a pack")
            session = data[44:60]
            key, *_ = self._sessions(path)[0]
            place = b"ads-table-v1" + self.store + session + pack
            plain = unseal(data[offset : offset + length], key, place, data[9])
            need(len(plain) == 44 * count, "length of a table")
            for chunk, start, size in struct.iter_unpack("<32sQI", plain):
                self.places.setdefault(chunk, []).append((path, start, size))

    def _sessions(self, path: Path) -> list[tuple[bytes, bytes, bytes]]:
        """Key, place and chunk id key of each session of a pack."""
        if path not in self.openers:
            data = path.read_bytes()
            need(data[:8] == b"ADSPACK1" and data[8] == 1, "not a pack")
            (count,) = struct.unpack_from("<H", data, 10)
            end = 44 + 112 * count
            need(xxh3_64_digest(data[:end]) == data[end : end + 8], "checksum of a header")
            need(data[12:28] == self.store and data[28:44].hex() == path.name, "another pack")
            self.openers[path] = []
            for at in range(44, end, 112):
                place = b"ads-record-v1" + self.store + data[at : at + 16]
                key = self._unboxed(data[at + 32 : at + 112])
                self.openers[path].append((key, place, self._id_key(data[at + 16 : at + 32])))
        return self.openers[path]

    def _id_key(self, scope: bytes) -> bytes:
        if scope == bytes(16):
            return derived(self.master, "chunk id")
        return derived(self.master, "chunk id in a scope", scope)

    def _unboxed(self, box: bytes) -> bytes:
        for epoch in range(9, 0, -1):
            private = PrivateKey(derived(self.master, "box", struct.pack("<I", epoch)))
            try:
                return SealedBox(private).decrypt(box)
            except CryptoError:
                continue
        raise Bad("no epoch opens the box")

    def chunk(self, wanted: bytes) -> bytes:
        problem: Exception = Bad("in no pack")
        for path, offset, length in self.places.get(wanted, []):
            try:
                record = path.read_bytes()[offset : offset + length]
                return self._opened(record, self._sessions(path), path.read_bytes()[9], wanted)
            except (Bad, CryptoError, OSError) as cause:
                problem = cause
        raise problem

    def _opened(
        self, record: bytes, sessions: list[tuple[bytes, bytes, bytes]], suite: int, wanted: bytes
    ) -> bytes:
        magic, length, session, _ = struct.unpack_from("<4sIHH", record)
        need(magic == b"ADSR" and len(record) == 12 + length + 8, "not a record")
        key, place, id_key = sessions[session]
        inner = unseal(record[12 : 12 + length], key, place, suite)
        chunk, raw, size, encoding = struct.unpack_from("<32sIIB", inner)
        need(0 < raw <= self.chunk_bytes and 41 + size <= len(inner), "lengths of a record")
        payload = inner[41 : 41 + size]
        if encoding == 1:
            need(zstandard.get_frame_parameters(payload).content_size == raw, "a frame's size")
            payload = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
        need(encoding in (0, 1) and len(payload) == raw, "length of a chunk")
        found = blake3(payload, key=id_key).digest()
        need(found == chunk == wanted, "another chunk")
        return payload

    # --- disks ---

    def sha256(self, disk: dict[str, Any]) -> str:
        """Restore a disk, but keep no more than its hash."""
        hasher = hashlib.sha256()
        left = disk["size_bytes"]
        for chunk in self.chunk_map(disk):
            length = min(left, disk["chunk_bytes"])
            data = bytes(length) if chunk == ZERO else self.chunk(chunk)
            need(len(data) == length, "length of a chunk at its position")
            hasher.update(data)
            left -= length
        need(left == 0, "positions and size")
        return hasher.hexdigest()


def secret_of_words(words: str) -> bytes:
    """24 words of BIP-39, by the list that every implementation of it ships."""
    from mnemonic import Mnemonic

    listed = Mnemonic("english").wordlist
    number = 0
    for word in words.split():
        number = number << 11 | listed.index(word)
    secret, check = (number >> 8).to_bytes(32, "big"), number & 0xFF
    need(hashlib.sha256(secret).digest()[0] == check, "checksum of the words")
    return secret


def secret_of_key_file(path: Path) -> bytes:
    line = path.read_text()
    need(line.startswith("likeness-key-1:") and line.endswith("\n"), "not a key file")
    return bytes.fromhex(line.removeprefix("likeness-key-1:").strip())

"""What is fuzzed: parsers of stored bytes, reached with matching checksums, seals and signatures.

Each target takes bytes that some fuzzer made up, builds an object out of them whose outside is
flawless, and parses it. It returns, or raises one of the errors that the product declares; whatever
else leaves it is a bug. The same targets serve hypothesis and atheris.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

from likeness.codec import aead
from likeness.codec.aead import Nonces, Suite
from likeness.codec.blobs import BlobKind, read_blob, write_blob
from likeness.codec.compression import BadFrame, Compressor, decompress
from likeness.codec.documents import Frame, Kind, write_document
from likeness.codec.hashing import checksum64, checksum128, chunk_id, digest
from likeness.codec.keys import SessionKey, StoreKeys
from likeness.codec.records import Opener, OpenSession, Sealer, record_place
from likeness.codec.slots import Slot, SlotKind, unwrap
from likeness.errors import PermanentError
from likeness.model.ids import DiskId, PackId, StoreId, VersionId
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import (
    CatalogCopyDocument,
    FormatDocument,
    HeadDocument,
    IndexClear,
    OwnerDocument,
    PublicKeysDocument,
    SweptDocument,
    VersionClear,
    VersionRecord,
    decode,
)
from likeness.store.format.maps import STRETCH, decode_part
from likeness.store.format.pack import Pack, PackHeader
from likeness.store.read.index import read_segment
from likeness.store.read.salvaging import records_in
from tests.support.memory import MemoryTransport

STORE = StoreId("5" * 32)
KEYS = StoreKeys(STORE, bytes(range(32)))
SESSION = SessionKey.fresh(KEYS.public().box)
CHUNK = 64 << 10
PACK = PackId("ab" * 16)
NAME = f"packs/ab/{PACK}"


class Dice:
    """Turns a fuzzer's bytes into choices; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def some(self, most: int) -> bytes:
        length = self.number(most)
        taken = self._data[self._at : self._at + length]
        self._at += length
        return taken

    def rest(self) -> bytes:
        return self._data[self._at :]

    def number(self, most: int) -> int:
        size = (most.bit_length() + 7) // 8
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % (most + 1)

    def pick(self, *choices: Any) -> Any:
        return choices[self.number(len(choices) - 1)]

    def size(self, usual: int) -> int:
        """A length or offset: right, nearly right, or absurd."""
        return int(
            self.pick(
                usual,
                usual,
                max(usual - 1, 0),
                usual + 1,
                0,
                2**31,
                2**32 - 1,
                self.number(2**32 - 1),
            )
        )


# --- records ---


def opener(suite: Suite = Suite.AEGIS_256) -> Opener:
    place = record_place(STORE, SESSION.session)
    opened = OpenSession(SESSION.key, place, SESSION.scope, KEYS.chunk_id_key)
    return Opener((opened,), suite, CHUNK)


def made_record(dice: Dice, suite: Suite) -> bytes:
    """A record that opens, and holds what the dice say."""
    payload = dice.some(300)
    if dice.pick(0, 1):
        plaintext = payload or b"x"
        sealer = Sealer(STORE, SESSION, suite=suite, level=1)
        return bytes(sealer.seal(chunk_id(plaintext, id_key=KEYS.chunk_id_key), plaintext))
    encoding = dice.pick(0, 1, 1, 2, 255)
    if encoding == 1:
        payload = b"\x28\xb5\x2f\xfd" + payload
    chunk = dice.pick(chunk_id(payload, id_key=KEYS.chunk_id_key), bytes(32))
    inner = struct.pack(
        "<32sIIB", chunk, dice.size(len(payload)), dice.size(len(payload)), encoding
    )
    sealed = sealed_with_session(inner + payload, record_place(STORE, SESSION.session), suite)
    header = struct.pack(
        "<4sIHH", b"ADSR", dice.size(len(sealed)), dice.pick(0, 0, 0, 1), dice.number(65535)
    )
    return header + sealed + checksum64(header, sealed)


def sealed_with_session(plain: bytes, place: bytes, suite: Suite) -> bytes:
    nonce = Nonces().next(suite)
    return nonce + aead.seal(plain, key=SESSION.key, place=place, nonce=nonce, suite=suite)


def record(data: bytes) -> None:
    dice = Dice(data)
    suite: Suite = dice.pick(*Suite)
    opener(suite).open(made_record(dice, suite), name=NAME, offset=0)


def frame(data: bytes) -> None:
    """A compressed chunk with some bytes changed, or anything behind the magic number."""
    dice = Dice(data)
    plain = dice.some(200) * 20
    encoding, payload = Compressor().compress(plain)
    made = bytearray(payload)
    for _ in range(dice.number(2)):
        made[dice.number(len(made) - 1) if made else 0 :][:1] = bytes([dice.number(255)])
        made[4 + dice.number(8) : 6] = dice.some(3)
    made = dice.pick(made, made, bytearray(b"\x28\xb5\x2f\xfd" + dice.rest()))
    size = min(dice.size(len(plain)), CHUNK)
    assert len(decompress(encoding, bytes(made), raw_bytes=size)) == size


# --- packs ---


def made_pack(dice: Dice) -> bytes:
    """A pack whose checksums match, and whose table opens."""
    suite: Suite = dice.pick(*Suite)
    session = SESSION.session + SESSION.scope + SESSION.boxed
    count = dice.pick(1, 1, 1, 2, 8)
    header = struct.pack(
        "<8sBBH", b"ADSPACK1", dice.pick(1, 1, 1, 2), dice.pick(suite, suite, 9), count
    )
    header += bytes.fromhex(STORE) + bytes.fromhex(PACK) + session * count
    header += checksum64(header)
    records = [made_record(dice, suite) for _ in range(dice.number(3))]
    entries, at = [], len(header)
    for each in records:
        chunk = dice.pick(bytes(32), b"\x01" * 32)
        entries.append(struct.pack("<32sQI", chunk, dice.size(at), dice.size(len(each))))
        at += len(each)
    plain = b"".join(entries) + dice.pick(b"", b"", dice.some(50))
    place = b"ads-table-v1" + bytes.fromhex(STORE) + SESSION.session + bytes.fromhex(PACK)
    table = sealed_with_session(plain, place, suite)
    boxes = session * count
    body: bytes = header + b"".join(records) + table + boxes + checksum64(boxes)
    total = len(body) + 64
    return body + struct.pack(
        "<QIIQ16s16s8s",
        dice.size(at),
        dice.size(len(table)),
        dice.size(len(records)),
        dice.pick(total, total, total, total + 1),
        bytes.fromhex(PACK),
        checksum128([body]),
        b"ADSPEND1",
    )


def read_pack(data: bytes) -> None:
    read = Pack(data, name=NAME, store=STORE)
    opening = read.opener(KEYS, chunk_bytes=CHUNK)
    locations = read.locations(KEYS)
    for _ in read.frames():
        pass
    for place in locations:
        opened = opening.open(read.record(place), name=NAME, offset=place.offset)
        assert chunk_id(opened.plaintext, id_key=KEYS.chunk_id_key) == opened.chunk


def pack(data: bytes) -> None:
    read_pack(made_pack(Dice(data)))


def salvaged_pack(data: bytes) -> None:
    dice = Dice(data)
    made = bytearray(made_pack(dice))
    for _ in range(dice.number(5)):
        at = dice.number(len(made) - 1)
        made[at : at + 4] = dice.pick(b"ADSR", bytes(4), b"\xff" * 4)
    cut = bytes(made[: len(made) - dice.pick(0, 0, 64, dice.number(len(made)))])
    header = PackHeader.parse_any(cut, name=NAME, store=STORE, suite=Suite.AEGIS_256)
    for _ in records_in(cut, (header.opener(KEYS, chunk_bytes=CHUNK),), NAME):
        pass


def raw_pack(data: bytes) -> None:
    PackHeader.parse_any(data, name=NAME, store=STORE, suite=Suite.AEGIS_256)
    read_pack(data)


# --- documents ---

SAMPLES: dict[type, dict[str, Any]] = {
    FormatDocument: {
        "store": STORE,
        "format": 1,
        "oldest_reader": 1,
        "oldest_writer": 1,
        "chunk_bytes": CHUNK,
        "suite": 2,
        "made_at": "2031-01-01T00:00:00+00:00",
    },
    PublicKeysDocument: {
        "store": STORE,
        "epoch": 1,
        "box": "0" * 64,
        "verify": "0" * 64,
        "made_at": "",
    },
    OwnerDocument: {"number": 1, "installation": "0" * 32, "taken_at": "", "host": "h"},
    IndexClear: {
        "run": "0" * 32,
        "made_at": "",
        "packs": [
            {
                "pack": "0" * 32,
                "size_bytes": 9,
                "digest": "0" * 64,
                "checksum": "0" * 32,
                "chunks": 2,
            }
        ],
    },
    VersionClear: {
        "vm": "0" * 32,
        "sequence": 1,
        "version": "0" * 32,
        "taken_at": "",
        "committed_at": "",
        "previous": "0" * 64,
        "objects": ["index/x"],
        "digests": ["0" * 64],
    },
    VersionRecord: {
        "vm_name": "web",
        "run": "0" * 32,
        "job": "",
        "consistency": "",
        "consistency_asked": "",
        "note": "",
        "configuration": "{}",
        "counts": {"read_bytes": 1},
        "release": "1",
        "disks": [
            {
                "disk": "0" * 32,
                "name": "",
                "position": "0",
                "size_bytes": 1,
                "chunk_bytes": CHUNK,
                "deltas": 0,
                "root": "0" * 64,
                "parts": [
                    {
                        "delta": False,
                        "version": "0" * 32,
                        "first": 0,
                        "entries": 1,
                        "copies": ["maps/a", "maps/b"],
                        "digests": ["0" * 64, "1" * 64],
                        "sizes": [1, 2],
                    }
                ],
            }
        ],
    },
    HeadDocument: {
        "number": 1,
        "previous": "0" * 64,
        "made_at": "",
        "vms": [{"vm": "0" * 32, "versions": 1, "digest": "0" * 64}],
        "objects": [{"name": "index/x", "digest": "0" * 64, "gone": False}],
    },
    SweptDocument: {"number": 1, "made_at": "", "reason": "", "packs": ["0" * 32]},
    CatalogCopyDocument: {
        "number": 1,
        "made_at": "",
        "parts": ["catalog/x"],
        "digests": ["0" * 64],
        "size_bytes": 1,
    },
    Slot: {"kind": "passphrase", "salt": "00", "operations": 1, "memory_bytes": 1, "wrapped": ""},
}


HOSTILE: list[Any] = [
    *(None, -1, 0, 2**63, 2**64, 1e300, True, [], {}, [[[]]]),
    *("", "0" * 32, "x" * 5000, "../../etc", "\ud7ff\0"),
]


def altered(dice: Dice, value: Any) -> Any:
    """A JSON value with something in it that should not be there."""
    if isinstance(value, dict) and value and dice.pick(1, 1, 1, 0):
        out = dict(value)
        key = dice.pick(*sorted(out))
        match dice.pick("deeper", "deeper", "deeper", "drop", "more"):
            case "drop":
                del out[key]
            case "more":
                out[dice.some(9).decode("latin-1")] = 1
            case _:
                out[key] = altered(dice, out[key])
        return out
    if isinstance(value, list) and dice.pick(1, 1, 0):
        return dice.pick(
            [altered(dice, each) for each in value], value * dice.number(200), [*value, None]
        )
    return dice.pick(*HOSTILE, dice.some(40).decode("latin-1"), dice.number(2**40))


def document_text(data: bytes) -> None:
    dice = Dice(data)
    kind: type = dice.pick(*SAMPLES)
    said: dict[str, Any] = SAMPLES[kind]
    for _ in range(dice.number(3)):
        said = altered(dice, said)
    text = json.dumps(said).encode()
    read: Any = decode(text + dice.pick(b"", b"", dice.some(9)), kind, name="x")
    if isinstance(read, Slot) and read.operations == 0:
        unwrap(read, bytes(32), store=STORE)


def raw_document_text(data: bytes) -> None:
    decode(data, Dice(data).pick(*SAMPLES), name="x")


def document_frame(data: bytes) -> None:
    dice = Dice(data)
    clear, sealed = dice.some(200), dice.some(200) or b"sealed"
    whole = write_document(Kind.HEAD, "heads/x", clear, sealed, keys=KEYS, suite=dice.pick(*Suite))
    made = bytearray(whole)
    for _ in range(dice.number(3)):
        at, value = dice.pick((8, dice.number(255)), (dice.number(23), dice.number(255)))
        made[at] = value
    hidden = len(whole) - 28 - len(clear) - 80
    made[20:28] = struct.pack("<II", dice.size(len(clear)), dice.size(hidden))
    body = bytes(made[:-16])
    path = b"heads/x"
    place = struct.pack("<B16sH", Kind.HEAD, bytes.fromhex(STORE), len(path)) + path
    message = b"ads-doc-v1" + place + digest([body[:-64]])
    signed_again = dice.pick(body, body[:-64] + KEYS.sign(message))
    read = Frame.parse(signed_again + checksum64(signed_again) + b"ADSDEND1", name="heads/x")
    read.require_signature(Kind.HEAD, KEYS.public())
    read.unseal(KEYS)


def raw_document(data: bytes) -> None:
    Frame.parse(data, name="x")


def index_segment(data: bytes) -> None:
    dice = Dice(data)
    transport = MemoryTransport()
    facts = FormatDocument(**SAMPLES[FormatDocument])
    store = DataStore(transport, facts, KEYS)
    clear = altered(dice, SAMPLES[IndexClear]) if dice.pick(0, 1) else SAMPLES[IndexClear]
    sealed = dice.pick(bytes(80), dice.some(200), b"")
    name = f"index/{'0' * 32}"
    made = write_document(
        Kind.INDEX, name, json.dumps(clear).encode(), sealed, keys=KEYS, suite=Suite.AEGIS_256
    )
    transport.create(name, [made])
    list(read_segment(store, name))


# --- maps and other sealed objects ---


def block_map(data: bytes) -> None:
    dice = Dice(data)
    runs = dice.number(4)
    plain = struct.pack("<I", dice.pick(runs, runs, dice.size(runs)))
    lengths = [dice.pick(0, 1, dice.number(9)) for _ in range(runs)]
    for length in lengths:
        first = dice.pick(dice.number(50), dice.size(STRETCH))
        plain += struct.pack("<II", first, dice.pick(length, length, dice.size(length)))
    plain += bytes(32 * sum(lengths)) + dice.pick(b"", b"", dice.some(40))
    disk, version = DiskId("d" * 32), VersionId("e" * 32)
    place = bytes.fromhex(disk) + bytes.fromhex(version) + struct.pack("<QB", 0, 1)
    sealed = write_blob(BlobKind.MAP, place, plain, keys=KEYS, suite=Suite.AEGIS_256)
    positions = dice.pick(0, 40, STRETCH)
    found = decode_part(
        sealed,
        disk=disk,
        version=version,
        first=0,
        delta=True,
        positions=positions,
        keys=KEYS,
        name="maps/x",
    )
    assert all(run.first >= 0 and run.first + run.count <= positions for run in found)


def sealed_object(data: bytes) -> None:
    dice = Dice(data)
    made = bytearray(
        write_blob(BlobKind.MAP, b"here", dice.some(99), keys=KEYS, suite=dice.pick(*Suite))
    )
    for _ in range(dice.number(3)):
        made[dice.number(35)] = dice.number(255)
    body = bytes(made[:-16])
    read_blob(
        body + checksum64(body) + b"ADSBEND1", BlobKind.MAP, b"here", keys=KEYS, name="maps/x"
    )


def raw_sealed_object(data: bytes) -> None:
    read_blob(data, BlobKind.MAP, b"here", keys=KEYS, name="maps/x")


def slot(data: bytes) -> None:
    dice = Dice(data)
    kind: SlotKind = dice.pick(*SlotKind)
    made = Slot(kind, dice.some(20).hex(), 0, 0, dice.some(100).hex())
    unwrap(made, dice.pick(bytes(32), b"", b"words"), store=STORE)


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        record,
        frame,
        pack,
        salvaged_pack,
        raw_pack,
        document_text,
        raw_document_text,
        document_frame,
        raw_document,
        index_segment,
        block_map,
        sealed_object,
        raw_sealed_object,
        slot,
    )
}


def harmless(target: Target, data: bytes) -> bool:
    """Run a target; whether it accepted the input. Only undeclared errors leave here."""
    try:
        target(data)
    except (PermanentError, BadFrame):
        return False
    return True

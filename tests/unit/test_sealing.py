"""Chunk ids, compression and sealed records: what goes in comes out, and nothing else does."""

import struct
import subprocess
import sys
from contextlib import suppress

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from likeness.codec import aead
from likeness.codec.aead import Nonces, NotAuthentic, Suite
from likeness.codec.buffers import Buffer
from likeness.codec.compression import BadFrame, Compressor, Encoding, decompress
from likeness.codec.hashing import checksum64, chunk_id, derived_key, is_zero
from likeness.codec.keys import SessionKey, StoreKeys
from likeness.codec.records import (
    LARGEST_CHUNK_BYTES,
    SAMPLE,
    Check,
    Opener,
    OpenSession,
    Sealer,
    checksum_matches,
    largest_record_bytes,
    padded,
    record_length,
    record_place,
)
from likeness.errors import ChunkCorrupt, Damaged
from likeness.model.ids import ChunkId, StoreId
from tests.unit.workshop import CHUNK, KIB, MIB, flipped, noise, text

STORE = StoreId("5" * 32)
OTHER_STORE = StoreId("6" * 32)
KEYS = StoreKeys(STORE, bytes(range(32)))
ID_KEY = KEYS.chunk_id_key
SESSION = SessionKey.fresh(KEYS.public().box)
SUITES = st.sampled_from(Suite)


def sealed_record(plaintext: bytes, suite: Suite, session: SessionKey = SESSION) -> bytes:
    sealer = Sealer(STORE, session, suite=suite, level=1)
    return bytes(sealer.seal(chunk_id(plaintext, id_key=ID_KEY), plaintext))


def opener_of(suite: Suite, *, store: StoreId = STORE, id_key: bytes = ID_KEY) -> Opener:
    place = record_place(store, SESSION.session)
    return Opener((OpenSession(SESSION.key, place, SESSION.scope, id_key),), suite, CHUNK)


def forged_record(  # what a source with a session key, but without good faith, could make
    payload: bytes,
    *,
    encoding: int,
    raw_bytes: int,
    suite: Suite = Suite.AEGIS_256,
    chunk: bytes = bytes(32),
    payload_bytes: int | None = None,
) -> bytes:
    said = len(payload) if payload_bytes is None else payload_bytes
    inner = struct.pack("<32sIIB", chunk, raw_bytes, said, encoding) + payload
    nonce = Nonces().next(suite)
    place = record_place(STORE, SESSION.session)
    sealed = aead.seal(inner, key=SESSION.key, place=place, nonce=nonce, suite=suite)
    header = struct.pack("<4sIHH", b"ADSR", len(nonce) + len(sealed), 0, 0)
    return header + nonce + sealed + checksum64(header, nonce, sealed)


def open_record(record: bytes, suite: Suite = Suite.AEGIS_256) -> bytes:
    return opener_of(suite).open(record, name="packs/aa/pack", offset=0).plaintext


# --- records ---


@given(plaintext=st.binary(min_size=1, max_size=3000), suite=SUITES)
def test_a_sealed_chunk_opens_to_what_it_was_and_to_its_name(
    plaintext: bytes, suite: Suite
) -> None:
    record = sealed_record(plaintext, suite)

    opened = opener_of(suite).open(record, name="packs/aa/pack", offset=0)

    assert opened.plaintext == plaintext
    assert opened.chunk == blake3(plaintext, key=ID_KEY).digest()
    assert record_length(record, 0, name="") == len(record)
    assert checksum_matches(record)


@given(plaintext=st.binary(min_size=1, max_size=600), suite=SUITES, data=st.data())
def test_any_flipped_byte_is_refused_or_harmless(
    plaintext: bytes, suite: Suite, data: st.DataObject
) -> None:
    record = sealed_record(plaintext, suite)
    at = data.draw(st.integers(0, len(record) - 1))
    spoilt = flipped(record, at, data.draw(st.integers(1, 255)))

    assert not checksum_matches(spoilt)
    try:
        assert open_record(spoilt, suite) == plaintext
    except ChunkCorrupt:
        return
    assert at in (10, 11) or at >= len(record) - 8, "only flags and checksum are not sealed"


@given(plaintext=st.binary(min_size=1, max_size=600), suite=SUITES, data=st.data())
def test_a_shortened_or_lengthened_record_is_refused(
    plaintext: bytes, suite: Suite, data: st.DataObject
) -> None:
    record = sealed_record(plaintext, suite)
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    longer = record + data.draw(st.binary(min_size=1, max_size=40))

    for spoilt in (cut, longer):
        with pytest.raises(ChunkCorrupt, match="chunk"):
            open_record(spoilt, suite)


def test_a_record_of_another_store_session_or_suite_does_not_open(suite: Suite) -> None:
    record = sealed_record(b"ours", suite)
    other_session = sealed_record(b"ours", suite, SessionKey.fresh(KEYS.public().box))
    other_suite = Suite.AEGIS_256 if suite is Suite.XCHACHA20_POLY1305 else Suite.XCHACHA20_POLY1305

    with pytest.raises(ChunkCorrupt, match="was altered"):
        opener_of(suite, store=OTHER_STORE).open(record, name="p", offset=0)
    with pytest.raises(ChunkCorrupt, match="was altered"):
        opener_of(suite).open(other_session, name="p", offset=0)
    with pytest.raises(ChunkCorrupt):
        opener_of(other_suite).open(record, name="p", offset=0)


def test_content_that_is_not_what_its_name_says_is_refused_although_it_is_sealed() -> None:
    record = forged_record(b"poison", encoding=0, raw_bytes=6, chunk=b"\x07" * 32)

    with pytest.raises(ChunkCorrupt, match="does not match its chunk id"):
        open_record(record)


def test_a_record_of_a_session_the_pack_does_not_have_is_refused() -> None:
    record = bytearray(sealed_record(b"ours", Suite.AEGIS_256))
    record[8:10] = (7).to_bytes(2, "little")

    with pytest.raises(ChunkCorrupt, match="no record of this pack"):
        open_record(bytes(record))


def test_a_chunk_longer_than_the_store_allows_is_refused() -> None:
    plaintext = noise(1, CHUNK + 1)
    chunk = chunk_id(plaintext, id_key=ID_KEY)
    record = forged_record(plaintext, encoding=0, raw_bytes=len(plaintext), chunk=chunk)

    with pytest.raises(ChunkCorrupt, match="lengths cannot be"):
        open_record(record)


@pytest.mark.parametrize(
    ("payload", "encoding", "raw_bytes", "payload_bytes"),
    [
        pytest.param(b"", 0, 0, None, id="nothing in it"),
        pytest.param(b"abc", 0, 4, None, id="raw and shorter than it says"),
        pytest.param(b"abc", 0, 2, None, id="raw and longer than it says"),
        pytest.param(b"abc", 0, 3, 4000, id="payload beyond the record"),
        pytest.param(b"abc", 0, 3, 2**32 - 1, id="payload of 4 GiB"),
        pytest.param(b"abc", 2, 3, None, id="an encoding nobody knows"),
        pytest.param(b"abc", 1, 3, None, id="no zstd frame"),
        pytest.param(b"", 1, 1, None, id="an empty zstd frame"),
    ],
)
def test_a_record_with_impossible_lengths_is_refused(
    payload: bytes, encoding: int, raw_bytes: int, payload_bytes: int | None
) -> None:
    record = forged_record(
        payload, encoding=encoding, raw_bytes=raw_bytes, payload_bytes=payload_bytes
    )

    with pytest.raises(ChunkCorrupt):
        open_record(record)


@given(plaintext=st.binary(max_size=100))
def test_a_record_shorter_than_its_own_fields_is_refused(plaintext: bytes) -> None:
    nonce = Nonces().next(Suite.AEGIS_256)
    sealed = aead.seal(
        plaintext[:40],
        key=SESSION.key,
        place=record_place(STORE, SESSION.session),
        nonce=nonce,
        suite=Suite.AEGIS_256,
    )
    header = struct.pack("<4sIHH", b"ADSR", len(nonce) + len(sealed), 0, 0)

    with pytest.raises(ChunkCorrupt, match="too short"):
        open_record(header + nonce + sealed + bytes(8))


def test_a_machine_whose_compressor_lies_is_found_out_before_anything_is_sent() -> None:
    class Faulty(Compressor):
        def compress(self, plaintext: Buffer) -> tuple[Encoding, Buffer]:
            return Encoding.RAW, flipped(bytes(plaintext), 3)

    sealer = Sealer(STORE, SESSION, suite=Suite.AEGIS_256, level=1)
    sealer._compressor = Faulty()

    with pytest.raises(ChunkCorrupt, match="test this machine's memory"):
        sealer.seal(chunk_id(b"good bytes", id_key=ID_KEY), b"good bytes")


@pytest.mark.parametrize(
    ("check", "sealed"), [(Check.ALL, 3), (Check.SAMPLED, SAMPLE + 1), (Check.OFF, 3 * SAMPLE)]
)
def test_what_is_checked_before_it_is_sent(check: Check, sealed: int) -> None:
    """A compressor that begins to lie after a while is found out in so many records, or never."""

    class Faulty(Compressor):
        calls = 0

        def compress(self, plaintext: Buffer) -> tuple[Encoding, Buffer]:
            self.calls += 1
            lies = self.calls > 2
            return Encoding.RAW, flipped(bytes(plaintext), 3) if lies else plaintext

    sealer = Sealer(STORE, SESSION, suite=Suite.AEGIS_256, level=1, check=check)
    sealer._compressor = faulty = Faulty()

    with suppress(ChunkCorrupt):
        for at in range(3 * SAMPLE):
            sealer.seal(chunk_id(b"good %d" % at, id_key=ID_KEY), b"good %d" % at)

    assert faulty.calls == sealed


# --- lengths say little ---


@given(st.integers(0, 64 * MIB))
def test_padding_never_shortens_and_costs_at_most_an_eighth(length: int) -> None:
    assert length <= padded(length) <= length * 1.12 + 1
    assert padded(padded(length)) == padded(length)


@given(st.integers(64 * KIB, 64 * MIB))
def test_padding_of_a_whole_chunk_costs_at_most_a_thirtysecond(length: int) -> None:
    assert padded(length) <= length * (1 + 1 / 32)


def test_few_different_lengths_are_seen_from_outside() -> None:
    assert len({padded(length) for length in range(64 * KIB, 128 * KIB)}) <= 33


@given(suite=SUITES, size=st.sampled_from([1, 100, 5000, CHUNK]), seed=st.integers(0, 99))
def test_no_record_is_longer_than_the_bound_says(suite: Suite, size: int, seed: int) -> None:
    record = sealed_record(noise(seed, size), suite)

    assert len(record) <= largest_record_bytes(max(size, CHUNK), suite)


# --- compression traps ---


def test_what_shrinks_is_compressed_and_what_does_not_is_left_as_it_is() -> None:
    encoding, payload = Compressor().compress(text("a", CHUNK))
    assert encoding is Encoding.ZSTD
    assert len(payload) < CHUNK // 4

    encoding, payload = Compressor().compress(noise(1, CHUNK))
    assert encoding is Encoding.RAW
    assert payload == noise(1, CHUNK)


@given(st.binary(min_size=1, max_size=5000))
def test_decompression_undoes_compression(plaintext: bytes) -> None:
    encoding, payload = Compressor().compress(plaintext)

    assert decompress(encoding, payload, raw_bytes=len(plaintext)) == plaintext


def frame_of(plaintext: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(plaintext)


def frame_without_size(plaintext: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(plaintext)


def lying_frame(promised: int) -> bytes:
    """A frame whose header promises another size than its blocks hold."""
    frame = frame_of(noise(1, 300))  # content size in two bytes, minus 256
    assert zstandard.get_frame_parameters(frame).content_size == 300
    return frame[:5] + struct.pack("<H", promised - 256) + frame[7:]


SKIPPABLE = struct.pack("<II", 0x184D2A50, 8) + bytes(8)


@pytest.mark.parametrize(
    ("payload", "raw_bytes"),
    [
        pytest.param(frame_of(bytes(CHUNK * 4)), CHUNK, id="holds more than promised"),
        pytest.param(frame_of(bytes(100)), CHUNK, id="holds less than promised"),
        pytest.param(lying_frame(4000), 4000, id="says it holds more than it does"),
        pytest.param(lying_frame(256), 256, id="says it holds less than it does"),
        pytest.param(frame_without_size(bytes(CHUNK)), CHUNK, id="does not say what it holds"),
        pytest.param(frame_of(b"ab") + b"tail", 2, id="bytes behind the frame"),
        pytest.param(frame_of(b"ab") + frame_of(b"cd"), 2, id="a second frame behind the first"),
        pytest.param(frame_of(b"ab") + SKIPPABLE, 2, id="a skippable frame behind it"),
        pytest.param(SKIPPABLE, 8, id="a skippable frame alone"),
        pytest.param(frame_of(bytes(CHUNK))[:-1], CHUNK, id="cut short"),
        pytest.param(frame_of(b""), 1, id="holds nothing"),
        pytest.param(b"\x28\xb5\x2f\xfd", 1, id="a magic number alone"),
    ],
)
def test_a_frame_that_does_not_hold_what_was_promised_is_refused(
    payload: bytes, raw_bytes: int
) -> None:
    with pytest.raises(BadFrame):
        decompress(Encoding.ZSTD, payload, raw_bytes=raw_bytes)


BOMB = """
import resource, struct, zstandard
from pathlib import Path
from likeness.codec.compression import BadFrame, Encoding, decompress
bomb = zstandard.ZstdCompressor().compress(bytes(SIZE))
at = bomb.index(struct.pack("<I", SIZE), 5)
huge = bomb[:at] + struct.pack("<I", 0xFFFFFFF0) + bomb[at + 4:]
lying = bomb[:at] + struct.pack("<I", 65536) + bomb[at + 4:]
assert zstandard.get_frame_parameters(huge).content_size == 0xFFFFFFF0
def most():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
Path("/proc/self/clear_refs").write_text("5")  # forgets what making the bomb took
before = most()
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for frame in (bomb, huge, lying):
    try:
        decompress(Encoding.ZSTD, frame, raw_bytes=65536)
    except BadFrame:
        print(len(frame), most() - before)
"""


def test_a_compression_bomb_takes_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"SIZE = {256 * MIB}\n{BOMB}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    grown = [int(line.split()[1]) for line in done.stdout.splitlines()]

    assert len(grown) == 3, "each of the three frames is refused"
    assert max(grown) < 16 * KIB, "KiB of memory"


# --- ids, keys, nonces ---


def test_equal_chunks_have_equal_ids_only_under_one_key() -> None:
    assert chunk_id(b"x", id_key=ID_KEY) == chunk_id(b"x", id_key=ID_KEY)
    assert chunk_id(b"x", id_key=ID_KEY) != chunk_id(b"y", id_key=ID_KEY)
    assert chunk_id(b"x", id_key=ID_KEY) != chunk_id(b"x", id_key=bytes(32))


@given(st.integers(1, LARGEST_CHUNK_BYTES), st.data())
def test_one_byte_makes_a_chunk_of_zeros_another(size: int, data: st.DataObject) -> None:
    assert is_zero(bytes(size))

    at = data.draw(st.integers(0, size - 1))

    assert not is_zero(bytes(at) + b"\x01" + bytes(size - at - 1))


def test_every_purpose_has_a_key_of_its_own() -> None:
    master = bytes(32)
    made = [
        derived_key(master, purpose, detail)
        for purpose in ("meta", "box", "sign", "chunk id")
        for detail in (b"\0\0\0\1", b"\0\0\0\2")
    ]

    assert len(set(made)) == len(made)
    assert derived_key(master, "meta") == derived_key(master, "meta")


def test_no_nonce_comes_twice_even_where_the_random_source_repeats(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.urandom", bytes)  # a cloned machine at its worst
    one, other = Nonces(b"\x01" * 32), Nonces(b"\x02" * 32)

    made = [nonces.next(suite) for nonces in (one, other) for _ in range(500)]

    assert len(set(made)) == 1000
    assert {len(nonce) for nonce in made} == {aead.nonce_bytes(suite)}


def test_a_session_key_opens_for_its_store_alone() -> None:
    boxed = SESSION.boxed

    assert KEYS.open_session(boxed) == SESSION.key
    with pytest.raises(NotAuthentic):
        StoreKeys(STORE, b"\x01" * 32).open_session(boxed)
    with pytest.raises(NotAuthentic):
        KEYS.open_session(flipped(boxed, 40))


def test_a_session_key_of_an_earlier_epoch_still_opens() -> None:
    later = StoreKeys(STORE, KEYS.master, epoch=3)
    newest = SessionKey.fresh(later.public().box)

    assert later.open_session(SESSION.boxed) == SESSION.key
    assert later.open_session(newest.boxed) == newest.key
    with pytest.raises(NotAuthentic):
        KEYS.open_session(newest.boxed)


def test_secrets_do_not_show_in_what_is_printed() -> None:
    shown = f"{KEYS!r} {SESSION!r}"

    assert KEYS.master.hex() not in shown
    assert repr(KEYS.master) not in shown
    assert SESSION.key.hex() not in shown
    assert repr(SESSION.key) not in shown


def test_what_is_no_record_says_where_it_looked() -> None:
    with pytest.raises(Damaged, match="no record starts at byte 3"):
        record_length(bytes(100), 3, name="packs/aa/x")
    with pytest.raises(Damaged, match="cut short at byte 90"):
        record_length(bytes(100), 90, name="packs/aa/x")


def test_a_chunk_id_is_bytes_of_the_right_length() -> None:
    assert len(ChunkId(chunk_id(b"x", id_key=ID_KEY))) == 32

"""Packs: complete or refused, and what is left of a broken one is found."""

import struct
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.agent.local_dedup import LocalDedup
from likeness.codec.aead import Suite
from likeness.codec.hashing import checksum64, checksum128, chunk_id, digest
from likeness.codec.keys import SessionKey, StoreKeys
from likeness.codec.records import Sealer
from likeness.errors import ChunkCorrupt, Damaged, LikenessError, StoreTooNew
from likeness.model.ids import ChunkId, PackId, StoreId
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.pack import (
    MAX_PACK_BYTES,
    FinishedPack,
    Pack,
    PackBuilder,
    PackHeader,
    PackReceipt,
)
from likeness.store.format.pack_log import decode_receipt, encode_receipt
from likeness.store.read.salvaging import records_in
from tests.unit.workshop import CHUNK, changed, flipped, noise

STORE = StoreId("5" * 32)
KEYS = StoreKeys(STORE, bytes(range(32)))
SESSION = SessionKey.fresh(KEYS.public().box)
TRAILER_BYTES, SESSION_BYTES = 64, 112
CHUNKS = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6, unique=True)
SUITES = st.sampled_from(Suite)


def named(plaintext: bytes) -> ChunkId:
    return chunk_id(plaintext, id_key=KEYS.chunk_id_key)


def finished(chunks: list[bytes], suite: Suite = Suite.AEGIS_256) -> FinishedPack:
    sealer = Sealer(STORE, SESSION, suite=suite, level=1)
    builder = PackBuilder(STORE, SESSION, suite)
    for plaintext in chunks:
        builder.add(named(plaintext), sealer.seal(named(plaintext), plaintext))
    return builder.finish()


def name_of(pack: FinishedPack) -> str:
    return f"packs/{pack.receipt.pack[:2]}/{pack.receipt.pack}"


def opened(data: bytes, name: str) -> dict[ChunkId, bytes]:
    """Everything in a pack, by its own table."""
    pack = Pack(data, name=name, store=STORE)
    opener = pack.opener(KEYS, chunk_bytes=CHUNK)
    found = {}
    for place in pack.locations(KEYS):
        record = opener.open(pack.record(place), name=name, offset=place.offset)
        assert record.chunk == place.chunk
        found[place.chunk] = record.plaintext
    return found


class Salvaged(NamedTuple):
    """Records that opened, by offset; and where one began that could not be opened."""

    locations: tuple[Location, ...]
    lost: tuple[int, ...]


def salvaged(data: bytes, name: str, *, suite: Suite = Suite.AEGIS_256) -> Salvaged:
    header = PackHeader.parse_any(data, name=name, store=STORE, suite=suite)
    found = list(records_in(data, (header.opener(KEYS, chunk_bytes=CHUNK),), name))
    return Salvaged(
        tuple(Location(opened.chunk, at, end - at) for at, end, opened in found if opened),
        tuple(at for at, _, opened in found if opened is None),
    )


@given(chunks=CHUNKS, suite=SUITES)
def test_everything_put_into_a_pack_is_found_by_its_table(
    chunks: list[bytes], suite: Suite
) -> None:
    pack = finished(chunks, suite)
    data = b"".join(pack.parts)

    assert opened(data, name_of(pack)) == {named(chunk): chunk for chunk in chunks}
    assert all(whole for _, whole in Pack(data, name=name_of(pack), store=STORE).frames())


@given(chunks=CHUNKS, suite=SUITES)
def test_the_receipt_says_what_was_written(chunks: list[bytes], suite: Suite) -> None:
    pack = finished(chunks, suite)
    data = b"".join(pack.parts)

    assert pack.receipt.size_bytes == len(data)
    assert pack.receipt.digest == digest([data])
    assert pack.receipt.checksum == checksum128([data[:-TRAILER_BYTES]])
    assert pack.receipt.locations == Pack(data, name=name_of(pack), store=STORE).locations(KEYS)


@given(chunks=CHUNKS, suite=SUITES, data=st.data())
def test_any_flipped_byte_of_a_pack_is_refused(
    chunks: list[bytes], suite: Suite, data: st.DataObject
) -> None:
    pack = finished(chunks, suite)
    whole = b"".join(pack.parts)
    at = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(Damaged):
        opened(flipped(whole, at, data.draw(st.integers(1, 255))), name_of(pack))


@given(chunks=CHUNKS, data=st.data())
def test_a_pack_cut_short_or_lengthened_is_refused(
    chunks: list[bytes], data: st.DataObject
) -> None:
    pack = finished(chunks)
    whole = b"".join(pack.parts)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    for spoilt in (cut, whole + data.draw(st.binary(min_size=1, max_size=100))):
        with pytest.raises(Damaged):
            opened(spoilt, name_of(pack))


@given(chunks=CHUNKS, suite=SUITES, data=st.data())
def test_a_flipped_byte_with_matching_checksums_never_gives_wrong_bytes(
    chunks: list[bytes], suite: Suite, data: st.DataObject
) -> None:
    pack = finished(chunks, suite)
    whole = b"".join(pack.parts)
    at = data.draw(st.integers(0, len(whole) - TRAILER_BYTES - 1))
    body = flipped(whole[:-TRAILER_BYTES], at, data.draw(st.integers(1, 255)))
    header_end = 44 + SESSION_BYTES
    body = changed(body, (header_end, checksum64(body[:header_end])))
    trailer = changed(whole[-TRAILER_BYTES:], (40, checksum128([body])))

    try:
        found = opened(body + trailer, name_of(pack))
    except LikenessError:
        return
    assert found == {named(chunk): chunk for chunk in chunks}


def test_a_pack_under_another_name_is_refused() -> None:
    pack = finished([b"a"])

    with pytest.raises(Damaged, match="under another's name"):
        Pack(b"".join(pack.parts), name=f"packs/00/{'0' * 32}", store=STORE)


def test_a_pack_of_another_store_is_refused() -> None:
    pack = finished([b"a"])

    with pytest.raises(Damaged, match="another store"):
        Pack(b"".join(pack.parts), name=name_of(pack), store=StoreId("6" * 32))


def test_a_table_of_another_pack_does_not_open() -> None:
    one, other = finished([b"abc"]), finished([b"abc"])
    parts = list(one.parts)
    parts[-4] = other.parts[-4]
    body = b"".join(parts[:-1])
    trailer = changed(parts[-1], (40, checksum128([body])))

    with pytest.raises(Damaged, match="table was altered"):
        opened(body + trailer, name_of(one))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, struct.pack("<Q", 2**63)),
        (0, struct.pack("<Q", 0)),
        (8, struct.pack("<I", 2**32 - 1)),
        (8, struct.pack("<I", 0)),
        (12, struct.pack("<I", 2**32 - 1)),
        (12, struct.pack("<I", 0)),
        (16, struct.pack("<Q", 2**64 - 1)),
    ],
)
def test_a_trailer_that_says_what_cannot_be_costs_nothing(at: int, value: bytes) -> None:
    pack = finished([b"abc", b"def"])
    whole = b"".join(pack.parts)

    with pytest.raises(Damaged):
        opened(changed(whole, (len(whole) - TRAILER_BYTES + at, value)), name_of(pack))


@pytest.mark.parametrize("length", [0, 1, 63, 107, 108])
def test_what_is_too_short_for_a_pack_is_refused(length: int) -> None:
    with pytest.raises(Damaged):
        Pack(bytes(length), name="packs/00/0", store=STORE)


def test_what_is_too_long_for_a_pack_is_refused() -> None:
    with pytest.raises(Damaged, match="cannot be a pack"):
        Pack(bytes(MAX_PACK_BYTES + 1), name="packs/00/0", store=STORE)


def header_of(form: int, suite: int, sessions: int, *, whole: bool = True) -> bytes:
    header = struct.pack("<8sBBH", b"ADSPACK1", form, suite, sessions)
    header += bytes.fromhex(STORE) + bytes(16) + bytes(SESSION_BYTES * min(sessions, 2000))
    return header + (checksum64(header) if whole else bytes(8))


def test_a_pack_of_a_later_format_or_suite_asks_for_a_later_release() -> None:
    with pytest.raises(StoreTooNew, match="format 2"):
        PackHeader.parse(header_of(2, 1, 1), name="p", store=STORE)
    with pytest.raises(StoreTooNew, match="suite 9"):
        PackHeader.parse(header_of(1, 9, 1), name="p", store=STORE)


def test_a_damaged_format_number_is_damage_and_no_later_format() -> None:
    with pytest.raises(Damaged, match="checksum"):
        PackHeader.parse(header_of(2, 1, 1, whole=False), name="p", store=STORE)


@pytest.mark.parametrize("sessions", [0, 1025, 65535])
def test_a_header_with_no_or_endless_sessions_is_refused(sessions: int) -> None:
    with pytest.raises(Damaged, match="header"):
        PackHeader.parse(header_of(1, 1, sessions), name="p", store=STORE)


def test_a_finished_pack_can_be_given_another_name() -> None:
    pack = finished([b"one", b"two"])
    again = pack.renamed()

    assert again.receipt.pack != pack.receipt.pack
    data = b"".join(again.parts)
    assert opened(data, name_of(again)) == {named(c): c for c in (b"one", b"two")}


def test_neighbours_on_disk_are_not_neighbours_in_a_pack() -> None:
    chunks = [b"chunk %d" % at for at in range(60)]
    in_order = [named(chunk) for chunk in chunks]

    orders = [tuple(place.chunk for place in finished(chunks).receipt.locations) for _ in range(3)]

    assert all(list(order) != in_order for order in orders)
    assert len(set(orders)) == 3


def test_a_builder_begins_anew_after_a_pack() -> None:
    builder = PackBuilder(STORE, SESSION, Suite.AEGIS_256)
    sealer = Sealer(STORE, SESSION, suite=Suite.AEGIS_256, level=1)
    for plaintext in (b"first", b"second"):
        builder.add(named(plaintext), sealer.seal(named(plaintext), plaintext))
        assert builder.size_bytes > 0
        assert [place.chunk for place in builder.finish().receipt.locations] == [named(plaintext)]
        assert builder.size_bytes == 0


# --- salvage ---


@given(chunks=CHUNKS, suite=SUITES, data=st.data())
def test_salvage_finds_all_but_the_record_that_was_hit(
    chunks: list[bytes], suite: Suite, data: st.DataObject
) -> None:
    pack = finished(chunks, suite)
    whole = b"".join(pack.parts)
    at = data.draw(st.integers(0, len(whole) - 1))

    found = salvaged(flipped(whole, at), name_of(pack), suite=suite)

    untouched = {
        place
        for place in pack.receipt.locations
        if not place.offset <= at < place.offset + place.length
    }
    assert untouched <= set(found.locations)
    assert {place.chunk for place in found.locations} <= {named(chunk) for chunk in chunks}


@pytest.mark.parametrize("cut", [TRAILER_BYTES, TRAILER_BYTES + 104, 700])
def test_salvage_needs_no_trailer_and_no_table(cut: int) -> None:
    chunks = [noise(at, 3000) for at in range(5)]
    pack = finished(chunks)
    whole = b"".join(pack.parts)

    found = salvaged(whole[:-cut], name_of(pack))

    assert set(found.locations) == {
        place for place in pack.receipt.locations if place.offset + place.length <= len(whole) - cut
    }
    assert len(found.locations) >= 4


def test_salvage_needs_no_header_while_the_second_copy_of_the_boxes_is_whole(suite: Suite) -> None:
    pack = finished([b"one", b"two"], suite)
    whole = b"".join(pack.parts)

    found = salvaged(bytes(164) + whole[164:], name_of(pack), suite=suite)

    assert found.locations == pack.receipt.locations


def test_nothing_is_salvaged_without_any_session_box() -> None:
    pack = finished([b"one"])
    whole = b"".join(pack.parts)

    with pytest.raises(Damaged):
        salvaged(bytes(164) + whole[164:-TRAILER_BYTES], name_of(pack))


def test_salvage_of_a_pack_full_of_false_beginnings_ends() -> None:
    pack = finished([b"one"])
    whole = b"".join(pack.parts)
    false = struct.pack("<4sIHH", b"ADSR", 1 << 20, 0, 0)

    found = salvaged(whole[:164] + false * 100_000 + whole[164:], name_of(pack))

    assert [place.chunk for place in found.locations] == [named(b"one")]
    assert len(found.lost) >= 100_000


def test_a_record_moved_to_another_pack_of_its_session_still_opens() -> None:
    """Compaction, healing and vaulting move sealed records without any key."""
    one = finished([b"moved"])
    place = one.receipt.locations[0]
    record = b"".join(one.parts)[place.offset : place.offset + place.length]
    builder = PackBuilder(STORE, SESSION, Suite.AEGIS_256)
    builder.add(place.chunk, record)
    other = builder.finish()

    assert opened(b"".join(other.parts), name_of(other)) == {named(b"moved"): b"moved"}


def test_a_record_in_the_place_of_another_is_found_out() -> None:
    pack = finished([b"aaaa", b"bbbb"])
    whole = b"".join(pack.parts)
    first, second = pack.receipt.locations
    record = whole[second.offset : second.offset + second.length]
    swapped = changed(whole, (first.offset, record))
    opener = PackHeader.parse(whole, name="p", store=STORE).opener(KEYS, chunk_bytes=CHUNK)

    found = opener.open(swapped[first.offset : second.offset], name="p", offset=first.offset)

    assert found.chunk == second.chunk != first.chunk
    with pytest.raises(ChunkCorrupt):
        opener.open(swapped[first.offset + 1 : second.offset], name="p", offset=first.offset)


# --- places, packed ---


def test_places_say_the_same_packed_and_one_by_one() -> None:
    each = [Location(named(b"%d" % at), 200 + 10 * at, 10) for at in range(5)]
    locations = PackLocations.of(iter(each))

    assert list(locations) == each
    assert [locations[at] for at in range(-5, 5)] == each + each
    assert list(locations[1:4]) == each[1:4]
    assert list(locations.chunks()) == [place.chunk for place in each]
    assert list(locations.only({each[3].chunk})) == [each[3]]
    assert (
        PackLocations.from_table(locations.as_table())
        == locations
        == PackLocations(locations.packed)
        != PackLocations()
    )
    assert locations == tuple(each)
    assert len({locations, PackLocations.of(each)}) == 1
    assert PackLocations.of(locations) is locations


@pytest.mark.parametrize("plain", [b"cut short", bytes(32) + b"\xff" * 8 + bytes(4)])
def test_a_table_that_says_what_cannot_be_is_refused(plain: bytes) -> None:
    with pytest.raises(ValueError, match="what cannot be"):
        PackLocations.from_table(plain)


def test_what_is_known_of_many_chunks_takes_hardly_more_than_its_bytes() -> None:
    locations = PackLocations.of(Location(named(b"%d" % at), 200 + at, 1) for at in range(1000))
    receipt = encode_receipt(PackReceipt(PackId("a" * 32), 9999, bytes(32), bytes(16), locations))
    ids = [bytes(chunk) for chunk in locations.chunks()]
    dedup = LocalDedup(id_key=bytes(32), sent=(), most=50_000)

    tracemalloc.start()
    try:
        receipts = [decode_receipt(receipt) for _ in range(50)]
        of_locations = tracemalloc.get_traced_memory()[0]
        for at in range(50_000):
            dedup.sort(b"%d" % at, ids[at % 1000])
        of_ids = tracemalloc.get_traced_memory()[0] - of_locations
    finally:
        tracemalloc.stop()

    assert sum(len(each.locations) for each in receipts) == 50_000
    assert of_locations < 50_000 * 50
    assert of_ids < 50_000 * 10

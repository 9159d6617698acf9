"""Signed documents and sealed objects: believed only as what they are, where they are."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.codec.aead import Suite
from likeness.codec.blobs import BlobKind, check_blob, read_blob, write_blob
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Frame, Kind, write_document
from likeness.codec.hashing import checksum64
from likeness.codec.keys import StoreKeys
from likeness.errors import BadInput, Damaged, DocumentForged, LikenessError, StoreTooNew
from likeness.model.ids import StoreId
from likeness.store.format.documents import (
    HeadDocument,
    OwnerDocument,
    VersionClear,
    VersionRecord,
    decode,
    encode,
)
from tests.unit.workshop import Workshop, changed, flipped

STORE = StoreId("5" * 32)
KEYS = StoreKeys(STORE, bytes(range(32)))
NAME = "heads/0000000000000001"
CONTEXT = bytes(32)
SUITES = st.sampled_from(Suite)


def document(suite: Suite = Suite.AEGIS_256, keys: StoreKeys = KEYS) -> bytes:
    return write_document(Kind.HEAD, NAME, b'{"a":1}', b"hidden", keys=keys, suite=suite)


def believed(data: bytes, *, name: str = NAME, kind: Kind = Kind.HEAD) -> tuple[bytes, bytes]:
    frame = Frame.parse(data, name=name)
    frame.require_signature(kind, KEYS.public(min(max(frame.epoch, 1), 9)))
    return frame.clear, frame.unseal(KEYS)


# --- documents ---


@given(clear=st.binary(max_size=400), sealed=st.binary(min_size=1, max_size=400), suite=SUITES)
def test_a_document_gives_back_both_its_parts(clear: bytes, sealed: bytes, suite: Suite) -> None:
    data = write_document(Kind.INDEX, "index/x", clear, sealed, keys=KEYS, suite=suite)

    assert believed(data, name="index/x", kind=Kind.INDEX) == (clear, sealed)


@given(suite=SUITES, data=st.data())
def test_any_flipped_byte_of_a_document_is_refused(suite: Suite, data: st.DataObject) -> None:
    whole = document(suite)
    at = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(Damaged):
        believed(flipped(whole, at, data.draw(st.integers(1, 255))))


@given(suite=SUITES, data=st.data())
def test_a_flipped_byte_is_refused_although_the_checksum_was_made_to_match(
    suite: Suite, data: st.DataObject
) -> None:
    whole = document(suite)
    at = data.draw(st.integers(0, len(whole) - 17))
    body = flipped(whole[:-16], at, data.draw(st.integers(1, 255)))

    with pytest.raises((Damaged, StoreTooNew)):
        believed(body + checksum64(body) + whole[-8:])


@given(st.data())
def test_a_document_cut_short_or_lengthened_is_refused(data: st.DataObject) -> None:
    whole = document()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]

    for spoilt in (cut, whole + data.draw(st.binary(min_size=1, max_size=50))):
        with pytest.raises(Damaged):
            believed(spoilt)


def test_a_document_is_refused_under_another_name() -> None:
    with pytest.raises(DocumentForged, match="not signed as head"):
        believed(document(), name="heads/0000000000000002")


def test_a_document_is_refused_as_another_kind() -> None:
    with pytest.raises(DocumentForged, match="not signed as swept"):
        believed(document(), kind=Kind.SWEPT)


def test_a_document_of_another_store_is_refused() -> None:
    for other in (StoreKeys(StoreId("6" * 32), KEYS.master), StoreKeys(STORE, b"\x01" * 32)):
        with pytest.raises(DocumentForged):
            believed(document(keys=other))


def test_a_document_signed_in_another_epoch_is_refused() -> None:
    data = document(keys=StoreKeys(STORE, KEYS.master, epoch=2))
    frame = Frame.parse(data, name=NAME)

    with pytest.raises(DocumentForged):
        frame.require_signature(Kind.HEAD, KEYS.public(1))
    frame.require_signature(Kind.HEAD, KEYS.public(2))
    with pytest.raises(DocumentForged, match="does not open"):
        frame.unseal(KEYS)  # keys of the first epoch alone


def test_a_store_refuses_a_document_of_an_epoch_it_never_had(workshop: Workshop) -> None:
    keys = StoreKeys(workshop.store.store_id, workshop.store.keys.master, epoch=2)
    workshop.objects[NAME] = document(keys=keys)

    with pytest.raises(Damaged, match="epoch 2"):
        workshop.store.read(NAME, Kind.HEAD, HeadDocument)


def test_a_document_of_a_later_format_asks_for_a_later_release() -> None:
    whole = changed(document()[:-16], (9, b"\x02"))

    with pytest.raises(StoreTooNew, match="format 2"):
        believed(whole + checksum64(whole) + b"ADSDEND1")


def test_lengths_that_cannot_be_cost_nothing() -> None:
    for clear, sealed in ((2**32 - 1, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(Damaged, match="length"):
            believed(changed(document(), (16, struct.pack("<II", clear, sealed))))


def test_no_document_is_written_that_would_not_be_read_again() -> None:
    with pytest.raises(BadInput, match="never be read again"):
        write_document(
            Kind.HEAD, NAME, b"", bytes(MAX_DOCUMENT_BYTES), keys=KEYS, suite=Suite.AEGIS_256
        )


def test_a_huge_object_in_the_place_of_a_document_is_not_taken_into_memory(
    workshop: Workshop,
) -> None:
    asked: list[int | None] = []
    inner = workshop.transport.read

    def read(name: str, offset: int = 0, length: int | None = None) -> bytes:
        asked.append(length)
        return inner(name, offset, length)

    workshop.objects[NAME] = document()
    workshop.transport.read = read  # type: ignore[method-assign]  # only listens

    with pytest.raises(Damaged):
        workshop.store.read(NAME, Kind.HEAD, HeadDocument)
    assert all(length is not None and length <= MAX_DOCUMENT_BYTES + 1 for length in asked)


# --- what documents say ---


def test_an_unknown_or_missing_field_is_refused() -> None:
    owner = OwnerDocument(number=1, installation="a" * 32, taken_at="2031-01-01T00:00:00+00:00")
    good = encode(owner)

    assert decode(good, OwnerDocument, name="x") == owner
    for bad in (
        good.replace(b'"number":1,', b""),
        good.replace(b'"number":1', b'"number":1,"more":2'),
        good.replace(b'"number":1', b'"number":-1'),
        good.replace(b'"number":1', b'"number":"1"'),
        good.replace(b"a" * 32, b"A" * 32),
        good.replace(b"a" * 32, b"a" * 32 + b"\\n"),
        b"[" * 100_000,
        b"\xff\xfe",
        b"",
    ):
        with pytest.raises(Damaged, match="does not read as OwnerDocument"):
            decode(bad, OwnerDocument, name="x")


@given(st.binary(max_size=300), st.sampled_from([VersionClear, VersionRecord, HeadDocument]))
def test_whatever_is_no_document_is_called_damaged(data: bytes, kind: type) -> None:
    with pytest.raises(Damaged):
        decode(data, kind, name="x")


def test_nothing_is_written_that_could_not_be_read_back() -> None:
    long = OwnerDocument(number=1, installation="a" * 32, taken_at="now", host="h" * 5000)

    with pytest.raises(BadInput, match="host"):
        encode(long)


# --- sealed objects ---


def blob(suite: Suite = Suite.AEGIS_256) -> bytes:
    return write_blob(BlobKind.MAP, CONTEXT, b"a map", keys=KEYS, suite=suite)


@given(plaintext=st.binary(max_size=500), context=st.binary(max_size=40), suite=SUITES)
def test_a_sealed_object_opens_where_it_belongs(
    plaintext: bytes, context: bytes, suite: Suite
) -> None:
    data = write_blob(BlobKind.MAP, context, plaintext, keys=KEYS, suite=suite)

    check_blob(data, name="x")
    assert read_blob(data, BlobKind.MAP, context, keys=KEYS, name="x") == plaintext


def test_a_sealed_object_does_not_open_elsewhere() -> None:
    other = StoreKeys(StoreId("6" * 32), KEYS.master)

    for kind, context, keys in (
        (BlobKind.CATALOG_PART, CONTEXT, KEYS),
        (BlobKind.MAP, bytes(31) + b"\x01", KEYS),
        (BlobKind.MAP, CONTEXT + b"\0", KEYS),
        (BlobKind.MAP, CONTEXT, other),
    ):
        with pytest.raises(Damaged, match="does not open for this place"):
            read_blob(blob(), kind, context, keys=keys, name="x")


@given(suite=SUITES, data=st.data())
def test_any_flipped_byte_of_a_sealed_object_is_refused(suite: Suite, data: st.DataObject) -> None:
    whole = blob(suite)
    at = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(Damaged):
        read_blob(flipped(whole, at), BlobKind.MAP, CONTEXT, keys=KEYS, name="x")


@given(suite=SUITES, data=st.data())
def test_a_flipped_byte_with_a_matching_checksum_gives_an_error_or_the_same_content(
    suite: Suite, data: st.DataObject
) -> None:
    whole = blob(suite)
    at = data.draw(st.integers(0, len(whole) - 17))
    body = flipped(whole[:-16], at, data.draw(st.integers(1, 255)))

    try:
        found = read_blob(
            body + checksum64(body) + whole[-8:], BlobKind.MAP, CONTEXT, keys=KEYS, name="x"
        )
    except LikenessError:
        return
    assert found == b"a map"
    assert at in (8, 11, *range(16, 32)), "what is sealed by its place need not be read"

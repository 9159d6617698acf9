"""What a later release wrote is called so, never damaged, and nothing is written beside it."""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import likeness.store
from likeness.codec.blobs import BlobKind, read_blob, write_blob
from likeness.codec.documents import Frame, Kind, write_document
from likeness.codec.hashing import checksum64
from likeness.errors import Damaged, StoreTooNew
from likeness.model.ids import RunId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.proving import Finding, prove_documents
from likeness.store.check.scrubbing import scrub_frames
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import VersionClear, encode
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.pack import Pack
from likeness.store.keys.keyring import add_passphrase, begin_epoch, remove_slot
from likeness.store.prune.sweeping import delete_redundant_packs, sweep_inboxes
from likeness.store.read.versions import read_version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.repair.healing import heal_chunks
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Workshop, noise

DISK = noise(1, 3 * CHUNK)


def as_later(workshop: Workshop) -> DataStore:
    """The store as it is once a later release asked for writers that know more."""
    facts = msgspec.structs.replace(workshop.store.facts, must_know_to_write=("erasure codes",))
    for name in layout.FORMAT_COPIES:
        del workshop.objects[name]
    workshop.store.write(layout.FORMAT_COPIES[0], Kind.FORMAT, facts)
    return open_store_with_key_file(workshop.transport, workshop.key_file)


def heal(store: DataStore, workshop: Workshop) -> None:
    heal_chunks(store, store, [], run=RunId(random_name()), clock=workshop.clock, stop=StopToken())


WRITERS: dict[str, Callable[[DataStore, Workshop], object]] = {
    "head": lambda store, shop: write_head(store, clock=shop.clock),
    "catalog copy": lambda store, shop: put_copy(store, shop.folder, clock=shop.clock),
    "vault": lambda store, _: list(copy_to_vault(store, MemoryTransport(), stop=StopToken())),
    "sweep": lambda store, _: sweep_inboxes(store, lambda _: False),
    "give back": lambda store, shop: delete_redundant_packs(
        store, dict, reason="none", clock=shop.clock
    ),
    "heal": heal,
    "slot": lambda store, _: add_passphrase(store, "long enough to be one"),
    "remove a slot": lambda store, shop: remove_slot(
        store, next(name for name in shop.names(layout.KEYS) if "/slot-" in name)
    ),
    "epoch": lambda store, shop: begin_epoch(store, clock=shop.clock),
}


@pytest.mark.parametrize("who", WRITERS)
def test_nobody_writes_to_a_store_that_asks_for_a_later_writer(
    workshop: Workshop, who: str
) -> None:
    version = workshop.back_up(DISK)
    store = as_later(workshop)
    before = dict(workshop.objects)

    with pytest.raises(StoreTooNew, match="written by a later release"):
        WRITERS[who](store, workshop)

    assert workshop.objects == before
    assert workshop.restore(version, store=store) == DISK


def test_a_vault_that_asks_for_a_later_writer_gets_nothing(workshop: Workshop) -> None:
    workshop.back_up(DISK)
    vault = MemoryTransport()
    facts = msgspec.structs.replace(workshop.store.facts, must_know_to_write=("erasure codes",))
    DataStore(vault, workshop.store.facts, workshop.store.keys).write(
        layout.FORMAT_COPIES[0], Kind.FORMAT, facts
    )
    before = dict(vault.objects)

    with pytest.raises(StoreTooNew, match="written by a later release"):
        list(copy_to_vault(workshop.store, vault, stop=StopToken()))

    assert vault.objects == before


CHANGES = re.compile(r"transport\s*\.(create|rename|delete|delete_folder)\(")
WITHOUT_STORE = {
    "data_store.py",
    "opening.py",
    "second_place.py",
    "copyable_objects.py",
    "vault_mending.py",
}
"""Who makes a store, or writes to a vault after the guard let it pass."""


def test_whoever_changes_a_store_asks_the_guard() -> None:
    folder = Path(likeness.store.__file__).parent
    sources = [path for path in folder.rglob("*.py") if path.name not in WITHOUT_STORE]
    past_it = [
        f"{path.name}: {match[0]}"
        for path in sources
        for match in CHANGES.finditer(path.read_text())
        if match.string[match.start() - 1] in "._"  # not a variable that `for_writing` gave
    ]

    assert len(sources) > 25
    assert past_it == []


# --- objects of a later format ---


def later_document(data: bytes, _: str) -> bytes:
    body = data[:9] + b"\x02" + data[10:-16]
    return body + checksum64(body) + data[-8:]


def later_map(data: bytes, _: str) -> bytes:
    body = data[:9] + b"\x02" + data[10:-16]
    return body + checksum64(body) + data[-8:]


HEADER_END = 44 + 112  # with one session; its checksum follows


def later_pack(data: bytes, _: str) -> bytes:
    """Another format byte, and an end that no release of today knows."""
    header = data[:8] + b"\x02" + data[9:HEADER_END]
    return header + checksum64(header) + data[HEADER_END + 8 : -200] + noise("another end", 300)


def later_suite(data: bytes, _: str) -> bytes:
    header = data[:9] + b"\x07" + data[10:HEADER_END]
    return header + checksum64(header) + data[HEADER_END + 8 :]


LATER = {
    "version record": (layout.VERSIONS, later_document),
    "index segment": (layout.INDEX, later_document),
    "head": (layout.HEADS, later_document),
    "block map": (layout.MAPS, later_map),
    "pack": (layout.PACKS, later_pack),
    "pack of an unknown suite": (layout.PACKS, later_suite),
}


@pytest.mark.parametrize("kind", LATER)
def test_an_object_of_a_later_format_is_not_called_damaged(workshop: Workshop, kind: str) -> None:
    version = workshop.back_up(DISK)
    write_head(workshop.store, clock=workshop.clock)
    folder, make = LATER[kind]
    packs = workshop.packs_of(version)
    for name in workshop.names(folder):
        workshop.objects[name] = make(workshop.objects[name], name)
    before = dict(workshop.objects)

    found = [
        *audit_presence(workshop.store, stop=StopToken()),
        *scrub_frames(workshop.transport, stop=StopToken()),
    ]
    told = [each for each in found if each.name in workshop.names(folder)]
    by_length = kind in ("pack", "pack of an unknown suite")
    assert [e for e in told if e.weight is Weight.UNCHECKED]
    assert all(e.weight is Weight.UNCHECKED or (by_length and "bytes" in e.cause) for e in told)
    assert all("later release" in e.cause for e in told if e.weight is Weight.UNCHECKED)
    for proof in workshop.prove(packs):
        later = kind.startswith("pack")
        assert proof.finding is (Finding.COULD_NOT_CHECK if later else Finding.PROVED)
        assert not proof.damaged
    if kind == "version record":
        for use in (
            lambda: prove_documents(workshop.store, version.name, workshop.folder),
            lambda: workshop.back_up(noise(2, CHUNK)),
        ):
            with pytest.raises(StoreTooNew, match="later release"):
                use()
    if kind == "head":
        with pytest.raises(StoreTooNew, match="later release"):
            write_head(workshop.store, clock=workshop.clock)
    assert workshop.objects.items() >= before.items()
    assert workshop.names(layout.QUARANTINE) == []


def test_what_is_signed_and_does_not_read_was_written_by_a_later_release(
    workshop: Workshop,
) -> None:
    class LaterClear(VersionClear, frozen=True):
        mood: str = "good"

    version = workshop.back_up(DISK)
    later = LaterClear(**msgspec.structs.asdict(version.clear))
    del workshop.objects[version.name]
    workshop.store.write(version.name, Kind.VERSION, later, b"sealed")  # nobody can decode this

    with pytest.raises(StoreTooNew, match="later release"):
        read_version(workshop.store, version.name)


def test_disks_with_data_blocks_of_another_size_are_of_a_later_release(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    disk = msgspec.structs.replace(version.record.disks[0], chunk_bytes=2 * CHUNK)
    record = msgspec.structs.replace(version.record, disks=(disk,))
    del workshop.objects[version.name]
    workshop.store.write(version.name, Kind.VERSION, version.clear, encode(record))

    with pytest.raises(StoreTooNew, match="data blocks of another size"):
        read_version(workshop.store, version.name)


def test_sealed_with_an_unknown_suite_is_of_a_later_release(workshop: Workshop) -> None:
    keys, suite = workshop.store.keys, workshop.store.suite
    data = write_document(Kind.VERSION, "a", b"clear", b"sealed", keys=keys, suite=suite)
    frame = Frame.parse(data, name="a")
    blob = write_blob(BlobKind.MAP, b"here", b"plain", keys=keys, suite=suite)
    body = blob[:10] + b"\x09" + blob[11:-16]

    with pytest.raises(StoreTooNew, match="suite 9"):
        Frame(
            frame.kind,
            frame.epoch,
            frame.owner,
            9,
            frame.clear,
            frame.sealed,
            frame.signature,
            frame.signed,
            "a",
        ).unseal(keys)
    with pytest.raises(StoreTooNew, match="suite 9"):
        read_blob(body + checksum64(body) + blob[-8:], BlobKind.MAP, b"here", keys=keys, name="a")


def test_a_torn_pack_is_still_damaged(workshop: Workshop) -> None:
    workshop.back_up(DISK)
    name = workshop.names(layout.PACKS)[0]

    with pytest.raises(Damaged, match="never finished"):
        Pack(workshop.objects[name][:-9], name=name, store=workshop.store.store_id)

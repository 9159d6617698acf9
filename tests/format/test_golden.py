"""Stores of every released format restore for ever, with the product and without it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nacl.exceptions import CryptoError

from likeness.codec import slots
from likeness.codec.slots import SlotKind
from likeness.errors import LikenessError
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_documents, prove_packs
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore, read_frame
from likeness.store.format.opening import open_store, open_store_with_key_file
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.index import known_packs
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import find_version, record_names, vms
from likeness.store.write.catalog_copies import fetch_newest
from likeness.store.write.heads import read_head_state
from likeness.store.write.holding import holds_on
from likeness.transport.local import LocalTransport
from tests.format.reader import Bad, Reader, secret_of_key_file, secret_of_words
from tests.unit.workshop import (
    CHUNK,
    TickingClock,
    Workshop,
    changed,
    flipped,
    noise,
    sha256_of,
)

V1 = Path(__file__).parent / "v1"
FROZEN = "545e391b53dafa9bbb0016a0dcc7ec821ed200a39ad130b2b907658758880c77"
STORES = sorted(path.name for path in V1.iterdir())


@pytest.fixture(params=STORES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a golden store, so that nothing can change the one that is kept."""
    copy = tmp_path / "golden"
    shutil.copytree(V1 / request.param, copy)
    (copy / "key").chmod(0o600)
    return copy


@pytest.fixture
def expected(golden: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((golden / "expected.json").read_text())
    return told


@pytest.fixture
def store(golden: Path) -> DataStore:
    return open_store_with_key_file(LocalTransport(golden / "store"), golden / "key")


@pytest.fixture
def reader(golden: Path) -> Reader:
    made = Reader(golden / "store")
    made.open("key file", secret_of_key_file(golden / "key"))
    return made


def test_there_is_a_golden_store_of_each_suite_and_a_vault() -> None:
    assert STORES == ["suite-1", "suite-2", "vault"]
    assert sum(path.stat().st_size for path in V1.rglob("*") if path.is_file()) < 450_000


def test_the_format_is_frozen() -> None:
    """Whoever changes what is written or read makes a later format, and a folder beside `v1`."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    digest = hashlib.sha256()
    for path in sorted(path for path in V1.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(V1)}\n".encode() + path.read_bytes())

    assert "**Format 1 is frozen.**" in page
    assert (
        digest.hexdigest() == "545e391b53dafa9bbb0016a0dcc7ec821ed200a39ad130b2b907658758880c77"
    ), "golden stores are never made again"


def test_a_vault_says_itself_what_is_no_copy(store: DataStore, reader: Reader) -> None:
    by_vault = {
        entry.name.partition("/")[0]
        for entry in store.transport.entries("")
        if entry.name.partition("/")[0] in layout.VAULTS_OWN
        and read_frame(store.transport, entry.name).by_vault
    }

    assert by_vault == ({"index", "holds", "heads"} if store.facts.vault else set())
    assert reader.vault.hex() == store.facts.vault
    assert [hold.note for holds in holds_on(store).values() for hold in holds] == (
        ["a year's end"] if store.facts.vault else []
    )


# --- with the product ---


def test_every_version_restores_to_what_it_was(
    store: DataStore, expected: dict[str, Any], tmp_path: Path
) -> None:
    assert len(expected["versions"]) == 5
    for told in expected["versions"]:
        version = find_version(store, told["record"].rpartition("-")[2])
        assert (version.vm, version.sequence) == (told["vm"], told["sequence"])
        assert version.record.vm_name == told["vm_name"]
        assert [disk.deltas for disk in version.record.disks] == told["deltas"]
        for at, disk in enumerate(version.record.disks):
            target = tmp_path / f"{version.version}-{at}"
            writer = FileDiskWriter(target, disk.size_bytes)
            restore_disk(store, disk, writer, scratch=tmp_path, stop=StopToken())
            assert target.stat().st_size == told["disks"][at]["size"]
            assert sha256_of(target) == told["disks"][at]["sha256"]


def test_every_pack_and_document_is_proved(store: DataStore, tmp_path: Path) -> None:
    packs = {pack.pack for pack in known_packs(store)}

    proofs = list(prove_packs(store, packs, clock=TickingClock(), stop=StopToken()))

    assert packs
    assert {(proof.finding, proof.cause) for proof in proofs} == {(Finding.PROVED, "")}
    for vm in vms(store):
        for name in record_names(store, vm):
            assert prove_documents(store, name, tmp_path).problems == ()


def test_the_heads_verify(store: DataStore) -> None:
    head_state = read_head_state(store)

    assert head_state.number >= 5
    assert set(head_state.vms) == set(vms(store))


def test_the_copy_of_the_catalog_comes_back(store: DataStore, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    folder.mkdir()

    assert fetch_newest(store, folder).passed_over == ()
    assert (folder / "versions.txt").read_text() == "what the catalog remembers\n"


def test_words_and_passphrase_open_it_too(golden: Path, expected: dict[str, Any]) -> None:
    transport = LocalTransport(golden / "store")
    words = slots.from_words(expected["words"])

    assert open_store(transport, words, SlotKind.RECOVERY_WORDS).keys.epoch == 2
    if expected["passphrase"]:
        passphrase = expected["passphrase"].encode()
        assert open_store(transport, passphrase, SlotKind.PASSPHRASE).suite == expected["suite"]


# --- without the product ---


def test_a_reader_written_from_the_document_restores_every_version(
    reader: Reader, expected: dict[str, Any]
) -> None:
    assert reader.suite == expected["suite"]
    reader.read_index()

    restored = {}
    for name in reader.records():
        _, record = reader.version(name)
        restored[name] = [reader.sha256(disk) for disk in record["disks"]]

    assert restored == {
        told["record"]: [disk["sha256"] for disk in told["disks"]] for told in expected["versions"]
    }


def test_it_needs_no_index(reader: Reader, golden: Path, expected: dict[str, Any]) -> None:
    shutil.rmtree(golden / "store" / "index")
    reader.read_tables()

    for told in expected["versions"]:
        _, record = reader.version(told["record"])
        for disk, each in zip(record["disks"], told["disks"], strict=True):
            assert reader.sha256(disk) == each["sha256"]


def test_it_opens_with_words_and_passphrase(golden: Path, expected: dict[str, Any]) -> None:
    by_words = Reader(golden / "store")
    by_words.open("recovery words", secret_of_words(expected["words"]))

    assert by_words.master
    if expected["passphrase"]:
        by_passphrase = Reader(golden / "store")
        by_passphrase.open("passphrase", expected["passphrase"].encode())
        assert by_passphrase.master == by_words.master


def test_it_believes_nothing_that_was_changed(
    reader: Reader, golden: Path, expected: dict[str, Any]
) -> None:
    reader.read_index()
    told = expected["versions"][0]
    path = golden / "store" / told["record"]
    good = path.read_bytes()

    for at in range(0, len(good), 97):
        path.write_bytes(flipped(good, at))
        with pytest.raises((Bad, CryptoError, ValueError)):
            reader.version(told["record"])


def test_it_uses_nothing_of_the_product() -> None:
    source = (Path(__file__).parent / "reader.py").read_text()

    assert "import likeness" not in source
    assert "from likeness" not in source
    assert "from tests" not in source


def test_what_the_product_writes_today_is_read_by_it(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path / "store", make=True)
    workshop = Workshop(tmp_path, transport=transport)
    disk = noise(1, 9 * CHUNK + 123)
    disks = [disk, changed(disk, (CHUNK, bytes(CHUNK)), (7 * CHUNK, b"now"))]
    names = [workshop.back_up(each).name for each in disks]
    reader = Reader(tmp_path / "store")
    reader.open("key file", secret_of_key_file(workshop.key_file))
    reader.read_index()

    for name, expected in zip(names, disks, strict=True):
        _, record = reader.version(name)
        assert reader.sha256(record["disks"][0]) == hashlib.sha256(expected).hexdigest()
    assert not issubclass(Bad, LikenessError)

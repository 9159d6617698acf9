"""The same store on every transport: filled, read, vaulted, swept, and the same bytes on each."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from likeness.errors import StoreExists
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.opening import create_store, open_store_with_key_file
from likeness.store.prune.sweeping import sweep_inboxes
from likeness.store.read.versions import find_version, last_version, vms
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.catalog_copies import fetch_newest, put_copy
from likeness.store.write.heads import read_head_state, write_head
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from tests.smb.server import SmbServer
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Workshop, changed, noise, text

DISK = noise(1, 9 * CHUNK) + bytes(3 * CHUNK) + text(2, 2 * CHUNK + 99)
LATER = changed(DISK, (2 * CHUNK, noise(3, CHUNK)), (10 * CHUNK, b"no hole any more"))

Place = Callable[[str], Transport]
"""Makes a transport to an empty place of that name."""


@pytest.fixture(scope="module")
def smb_server() -> Generator[SmbServer, None, None]:
    server = SmbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


def in_memory(_: pytest.FixtureRequest, __: Path) -> Place:
    return lambda _: MemoryTransport()


def on_a_disk(_: pytest.FixtureRequest, folder: Path) -> Place:
    return lambda name: LocalTransport(folder / name, make=True)


def on_a_share(request: pytest.FixtureRequest, folder: Path) -> Place:
    server: SmbServer = request.getfixturevalue("smb_server")
    return lambda name: server.transport(path=f"{folder.name}/{name}")


@pytest.fixture(
    params=[
        pytest.param(in_memory, id="memory"),
        pytest.param(on_a_disk, id="local"),
        pytest.param(on_a_share, id="smb", marks=pytest.mark.smb),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Makes transports of one kind, and closes them."""
    make: Place = request.param(request, tmp_path)
    made: list[Transport] = []

    def kept(name: str) -> Transport:
        made.append(make(name))
        return made[-1]

    yield kept
    for transport in made:
        transport.close()


@pytest.fixture
def workshop(place: Place, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, transport=place("store"))


def contents(transport: Transport) -> dict[str, bytes]:
    return {entry.name: transport.read(entry.name) for entry in transport.entries("")}


def test_a_store_restores_every_version_after_it_was_opened_anew(workshop: Workshop) -> None:
    versions = [workshop.back_up(DISK, LATER), workshop.back_up(LATER, DISK)]

    opened = open_store_with_key_file(workshop.transport, workshop.key_file)

    assert vms(opened) == [workshop.vm]
    assert last_version(opened, workshop.vm) == versions[1]
    for version, disks in zip(versions, ((DISK, LATER), (LATER, DISK)), strict=True):
        found = find_version(opened, version.version)
        assert [workshop.restore(found, at, store=opened) for at in (0, 1)] == list(disks)
        assert workshop.is_proved(found, workshop.packs_of(found))


def test_a_store_is_never_made_twice_in_one_place(workshop: Workshop) -> None:
    before = contents(workshop.transport)

    with pytest.raises(StoreExists):
        create_store(workshop.transport, key_file=workshop.folder / "other", clock=workshop.clock)
    assert contents(workshop.transport) == before


def test_a_vault_holds_the_same_bytes_and_restores_without_the_store(
    workshop: Workshop, place: Place
) -> None:
    vault = place("vault")
    first = workshop.back_up(DISK)
    write_head(workshop.store, clock=workshop.clock)
    list(copy_to_vault(workshop.store, vault, stop=StopToken()))
    second = workshop.back_up(LATER)
    write_head(workshop.store, clock=workshop.clock)

    copied = list(copy_to_vault(workshop.store, vault, stop=StopToken()))

    assert copied
    assert not any(each.problem for each in copied)
    own = (*layout.FORMAT_COPIES, layout.vault_keys(1))  # which vault it is
    assert {n: d for n, d in contents(vault).items() if n not in own} == {
        n: d for n, d in contents(workshop.transport).items() if n not in own
    }
    assert list(copy_to_vault(workshop.store, vault, stop=StopToken())) == []
    opened = open_store_with_key_file(vault, workshop.key_file)
    assert read_head_state(opened) == read_head_state(workshop.store)
    for version, disk in ((first, DISK), (second, LATER)):
        assert workshop.restore(version, store=opened) == disk


def test_what_dead_runs_left_is_swept_and_nothing_else(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    dead = workshop.transfer(LATER, incremental=False)
    before = {n: d for n, d in contents(workshop.transport).items() if not n.startswith("in/")}

    swept = sweep_inboxes(workshop.store, lambda _: False)

    assert swept.freed_bytes == dead.counts.sent_bytes
    assert contents(workshop.transport) == before
    assert workshop.transport.folders("in") == []
    assert workshop.restore(version) == DISK


def test_what_is_there_twice_can_be_given_back(workshop: Workshop) -> None:
    version = workshop.back_up(DISK)
    packs = workshop.packs_of(version)
    workshop.back_up(DISK, incremental=False)

    given = workshop.delete_redundant(packs)

    assert set(given.packs) == packs
    assert workshop.restore(version) == DISK


def test_a_copy_of_the_catalog_comes_back(workshop: Workshop, tmp_path: Path) -> None:
    catalog, back = tmp_path / "catalog", tmp_path / "back"
    for folder in (catalog, back):
        folder.mkdir()
    (catalog / "versions.parquet").write_bytes(DISK)
    put_copy(workshop.store, catalog, clock=workshop.clock)

    fetch_newest(workshop.store, back)

    assert (back / "versions.parquet").read_bytes() == DISK

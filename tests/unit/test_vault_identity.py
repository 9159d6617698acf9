"""A vault signs what it writes itself with a key of its own, which counts in that vault alone."""

from pathlib import Path

import pytest

from blocks import DataStoreShare
from likeness.codec.documents import Frame, Kind, write_document
from likeness.errors import BadInput, DocumentForged, NoVault, ShareUnreachable
from likeness.stopping import StopToken
from likeness.store.check.scrubbing import scrub_signatures
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import ForgetDocument, IndexClear, encode
from likeness.store.format.observations import Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.public_view import open_public
from likeness.store.format.vaults import vault_at
from likeness.store.read.versions import Version, read_version, record_names
from likeness.store.repair.copying import AT_ONCE, copy_to_vault
from likeness.store.repair.vault_taken import as_data_store
from likeness.store.write.forgetting import forget_versions, read_forgotten
from likeness.store.write.heads import read_head_state, write_head
from likeness.transport.local import LocalTransport
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.test_vault_mending import DISK, flip_a_chunk, opened, restore_from, vault_all
from tests.unit.workshop import CHUNK, Workshop, changed

OTHER = changed(DISK, (5 * CHUNK, b"new"))


def own(objects: dict[str, bytes]) -> list[str]:
    """Documents that a vault signed itself."""
    found = []
    for name, data in objects.items():
        if name.partition("/")[0] in layout.VAULTS_OWN and Frame.parse(data, name=name).by_vault:
            found.append(name)
    return sorted(found)


@pytest.fixture
def vault() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def versions(workshop: Workshop, vault: MemoryTransport) -> tuple[Version, Version]:
    """A vault that made a pack and its index segment itself, gave a version up, and has a head."""
    first = workshop.back_up(DISK)
    _, chunk = flip_a_chunk(workshop)
    healed = workshop.back_up(DISK, distrusted=frozenset({chunk}))
    last = workshop.back_up(OTHER)
    list(copy_to_vault(workshop.store, vault, stop=StopToken(), manner=AT_ONCE))
    there = vault_at(workshop.store, vault)
    assert forget_versions(there, [first.name], reason="rules", clock=workshop.clock).gone
    write_head(there, clock=workshop.clock)
    return healed, last


def test_what_a_vault_writes_itself_is_signed_by_it_and_copies_by_the_store(
    workshop: Workshop, vault: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    signed = own(vault.objects)

    assert {name.partition("/")[0] for name in signed} == {"index", "heads", "forgets"}
    assert own(workshop.objects) == []
    for version, disk in zip(versions, (DISK, OTHER), strict=True):
        assert restore_from(vault, workshop, version) == disk
    assert read_head_state(opened(vault, workshop)).number == 1
    assert vault_all(workshop, vault)[1:] == [], "but the version that the vault gave up"
    assert own(vault.objects) == signed, "it stays the vault it is"


def test_who_has_the_public_keys_alone_believes_a_vault_in_its_place_only(
    workshop: Workshop, vault: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    fingerprint = workshop.store.keys.public().fingerprint
    seen = open_public(vault, fingerprint=fingerprint)

    found = scrub_signatures(seen, stop=StopToken())
    assert [each for each in found if each.weight is Weight.DAMAGE] == []

    second = MemoryTransport()
    vault_all(workshop, second)
    for name in own(vault.objects):
        for place in (workshop.objects, second.objects):
            place[name] = vault.objects[name]
        for transport in (workshop.transport, second):
            view = open_public(transport, fingerprint=fingerprint)
            with pytest.raises(DocumentForged):
                view.read(name, layout.kind_of(name), IndexClear)
    with pytest.raises(DocumentForged, match="a vault signed it"):
        workshop.store.read(name, layout.kind_of(name), IndexClear)


def test_a_thief_of_a_vaults_key_forges_nothing_for_the_data_store(
    workshop: Workshop, vault: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    name_of_vault = vault_at(workshop.store, vault).facts.vault
    record = versions[1].name
    forget = ForgetDocument(
        number=9, made_at=workshop.clock().isoformat(), reason="", records=(record,)
    )

    def forged(kind: Kind, name: str, clear: bytes) -> bytes:
        keys = workshop.store.keys
        return write_document(
            kind, name, clear, keys=keys, suite=workshop.store.suite, vault=name_of_vault
        )

    said = layout.numbered(layout.FORGETS, 9)
    frame = Frame.parse(workshop.objects[record], name=record)
    for there in (workshop.objects, vault.objects):
        there[said] = forged(Kind.FORGET, said, encode(forget))
        there[record] = forged(Kind.VERSION, record, frame.clear)
    for copy in layout.FORMAT_COPIES:  # as if the place were a vault
        assert Frame.parse(vault.objects[copy], name="ADS-FORMAT").by_vault is False
    assert record not in read_forgotten(workshop.store).now
    for store in (workshop.store, opened(vault, workshop)):
        with pytest.raises(DocumentForged):
            read_version(store, record)


def test_a_vault_in_the_place_of_a_data_store_is_refused_and_the_other_way_round(
    workshop: Workshop, tmp_path: Path
) -> None:
    workshop.back_up(DISK[:CHUNK])
    place = LocalTransport(tmp_path / "vault", make=True)
    vault_all(workshop, place)
    share = DataStoreShare(place=str(tmp_path / "vault"), key_file=str(workshop.key_file))

    with pytest.raises(BadInput, match="holds a vault"), share.open():
        pass
    twin = MemoryTransport()
    twin.objects.update(workshop.objects)
    with pytest.raises(NoVault, match="holds a data store itself"):
        vault_all(workshop, twin)
    assert twin.objects == workshop.objects


def test_a_data_store_filled_from_a_vault_has_nothing_but_the_stores_signatures(
    workshop: Workshop, vault: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    fresh = MemoryTransport()
    before = own(vault.objects)

    copied = list(copy_to_vault(opened(vault, workshop), fresh, stop=StopToken()))

    assert [each for each in copied if each.problem] == []
    assert own(vault.objects) == before
    require_data_store(workshop, fresh, versions)
    assert list(copy_to_vault(opened(vault, workshop), fresh, stop=StopToken())) == []


def require_data_store(
    workshop: Workshop, place: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    there: DataStore = open_store_with_key_file(place, workshop.key_file)
    assert there.facts == workshop.store.facts
    assert own(there_objects(place)) == []
    assert not any(layout.is_vault_keys(name) for name in there_objects(place))
    assert record_names(there, versions[0].vm) == [each.name for each in versions]
    assert len(read_forgotten(there).now) == 1
    for version, disk in zip(versions, (DISK, OTHER), strict=True):
        assert workshop.restore(read_version(there, version.name), store=there) == disk
    assert write_head(there, clock=workshop.clock).problem == ""


def there_objects(place: MemoryTransport) -> dict[str, bytes]:
    return {n: d for n, d in place.objects.items() if not n.startswith(layout.QUARANTINE)}


def statements(place: MemoryTransport) -> list[str]:
    folders = ("forgets/", "gc/", "holds/", "condemned/")
    return sorted(name for name in place.objects if name.startswith(folders))


def test_a_vault_becomes_the_data_store_wherever_it_is_cut_short(
    workshop: Workshop, vault: MemoryTransport, versions: tuple[Version, Version]
) -> None:
    before = dict(vault.objects)
    watched = FaultyTransport(vault, counting=CHANGING)
    as_data_store(open_store_with_key_file(watched, workshop.key_file))
    require_data_store(workshop, vault, versions)
    steps = len(watched.operations)

    for at in range(1, steps + 1):
        place = MemoryTransport()
        place.objects.update(before)
        cut = FaultyTransport(place, at=at, fault=Fault.RAISE_BEFORE, counting=CHANGING)
        with pytest.raises(ShareUnreachable):
            as_data_store(open_store_with_key_file(cut, workshop.key_file))

        store = as_data_store(open_store_with_key_file(place, workshop.key_file))

        assert store.facts == workshop.store.facts
        assert statements(place) == statements(vault), "no pin and no forgetting is lost"
        assert own(there_objects(place)) == []
        for version, disk in zip(versions, (DISK, OTHER), strict=True):
            assert workshop.restore(read_version(store, version.name), store=store) == disk

"""A vault that is filled by somebody who holds no key of the store, and knows signatures only."""

from collections.abc import Iterable

import msgspec
import pytest

from likeness.codec.documents import Frame, Kind, write_document
from likeness.errors import BadInput, NoVault, ShareUnreachable
from likeness.model.ids import PackId, VersionId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.reading_back import read_back
from likeness.store.format import layout
from likeness.store.format.guard import require_writer
from likeness.store.format.needs_lists import read_list
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.vault_file import (
    VaultFile,
    open_without_key,
    read_vault_file,
    vault_without_key,
    write_vault_file,
)
from likeness.store.format.vaults import whole_format
from likeness.store.keys.keyring import begin_epoch
from likeness.store.read.packs_needed import packs_of
from likeness.store.read.versions import Version, read_version, record_names
from likeness.store.repair.copying import AT_ONCE, Manner
from likeness.store.repair.copying_without_key import copy_without_key
from likeness.store.repair.vault_mending import Copied
from likeness.store.write.forgetting import forget_versions
from likeness.store.write.heads import write_head
from likeness.store.write.needs_listing import (
    Uses,
    begin_needs_lists,
    has_needs_lists,
    lists_to_write,
    make_vault_file,
    write_list,
)
from likeness.transport.base import Transport
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import CHUNK, Workshop, changed, flipped, noise

DISK = noise(1, 20 * CHUNK)
OTHER = changed(DISK, (5 * CHUNK, b"new"))


def write_lists(workshop: Workshop, vm: VmId | None = None) -> str:
    """What a job's end does, by the index in place of a catalog."""
    store, vm = workshop.store, vm or workshop.vm
    begin_needs_lists(store)
    records = record_names(store, vm)
    spans: list[tuple[PackId, int, int]] = []
    for at, name in enumerate(records):
        version = read_version(store, name)
        needed = packs_of(store, version, scratch=workshop.folder, stop=StopToken())
        spans += [(pack, at, at + 1) for pack in sorted(needed)]
    stamp = random_name()[:16]
    return write_list(store, vm, stamp, Uses(records, spans), clock=workshop.clock)


@pytest.fixture
def said(workshop: Workshop) -> VaultFile:
    begin_needs_lists(workshop.store)
    return make_vault_file(workshop.store, clock=workshop.clock)


def fill(
    workshop: Workshop, vault: Transport, said: VaultFile, manner: Manner = AT_ONCE
) -> list[Copied]:
    view = open_without_key(workshop.transport, said)
    return list(copy_without_key(view, vault, said, stop=StopToken(), manner=manner))


def problems(copied: Iterable[Copied]) -> list[str]:
    return [each.problem for each in copied if each.problem]


def records(vault: MemoryTransport) -> set[str]:
    return {name for name in vault.objects if name.startswith("versions/")}


def restored(vault: MemoryTransport, workshop: Workshop, version: Version) -> bytes:
    opened = open_store_with_key_file(vault, workshop.key_file)
    assert opened.facts.vault
    return workshop.restore(read_version(opened, version.name), store=opened)


def read_there(vault: MemoryTransport, said: VaultFile) -> list[str]:
    """What is wrong at the vault, read back without any key."""
    view = vault_without_key(open_without_key(vault, said), vault, said)
    folders = ("versions/", "packs/", "needs/")
    names = sorted(name for name in vault.objects if name.startswith(folders))
    return [each.problem for each in read_back(view, names, stop=StopToken()) if each.problem]


def test_a_vault_is_filled_without_any_key_and_restores_when_the_store_is_gone(
    workshop: Workshop, said: VaultFile
) -> None:
    vault = MemoryTransport()
    first, second = workshop.back_up(DISK), workshop.back_up(OTHER)
    write_lists(workshop)
    write_head(workshop.store, clock=workshop.clock)
    path = workshop.folder / "vault-file"
    write_vault_file(path, said)
    assert workshop.store.keys.master.hex() not in path.read_text()

    assert problems(fill(workshop, vault, read_vault_file(path))) == []

    assert read_there(vault, said) == []
    assert fill(workshop, vault, said, Manner(trusted=True)) == [], "nothing is new"
    before = set(vault.objects)
    third = workshop.back_up(changed(OTHER, (CHUNK, b"third")))
    write_lists(workshop)
    copied = fill(workshop, vault, said, Manner(trusted=True))
    assert problems(copied) == []
    assert {each.name.partition("/")[0] for each in copied} == {
        *("packs", "maps", "index", "needs", "versions")
    }
    assert {each.name for each in copied} == set(vault.objects) - before
    assert len([name for name in vault.objects if name.startswith("needs/")]) == 1
    workshop.objects.clear()
    for version, disk in ((first, DISK), (second, OTHER)):
        assert restored(vault, workshop, version) == disk
    assert restored(vault, workshop, third) == changed(OTHER, (CHUNK, b"third"))
    assert read_there(vault, said) == []


def test_one_damaged_pack_holds_up_the_versions_that_need_it_and_no_other(
    workshop: Workshop, said: VaultFile
) -> None:
    first = workshop.back_up(DISK)
    old = {name for name in workshop.objects if name.startswith("packs/")}
    second = workshop.back_up(OTHER)
    (pack,) = {name for name in workshop.objects if name.startswith("packs/")} - old
    whole = workshop.objects[pack]
    workshop.objects[pack] = flipped(whole, len(whole) // 2)
    write_lists(workshop)
    vault = MemoryTransport()

    (told,) = problems(fill(workshop, vault, said))

    assert "a pack it needs is damaged in the data store" in told
    assert records(vault) == {first.name}
    assert restored(vault, workshop, first) == DISK
    workshop.objects[pack] = whole
    assert problems(fill(workshop, vault, said)) == []
    assert restored(vault, workshop, second) == OTHER


def test_what_moved_since_the_list_was_written_waits_and_is_copied_by_the_next_list(
    workshop: Workshop, said: VaultFile
) -> None:
    version = workshop.back_up(DISK)
    write_lists(workshop)
    vault = MemoryTransport()
    moved = next(name for name in workshop.objects if name.startswith("packs/"))
    data = workshop.objects.pop(moved)

    (told,) = problems(fill(workshop, vault, said))
    assert "moved in the data store since its needs list was written" in told
    assert records(vault) == set()

    workshop.objects[moved] = data
    write_lists(workshop)
    assert problems(fill(workshop, vault, said)) == []
    assert restored(vault, workshop, version) == DISK

    unlisted = workshop.back_up(OTHER)
    (told,) = problems(fill(workshop, vault, said, Manner(trusted=True)))
    assert "no needs list of the data store names it yet" in told
    assert unlisted.name not in records(vault)


def forged(workshop: Workshop, name: str, other: Workshop) -> bytes:
    """The same list, under the signature of somebody else's store."""
    frame = Frame.parse(workshop.objects[name], name=name)
    return write_document(
        Kind.NEEDS, name, frame.clear, keys=other.store.keys, suite=other.store.suite
    )


def test_a_list_that_the_store_did_not_sign_lets_no_version_through(
    workshop: Workshop, said: VaultFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workshop.back_up(DISK)
    name = write_lists(workshop)
    other = Workshop(tmp_path_factory.mktemp("other"))
    true = workshop.objects[name]
    for lie in (forged(workshop, name, other), true[:-20], true[:90] + b"\0" + true[91:]):
        workshop.objects[name] = lie
        vault = MemoryTransport()
        (told,) = problems(fill(workshop, vault, said))
        assert "the needs list of its VM is damaged" in told
        assert records(vault) == set()
    elsewhere = layout.needs_list(VmId(random_name()), "0" * 16)
    workshop.objects[elsewhere] = workshop.objects[name] = true
    assert problems(fill(workshop, MemoryTransport(), said)) == [], "another VM's helps nobody"


def test_a_vault_filled_without_a_key_is_cut_short_anywhere_and_goes_on(
    workshop: Workshop, said: VaultFile
) -> None:
    version = workshop.back_up(DISK[: 5 * CHUNK])
    write_lists(workshop)
    write_head(workshop.store, clock=workshop.clock)
    watched = FaultyTransport(MemoryTransport(), counting=CHANGING)
    fill(workshop, watched, said)
    steps = len(watched.operations)
    for at in range(1, steps + 1):
        inner = MemoryTransport()
        fault = Fault.TORN_WRITE if at % 2 else Fault.RAISE_AFTER
        cut = FaultyTransport(inner, at=at, fault=fault, counting=CHANGING)
        with pytest.raises(ShareUnreachable):
            fill(workshop, cut, said)

        assert problems(fill(workshop, inner, said)) == []

        assert restored(inner, workshop, version) == DISK[: 5 * CHUNK]
        assert read_there(inner, said) == []


def test_a_vault_file_serves_its_own_vault_and_store_alone(
    workshop: Workshop, said: VaultFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workshop.back_up(DISK[:CHUNK])
    write_lists(workshop)
    vault = MemoryTransport()
    fill(workshop, vault, said)

    another = make_vault_file(workshop.store, clock=workshop.clock)
    with pytest.raises(NoVault, match="holds another vault"):
        fill(workshop, vault, another)
    mixed = msgspec.structs.replace(said, format=another.format)
    with pytest.raises(BadInput, match="several vaults"):
        fill(workshop, MemoryTransport(), mixed)
    twin = MemoryTransport()
    twin.objects.update(workshop.objects)
    with pytest.raises(NoVault, match="a data store itself"):
        fill(workshop, twin, said)
    path = tmp_path_factory.mktemp("file") / "vault-file"
    path.write_text("likeness-vault-1: {")
    with pytest.raises(BadInput, match="no vault file, or not all of it"):
        read_vault_file(path)


def test_a_store_says_that_it_has_needs_lists_and_they_follow_its_vms(workshop: Workshop) -> None:
    store = workshop.store
    assert not has_needs_lists(store)
    version = workshop.back_up(DISK[:CHUNK])
    name = write_lists(workshop)
    opened = open_store_with_key_file(workshop.transport, workshop.key_file)
    assert has_needs_lists(opened)
    require_writer(opened.facts)

    stamp = name.rpartition("/")[2]
    assert lists_to_write(store, {workshop.vm: stamp}) == []
    assert lists_to_write(store, {workshop.vm: "0" * 16}) == [workshop.vm]
    assert lists_to_write(store, {}) == []
    assert name not in workshop.objects
    assert VersionId(version.version) in version.name


def test_saying_so_is_cut_short_anywhere_and_done_again(workshop: Workshop) -> None:
    """No copy of the format document is missing for good, and one is whole at any moment."""

    def as_before() -> MemoryTransport:
        made = MemoryTransport()
        made.objects.update(workshop.objects)
        return made

    def begun_over(transport: Transport) -> None:
        begin_needs_lists(open_store_with_key_file(transport, workshop.key_file))

    watched = FaultyTransport(as_before(), counting=CHANGING)
    begun_over(watched)
    steps = len(watched.operations)
    for at in range(1, steps + 1):
        for fault in (Fault.TORN_WRITE, Fault.RAISE_AFTER):
            inner = as_before()
            with pytest.raises(ShareUnreachable):
                begun_over(FaultyTransport(inner, at=at, fault=fault, counting=CHANGING))
            begun_over(inner)
            opened = open_store_with_key_file(inner, workshop.key_file)
            assert has_needs_lists(opened)
            for copy in layout.FORMAT_COPIES:
                whole = whole_format(opened, inner, copy)
                assert whole is not None, (at, fault, copy)
                assert whole.facts == opened.facts
    assert steps == 2 * len(layout.FORMAT_COPIES)


def test_what_is_asked_without_a_key_grows_with_what_is_new_and_not_with_the_store(
    workshop: Workshop, said: VaultFile
) -> None:
    vault = MemoryTransport()
    counted = {"read", "size", "entries", "create"}
    here = FaultyTransport(workshop.transport, counting=counted)
    far = FaultyTransport(vault, counting=counted)

    def backed_up(seed: int) -> None:
        vm = VmId(random_name())
        workshop.back_up(noise(seed, 3 * CHUNK), vm=vm)
        write_lists(workshop, vm)

    def asked() -> int:
        before = len(here.operations) + len(far.operations)
        view = open_without_key(here, said)
        manner = Manner(trusted=True)
        copied = list(copy_without_key(view, far, said, stop=StopToken(), manner=manner))
        assert problems(copied) == []
        return len(here.operations) + len(far.operations) - before

    backed_up(0)
    fill(workshop, vault, said)
    of_one = asked()
    for seed in range(1, 7):
        backed_up(seed)
    fill(workshop, vault, said)
    of_seven = asked()
    backed_up(7)
    first_new = asked()
    for seed in range(8, 14):
        backed_up(seed)
    fill(workshop, vault, said)
    backed_up(14)

    assert of_one == of_seven
    assert asked() == first_new
    assert len(records(vault)) == 15


def test_a_vault_goes_on_without_a_key_when_the_store_begins_a_new_epoch(
    workshop: Workshop, said: VaultFile
) -> None:
    vault = MemoryTransport()
    workshop.back_up(DISK)
    write_lists(workshop)
    fill(workshop, vault, said)
    workshop.store = begin_epoch(workshop.store, clock=workshop.clock)
    version = workshop.back_up(OTHER)
    write_lists(workshop)

    assert problems(fill(workshop, vault, said)) == []

    assert read_there(vault, said) == []
    assert restored(vault, workshop, version) == OTHER


def test_versions_that_the_store_forgot_stay_known_by_an_older_list(
    workshop: Workshop, said: VaultFile
) -> None:
    vault = MemoryTransport()
    disks = {}
    for night in range(4):
        disk = changed(DISK, (night * CHUNK, bytes([night + 1]) * 9))
        version = workshop.back_up(disk)
        disks[version.name] = disk
        write_lists(workshop)
        assert problems(fill(workshop, vault, said, Manner(trusted=True))) == []
        if night:
            first = record_names(workshop.store, workshop.vm)[0]
            forget_versions(workshop.store, [first], reason="rules", clock=workshop.clock)

    assert records(vault) == disks.keys()
    assert problems(fill(workshop, vault, said)) == []
    assert read_there(vault, said) == []
    lists = [name for name in vault.objects if name.startswith("needs/")]
    assert len(lists) < len(disks)
    for name, disk in disks.items():
        opened = open_store_with_key_file(vault, workshop.key_file)
        assert workshop.restore(read_version(opened, name), store=opened) == disk


def test_a_list_is_written_from_the_last_one_and_what_is_new(workshop: Workshop) -> None:
    for night in range(3):
        workshop.back_up(changed(DISK, (night * CHUNK, bytes([night + 1]) * 9)))
    write_lists(workshop)
    workshop.back_up(OTHER)
    names = record_names(workshop.store, workshop.vm)
    counted = FaultyTransport(workshop.transport, counting={"read"})
    store = workshop.store.over(counted)

    uses = Uses(names, [])
    short = write_list(store, workshop.vm, "0" * 16, uses, clock=workshop.clock)

    read = [each.name for each in counted.operations if each.name.startswith("versions/")]
    assert read == [names[-1]]
    maps = {
        VersionId(name.rpartition("-")[2]): {
            part.copies
            for disk in read_version(workshop.store, name).record.disks
            for part in disk.parts
        }
        for name in names
    }
    listed = read_list(workshop.store, short)
    assert {v: {m.copies for m in listed.needed(v).maps} for v in listed.versions} == maps
    counted.operations.clear()
    write_list(store, workshop.vm, "1" * 16, uses, clock=workshop.clock, anew=True)
    read = [each.name for each in counted.operations if each.name.startswith("versions/")]
    assert read == names
    assert short not in workshop.objects

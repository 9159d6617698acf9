"""Vaulting: a second store of the same sealed bytes, from which everything restores."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count

import pytest

from likeness.errors import (
    BadInput,
    LikenessError,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
    Stopped,
)
from likeness.model.ids import DiskId, PackId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.versions import Version, read_version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.repair.vault_mending import Copied
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.store.write.holding import pin
from likeness.transport.base import Transport
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.support.memory import MemoryTransport
from tests.unit.workshop import (
    CHUNK,
    Maker,
    WithSomethingEndless,
    Workshop,
    changed,
    flipped,
    noise,
)

DISK = noise(1, 20 * CHUNK)


def vault_all(workshop: Workshop, vault: Transport) -> list[Copied]:
    return list(copy_to_vault(workshop.store, vault, stop=StopToken()))


def copies(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a vault has of the store's; what says which vault it is, it has of its own."""
    own = (*layout.FORMAT_COPIES, layout.vault_keys(1))
    return {name: data for name, data in objects.items() if name not in own}


def restore_from(vault: Transport, workshop: Workshop, version: Version) -> bytes:
    opened = open_store_with_key_file(vault, workshop.key_file)
    return workshop.restore(read_version(opened, version.name), store=opened)


def test_everything_restores_from_the_vault_when_the_store_is_gone(workshop: Workshop) -> None:
    vault = MemoryTransport()
    second = changed(DISK, (CHUNK, b"new"))
    versions = {workshop.back_up(DISK): DISK, workshop.back_up(second): second}
    write_head(workshop.store, clock=workshop.clock)

    copied = vault_all(workshop, vault)
    assert copies(vault.objects) == copies(workshop.objects)
    keys = len(vault.objects[layout.vault_keys(1)])
    assert sum(each.size_bytes for each in copied) + keys == sum(map(len, vault.objects.values()))
    workshop.objects.clear()

    for version, disk in versions.items():
        assert restore_from(vault, workshop, version) == disk


def test_a_second_vaulting_copies_nothing_and_a_third_only_what_is_new(
    workshop: Workshop,
) -> None:
    vault = MemoryTransport()
    workshop.back_up(DISK)
    vault_all(workshop, vault)

    assert vault_all(workshop, vault) == []

    before = set(workshop.objects)
    workshop.back_up(changed(DISK, (CHUNK, b"new")))
    copied = vault_all(workshop, vault)
    assert {each.name for each in copied} == set(workshop.objects) - before


def test_what_a_version_needs_is_in_the_vault_before_the_version(workshop: Workshop) -> None:
    workshop.back_up(DISK)
    write_head(workshop.store, clock=workshop.clock)
    vault = FaultyTransport(MemoryTransport(), counting={"create"})

    vault_all(workshop, vault)

    order = [operation.name.partition("/")[0] for operation in vault.operations]
    needed = ["keys", "owner", "maps", "packs", "index", "versions", "heads"]
    first = {folder: order.index(folder) for folder in needed}
    last = {folder: len(order) - order[::-1].index(folder) - 1 for folder in needed}
    for early in ("maps", "packs", "index"):
        assert last[early] < first["versions"]
    assert last["versions"] < first["heads"]
    assert order[-3:] == ["ADS-FORMAT.3", "ADS-FORMAT.2", "ADS-FORMAT"]


@pytest.mark.parametrize("fault", [Fault.RAISE_BEFORE, Fault.RAISE_AFTER, Fault.TORN_WRITE])
def test_a_vaulting_that_failed_anywhere_is_carried_on(workshop: Workshop, fault: Fault) -> None:
    version = workshop.back_up(DISK[: 5 * CHUNK])
    write_head(workshop.store, clock=workshop.clock)
    watched = FaultyTransport(MemoryTransport(), counting=CHANGING)
    vault_all(workshop, watched)

    for at in range(1, len(watched.operations) + 1):
        inner = MemoryTransport()
        vault = FaultyTransport(inner, at=at, fault=fault, counting=CHANGING)
        with pytest.raises(ShareUnreachable):
            vault_all(workshop, vault)

        assert not any(each.problem for each in vault_all(workshop, inner))
        whole = {n: d for n, d in inner.objects.items() if not n.startswith("quarantine/")}
        assert copies(whole) == copies(workshop.objects)
        assert restore_from(inner, workshop, version) == DISK[: 5 * CHUNK]
        assert vault_all(workshop, inner) == []


def test_a_torn_object_in_the_vault_is_set_aside_and_copied_again(workshop: Workshop) -> None:
    vault = MemoryTransport()
    version = workshop.back_up(DISK)
    vault_all(workshop, vault)
    torn = workshop.pack_names()[0]
    vault.objects[torn] = vault.objects[torn][:100]

    copied = vault_all(workshop, vault)

    assert [each.name for each in copied] == [torn]
    aside = list(vault.entries("quarantine"))
    assert [entry.size_bytes for entry in aside] == [100]
    assert restore_from(vault, workshop, version) == DISK


def test_nothing_damaged_is_vaulted_and_it_comes_when_it_is_whole_again(
    workshop: Workshop,
) -> None:
    version = workshop.back_up(DISK)
    spoilt = [
        workshop.pack_names()[0],
        version.record.disks[0].parts[0].copies[0],
        workshop.names("owner")[0],
    ]
    good = {name: workshop.objects[name] for name in spoilt}
    for name in spoilt:
        workshop.objects[name] = flipped(good[name], len(good[name]) // 2)
    vault = MemoryTransport()

    copied = {each.name: each for each in vault_all(workshop, vault)}

    told = {name for name, each in copied.items() if each.problem}
    assert told == {version.name, *spoilt[1:]}, "the version speaks for its packs"
    assert not {version.name, *spoilt} & set(vault.objects)

    workshop.objects.update(good)
    assert not any(each.problem for each in vault_all(workshop, vault))
    assert vault.objects.items() >= copies(workshop.objects).items()
    assert restore_from(vault, workshop, version) == DISK


def test_a_version_that_could_not_be_restored_from_the_vault_does_not_show_there(
    workshop: Workshop,
) -> None:
    first = workshop.back_up(DISK)
    known = set(workshop.pack_names())
    second = workshop.back_up(noise(2, 9 * CHUNK))
    spoilt = next(name for name in workshop.pack_names() if name not in known)
    good = workshop.objects[spoilt]
    workshop.objects[spoilt] = flipped(good, 1000)
    vault = MemoryTransport()

    copied = vault_all(workshop, vault)

    assert first.name in vault.objects
    assert second.name not in vault.objects
    assert {each.name for each in copied if each.problem} == {second.name}

    workshop.objects[spoilt] = good
    vault_all(workshop, vault)
    assert second.name in vault.objects


def test_a_damaged_index_segment_does_not_keep_the_rest_from_the_vault(
    workshop: Workshop,
) -> None:
    first = workshop.back_up(DISK)
    segment = workshop.names("index")[0]
    second = workshop.back_up(noise(2, 9 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    workshop.objects[segment] = workshop.objects[segment][:50]
    vault = MemoryTransport()

    copied = {each.name: each.problem for each in vault_all(workshop, vault)}

    assert copied[segment]
    assert not copied[first.name], "its packs are indexed anew"
    for version, disk in ((first, DISK), (second, noise(2, 9 * CHUNK))):
        assert restore_from(vault, workshop, version) == disk
    assert [each.name for each in vault_all(workshop, vault)] == [segment]


def test_a_version_whose_packs_were_given_back_before_is_vaulted_all_the_same(
    workshop: Workshop,
) -> None:
    twin = workshop.back_up(DISK)
    brought = workshop.packs_of(twin)
    other = workshop.back_up(DISK, vm=VmId(random_name()))
    workshop.delete_redundant(workshop.packs_of(other) - brought)
    vault = MemoryTransport()

    copied = vault_all(workshop, vault)

    assert not any(each.problem for each in copied)
    assert copies(vault.objects) == copies(workshop.objects)
    workshop.objects.clear()
    for version in (twin, other):
        assert restore_from(vault, workshop, version) == DISK


class GivingBackTransport(MemoryTransport):
    """A vault during whose filling another run gives packs back."""

    def __init__(self, workshop: Workshop, packs: set[PackId]) -> None:
        super().__init__()
        self._workshop, self._packs, self._maps = workshop, packs, count()

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        super().create(name, parts)
        if name.startswith(f"{layout.MAPS}/") and next(self._maps) == 0:
            self._workshop.delete_redundant(self._packs)


def test_packs_given_back_meanwhile_are_no_problem(workshop: Workshop) -> None:
    brought = workshop.packs_of(workshop.back_up(DISK))
    other = workshop.back_up(DISK, vm=VmId(random_name()))
    vault = GivingBackTransport(workshop, workshop.packs_of(other) - brought)

    copied = vault_all(workshop, vault)

    assert not any(each.problem for each in copied)
    assert restore_from(vault, workshop, other) == DISK


@pytest.mark.parametrize("what", ["pack", "map"])
def test_what_is_damaged_here_and_whole_in_the_vault_stays_there(
    workshop: Workshop, what: str
) -> None:
    version = workshop.back_up(DISK)
    vault = MemoryTransport()
    vault_all(workshop, vault)
    whole = dict(vault.objects)
    block_map = version.record.disks[0].parts[0].copies[0]
    name = workshop.pack_names()[0] if what == "pack" else block_map
    workshop.objects[name] = workshop.objects[name][:-1]

    assert vault_all(workshop, vault) == []
    assert vault.objects == whole


class CommittingTransport(MemoryTransport):
    """A vault during whose filling another job commits a version."""

    def __init__(self, workshop: Workshop, at: int) -> None:
        super().__init__()
        self._workshop, self._at, self._created = workshop, at, count(1)
        self.version: Version | None = None

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        if next(self._created) == self._at:
            self.version = self._workshop.back_up(noise(77, 9 * CHUNK), vm=VmId(random_name()))
            write_head(self._workshop.store, clock=self._workshop.clock)
        super().create(name, parts)


@pytest.mark.parametrize("at", [1, 3, 6, 9, 11, 12])
def test_a_version_committed_meanwhile_is_whole_in_the_vault_or_not_there(
    workshop: Workshop, at: int
) -> None:
    first = workshop.back_up(DISK)
    vault = CommittingTransport(workshop, at)

    copied = vault_all(workshop, vault)

    assert vault.version is not None
    assert not any(each.problem for each in copied)
    assert restore_from(vault, workshop, first) == DISK
    if vault.version.name in vault.objects:
        assert restore_from(vault, workshop, vault.version) == noise(77, 9 * CHUNK)
    vault_all(workshop, vault)
    assert restore_from(vault, workshop, vault.version) == noise(77, 9 * CHUNK)


def test_packs_that_no_commit_has_made_a_version_of_are_left_out(workshop: Workshop) -> None:
    workshop.back_up(DISK)
    workshop.transfer(noise(2, 9 * CHUNK))
    stray = workshop.names("in")[0]
    workshop.objects[layout.pack(stray.rpartition("/")[2])] = workshop.objects[stray]  # type: ignore[arg-type]
    vault = MemoryTransport()

    copied = vault_all(workshop, vault)

    assert not any(each.problem for each in copied)
    assert all(each.size_bytes for each in copied), "what was not copied is not told of"
    assert not any("in/" in name for name in vault.objects)
    assert len(vault.objects) < len(workshop.objects)


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        (layout.pack(PackId("ab" * 16)), 0),  # no index segment knows it
        (layout.index_segment("ab" * 16), 1),
        (layout.map_object(DiskId("ab" * 16), "ab" * 16), 1),
    ],
)
def test_something_endless_that_a_stranger_put_there_holds_no_vaulting_up(
    make_workshop: Maker, name: str, problems: int
) -> None:
    transport, vault = WithSomethingEndless(), MemoryTransport()
    workshop = make_workshop(transport=transport)
    version = workshop.back_up(DISK)
    transport.put_something_endless(name)

    copied = vault_all(workshop, vault)

    assert [each.name for each in copied if each.problem] == [name] * problems
    assert name not in vault.objects
    assert restore_from(vault, workshop, version) == DISK


def test_the_vault_of_another_store_is_left_alone(make_workshop: Maker) -> None:
    workshop, other = make_workshop(), make_workshop()
    workshop.back_up(DISK)
    vault = MemoryTransport()
    vault_all(other, vault)
    before = dict(vault.objects)

    with pytest.raises(BadInput, match="another data store"):
        vault_all(workshop, vault)
    assert vault.objects == before


@pytest.mark.parametrize("copy", layout.FORMAT_COPIES)
def test_a_damaged_format_document_is_the_stores_own_and_one_of_the_vaults_is_made_anew(
    workshop: Workshop, copy: str
) -> None:
    version = workshop.back_up(DISK)
    workshop.objects[copy] = flipped(workshop.objects[copy], 30)
    vault = MemoryTransport()

    assert not any(each.problem for each in vault_all(workshop, vault))
    whole = vault.objects[copy]
    vault.objects[copy] = flipped(whole, 30)
    assert [each.name for each in vault_all(workshop, vault)] == [copy]
    assert vault.objects[copy] == whole
    assert restore_from(vault, workshop, version) == DISK


def test_a_full_vault_says_so(workshop: Workshop) -> None:
    workshop.back_up(DISK)

    with pytest.raises(ShareFull):
        vault_all(workshop, MemoryTransport(capacity_bytes=500_000))


def test_vaulting_stops_when_it_is_asked_to(workshop: Workshop) -> None:
    workshop.back_up(DISK)
    stop = StopToken()
    stop.stop()

    with pytest.raises(Stopped):
        list(copy_to_vault(workshop.store, MemoryTransport(), stop=stop))


class TakesNoMore(MemoryTransport):
    """Refuses every pack but some, as a vault that is full, or whose account lost its right."""

    def __init__(self, how: type[LikenessError]) -> None:
        super().__init__()
        self._how = how
        self.lets: set[str] | None = None

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        if self.lets is not None and name.startswith("packs/") and name not in self.lets:
            raise self._how("the vault takes nothing more")
        super().create(name, parts)


@pytest.mark.parametrize(
    ("how", "why"), [(ShareFull, "there is no room"), (ShareRefused, "may not write any more")]
)
def test_a_vault_that_takes_no_more_has_all_it_could_and_the_rest_is_named(
    workshop: Workshop, how: type[LikenessError], why: str
) -> None:
    before = workshop.back_up(noise("before", 2 * CHUNK), vm_name="before")
    vault = TakesNoMore(how)
    vault_all(workshop, vault)
    fits = workshop.back_up(noise("fits", 2 * CHUNK), vm=VmId(random_name()), vm_name="fits")
    large = workshop.back_up(DISK, vm=VmId(random_name()), vm_name="large")
    vault.lets = {layout.pack(pack) for pack in workshop.packs_of(fits)}
    told: list[Copied] = []

    with pytest.raises(how):
        deque(map(told.append, copy_to_vault(workshop.store, vault, stop=StopToken())), maxlen=0)

    assert before.name in vault.objects
    waiting = {each.name: each.problem for each in told if each.problem}
    assert large.name in waiting
    assert f"VM 'large', version of {large.taken_at:%Y-%m-%d %H:%M}" in waiting[large.name]
    assert why in waiting[large.name]
    assert fits.name in vault.objects
    assert fits.name not in waiting
    vault.lets = None
    assert not [each for each in vault_all(workshop, vault) if each.problem]
    for version, disk in ((fits, noise("fits", 2 * CHUNK)), (large, DISK)):
        assert restore_from(vault, workshop, version) == disk


UNFINISHED = {
    "a block map": f"{layout.MAPS}/{'d' * 32}/{'e' * 32}",
    "an index segment": f"{layout.INDEX}/{'e' * 32}",
    "a statement": layout.numbered(layout.SWEPT, 7),
    "a copy of the catalog": layout.numbered(layout.CATALOG, 7),
    "a part of one": f"{layout.numbered(layout.CATALOG, 7)}-0000",
}


def beginning(workshop: Workshop, name: str, share: float) -> bytes:
    """How an object of that kind begins."""
    folder = layout.MAPS if name.endswith("-0000") else name.partition("/")[0]
    like = [n for n in workshop.objects if n.startswith(f"{folder}/")]
    data = workshop.objects[like[0] if like else layout.numbered(layout.HEADS, 1)]
    return data[: int(len(data) * share)]


@pytest.mark.parametrize("share", [0, 0.5, 0.98])
@pytest.mark.parametrize("name", UNFINISHED.values(), ids=UNFINISHED.keys())
def test_what_a_killed_writer_never_finished_holds_up_no_vaulting(
    workshop: Workshop, name: str, share: float
) -> None:
    version = workshop.back_up(DISK)
    write_head(workshop.store, clock=workshop.clock)
    workshop.objects[name] = beginning(workshop, name, share)

    for _ in range(2):  # every night
        vault = MemoryTransport()
        assert [each.problem for each in vault_all(workshop, vault) if each.problem] == []

        assert name not in vault.objects
        assert restore_from(vault, workshop, version) == DISK


@pytest.mark.parametrize("what", ["index", "pin", "named by a copy"])
def test_what_something_counts_on_and_is_cut_off_is_told(workshop: Workshop, what: str) -> None:
    version = workshop.back_up(DISK)
    vault = MemoryTransport()
    if what == "index":
        name = next(n for n in version.clear.objects if n.startswith(f"{layout.INDEX}/"))
        write_head(workshop.store, clock=workshop.clock)
    elif what == "pin":
        name = layout.numbered(layout.HOLDS, 1)
        pin(workshop.store, version.name, note="", until=None, clock=workshop.clock)
        write_head(workshop.store, clock=workshop.clock)
    else:
        name = layout.numbered(layout.CATALOG, 1)
        (workshop.folder / "catalog").mkdir()
        (workshop.folder / "catalog" / "rows.parquet").write_bytes(noise(1, 1000))
        put_copy(workshop.store, workshop.folder / "catalog", clock=workshop.clock)
        name = next(n for n in workshop.objects if n.startswith(f"{name}-"))
    workshop.objects[name] = workshop.objects[name][:-9]

    problems = [each for each in vault_all(workshop, vault) if each.problem]

    assert problems
    assert all(name == each.name for each in problems)

"""Commit: the order that makes it safe to die anywhere, and versions as they are found again."""

from dataclasses import replace

import msgspec
import pytest

from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    LikenessError,
    ObjectMissing,
    ShareUnreachable,
    StoreTooNew,
    UnknownVersion,
)
from likeness.model.ids import ChunkId, PackId, RunId, VersionId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.locations import Location, PackLocations
from likeness.store.format.observations import Weight
from likeness.store.format.pack import PackReceipt
from likeness.store.format.pack_log import PackLog
from likeness.store.prune.sweeping import delete_redundant_packs, sweep_inboxes
from likeness.store.read.index import (
    known_packs,
    read_segment,
    segments,
    unindexed_packs,
    write_index,
)
from likeness.store.read.versions import find_version, last_version, read_version, record_names, vms
from likeness.store.write.commit import commit_version
from likeness.store.write.heads import write_head
from tests.support.faulty import CHANGING, Fault, FaultyTransport
from tests.unit.workshop import CHUNK, TickingClock, Workshop, changed, flipped, noise

STEPS = ["packs admitted", "maps written", "index written", "version recorded"]


class Died(Exception):
    """The process is gone."""


def test_the_record_that_makes_a_version_is_written_last(workshop: Workshop) -> None:
    receipt = workshop.transfer(noise(1, 10 * CHUNK), noise(2, 3 * CHUNK))
    watched = FaultyTransport(workshop.transport, counting=CHANGING)
    workshop.store.transport = watched
    told: list[str] = []

    workshop.commit(receipt, step=told.append)

    folders = [
        operation.name.partition("/")[0]
        for operation in watched.operations
        if operation.method in ("create", "rename")
    ]
    assert folders == sorted(folders, key=["in", "maps", "index", "versions"].index)
    assert folders.count("versions") == folders.count("index") == 1
    assert told == STEPS


def test_a_commit_empties_the_inbox(workshop: Workshop) -> None:
    workshop.back_up(noise(1, 10 * CHUNK))

    assert workshop.transport.folders("in") == []
    assert len(workshop.pack_names()) > 1


def test_a_commit_that_is_repeated_gives_the_same_version(workshop: Workshop) -> None:
    receipt = workshop.transfer(noise(1, 10 * CHUNK))
    first = workshop.commit(receipt)
    before = dict(workshop.objects)

    assert workshop.commit(receipt) == first
    assert workshop.objects == before


@pytest.mark.parametrize("last_step", STEPS)
def test_a_commit_that_died_after_a_step_is_carried_on(workshop: Workshop, last_step: str) -> None:
    base = noise(1, 10 * CHUNK)
    first = workshop.back_up(base)
    disk = changed(base, (CHUNK, noise(2, 3 * CHUNK)))
    receipt = workshop.transfer(disk)

    def die(step: str) -> None:
        if step == last_step:
            raise Died

    with pytest.raises(Died):
        workshop.commit(receipt, step=die)
    version = workshop.commit(receipt)

    assert version.sequence == 2
    assert len(record_names(workshop.store, workshop.vm)) == 2
    assert workshop.restore(version) == disk
    assert workshop.restore(first) == base
    assert workshop.is_proved(version, workshop.packs_of(version))


@pytest.mark.parametrize("last_step", STEPS)
def test_a_commit_that_died_and_is_never_carried_on_harms_nothing(
    workshop: Workshop, last_step: str
) -> None:
    base, disk = noise(1, 10 * CHUNK), noise(2, 10 * CHUNK)
    first = workshop.back_up(base)
    receipt = workshop.transfer(disk)

    def die(step: str) -> None:
        if step == last_step:
            raise Died

    with pytest.raises(Died):
        workshop.commit(receipt, step=die)
    third = workshop.back_up(disk)

    assert workshop.restore(first) == base
    assert workshop.restore(third) == disk
    assert workshop.is_proved(third, workshop.packs_of(third))
    sweep_inboxes(workshop.store, lambda _: False)
    assert not workshop.names("in")


def test_a_version_lost_in_mid_write_is_passed_over(workshop: Workshop) -> None:
    base, disk = noise(1, 5 * CHUNK), noise(2, 5 * CHUNK)
    first = workshop.back_up(base)
    receipt = workshop.transfer(disk)
    creates = FaultyTransport(workshop.transport, counting={"create"})
    workshop.store.transport = creates
    workshop.commit(workshop.transfer(disk, vm=VmId(random_name())))
    workshop.store.transport = FaultyTransport(
        workshop.transport,
        at=len(creates.operations),
        fault=Fault.TORN_WRITE,
        counting={"create"},
    )

    with pytest.raises(ShareUnreachable, match="versions/"):
        workshop.commit(receipt)
    workshop.store.transport = workshop.transport

    assert len(record_names(workshop.store, workshop.vm)) == 2
    assert last_version(workshop.store, workshop.vm) == first
    version = workshop.commit(receipt)
    assert version.sequence == 2
    assert record_names(workshop.store, workshop.vm) == [first.name, version.name]
    assert version.clear.previous == first.digest
    assert workshop.restore(version) == disk


def test_a_record_torn_by_a_job_that_died_is_no_lost_version(workshop: Workshop) -> None:
    first = workshop.back_up(noise(1, 5 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    torn = layout.version_record(workshop.vm, 2, VersionId(random_name()))
    workshop.transport.create(torn, [b"torn"])

    second = workshop.back_up(noise(2, 5 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)

    assert record_names(workshop.store, workshop.vm) == [first.name, second.name]
    told = list(audit_presence(workshop.store, stop=StopToken()))
    assert [(each.weight, each.cause) for each in told] == [(Weight.NOTICE, "set aside")]
    assert workshop.transport.read(told[0].name) == b"torn"


def test_a_damaged_record_that_a_head_covers_stays_where_it_is(workshop: Workshop) -> None:
    first = workshop.back_up(noise(1, 5 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    workshop.objects[first.name] = flipped(workshop.objects[first.name], 200)

    second = workshop.back_up(noise(2, 5 * CHUNK))

    assert record_names(workshop.store, workshop.vm) == [first.name, second.name]
    assert workshop.names(layout.QUARANTINE) == []


def test_nothing_is_set_aside_while_nobody_knows_what_the_heads_cover(workshop: Workshop) -> None:
    first = workshop.back_up(noise(1, 5 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    head = workshop.names(layout.HEADS)[0]
    for name in (first.name, head):
        workshop.objects[name] = flipped(workshop.objects[name], 200)

    second = workshop.back_up(noise(2, 5 * CHUNK))

    assert record_names(workshop.store, workshop.vm) == [first.name, second.name]


def test_a_map_is_told_as_a_difference_only_from_the_version_it_was_compared_with(
    workshop: Workshop,
) -> None:
    """Two runs of one VM that overlap: each compared with the same version before them."""
    base = noise(1, 6 * CHUNK)
    workshop.back_up(base)
    disks = [changed(base, (0, b"one")), changed(base, (5 * CHUNK, b"other"))]
    receipts = [workshop.transfer(disk) for disk in disks]

    versions = [workshop.commit(receipt) for receipt in receipts]

    assert [version.record.disks[0].deltas for version in versions] == [1, 0]
    assert [workshop.restore(version) for version in versions] == disks
    assert all(workshop.is_proved(version, workshop.packs_of(version)) for version in versions)


def test_a_pack_that_was_promised_and_is_nowhere_stops_the_commit(workshop: Workshop) -> None:
    receipt = workshop.transfer(noise(1, 10 * CHUNK))
    del workshop.objects[workshop.names("in")[0]]

    with pytest.raises(ObjectMissing):
        workshop.commit(receipt)
    assert not workshop.names("versions")


def test_a_pack_of_another_length_than_was_sent_stops_the_commit(workshop: Workshop) -> None:
    receipt = workshop.transfer(noise(1, 10 * CHUNK))
    name = workshop.names("in")[0]
    workshop.objects[name] = workshop.objects[name][:-1]

    for _ in range(2):
        with pytest.raises(Damaged, match="was sent with"):
            workshop.commit(receipt)
    assert not workshop.names("versions")


def test_a_version_says_everything_that_is_needed_to_restore_it(workshop: Workshop) -> None:
    disks = noise(1, 3 * CHUNK + 5), noise(2, CHUNK)
    made = workshop.back_up(*disks, vm_name="Büro №1")

    found = read_version(workshop.store, made.name)

    assert found == made
    assert found.record.vm_name == "Büro №1"
    assert [disk.size_bytes for disk in found.record.disks] == [len(disk) for disk in disks]
    assert found.record.disks[0].chunk_bytes == CHUNK
    assert found.record.configuration == '{"memory": 1}'
    assert (found.sequence, found.vm) == (1, workshop.vm)
    assert found.taken_at.tzinfo is not None
    assert "Büro" not in workshop.objects[made.name].decode("latin-1")


def test_the_records_of_a_vm_form_a_chain(workshop: Workshop) -> None:
    versions = [workshop.back_up(noise(at, CHUNK)) for at in range(3)]

    assert versions[0].clear.previous == "0" * 64
    assert [v.clear.previous for v in versions[1:]] == [v.digest for v in versions[:-1]]
    assert [v.sequence for v in versions] == [1, 2, 3]
    assert record_names(workshop.store, workshop.vm) == [v.name for v in versions]


def test_what_a_version_brought_in_is_signed_for_in_the_clear(workshop: Workshop) -> None:
    workshop.back_up(noise(1, 3 * CHUNK))
    version = workshop.back_up(noise(2, 3 * CHUNK))

    assert len(version.clear.objects) == len(version.clear.digests) == 3
    for name, told in zip(version.clear.objects, version.clear.digests, strict=True):
        assert digest([workshop.objects[name]]).hex() == told


def test_versions_are_found_by_the_beginning_of_their_id(workshop: Workshop) -> None:
    versions = [workshop.back_up(noise(at, CHUNK), vm=VmId(random_name())) for at in range(3)]

    for version in versions:
        assert find_version(workshop.store, version.version) == version
        assert find_version(workshop.store, version.version[:12]) == version
    assert set(vms(workshop.store)) == {version.vm for version in versions}
    with pytest.raises(UnknownVersion, match="no version begins with 'zzzz'"):
        find_version(workshop.store, "zzzz")
    with pytest.raises(UnknownVersion, match="several versions"):
        find_version(workshop.store, "")


def test_a_record_under_another_name_is_refused(workshop: Workshop) -> None:
    version = workshop.back_up(noise(1, CHUNK))
    moved = layout.version_record(version.vm, 7, version.version)
    workshop.objects[moved] = workshop.objects[version.name]

    with pytest.raises(Damaged, match="not signed as version"):
        read_version(workshop.store, moved)
    assert last_version(workshop.store, version.vm) == version


def test_a_record_whose_content_is_another_versions_is_refused(workshop: Workshop) -> None:
    version = workshop.back_up(noise(1, CHUNK))
    name = layout.version_record(version.vm, 2, version.version)
    workshop.store.write(name, Kind.VERSION, version.clear, msgspec.json.encode(version.record))

    with pytest.raises(Damaged, match="record of another version"):
        read_version(workshop.store, name)


def test_a_store_changed_by_a_later_release_is_read_but_not_written(workshop: Workshop) -> None:
    disk = noise(1, 5 * CHUNK)
    version = workshop.back_up(disk)
    receipt = workshop.transfer(noise(2, CHUNK))
    facts = msgspec.structs.replace(workshop.store.facts, must_know_to_write=("tiers",))
    later = DataStore(workshop.transport, facts, workshop.store.keys)
    before = dict(workshop.objects)

    assert workshop.restore(version, store=later) == disk
    with pytest.raises(StoreTooNew, match="not write to it"):
        commit_version(later, receipt, clock=TickingClock())
    with pytest.raises(StoreTooNew):
        sweep_inboxes(later, lambda _: False)
    with pytest.raises(StoreTooNew):
        delete_redundant_packs(later, dict, reason="", clock=TickingClock())
    assert workshop.objects == before


# --- a store that is not there ---


def test_nothing_is_acknowledged_when_the_shares_disk_went_away(workshop: Workshop) -> None:
    workshop.back_up(noise(1, 3 * CHUNK))
    steps: list[str] = []
    workshop.commit(workshop.transfer(noise(2, 3 * CHUNK)), step=steps.append)
    mounted: dict[str, bytes] = {}

    def unmount() -> None:
        mounted.update(workshop.objects)
        workshop.objects.clear()

    for at in ("before", *steps[:-1]):
        receipt = workshop.transfer(noise(at, 3 * CHUNK), incremental=False)
        if at == "before":
            unmount()

        def unmount_then(done: str, moment: str = at) -> None:
            if done == moment:
                unmount()

        with pytest.raises((ShareUnreachable, ObjectMissing)):
            workshop.commit(receipt, step=unmount_then)
        assert not set(workshop.objects) & set(mounted)
        workshop.objects.clear()
        workshop.objects.update(mounted)
        version = workshop.commit(receipt)
        assert workshop.restore(version) == noise(at, 3 * CHUNK)


def test_no_head_says_that_everything_is_gone_when_the_shares_disk_went_away(
    workshop: Workshop,
) -> None:
    workshop.back_up(noise(1, 3 * CHUNK))
    write_head(workshop.store, clock=workshop.clock)
    workshop.objects.clear()

    with pytest.raises(ShareUnreachable, match=r"see whether the share's disk is mounted there"):
        write_head(workshop.store, clock=workshop.clock)
    assert workshop.objects == {}


# --- receipts ---


def test_a_log_of_packs_gives_them_back(workshop: Workshop) -> None:
    log = PackLog(workshop.folder / "log")
    receipts = [
        PackReceipt(
            PackId(random_name()),
            at,
            bytes([at]) * 32,
            bytes([at]) * 16,
            PackLocations.of(Location(ChunkId(bytes([n]) * 32), n, n) for n in range(at)),
        )
        for at in range(4)
    ]
    for receipt in receipts:
        log.append(receipt)

    assert list(log) == receipts
    assert list(log) == receipts, "as often as one likes"
    assert log.packs == 4
    assert (workshop.folder / "log").stat().st_mode & 0o077 == 0


# --- index ---


def test_the_index_knows_every_pack_of_every_commit(workshop: Workshop) -> None:
    receipts = [workshop.transfer(noise(at, 6 * CHUNK), vm=VmId(random_name())) for at in range(3)]
    for receipt in receipts:
        workshop.commit(receipt)

    known = {pack.pack: pack for pack in known_packs(workshop.store)}

    assert {layout.pack(pack) for pack in known} == set(workshop.pack_names())
    for receipt in receipts:
        for pack in receipt.packs:
            found = known[pack.pack]
            assert (found.digest, found.size_bytes) == (pack.digest, pack.size_bytes)
            assert (found.locations, found.run) == (pack.locations, receipt.run)


def test_a_big_index_is_cut_into_segments(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.store.read.index.MAX_LOCATIONS", 10)
    receipt = workshop.transfer(noise(1, 30 * CHUNK))
    packs = list(receipt.packs)
    written = list(
        write_index(workshop.store, packs, run=RunId(random_name()), clock=workshop.clock)
    )

    found = [list(read_segment(workshop.store, segment.name)) for segment in written]

    assert len(written) > 2
    assert all(sum(len(pack.locations) for pack in segment) <= 10 for segment in found)
    assert [pack.pack for segment in found for pack in segment] == [pack.pack for pack in packs]


def test_a_damaged_segment_is_told_of_and_the_others_are_read(workshop: Workshop) -> None:
    versions = [workshop.back_up(noise(at, CHUNK), vm=VmId(random_name())) for at in range(3)]
    name = sorted(segments(workshop.store))[1]
    lost = {pack.pack for pack in read_segment(workshop.store, name)}
    workshop.objects[name] = flipped(workshop.objects[name], 50)
    told: list[LikenessError] = []

    found = {pack.pack for pack in known_packs(workshop.store, damaged=told.append)}

    assert [str(problem).partition(" ")[0] for problem in told] == [name]
    assert len(found) == 2
    assert {pack for pack, _ in unindexed_packs(workshop.store, found)} == lost
    with pytest.raises(Damaged):
        list(known_packs(workshop.store))
    assert len(versions) == 3


def test_a_receipt_may_come_from_another_run_of_the_same_vm(workshop: Workshop) -> None:
    one = workshop.transfer(noise(1, CHUNK))
    other = replace(workshop.transfer(noise(2, CHUNK)), job="weekly")

    assert workshop.commit(one).sequence == 1
    assert workshop.commit(other).record.job == "weekly"

"""What was written since an earlier snapshot: never too little, and a reason when unknown."""

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import HostBusy
from likeness.model.disk import Extent
from likeness.model.ids import DiskId, VmId
from likeness.retrying import Pauses
from likeness.xen.changed_blocks import (
    GRAIN_BYTES,
    Changes,
    changed_extents,
    enable_tracking,
    extents_of,
    skips_from,
)
from likeness.xen.dropping import drop_snapshot
from likeness.xen.http_reader import HttpDiskReader
from likeness.xen.inventory import find_vm
from likeness.xen.references import WITHOUT_DATA, drop_references, list_references
from likeness.xen.snapshots import XenSnapshot
from likeness.xen.sweeping import sweep_snapshots
from tests.xen.conftest import MIB, Stage, read_all

CHUNK = 128 << 10


def tracked_snapshot(stage: Stage) -> XenSnapshot:
    for tracking in enable_tracking(stage.xen, find_vm(stage.xen, "web-1")):
        assert tracking.on, tracking.reason
    return stage.snapshot()


def drop(stage: Stage, snapshot: XenSnapshot, *, keep_references: bool) -> None:
    drop_snapshot(
        stage.xen, snapshot, keep_references=keep_references, pauses=Pauses(0.1, 0.1, tries=20)
    )


def test_only_what_was_written_since_the_last_version_is_named(stage: Stage) -> None:
    base = tracked_snapshot(stage)
    stage.pool.write("web-1", 0, 3 * GRAIN_BYTES - 1, b"xy")
    new = stage.snapshot()

    changes = changed_extents(stage.xen, base.disks[0].uuid, new.disks[0])

    assert changes == Changes((Extent(2 * GRAIN_BYTES, 2 * GRAIN_BYTES),), "")
    untouched = changed_extents(stage.xen, base.disks[1].uuid, new.disks[1])
    assert untouched.extents == ()
    assert untouched.changed_bytes == 0


def test_reading_only_what_changed_gives_the_new_version(stage: Stage) -> None:
    dice = random.Random(7)
    content = bytearray(stage.web)
    base = tracked_snapshot(stage)
    for _ in range(12):
        offset = dice.randrange(len(content) - 5000)
        data = dice.randbytes(dice.randrange(1, 5000))
        content[offset : offset + len(data)] = data
        stage.pool.write("web-1", 0, offset, data)
    new = stage.snapshot().disks[0]

    changes = changed_extents(stage.xen, base.disks[0].uuid, new)
    skips = skips_from(changes, new.facts.size_bytes, CHUNK)
    assert skips is not None
    merged = bytearray(stage.web)
    reader = HttpDiskReader(stage.xen, new)
    for segment in reader.segments(MIB, skip=skips):
        assert segment.offset % CHUNK == 0
        merged[segment.offset : segment.offset + len(segment.data)] = segment.data

    assert bytes(merged) == bytes(content)
    assert skips.unchanged


def test_a_reference_keeps_no_data_and_serves_the_next_run(stage: Stage) -> None:
    base = tracked_snapshot(stage)
    drop(stage, base, keep_references=True)
    stage.pool.write("web-1", 1, 0, b"z")
    new = stage.snapshot()

    references = list_references(stage.xen, {stage.owner.installation})
    assert {r.uuid for r in references} == {d.uuid for d in base.disks}
    assert all(r.usable and r.run == stage.owner.run for r in references)
    assert {r.disk for r in references} == {d.facts.disk for d in base.disks}
    changes = changed_extents(stage.xen, base.disks[1].uuid, new.disks[1])
    assert changes.extents == (Extent(0, GRAIN_BYTES),)
    assert stage.pool.db.where("VM", is_a_snapshot=True) == [new.ref]


def test_a_reference_survives_the_sweep_and_one_that_still_has_data_does_not(
    stage: Stage,
) -> None:
    base = tracked_snapshot(stage)
    drop(stage, base, keep_references=True)
    half_way = stage.snapshot()
    stage.pool.faults.fail("VDI.data_destroy", "VDI_IN_USE", "ref", "data_destroy", times=0)
    with pytest.raises(HostBusy, match="still in use"):
        drop_snapshot(stage.xen, half_way, keep_references=True, pauses=Pauses(0.01, 0.01, tries=2))

    swept = sweep_snapshots(
        stage.xen, {stage.owner.installation}, lambda run: False, pauses=Pauses(0.1, 0.1, tries=20)
    )

    assert {s.uuid for s in swept} == {d.uuid for d in half_way.disks}
    assert all(not s.problem for s in swept)
    frozen = stage.pool.db.where("VDI", is_a_snapshot=True)
    assert {stage.pool.db.get("VDI", v, "uuid") for v in frozen} == {d.uuid for d in base.disks}
    assert {stage.pool.db.get("VDI", v, "type") for v in frozen} == {WITHOUT_DATA}


def test_a_disk_that_is_still_held_when_its_record_of_changes_is_lost_is_waited_for(
    stage: Stage,
) -> None:
    base = tracked_snapshot(stage)
    stage.pool.faults.fail("VDI.data_destroy", "VDI_NO_CBT_METADATA", base.disks[0].ref)
    stage.pool.faults.fail("VDI.destroy", "VDI_IN_USE", base.disks[0].ref, "destroy")

    drop_snapshot(stage.xen, base, keep_references=True, pauses=Pauses(0.01, 0.01, tries=3))

    assert [call["seen"] for call in stage.pool.faults.listing()["calls"]] == [3, 1]
    left = stage.pool.db.where("VDI", is_a_snapshot=True)
    assert {stage.pool.db.get("VDI", each, "type") for each in left} == {WITHOUT_DATA}


def test_references_that_no_version_needs_are_dropped_and_others_kept(stage: Stage) -> None:
    old = tracked_snapshot(stage)
    drop(stage, old, keep_references=True)
    new = stage.snapshot()
    drop(stage, new, keep_references=True)

    dropped = drop_references(
        stage.xen,
        {stage.owner.installation},
        vm=new.vm.vm,
        disks=[disk.facts.disk for disk in new.disks],
        keep=[disk.uuid for disk in new.disks],
    )

    assert {r.uuid for r in dropped} == {d.uuid for d in old.disks}
    left = list_references(stage.xen, {stage.owner.installation})
    assert {r.uuid for r in left} == {d.uuid for d in new.disks}


def test_references_of_disks_nobody_asked_about_stay(stage: Stage) -> None:
    snapshot = tracked_snapshot(stage)
    drop(stage, snapshot, keep_references=True)
    vm, disks = snapshot.vm.vm, [disk.facts.disk for disk in snapshot.disks]

    for of, which in ((vm, [DiskId("0" * 32)]), (VmId("0" * 32), disks)):
        assert (
            drop_references(stage.xen, {stage.owner.installation}, vm=of, disks=which, keep=[])
            == ()
        )


def test_a_disk_whose_changes_are_not_recorded_keeps_no_reference(stage: Stage) -> None:
    before = stage.objects()

    drop(stage, stage.snapshot(), keep_references=True)

    assert stage.objects() == before


def test_a_snapshot_from_before_recording_is_read_whole_with_a_reason(stage: Stage) -> None:
    plain = stage.snapshot()
    new = tracked_snapshot(stage)

    assert "not recorded" in changed_extents(stage.xen, new.disks[0].uuid, plain.disks[0]).reason
    changes = changed_extents(stage.xen, plain.disks[0].uuid, new.disks[0])
    assert changes.extents is None
    assert "no record of changes" in changes.reason


def test_a_base_that_is_gone_is_read_whole_with_a_reason(stage: Stage) -> None:
    base = tracked_snapshot(stage)
    new = stage.snapshot()
    drop(stage, base, keep_references=False)

    changes = changed_extents(stage.xen, base.disks[0].uuid, new.disks[0])
    assert (changes.extents, changes.reason) == (
        None,
        "the snapshot to compare with is gone from the pool",
    )


def test_a_base_of_another_disk_is_not_compared_with(stage: Stage) -> None:
    base = tracked_snapshot(stage)
    new = stage.snapshot()

    changes = changed_extents(stage.xen, base.disks[1].uuid, new.disks[0])
    assert changes.extents is None
    assert "replaced or moved" in changes.reason


@pytest.mark.parametrize(
    "code", ["SR_BACKEND_FAILURE_460", "SR_BACKEND_FAILURE_459", "INTERNAL_ERROR", "VDI_IN_USE"]
)
def test_any_refusal_means_reading_everything(stage: Stage, code: str) -> None:
    base = tracked_snapshot(stage)
    new = stage.snapshot()
    stage.pool.faults.fail("VDI.list_changed_blocks", code, "", "log [opterr=lost]", "")

    changes = changed_extents(stage.xen, base.disks[0].uuid, new.disks[0])

    assert changes.extents is None
    assert changes.reason
    assert skips_from(changes, new.disks[0].facts.size_bytes, CHUNK) is None


def test_what_a_disk_grew_by_counts_as_written(stage: Stage) -> None:
    vm = find_vm(stage.xen, "db-1")
    enable_tracking(stage.xen, vm)
    base = stage.snapshot("db-1")
    stage.xen.call("VDI.resize", vm.disks[0].ref, str(6 * MIB))
    new = stage.snapshot("db-1")

    changes = changed_extents(stage.xen, base.disks[0].uuid, new.disks[0])

    assert changes.extents is not None
    assert changes.extents[-1].end == 6 * MIB
    assert changes.extents[-1].offset <= 4 * MIB


def test_a_disk_that_became_smaller_is_read_whole_with_a_reason(stage: Stage) -> None:
    """Its last data block holds less than the one of the same place did."""
    base = tracked_snapshot(stage)
    frozen = base.disks[0].facts.size_bytes
    smaller = replace(base.disks[0].facts, size_bytes=frozen - 4096)
    new = replace(stage.snapshot().disks[0], facts=smaller)

    changes = changed_extents(stage.xen, base.disks[0].uuid, new)

    assert changes == Changes(None, "the disk is smaller than it was at the last version")


def test_storage_that_cannot_record_changes_is_no_failure(stage: Stage) -> None:
    stage.pool.faults.fail("VDI.enable_cbt", "SR_OPERATION_NOT_SUPPORTED", "sr")

    first, second = enable_tracking(stage.xen, find_vm(stage.xen, "web-1"))

    assert not first.on
    assert "cannot do that" in first.reason
    assert second.on


def test_reading_everything_still_gives_the_disk(stage: Stage) -> None:
    new = tracked_snapshot(stage).disks[0]

    assert read_all(HttpDiskReader(stage.xen, new)) == stage.web


def naive(bitmap: bytes, size: int) -> set[int]:
    grains = -(-size // GRAIN_BYTES)
    return {n for n in range(grains) if bitmap[n // 8] & (0x80 >> n % 8)}


@given(bits=st.binary(max_size=40), short=st.integers(0, GRAIN_BYTES * 7))
def test_a_record_is_decoded_bit_by_bit(bits: bytes, short: int) -> None:
    size = max(0, len(bits) * 8 * GRAIN_BYTES - short)

    extents = extents_of(bits, size)

    grains = {n for e in extents for n in range(e.offset // GRAIN_BYTES, -(-e.end // GRAIN_BYTES))}
    assert grains == naive(bits, size)
    assert all(e.length > 0 and e.end <= size for e in extents)
    assert all(a.end < b.offset for a, b in itertools.pairwise(extents))


def test_a_record_that_is_too_short_is_not_believed() -> None:
    with pytest.raises(ValueError, match="2 are needed"):
        extents_of(b"\x80", 9 * GRAIN_BYTES)


@given(
    grains=st.sets(st.integers(0, 60)),
    grain_bytes_over=st.integers(0, GRAIN_BYTES - 1),
    chunk=st.sampled_from([GRAIN_BYTES, 4 * GRAIN_BYTES, 16 * GRAIN_BYTES]),
)
def test_a_skipped_range_holds_nothing_that_was_written(
    grains: set[int], grain_bytes_over: int, chunk: int
) -> None:
    size = 61 * GRAIN_BYTES - grain_bytes_over
    extents = tuple(
        Extent(n * GRAIN_BYTES, min((n + 1) * GRAIN_BYTES, size) - n * GRAIN_BYTES)
        for n in sorted(grains)
    )

    skips = skips_from(Changes(extents, ""), size, chunk)

    assert skips is not None
    skipped = {n for e in skips.unchanged for n in range(e.offset // chunk, -(-e.end // chunk))}
    touched = {n * GRAIN_BYTES // chunk for n in grains}
    chunks = set(range(-(-size // chunk)))
    assert skipped == chunks - touched
    assert all(e.offset % chunk == 0 for e in skips.unchanged)
    assert all(e.end % chunk == 0 or e.end == size for e in skips.unchanged)

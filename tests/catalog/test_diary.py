"""Runs and vaults: what was begun, how it ended, what may be left over."""

from datetime import timedelta

import pytest

from catalog.connection import CatalogLocation
from catalog.runs import begin_run, finish_run, last_runs, live_runs, record_outcome
from catalog.vaulting import record_vault_contents, record_version_vaulted
from catalog.versions import list_versions
from likeness.errors import BadInput
from likeness.model.ids import VersionId, VmId
from likeness.model.outcome import VmOutcome, VmState
from tests.catalog.history import CHUNKS, History
from tests.catalog.scenes import DAY, MONTH, NOW, run, vm

HOUR = timedelta(hours=1)


def outcome(which: str, state: VmState = VmState.DONE, sentence: str = "") -> VmOutcome:
    return VmOutcome(
        vm=vm(which),
        name=which,
        state=state,
        version="ab" * 16,
        disk_bytes=100,
        read_bytes=90,
        sent_bytes=80,
        new_bytes=85,
        dropped_bytes=7,
        freed_bytes=6,
        snapshot_seconds=1.5,
        sentence=sentence,
    )


def test_a_run_is_told_with_all_its_vms_in_order(catalog: CatalogLocation) -> None:
    begin_run(catalog, run(1), "nightly", NOW)
    told = [outcome("web"), outcome("db", VmState.FAILED, "the pool went away")]
    for each in told:
        record_outcome(catalog, run(1), each, NOW, transfer_seconds=3, commit_seconds=1)
    (live,) = live_runs(catalog)
    assert (live.state, live.finished_at) == ("running", None)
    finish_run(catalog, run(1), "completed with errors", "1 of 2 VMs failed", NOW + HOUR)
    assert live_runs(catalog) == []
    (row,) = last_runs(catalog)
    assert (row.run, row.job, row.begun_at, row.finished_at) == (
        *(run(1), "nightly", NOW, NOW + HOUR),
    )
    assert (row.state, row.sentence) == ("completed with errors", "1 of 2 VMs failed")
    assert row.vms == tuple(told)
    assert row.vms[0].kept_bytes == 74


def test_an_outcome_told_again_replaces_the_one_before(catalog: CatalogLocation) -> None:
    begin_run(catalog, run(1), "nightly", NOW)
    stranger = VmOutcome(name="ghost", state=VmState.FAILED, vm=VmId(""))
    for each in (outcome("web", VmState.FAILED), outcome("web"), stranger, stranger):
        record_outcome(catalog, run(1), each, NOW)
    other = VmOutcome(name="ghost 2", state=VmState.FAILED, vm=VmId(""))
    record_outcome(catalog, run(1), other, NOW)
    (row,) = last_runs(catalog)
    assert row.vms == (outcome("web"), stranger, other)


def test_a_run_begun_again_goes_on(catalog: CatalogLocation) -> None:
    begin_run(catalog, run(1), "nightly", NOW)
    finish_run(catalog, run(1), "failed", "no", NOW)
    begin_run(catalog, run(1), "nightly", NOW + HOUR)
    (row,) = last_runs(catalog)
    assert (row.state, row.begun_at, row.finished_at) == ("running", NOW, None)


def test_a_run_that_never_began_cannot_end(catalog: CatalogLocation) -> None:
    with pytest.raises(BadInput, match="never begun"):
        finish_run(catalog, run(1), "completed", "", NOW)


def test_the_newest_runs_come_first(catalog: CatalogLocation) -> None:
    for number in range(5):
        begin_run(catalog, run(number), f"job {number % 2}", NOW + number * HOUR)
    assert [row.run for row in last_runs(catalog, 2)] == [run(4), run(3)]
    assert [row.run for row in last_runs(catalog, job="job 1")] == [run(3), run(1)]


def _shown(catalog: CatalogLocation) -> dict[VersionId, tuple[str, ...]]:
    return {row.version: row.vaults for row in list_versions(catalog, NOW, MONTH)}


def test_a_vault_is_told_what_it_has(catalog: CatalogLocation) -> None:
    history = History(catalog)
    history.back_up("web", {0: {0: CHUNKS[0]}})
    history.back_up("web", {0: {0: CHUNKS[1]}})
    first, second = history.versions
    for days in range(2):
        record_version_vaulted(catalog, "far", [first], NOW + days * DAY)
    record_version_vaulted(catalog, "near", [first], NOW)
    assert _shown(catalog) == {first: ("far", "near"), second: ()}
    record_vault_contents(catalog, "far", [second], NOW + DAY)
    assert _shown(catalog) == {first: ("near",), second: ("far",)}

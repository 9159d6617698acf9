"""A VM is done when its version is in the store, and its snapshot is gone before that."""

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from catalog.messages import recent_deliveries
from catalog.runs import last_runs
from catalog.values import Verdict
from flows.backup import backup_job
from flows.protect import protect
from likeness.claims import claim
from likeness.store.read.versions import Version
from likeness.store.write.commit import commit_version
from tests.flows.background import InTheBackground
from tests.flows.scene import NOTHING_LEFT, Scene, noise, open_scene, outcomes
from tests.flows.test_validate import artifacts
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
TURN = f"turn-{'0' * 32}"


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> Generator[Scene, None, None]:
    """A site for all that differs in what goes wrong."""
    with open_scene(tmp_path_factory.mktemp("shared") / "site") as made:
        yield made


def break_dedup(site: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("catalog.dedup.drop_duplicates", _raises)


def break_recording(site: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tasks.commit.remember_received", _raises)


def break_copy(site: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tasks.protect_catalog.export_copy", _raises)


def break_report(site: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tasks.reporting.slug", _raises)


def break_journal(site: Scene, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tasks.journal.runs.finish_run", _raises)


def _raises(*_: Any, **__: Any) -> None:
    raise OSError("the disk says no")


BREAKS: tuple[Callable[..., None], ...] = (
    break_dedup,
    break_recording,
    break_copy,
    break_report,
    break_journal,
)


def test_what_fails_after_the_commit_is_a_warning_told_once_and_done_by_the_next_run(
    shared: Scene,
) -> None:
    site = shared
    for number, breaks in enumerate(BREAKS, start=1):
        for vm in ("web", "db"):
            site.pool.write(vm, disk=0, offset=0, data=noise(f"{vm} {number}", 300_000))
        with pytest.MonkeyPatch.context() as patch:
            breaks(site, patch)
            ended = site.back_up("web", "db", concurrency=2)

        assert (ended.name, ended.is_completed()) == ("CompletedWithWarnings", True), breaks
        # of its own trouble alone: what the run before had left undone is done
        assert str(ended.message).count("the disk says no") == 1, ended.message
        assert {name: each.state.value for name, each in outcomes(ended).items()} == {
            "web": "done",
            "db": "done",
        }
        assert len(site.stored()) == 2 * number
        subjects = [each.message.subject for each in recent_deliveries(site.site.catalog.file)]
        assert not any("failed" in subject or "Crashed" in subject for subject in subjects)
        run = run_of(ended)
        assert site.validate(run=run).is_completed()
        assert [row.verdict for row in site.listed() if row.run == run] == [Verdict.GOOD] * 2

    assert site.back_up("web").name == "Completed"


def run_of(ended: State[Any]) -> str:
    run = ended.state_details.flow_run_id
    assert run is not None
    return run.hex


def test_a_held_store_lock_makes_no_job_fail_and_no_snapshot_live_longer(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, before = shared, len(shared.record_names())
    with claim(site.site.catalog.claims, TURN):
        job = InTheBackground(site, "web")
        wait_until(lambda: len(site.record_names()) == before + 1, "the version is in the store")
        wait_until(lambda: site.left_in_the_pool() == NOTHING_LEFT, "its snapshot is gone")
        monkeypatch.setattr("tasks.claims._MAX_WAIT_SECONDS", 0.0)
        ended = job.ended()

    assert ended.name == "CompletedWithWarnings"
    (outcome,) = outcomes(ended).values()
    assert outcome.version
    assert last_runs(site.site.catalog.file)[0].state == "completed"


def test_the_snapshot_is_gone_before_the_commit_begins_and_its_record_is_used_if_it_came_to_one(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = shared
    left: list[dict[str, int]] = []

    def looking(*given: Any, **more: Any) -> Version:
        left.append(site.left_in_the_pool())
        if len(left) == 2:
            raise OSError("the commit fails")
        return commit_version(*given, **more)

    monkeypatch.setattr("tasks.commit.commit", looking)
    site.back_up("web")
    records = site.records_of_changes()
    site.pool.write("web", disk=0, offset=0, data=b"for the run that fails")
    failed = site.back_up("web")
    assert failed.is_failed()
    assert site.records_of_changes() == records >= 2, "only those of the version that is there"
    held = site.disks("web")
    ended = site.back_up("web")

    assert left == [NOTHING_LEFT] * 3
    assert site.restore(site.newest("web").version) == held
    (outcome,) = outcomes(ended).values()
    assert outcome.read_bytes < outcome.disk_bytes // 2, "the last version's record was compared"


def test_a_run_that_is_tried_again_takes_no_second_snapshot_of_a_vm_that_is_done(
    shared: Scene,
) -> None:
    site, before, snapshots = shared, len(shared.stored()), taken(shared)
    job = site.job("web", "nobody")
    first: Any = backup_job(job, site=site.name, return_state=True)
    site.pool.write("web", disk=0, offset=0, data=b"between the two")
    with get_client(sync_client=True) as client:
        run = first.state_details.flow_run_id
        client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"), force=True)
        again = client.read_flow_run(run)

    given = {"job": job, "site": site.name, "validation": "in the background"}
    ended: Any = run_flow(backup_job, flow_run=again, parameters=given, return_type="state")

    assert ended.name == "CompletedWithErrors"
    assert taken(site) == snapshots + 1
    assert len(site.stored()) == before + 1
    assert outcomes(ended)["web"].version == site.newest("web").version


def taken(site: Scene) -> int:
    """How many snapshots were taken."""
    return site.pool.journal.counts().get("Async.VM.snapshot", 0)


def test_versions_made_before_a_job_broke_off_are_announced_for_validation(
    shared: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = shared
    announced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "tasks.failures.announce_commit", lambda name, _, made: announced.append((name, len(made)))
    )

    def stopped(*_: Any, **__: Any) -> None:
        raise RuntimeError("somebody stopped it")

    monkeypatch.setattr("flows.backup.announce_commit", stopped)
    ended = site.back_up("db")

    assert ended.is_failed()
    assert announced == [(site.name, 1)]


def test_a_large_catalog_is_not_copied_by_each_job_and_a_renamed_vm_is_backed_up_and_said(
    site: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.protect_catalog.LARGE_BYTES", 0)
    monkeypatch.setattr("tasks.protect_catalog.REST", 10**9)
    copies = []
    for _ in range(2):
        assert site.back_up("db").name == "Completed"
        copies.append(len(list((site.place / "catalog").glob("*"))))
    assert protect(site=site.name, return_state=True).is_completed()
    copies.append(len(list((site.place / "catalog").glob("*"))))

    assert 0 < copies[0] == copies[1] < copies[2]
    assert len(list((site.place / "heads").glob("*"))) >= 2
    _a_vm_that_was_renamed_is_backed_up_and_the_job_and_the_page_say_so(site)


def _a_vm_that_was_renamed_is_backed_up_and_the_job_and_the_page_say_so(site: Scene) -> None:
    site.pool.db.put("VM", site.pool.vm("db"), name_label="database")

    ended = site.back_up("db")

    assert ended.name == "CompletedWithWarnings"
    assert "VM db was renamed to database" in str(ended.message)
    assert [row.vm_name for row in site.listed()] == ["database", "db", "db"]
    site.back_up("database")
    (page,) = artifacts(f"versions-{site.name}")
    names = [row["VM"] for row in json.loads(str(page.data))]
    assert names == ["database"] * 2 + ["database (was db)"] * 2

"""A process that dies leaves work in the pool: the sweep ends it, if it is ours and over."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.sweep import sweep
from likeness.model.ids import RunId, random_name
from likeness.xen.owner import Owner
from likeness.xen.sweeping_tasks import owner_of_task
from likeness.xen.tasks import own_task
from tasks.claims import run_claimed
from tests.flows.killing import kill_when, start
from tests.flows.pool_faults import CALM, KIB, Stage, open_stage

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.timeout(600)]


def marked(stage: Stage) -> list[str]:
    """Names of the tasks the pool is at work on that tell whose they are."""
    db = stage.pool.db
    pending = [db.record("task", ref) for ref in db.where("task", status="pending")]
    return [str(record["name_label"]) for record in pending if owner_of_task(record)]


def killed(stage: Stage, it_is_time: Callable[[], object]) -> None:
    job = stage.scene.job(CALM).model_dump()
    process = start("backup", job=job, site=stage.scene.name)
    assert kill_when(process, lambda: bool(it_is_time()))


@pytest.mark.parametrize("phase", ["snapshot", "transfer"])
def test_what_a_killed_run_had_asked_for_is_cancelled_and_nothing_of_it_stays(
    tmp_path: Path, phase: str
) -> None:
    with open_stage(tmp_path / "site") as stage:
        if phase == "snapshot":
            stage.faults.hang("VM.snapshot")
            killed(stage, lambda: "Async.VM.snapshot" in marked(stage))
        else:
            stage.faults.fail_export("stall", after_bytes=100 * KIB)
            killed(stage, lambda: stage.pool.counters()["exported_bytes"])
        assert marked(stage), "the pool is still at work for nobody"

        report = sweep(site=stage.scene.name)

        assert [each.problem for each in report.snapshots] == [""] * len(report.snapshots)
        assert report.snapshots[0].what == "task"
        stage.must_be_clean()
        assert stage.references() == set()
        stage.faults.clear()
        assert stage.scene.back_up(CALM).name == "Completed"


def test_tasks_of_living_runs_of_others_and_of_people_go_on(tmp_path: Path) -> None:
    with open_stage(tmp_path / "site") as stage:
        site = stage.scene.site
        alive, elsewhere = RunId(random_name()), Owner(random_name(), RunId(random_name()))
        ours = Owner(site.installation, alive)
        with (
            run_claimed(site, alive),
            site.xen_pool.open(owner=ours) as living,
            site.xen_pool.open(owner=elsewhere) as other,
            site.xen_pool.open() as person,
            own_task(living, "ours"),
            own_task(other, "another installation's"),
            own_task(person, "nobody's"),
        ):
            report = sweep(site=stage.scene.name)

            assert report.snapshots == ()
            assert len(marked(stage)) == 2
            assert len(stage.pool.db.where("task", status="pending")) == 3

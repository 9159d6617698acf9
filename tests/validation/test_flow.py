"""V1, V4 and V5 as the flow does them: a run of its own, a step for each disk, one page."""

from collections.abc import Callable

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter
from prefect.client.schemas.objects import Artifact as ArtifactResponse
from prefect.client.schemas.objects import TaskRun

from catalog.values import Verdict
from flows.validate import validate
from tests.flows.scene import Scene, noise

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def steps_named(beginning: str) -> list[TaskRun]:
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(task_run_filter=TaskRunFilter())
    return sorted(
        (each for each in found if each.name.startswith(beginning)), key=lambda each: each.name
    )


def test_v1_every_disk_of_a_job_is_validated_by_a_run_of_its_own_after_the_job(
    new_site: Callable[..., Scene],
) -> None:
    size = 200_000
    site = new_site(
        {
            "web": [noise("w0", size), noise("w1", size)],
            "db": [noise("d0", size), noise("d1", size)],
        }
    )
    job = site.back_up("web", "db")
    assert job.is_completed()
    assert set(site.verdicts()) == {Verdict.UNCHECKED}
    assert steps_named("validate web") == []
    (run,) = {row.run for row in site.listed()}

    ended = validate(site=site.name, run=run, return_state=True)

    assert ended.is_completed(), ended.message
    assert set(site.verdicts()) == {Verdict.GOOD}
    disks = steps_named("validate web") + steps_named("validate db")
    assert len(disks) == 4
    for each in disks:
        assert each.state_name == "Validated"
        assert each.start_time is not None
        assert each.start_time > job.timestamp
    page = Artifact.get("validation")
    assert isinstance(page, ArtifactResponse)
    assert "| validate |" in str(page.data)
    assert "## What another age would cost" in str(page.data)

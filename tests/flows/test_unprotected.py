"""Which VMs no job backs up by itself, as an operator sees it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.schedules import CronSchedule

from flows.backup import backup_job
from flows.unprotected import unprotected
from tests.flows.scene import MIB, Scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def deploy(site: Scene, name: str, *, on: bool, **job: Any) -> None:
    """Deploy a job as `prefect deploy` does."""
    nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 22 * * *"), active=on)
    with get_client(sync_client=True) as client:
        client.create_deployment(
            client.create_flow(backup_job),
            f"{site.name}-{name}",
            schedules=[nightly],
            parameters={"job": {"name": name, **job}, "site": site.name},
        )


def table(key: str) -> list[dict[str, str]]:
    with get_client(sync_client=True) as client:
        known = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        newest = max(client.read_artifacts(artifact_filter=known), key=lambda a: str(a.created))
    found: list[dict[str, str]] = json.loads(str(newest.data))
    return found


def test_vms_that_no_job_backs_up_are_listed_with_the_reason(
    new_site: Callable[..., Scene],
) -> None:
    site = new_site({name: [MIB] for name in ("by-name", "by-tag", "off", "ignored", "forgotten")})
    db = site.pool.db
    db.put("VM", site.pool.vm("by-tag"), tags=["gold"])
    db.put("VM", site.pool.vm("ignored"), tags=["gold", "likeness-ignore"])
    deploy(site, "names", on=True, vms=["by-name", "gone"])
    deploy(site, "tags", on=True, tags=["gold"])
    deploy(site, "paused", on=False, vms=["off"])
    deploy(site, "broken", on=True, vms=[""])
    site.back_up("forgotten")

    ended: Any = unprotected(site=site.name, return_state=True)
    found = {each.name: each for each in ended.result(raise_on_failure=False).vms}

    assert (ended.name, ended.is_completed()) == ("UnprotectedVms", False)
    assert ended.message == "no job backs up 3 VMs by itself: forgotten, ignored, off"
    assert list(found) == ["forgotten", "ignored", "off"]
    assert found["forgotten"].reason.startswith("no job means it; add it to one")
    assert found["forgotten"].last_taken_at == site.newest("forgotten").taken_at
    assert "its tag 'likeness-ignore' keeps it out" in found["ignored"].reason
    assert "it is in job 'paused', which no schedule starts" in found["off"].reason
    assert [
        (row["VM"], row["last version"] == "none") for row in table(f"unprotected-{site.name}")
    ] == [
        ("forgotten", False),
        ("ignored", True),
        ("off", True),
    ]

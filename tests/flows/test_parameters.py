"""The parameters of every deployment: what people fill in, and what their scripts rely on.

`parameter_schemas.json` is a snapshot of the forms in the Prefect UI. A change breaks saved
deployments and other people's calls, so it has to be made on purpose: change the flow, run

    UPDATE_SCHEMAS=1 make test ARGS=tests/flows/test_parameters.py

look at the difference in the snapshot, and commit it together with a line in CHANGELOG.md.
"""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("parameter_schemas.json")
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())[
    "deployments"
]
ASKED_EACH_TIME: dict[str, dict[str, Any]] = {
    "restore": {"version": "0123abcd"},
    "restore-vm": {"vm": "web"},
    "fail-over": {"vm": "web", "pool": "other-pool"},
    "undelete": {"version": "0123abcd"},
    "pin": {"version": "0123abcd"},
    "work-elsewhere": {"work": "restore disks", "wanted": {}, "host": "0123abcd"},
}
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    flow: Flow[..., Any] = load_flow_from_entrypoint(
        deployment["entrypoint"], use_placeholder_flow=False
    )
    return flow


def schema_of(deployment: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = parameter_schema(flow_of(deployment)).model_dump()
    return schema


def test_no_parameter_changes_by_accident() -> None:
    schemas = {each["name"]: schema_of(each) for each in DEPLOYMENTS}
    now = json.dumps(schemas, indent=2, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SCHEMAS"):
        SNAPSHOT.write_text(now)

    assert json.loads(SNAPSHOT.read_text()) == json.loads(now), __doc__


@each_deployment
def test_a_deployments_own_parameters_fit_its_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)

    asked = ASKED_EACH_TIME.get(deployment["name"], {})
    assert not asked.keys() & deployment["parameters"].keys()
    flow.validate_parameters({**deployment["parameters"], **asked})
    assert flow.name.replace("_", "-") == flow.name


@each_deployment
def test_every_parameter_is_described_in_a_full_sentence(deployment: dict[str, Any]) -> None:
    schema = schema_of(deployment)
    fields = list(schema["properties"].items())
    for definition in schema["definitions"].values():
        fields += definition.get("properties", {}).items()

    bare = [
        name
        for name, field in fields
        if not str(field.get("description", "")).endswith((".", "limit."))
    ]

    assert bare == []


@each_deployment
def test_every_field_of_a_form_has_words_for_a_title(deployment: dict[str, Any]) -> None:
    schema = schema_of(deployment)
    forms = [schema, *schema["definitions"].values()]
    titles = [field["title"] for form in forms for field in form["properties"].values()]

    assert [title for title in titles if not title[0].isupper() or "_" in title] == []


@each_deployment
def test_no_parameter_can_hold_a_secret_or_a_block(deployment: dict[str, Any]) -> None:
    text = json.dumps([schema_of(deployment), deployment["parameters"]])

    for word in ("password", "writeOnly", "block_type_slug", "prefect.blocks", "$ref_block"):
        assert word not in text


def test_a_sample_starts_nothing_by_itself() -> None:
    schedules = [each for known in DEPLOYMENTS for each in known.get("schedules", [])]

    assert schedules
    assert [each for each in schedules if each["active"]] == []


def next_days(name: str) -> list[datetime]:
    """When a deployment would run, once its only schedule is switched on."""
    (known,) = (each for each in DEPLOYMENTS if each["name"] == name)
    (schedule,) = known["schedules"]
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    return list(asyncio.run(cron.get_dates(3, start=datetime(2030, 6, 1, tzinfo=UTC))))


@pytest.mark.parametrize("name", ["forget", "reclaim", "protect", "sweep", "watch", "revalidate"])
def test_what_keeps_a_site_in_order_runs_every_day(name: str) -> None:
    first, second, third = next_days(name)

    assert max(second - first, third - second) <= timedelta(days=1)


def test_every_day_room_is_reclaimed_after_versions_were_forgotten() -> None:
    (forgotten, *_), (reclaimed, *_) = next_days("forget"), next_days("reclaim")

    assert timedelta(0) < reclaimed - forgotten < timedelta(hours=12)


def test_the_preview_of_forgetting_is_the_run_itself_but_for_one_field() -> None:
    preview, run = (
        next(each for each in DEPLOYMENTS if each["name"] == name)
        for name in ("forget-preview", "forget")
    )

    assert (preview["entrypoint"], schema_of(preview)) == (run["entrypoint"], schema_of(run))
    differing = preview["parameters"].items() ^ run["parameters"].items()
    assert {name for name, _ in differing} == {"preview"}

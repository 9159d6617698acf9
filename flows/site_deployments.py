"""Deployments of a site: what prefect.yaml says of each flow, and a job for each of the site's."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import (
    ConcurrencyLimitStrategy,
    ConcurrencyOptions,
    DeploymentSchedule,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger, EventTrigger, RunDeployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from flows.site_changes import Change
from flows.site_file import DeployedFlow, Job, Schedule, SiteFile, backup_job_of
from likeness.errors import BadInput

APPLIED = "applied"
"""The tag of deployments that a site file made; others are left alone."""
SAMPLE_JOB = "nightly"
"""The deployment of prefect.yaml that every job of a site file is made like."""
_OF_A_VAULT = ("vault", "check-vault", "keep-vault")
WHEN_ASKED = frozenset({"drill", "replicate", "fail-over", "refill"})
"""Deployments that are made only when the site file names them: they change more than backups."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deployment as it should be.

    Attributes:
        flow: What it runs.
        name: Of the deployment.
        entrypoint: Where the flow is.
        facts: Description, tags, parameters, work pool, queue and job variables.
        schedules: When it starts by itself: cron, time zone and whether it is on.
        limit: How many of its runs at once; none: any number.
        strategy: What becomes of one too many.
        triggers: Events that start it.
    """

    flow: Flow[..., Any]
    name: str
    entrypoint: str
    facts: Mapping[str, Any]
    schedules: tuple[tuple[str, str, bool], ...]
    limit: int | None
    strategy: str
    triggers: tuple[Mapping[str, Any], ...]


def standard_deployments() -> list[dict[str, Any]]:
    """What prefect.yaml says; a wheel carries it beside this file.

    Raises:
        BadInput: It is not there.
    """
    here = Path(__file__).parent
    for path in (here / "prefect.yaml", here.parent / "prefect.yaml"):
        if path.is_file():
            return list(yaml.safe_load(path.read_text())["deployments"])
    raise BadInput("prefect.yaml is not installed with Likeness; install it again")


def wanted_deployments(said: SiteFile) -> list[Wanted]:
    """All deployments that a site file asks for.

    Raises:
        BadInput: It names a flow that there is not.
    """
    standard = {each["name"]: each for each in standard_deployments()}
    sample = standard.pop(SAMPLE_JOB)
    if other := sorted(set(said.flows) - set(standard)):
        raise BadInput(f"there is no deployment {other[0]!r}; there are {', '.join(standard)}")
    found = []
    if said.jobs:  # its form begins with a job that there is
        standard["plan"]["parameters"]["job"] = _fields(said.jobs[0])
    else:
        standard.pop("plan")
    for name, each in standard.items():
        how = said.flows.get(name, True)
        if how is False or (name in WHEN_ASKED and name not in said.flows):
            continue
        if name in _OF_A_VAULT and said.vault is None and name not in said.flows:
            continue
        found.append(
            _wanted(name, each, how if isinstance(how, DeployedFlow) else DeployedFlow(), said)
        )
    found += [_job(sample, job, said) for job in said.jobs]
    return found


def _fields(job: Job) -> dict[str, Any]:
    return backup_job_of(job).model_dump(mode="json", exclude_unset=True)


def _job(sample: dict[str, Any], job: Job, said: SiteFile) -> Wanted:
    how = job.model_copy(update={"parameters": {"job": _fields(job), **job.parameters}})
    made = _wanted(job.name, {**sample, "schedules": []}, how, said)
    tags = [*made.facts["tags"], *(["by-hand"] if job.by_hand else [])]
    return replace(made, facts={**made.facts, "tags": sorted(tags)})


def _wanted(name: str, each: dict[str, Any], how: DeployedFlow, said: SiteFile) -> Wanted:
    module, _, attribute = each["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), attribute)
    pool = next(iter(said.work_pools))
    limit = each.get("concurrency_limit") or {}
    facts = {
        "description": _description(each.get("description", ""), said.site),
        "tags": sorted([*each.get("tags", []), APPLIED]),
        "parameters": {**each.get("parameters", {}), **how.parameters, "site": said.site},
        "work_pool_name": how.work_pool or pool,
        "work_queue_name": how.queue or "default",
        "job_variables": each.get("work_pool", {}).get("job_variables", {}),
    }
    return Wanted(
        flow=flow,
        name=named(name, said.site),
        entrypoint=each["entrypoint"],
        facts=facts,
        schedules=_schedules(each, how.schedule),
        limit=limit.get("limit"),
        strategy=limit.get("collision_strategy", ""),
        triggers=tuple(_trigger(t, said.site) for t in each.get("triggers", [])),
    )


def named(name: str, site: str) -> str:
    """Of a deployment: *main*'s are the plain words."""
    return name if site == "main" else f"{name}-{site}"


def _description(text: str, site: str) -> str:
    if site == "main":
        return text
    return (
        text.replace("/artifacts/key/dashboard", f"/artifacts/key/dashboard-{site}")
        .replace("/artifacts/key/versions", f"/artifacts/key/versions-{site}")
        .replace("/artifacts/key/start", f"/artifacts/key/start-{site}")
    )


def _schedules(each: dict[str, Any], given: Schedule | None) -> tuple[tuple[str, str, bool], ...]:
    if given is not None:
        return ((given.cron, given.timezone, given.active),)
    return tuple((s["cron"], s.get("timezone", "UTC"), True) for s in each.get("schedules", []))


def _trigger(trigger: dict[str, Any], site: str) -> dict[str, Any]:
    """Of one site: another's commit starts another's validation."""
    parameters = {**trigger.get("parameters", {})}
    made = {**trigger, "parameters": parameters or None}
    if trigger["expect"] == ["likeness.commit.completed"]:
        made["match"] = {"prefect.resource.id": f"likeness.site.{site}"}
    return made


def deployment_changes(client: SyncPrefectClient, wanted: Sequence[Wanted]) -> Iterator[Change]:
    """Deployments that are not there, or otherwise."""
    for each in wanted:
        try:
            found = client.read_deployment_by_name(f"{each.flow.name}/{each.name}")
        except ObjectNotFound:
            said = tuple(f"starts {_when(s)}" for s in each.schedules)
            yield Change("deployment", each.name, "new", said, partial(_deploy, client, each))
            continue
        differences = tuple(_differences(client, found, each))
        if differences:
            yield Change(
                "deployment",
                each.name,
                "changed",
                differences,
                partial(_deploy, client, each),
            )


def left_over(
    client: SyncPrefectClient, there: Sequence[DeploymentResponse], wanted: Sequence[Wanted]
) -> Iterator[Change]:
    """Deployments that an earlier site file made, and this one has no more."""
    names = {each.name for each in wanted}
    for each in there:
        if each.name not in names and APPLIED in each.tags:
            yield Change(
                "deployment",
                each.name,
                "removed",
                (),
                partial(client.delete_deployment, each.id),
            )


def _when(schedule: tuple[str, str, bool]) -> str:
    cron, zone, active = schedule
    return f"{cron} {zone}{'' if active else ', switched off'}"


def _differences(
    client: SyncPrefectClient, found: DeploymentResponse, wanted: Wanted
) -> Iterator[str]:
    for name, value in wanted.facts.items():
        before = getattr(found, name)
        before = sorted(before) if name == "tags" else before
        if (before or None) != (value or None):
            yield f"{name}: {_short(before)} → {_short(value)}"
    if found.entrypoint != wanted.entrypoint:
        yield f"entrypoint: {found.entrypoint} → {wanted.entrypoint}"
    if found.parameter_openapi_schema != parameter_schema(wanted.flow).model_dump_for_openapi():
        yield "its form is another one"
    limit = found.global_concurrency_limit.limit if found.global_concurrency_limit else None
    if limit != wanted.limit:
        yield f"runs at once: {limit} → {wanted.limit}"
    before_schedules = [_saved_schedule(each) for each in found.schedules]
    if sorted(before_schedules) != sorted(wanted.schedules):
        before, after = (", ".join(map(_when, e)) for e in (before_schedules, wanted.schedules))
        yield f"schedule: {before or 'none'} → {after or 'none'}"
    if _triggers_of(client, found.id) != sorted(map(_told_of, wanted.triggers)):
        yield "what starts it by an event is another one"


def _saved_schedule(saved: DeploymentSchedule) -> tuple[str, str, bool]:
    cron = getattr(saved.schedule, "cron", "of another kind")
    return cron, getattr(saved.schedule, "timezone", None) or "UTC", saved.active


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _triggers_of(client: SyncPrefectClient, deployment: UUID) -> list[str]:
    found = []
    for each in client.read_resource_related_automations(f"prefect.deployment.{deployment}"):
        trigger, action = each.trigger, each.actions[0]
        if isinstance(trigger, EventTrigger) and isinstance(action, RunDeployment):
            match = trigger.model_dump(mode="json")["match"]
            found.append(_told(sorted(trigger.expect), match, action.parameters))
    return sorted(found)


def _told_of(trigger: Mapping[str, Any]) -> str:
    return _told(trigger["expect"], trigger.get("match"), trigger.get("parameters"))


def _told(expect: Sequence[str], match: object, parameters: object) -> str:
    return f"{sorted(expect)} {match or {}} {parameters or {}}"


def _deploy(client: SyncPrefectClient, wanted: Wanted) -> None:
    """Make it, or make it anew in place; its history stays."""
    options = None
    if wanted.strategy:
        options = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy(wanted.strategy))
    made = client.create_deployment(
        client.create_flow(wanted.flow),
        wanted.name,
        entrypoint=wanted.entrypoint,
        schedules=[
            DeploymentScheduleCreate(schedule=CronSchedule(cron=cron, timezone=zone), active=on)
            for cron, zone, on in wanted.schedules
        ],
        concurrency_limit=wanted.limit,
        concurrency_options=options,
        parameter_openapi_schema=parameter_schema(wanted.flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
        pull_steps=[],
        **wanted.facts,
    )
    resource = f"prefect.deployment.{made}"
    client.delete_resource_owned_automations(resource)
    for trigger in wanted.triggers:
        found = DeploymentEventTrigger.model_validate(dict(trigger))
        found.set_deployment_id(made)
        client.create_automation(found.as_automation())

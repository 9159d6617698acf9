"""What a lost installation needs to run again: its blocks with their logins, settings and jobs.

Sealed into every copy of the catalog, and made again by a recovery.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect_email import EmailServerCredentials  # type: ignore[import-untyped]
from pydantic import BaseModel, Field, ValidationError

from blocks import Site
from blocks.site import ROLES, SiteSettings
from tasks.logs import step_logger
from tasks.overdue_jobs import FlowDeployment, deployed

_FACTS = (
    "name",
    "version",
    "description",
    "concurrency_limit",
    "concurrency_options",
    "job_variables",
    "parameters",
    "pull_steps",
    "tags",
    "parameter_openapi_schema",
    "path",
    "entrypoint",
    "enforce_parameter_schema",
    "work_pool_name",
    "paused",
)
_KEPT_ROLES = ("xen_pool", "data_store", "vault", "mail")


class KeptInstallation(BaseModel):
    """All of it, as JSON that is sealed before it leaves this process.

    Attributes:
        site: The site's name.
        settings: Of the site.
        blocks: Fields of its blocks, by role; passwords too.
        mail_account: Of the mail server.
        webhook: Fields of the notification block that the settings name.
        deployments: Each with its flow's name, schedules and id.
        automations: What starts deployments by events.
    """

    site: str = "main"
    settings: dict[str, Any] = Field(default={})
    blocks: dict[str, dict[str, Any]] = Field(default={}, repr=False)
    mail_account: dict[str, Any] = Field(default={}, repr=False)
    webhook: dict[str, Any] = Field(default={}, repr=False)
    deployments: list[dict[str, Any]] = []
    automations: list[dict[str, Any]] = []

    def block(self, role: str) -> Any:
        """The block of a role; none if it was not kept, or is of another release."""
        fields = self.blocks.get(role)
        if not fields:
            return None
        try:
            return ROLES[role](**fields)
        except ValidationError as cause:
            step_logger().warning("the kept %s is of no use: %s", role, _wrong(cause))
            return None


def installation_of(site: Site) -> KeptInstallation:
    """What is to be kept of a site; its jobs only where Prefect answers."""
    blocks = {role: site.usable(role) for role in _KEPT_ROLES}
    kept = KeptInstallation(
        site=site.name,
        settings={each: getattr(site, each) for each in SiteSettings.model_fields},
        blocks={role: _fields_of(block) for role, block in blocks.items() if block is not None},
    )
    account = getattr(blocks["mail"], "_account", None)
    if account is not None:
        kept.mail_account = _fields_of(account)
    kept.webhook = _webhook_of(site)
    try:
        with get_client(sync_client=True) as client:
            kept.deployments = list(_deployments(client, site.name))
            ids = [str(each["id"]) for each in kept.deployments]
            kept.automations = list(_automations(client, ids))
    except (HTTPError, RuntimeError) as cause:
        step_logger().warning("jobs and schedules are not in this copy: %s", cause)
    return kept


def _webhook_of(site: Site) -> dict[str, Any]:
    if not site.webhook:
        return {}
    try:
        block: Any = Block.load(site.webhook)
        return _fields_of(block)
    except Exception as cause:  # noqa: BLE001  # any block there is, of whatever package
        step_logger().warning("the webhook is not in this copy: %s", _wrong(cause))
        return {}


def _fields_of(block: Block) -> dict[str, Any]:
    data = block.model_dump(mode="json", context={"include_secrets": True})
    return {name: data[name] for name in type(block).model_fields if name in data}


def _deployments(client: SyncPrefectClient, site: str) -> Iterator[dict[str, Any]]:
    for each in deployed(client):
        if each.deployment.parameters.get("site", "main") == site:
            yield _deployment(each)


def _deployment(each: FlowDeployment) -> dict[str, Any]:
    data = each.deployment.model_dump(mode="json")
    schedules = [{"schedule": s["schedule"], "active": s["active"]} for s in data["schedules"]]
    limit = data.get("global_concurrency_limit") or {}
    facts = {name: data.get(name) for name in _FACTS}
    facts["concurrency_limit"] = facts["concurrency_limit"] or limit.get("limit")
    return facts | {"flow": each.flow, "id": data["id"], "schedules": schedules}


def _automations(client: SyncPrefectClient, ids: list[str]) -> Iterator[dict[str, Any]]:
    """Those that speak of one of these deployments."""
    found = client.read_automations()
    for each in found:
        data = each.model_dump(mode="json", exclude={"id", "created", "updated"})
        if any(known in json.dumps(data) for known in ids):
            yield data


def deploy_again(kept: KeptInstallation, site: str) -> tuple[list[str], list[str]]:
    """Make the deployments again, for a site of this name.

    Returns:
        Names of those that were made, and what could not be, in words.
    """
    made: list[str] = []
    problems: list[str] = []
    known: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        for each in kept.deployments:
            name = f"{each['flow']}/{each['name']}"
            try:
                known[str(each["id"])] = str(_deploy(client, each, site))
                made.append(name)
            except Exception as cause:  # noqa: BLE001  # of whatever release: the others are made
                problems.append(f"deployment {name}: {_wrong(cause)}")
        for automation in kept.automations:
            try:
                _automate(client, automation, known)
            except Exception as cause:  # noqa: BLE001
                problems.append(f"automation {automation.get('name')}: {_wrong(cause)}")
    return made, problems


def _deploy(client: SyncPrefectClient, facts: Mapping[str, Any], site: str) -> UUID:
    given = {name: facts[name] for name in _FACTS if facts.get(name) is not None}
    if pool := given.get("work_pool_name"):
        _require_pool(client, pool)
    schedules = [DeploymentScheduleCreate.model_validate(each) for each in facts["schedules"]]
    parameters = {**given.pop("parameters", {}), "site": site}
    flow = client.create_flow_from_name(str(facts["flow"]))
    return client.create_deployment(
        flow_id=flow, schedules=schedules, parameters=parameters, **given
    )


def _require_pool(client: SyncPrefectClient, name: str) -> None:
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:
            return


def _automate(
    client: SyncPrefectClient, facts: Mapping[str, Any], known: Mapping[str, str]
) -> None:
    """Make an automation again, of the new deployments; one of that name makes room."""
    text = json.dumps(facts)
    for old, new in known.items():
        text = text.replace(old, new)
    automation = AutomationCore.model_validate_json(text)
    for there in client.read_automations_by_name(automation.name):
        if any(new in there.model_dump_json() for new in known.values()):
            client.delete_automation(there.id)
    client.create_automation(automation)


def save_mail_account(kept: KeptInstallation, name: str) -> None:
    """Save the block with the account at the mail server."""
    EmailServerCredentials(**kept.mail_account).save(name, overwrite=True)


def save_webhook(kept: KeptInstallation) -> str:
    """Save the notification block under its name again; why it could not be, if so.

    One that is there already stays: it may be another site's, too.
    """
    kind, _, name = str(kept.settings.get("webhook", "")).partition("/")
    if not name or _is_saved(f"{kind}/{name}"):
        return ""
    try:
        Block.get_block_class_from_key(kind)(**kept.webhook).save(name)
    except Exception as cause:  # noqa: BLE001  # any block there is, of whatever package
        return f"webhook {kind}/{name}: {_wrong(cause)}; save its block again"
    return ""


def _is_saved(block: str) -> bool:
    with suppress(Exception):
        Block.load(block)
        return True
    return False


def _wrong(cause: Exception) -> str:
    """The first line, without values: they may be secrets."""
    if isinstance(cause, ValidationError):
        return "; ".join(f"{error['loc']}: {error['type']}" for error in cause.errors())
    return str(cause).partition("\n")[0][:200]

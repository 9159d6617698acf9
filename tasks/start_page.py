"""The page `start`: where everything is. No menu of the UI leads to our pages, so this does."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client

from blocks import Site
from tasks.artifacts import put_markdown, rewrite_newest
from tasks.overdue_jobs import FlowDeployment, deployed
from tasks.reports import render

_PAGES = ("dashboard", "versions", "unprotected", "messages")
_WHAT = {
    "backup-job": "back up the VMs of a job",
    "validate": "read back and prove",
    "vault": "copy to the second place",
    "sweep": "remove what died runs left",
    "unprotected": "list VMs that no job backs up",
    "watch": "tell of what did not happen",
    "restore-disks": "write a version's disks to images",
    "restore-vm": "make a VM of a version",
}


def show_start(site_name: str, *, site: Site, run: UUID | None = None) -> None:
    """Write it as it is now, or was when a run asked; a lost page fails nothing."""
    with suppress(Exception):
        with get_client(sync_client=True) as client:
            found = [
                each
                for each in deployed(client, asked_by=run)
                if each.deployment.parameters.get("site", "main") == site_name
            ]
        text, key = start_text(site_name, found, site=site), site.key_of("start")
        if not rewrite_newest(key, text):
            put_markdown(key, text, "Where everything is")


def start_text(site_name: str, deployments: Sequence[FlowDeployment], *, site: Site) -> str:
    """What it says."""
    return render(
        "start.md.j2",
        site=site_name,
        keys={page: site.key_of(page) for page in _PAGES},
        deployments=[_row(each) for each in deployments],
        mail=bool(site.place_of("mail")),
        webhook=bool(site.webhook),
    )


def _row(each: FlowDeployment) -> dict[str, Any]:
    deployment = each.deployment
    what = (deployment.description or "").partition(": ")[0].partition(". ")[0].rstrip(".")
    return {
        "name": deployment.name,
        "id": deployment.id,
        "what": what if 0 < len(what) < 120 else _WHAT.get(each.flow, each.flow),
        "schedule": _schedule(deployment),
    }


def _schedule(deployment: Any) -> str:
    if not deployment.schedules:
        return "–"
    on = [each for each in deployment.schedules if each.active and not deployment.paused]
    if not on:
        return "🟠 paused"
    return ", ".join(_when(each.schedule) for each in on)


def _when(schedule: Any) -> str:
    cron = getattr(schedule, "cron", None)
    if cron:
        return f"{cron} {getattr(schedule, 'timezone', '') or 'UTC'}"
    interval = getattr(schedule, "interval", None)
    return f"every {interval}" if interval else "on"

"""Commands that start a deployment, follow it, and say how the site stands."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from blocks import Site
from catalog import versions as catalog_versions
from flows.apply import asking_prefect
from flows.site_deployments import named
from likeness.cli.options import Option, Options, verb
from likeness.cli.terminal import coloured, printable, say, say_json, tell
from likeness.clock import system_clock
from likeness.errors import BadInput, Stopped
from likeness.stopping import StopToken
from tasks.ages import age_limit
from tasks.last_results import JOB_FLOW
from tasks.links import run_link
from tasks.overdue_jobs import deployed
from tasks.page import store_problem
from tasks.reports import age_text
from tasks.standing import COLOURS, MARKS, WELL, WORDS, VmStanding, facts_of, standings, summary

_LOOK_EVERY_SECONDS = 2.0


def backup(options: Options, stop: StopToken) -> int:
    """Start a job and follow it."""
    return _start(options, {}, stop, flow=JOB_FLOW)


def start(options: Options, stop: StopToken) -> int:
    """Start any deployment, with parameters, and follow it."""
    return _start(options, _parameters(options.param), stop)


def _parameters(given: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals:
            raise BadInput(f"{each!r} gives no parameter; write it as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _start(
    options: Options, parameters: Mapping[str, Any], stop: StopToken, *, flow: str = ""
) -> int:
    with asking_prefect() as client:
        deployment = _deployment(client, named(options.name, options.site), options.site, flow)
        run = client.create_flow_run_from_deployment(deployment, parameters=dict(parameters))
        where = run_link_of(run)
        tell(f"started {run.name}{f': {where}' if where else ''}")
        if options.no_wait:
            say(str(run.id))
            return 0
        return _followed(client, run.id, stop)


def run_link_of(run: FlowRun) -> str:
    """Its page in the UI."""
    return run_link(run.id.hex)  # type: ignore[arg-type]  # 32 hex digits


def _deployment(client: SyncPrefectClient, name: str, site: str, flow: str) -> UUID:
    mine = [
        each
        for each in deployed(client)
        if each.deployment.parameters.get("site", "main") == site and flow in ("", each.flow)
    ]
    for each in mine:
        if name == each.deployment.name:
            return each.deployment.id
    names = ", ".join(sorted(each.deployment.name for each in mine)) or "none"
    what = "job" if flow else "deployment"
    raise BadInput(f"there is no {what} {name!r} of site {site}; there is {names}")


def _followed(client: SyncPrefectClient, run: UUID, stop: StopToken) -> int:
    """Say each state as it comes; the first Ctrl-C asks the run to stop, too."""
    said = ""
    try:
        while True:
            state = client.read_flow_run(run).state
            name = state.name if state is not None else None
            if state is not None and name != said:
                said = name or ""
                tell(f"{said}{f': {printable(state.message)}' if state.message else ''}")
            if state is not None and state.is_final():
                return 0 if state.is_completed() else 1
            stop.check()
            time.sleep(_LOOK_EVERY_SECONDS)
    except Stopped:
        client.set_flow_run_state(run, Cancelling(message="stopped from the command line"))
        tell("the run was asked to stop; it cleans up by itself")
        raise


def jobs(options: Options, _stop: StopToken) -> int:
    """All deployments of a site."""
    with asking_prefect() as client:
        found: list[dict[str, Any]] = [
            {
                "name": each.deployment.name,
                "flow": each.flow,
                "schedules": [
                    {"cron": getattr(s.schedule, "cron", ""), "active": s.active}
                    for s in each.deployment.schedules
                ],
                "paused": each.deployment.paused,
            }
            for each in deployed(client)
            if each.deployment.parameters.get("site", "main") == options.site
        ]
    if options.as_json:
        say_json(found)
        return 0
    for one in sorted(found, key=lambda each: str(each["name"])):
        on = [str(s["cron"]) for s in one["schedules"] if s["active"] and not one["paused"]]
        say(f"{one['name']:<24}  {one['flow']:<14}  {', '.join(on) or 'by hand'}")
    return 0


def status(options: Options, _stop: StopToken) -> int:
    """How well each VM is protected; 1 if one needs a person."""
    site = Site.named(options.site)
    with site.session():
        known = not store_problem(site)
        now, catalog = system_clock(), site.catalog.file
        rows = catalog_versions.list_versions(
            catalog, now, age_limit(site.revalidate_after).green_for
        )
        facts = facts_of(site, rows, now, known=known)
    found, _ = standings(facts)
    if options.as_json:
        say_json([_facts(each) for each in found])
    else:
        for each in found:
            age = _age(each, now)
            why = f"  {printable(each.why)}" if each.why else ""
            name = coloured(printable(each.name), COLOURS[each.grade])
            say(f"{each.mark} {name:<24}  {age:<16}{why}")
        say(" · ".join(summary(found)) or "no VM is known yet")
    return 1 if any(MARKS[each.grade] in ("❌", "🟠") for each in found) else 0


def _age(each: VmStanding, now: datetime) -> str:
    if each.good_at is None:
        return "no good version"
    said = age_text(now - each.good_at)
    return "just now" if said == "now" else f"{said} old"


def _facts(each: VmStanding) -> dict[str, object]:
    return {
        "vm": each.name,
        "uuid": each.vm,
        "state": WORDS[each.grade],
        "well": each.grade == WELL,
        "last_good_version": each.good_at.isoformat() if each.good_at else None,
        "vault": each.vaulted,
        "last_drill": each.drilled,
        "jobs": each.jobs,
        "why": each.why,
    }


def _site() -> Option:
    return Option("--site", default="main", help="name of the Site block (main)")


def _json() -> Option:
    return Option("--json", "as_json", is_flag=True, help="a JSON document")


_NO_WAIT = "do not follow it; print the run's id"
BACKUP = verb(
    "backup",
    "Back up the VMs of a job now, and follow it: its deployment is started, and a worker runs it."
    " Exit code 1 if the job fails.",
    backup,
    [
        click.Argument(["name"], metavar="JOB"),
        Option("--no-wait", is_flag=True, help=_NO_WAIT),
        _site(),
    ],
)
START = verb(
    "start",
    "Start any deployment of a site, such as validate, vault, sweep or watch, and follow it.",
    start,
    [
        click.Argument(["name"], metavar="DEPLOYMENT"),
        Option(
            "--param",
            multiple=True,
            metavar="NAME=VALUE",
            help="a parameter of its form, as text or JSON; can be given more than once",
        ),
        Option("--no-wait", is_flag=True, help=_NO_WAIT),
        _site(),
    ],
)
JOBS = verb("jobs", "List the deployments of a site and when they start.", jobs, [_site(), _json()])
STATUS = verb(
    "status",
    "Show how well each VM is protected, the worst first. Exit code 1 if one needs a person.",
    status,
    [_site(), _json()],
)

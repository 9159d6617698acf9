"""Plan: what a job would do if it began now; what cannot work is refused before the night."""

from typing import Any

import click
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks import Site
from flows.apply import asking_prefect
from flows.backup import Job
from flows.forms import SiteName
from flows.runs import our_flow, this_run
from flows.site_deployments import named
from likeness.cli.options import Option, Options, verb
from likeness.cli.terminal import say, say_json
from likeness.errors import BadInput
from likeness.model.job import BackupJob
from likeness.model.sizes import counted, readable_size
from likeness.stopping import StopToken
from tasks.claims import run_claimed
from tasks.job_plan import JobPlan, plan_job, plan_text, show_plan
from tasks.last_results import JOB_FLOW
from tasks.overdue_jobs import deployed


@our_flow("plan {job.name}")
def plan(job: Job, site: SiteName = "main") -> State[Any]:
    """Resolve a job into its VMs, what is in their way, bytes, room and time; change nothing.

    Expectations follow from each VM's earlier backups. Ends *Failed* if the job cannot work as it
    is. The plan is the artifact `plan-<job>`; what a job did is held against its own in its report.

    Args:
        job: What would be backed up, and how.
        site: Name of the Site block.
    """
    here = Site.named(site)
    with here.session(), run_claimed(here, this_run()):
        made = plan_job(job, site=here)
        show_plan(made, site=here)
    if made.problems:
        message = "; ".join(made.problems)
        return Failed(message=message, data=BadInput(message))
    return Completed(message=_sentence(made))


def _sentence(made: JobPlan) -> str:
    return (
        f"{counted(len(made.vms), 'VM')}, about {readable_size(made.read_bytes)} to read and"
        f" {readable_size(made.sent_bytes)} to send, over at {made.over_at:%Y-%m-%d %H:%M} UTC"
    )


def run(options: Options, _stop: StopToken) -> int:
    """Print the plan of a deployed job; 1 if it cannot work."""
    here, job = Site.named(options.site), _deployed(options)
    with here.session():
        made = plan_job.fn(job, site=here)
    if options.as_json:
        say_json(
            {
                "job": made.job,
                "read_bytes": made.read_bytes,
                "sent_bytes": made.sent_bytes,
                "free_bytes": made.free_bytes,
                "over_at": made.over_at.isoformat(),
                "problems": made.problems,
                "vms": [
                    {
                        "name": each.name,
                        "uuid": each.vm,
                        "read_bytes": each.read_bytes,
                        "sent_bytes": each.sent_bytes,
                        "seconds": each.seconds,
                        "obstacle": each.obstacle,
                    }
                    for each in made.vms
                ],
            }
        )
    else:
        say(plan_text(made).rstrip())
    return 1 if made.problems else 0


def _deployed(options: Options) -> BackupJob:
    wanted = named(options.name, options.site)
    with asking_prefect() as client:
        for each in deployed(client):
            mine = each.deployment.parameters.get("site", "main") == options.site
            if each.flow == JOB_FLOW and mine and each.deployment.name == wanted:
                return BackupJob.model_validate(each.deployment.parameters.get("job"))
    raise BadInput(f"there is no job {wanted!r} of site {options.site}; `likeness jobs` lists them")


COMMAND = verb(
    "plan",
    "Show what a job would do if it began now: its VMs, what is in their way, bytes, room, time."
    " Exit code 1 if it cannot work.",
    run,
    [
        click.Argument(["name"], metavar="JOB"),
        Option("--site", default="main", help="name of the Site block (main)"),
        Option("--json", "as_json", is_flag=True, help="a JSON document"),
    ],
)

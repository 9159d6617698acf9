"""Tell people: by mail and webhook, once for each matter, until it has arrived.

What has to be told is in the catalog before anybody is told: verdicts with the proofs they follow
from, then incidents, then messages, each in a transaction of its own. Whatever dies in between, the
next run goes on there. A message keeps its id, so that one that was sent again, because nobody
knows whether it arrived, is one mail to whoever reads it.
"""

import contextvars
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import prefect.blocks.notifications  # noqa: F401  # so that the types of these blocks are known
from prefect import get_run_logger
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.states import Crashed

from blocks import Site
from catalog import audits, incidents, messages, runs
from catalog import versions as catalog_versions
from catalog.messages import Delivery, Message, message_id
from catalog.values import RunRow, Verdict, VersionRow
from likeness.claims import Claimed, claim
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError, TransientError
from likeness.model.ids import RunId, VmId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.model.sizes import counted
from tasks.ages import age_limit
from tasks.announcing import announce_commit
from tasks.artifacts import put_table
from tasks.claims import is_live
from tasks.failure_letters import failure_letter
from tasks.journal import PAUSED, STOPPED
from tasks.letters import (
    aftermath_letter,
    damage_letter,
    healed_letter,
    job_letter,
    trouble_letter,
)
from tasks.links import page_link, run_link
from tasks.reports import no_link
from tasks.retries import ONCE, task

_TIMEOUT_SECONDS = 60.0
_RUNS_LOOKED_AT = 50
_HOOKS_TIME = timedelta(minutes=2)
"""So long the hook of a run that was cancelled or failed has to tell of it, in Prefect's words."""
_RUN = re.compile(r"^run ([0-9a-f]{32})$", re.MULTILINE)
_DIED = "Its process ended without a word: it was killed, or the machine went down."


class NotDelivered(TransientError):
    """A channel did not take a message; it stays in the outbox."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of the messages.

    Attributes:
        arrived: How many were delivered now.
        waiting: Those that could not be, each with the reason.
    """

    arrived: int = 0
    waiting: tuple[Delivery, ...] = field(default=())

    @property
    def sentence(self) -> str:
        """What a person should know; empty if all is well."""
        if not self.waiting:
            return ""
        count = len(self.waiting)
        why = {each.channel: each.problem for each in self.waiting}
        return (
            f"{counted(count, 'message')} could not be delivered yet"
            f" ({'; '.join(f'{channel}: {problem}' for channel, problem in why.items())})"
        )


def tell_people(*, site: Site) -> Delivered:
    """Write what has not been told yet into the outbox, and deliver what waits there.

    Never fails because of a mail server: what cannot be delivered now is tried again by the next
    run, and stands in the artifact `messages` until then.
    """
    told = tell(site)
    if told.waiting:
        get_run_logger().error("%s; the next run tries again", told.sentence)
    return told


def tell(site: Site) -> Delivered:
    """The same, for hooks that run outside a flow."""
    _write_news(site)
    told = _deliver(site)
    _show(site)
    return told


def _write_news(site: Site) -> None:
    """Whatever nobody was told of yet goes into the outbox."""
    catalog, now = site.catalog.file, system_clock()
    incidents.note_incidents(catalog, now)
    for incident, about in incidents.untold_incidents(catalog):
        letter = (
            healed_letter(incident)
            if about == "healed"
            else damage_letter(
                incident, newest_good=_newest_good(site), vault=bool(site.place_of("vault"))
            )
        )
        messages.write_message(catalog, letter, channels(site), now)
    if troubles := audits.untold_troubles(catalog):
        messages.write_message(catalog, trouble_letter(troubles), channels(site), now)
        audits.troubles_told(catalog, troubles, now)
    last = {message_id("job", run.run): run for run in runs.last_runs(catalog, _RUNS_LOOKED_AT)}
    known = messages.written(catalog, last)
    for matter, run in last.items():
        told = matter in known and run.finished_at is not None
        if not told and run.state != PAUSED and not is_live(site, run.run):
            _write_of_run(site, run)


def _write_of_run(site: Site, run: RunRow) -> None:
    """Tell of a job that did not tell of itself: its process died before it could."""
    catalog, now = site.catalog.file, system_clock()
    died = run.finished_at is None
    if died or run.state == STOPPED:
        if not died and run.finished_at and abs(now - run.finished_at) < _HOOKS_TIME:
            return
        how, why = ("Crashed", _DIED) if died else ("Stopped", run.sentence)
        made = made_by(site, run.run)
        letter = failure_letter(run.job, run.run, how, why, made)
        if messages.write_message(catalog, letter, channels(site), now):
            announce_commit(site.name, run.run, [row.version for row in made])
    else:
        routine = succeeded(run.vms)
        letter = job_letter(run.job, run.run, run.vms, "")
        messages.write_message(catalog, letter, channels(site, routine=routine), now)
    if died:
        _show_as_crashed(run.run)
        runs.finish_run(catalog, run.run, "died", _DIED, now)


def _show_as_crashed(run: RunId) -> None:
    """A run whose worker died too would show as running for ever, and keep others waiting."""
    with suppress(Exception), get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(run))
        if flow_run.state is not None and not flow_run.state.is_final():
            client.set_flow_run_state(flow_run.id, Crashed(message=_DIED), force=True)


def succeeded(outcomes: Sequence[VmOutcome]) -> bool:
    """Whether every VM of a job has a new version."""
    return all(outcome.state is VmState.DONE for outcome in outcomes)


def made_by(site: Site, run: RunId) -> list[VersionRow]:
    """The versions there are of a run."""
    limit = age_limit(site.revalidate_after)
    return catalog_versions.list_versions(
        site.catalog.file, system_clock(), limit.green_for, run=run
    )


def tell_job(
    job: BackupJob,
    run: RunId,
    outcomes: Sequence[VmOutcome],
    *,
    head: str,
    site: Site,
    warnings: Sequence[str] = (),
) -> None:
    """Put the report of a job into the outbox, and deliver what waits there.

    A job is never the worse for it: what could not be told is told by the next run.
    """
    letter = job_letter(job.name, run, outcomes, head, warnings)
    wanted = channels(site, routine=succeeded(outcomes) and not warnings)
    try:
        messages.write_message(site.catalog.file, letter, wanted, system_clock())
    except Exception as cause:  # noqa: BLE001  # whatever ails the catalog, people must hear of it
        get_run_logger().error("the outbox cannot be written (%s); sent as it is", cause)
        send_now(site, letter, wanted)
        return
    try:
        told = tell(site)
    except Exception as cause:  # noqa: BLE001  # it waits in the outbox for whoever tells next
        get_run_logger().error("nobody could be told of this job yet: %s", cause)
        return
    if told.waiting:
        get_run_logger().error("%s; the next run tries again", told.sentence)


def send_now(site: Site, letter: Message, wanted: Sequence[str] | None = None) -> None:
    """Send a message past the outbox, for when there is none; once, as far as that can be had."""
    for channel in channels(site) if wanted is None else wanted:
        _try(site, Delivery(letter, channel, system_clock(), 0, None, None, ""))


@task(task_run_name="tell people what followed {job.name}", **ONCE)
def tell_aftermath(job: BackupJob, run: RunId, troubles: Sequence[str], *, site: Site) -> None:
    """Tell of what follows a backup and went wrong.

    The report of the job goes out before that, since it may take hours.
    """
    with suppress(Exception):  # it stands in the run's state, whatever becomes of the message
        letter = aftermath_letter(job.name, run, troubles)
        messages.write_message(site.catalog.file, letter, channels(site), system_clock())
        tell(site)


def channels(site: Site, *, routine: bool = False) -> tuple[str, ...]:
    """Through which channels a message goes; a routine one only where everything is wanted.

    With a Mail block that cannot be used it waits for the block to be put right.
    """
    wanted = {"none": False, "errors": not routine, "always": True}
    found = []
    try:
        level = site.mail.level if site.mail is not None else "none"
    except BadInput:
        level = "errors"
    if wanted[level]:
        found.append("mail")
    if site.webhook and not routine:
        found.append("webhook")
    return tuple(found)


def _newest_good(site: Site) -> dict[VmId, VersionRow]:
    limit = age_limit(site.revalidate_after)
    rows = catalog_versions.list_versions(site.catalog.file, system_clock(), limit.green_for)
    return {row.vm: row for row in reversed(rows) if row.verdict is Verdict.GOOD}


def _deliver(site: Site) -> Delivered:
    """Deliver what waits; only one process does so at a time."""
    if not messages.undelivered(site.catalog.file):
        return Delivered()
    try:
        with claim(site.catalog.claims, f"outbox-{site.installation}"):
            return _deliver_all(site)
    except Claimed:
        return Delivered()  # somebody else is at it


def _deliver_all(site: Site) -> Delivered:
    arrived, broken = 0, dict[str, str]()
    for delivery in messages.undelivered(site.catalog.file):
        tried = delivery.channel not in broken
        problem = _try(site, delivery) if tried else broken[delivery.channel]
        messages.note_delivery(
            site.catalog.file, delivery, system_clock(), problem=problem, tried=tried
        )
        arrived += not problem
        if problem:
            broken[delivery.channel] = problem
    return Delivered(arrived, tuple(messages.undelivered(site.catalog.file)))


def _try(site: Site, delivery: Delivery) -> str:
    """Deliver one message; what went wrong, or nothing."""
    try:
        if delivery.channel == "mail":
            within_timeout(lambda: _mail(site, delivery.message), "the mail server")
        else:
            within_timeout(lambda: _call(site, delivery.message), "the webhook")
    except Exception as cause:  # noqa: BLE001  # whatever it is, the message waits
        said = str(cause) or type(cause).__name__
        return said if isinstance(cause, LikenessError) else f"{type(cause).__name__}: {said}"
    return ""


def _mail(site: Site, message: Message) -> None:
    if site.mail is None:
        raise NotDelivered("this site has no Mail block any more")
    body = message.body + where_to_look(site, message.body)
    site.mail.send(message.subject, body, message=message.message, clock=system_clock)


def _call(site: Site, message: Message) -> None:
    call_webhook(site, message.subject, message.body + where_to_look(site, message.body))


def call_webhook(site: Site, subject: str, body: str) -> None:
    """Give a message to the notification block of a site.

    Raises:
        NotDelivered: There is none.
    """
    if not site.webhook:
        raise NotDelivered("this site has no webhook any more")
    block = Block.load(site.webhook)
    if not isinstance(block, NotificationBlock):
        raise NotDelivered(f"{site.webhook} is no notification block; correct the Site block")
    cast(Any, block).notify(body=no_link(body), subject=no_link(subject))


def where_to_look(site: Site, body: str) -> str:
    """What stands below every message: the dashboard, and the run that it is about."""
    found = _RUN.search(body)
    links = [
        *(("This run", run_link(RunId(found[1]))) for found in ([found] if found else [])),
        ("Dashboard", page_link(site.key_of("dashboard"))),
        ("Where everything is", page_link(site.key_of("start"))),
    ]
    lines = [f"{what}: {link}" for what, link in links if link]
    return "\n".join(("", "", *lines)) if lines else ""


def within_timeout(call: Callable[[], None], who: str, seconds: float | None = None) -> None:
    """Call from another thread, and wait a minute: no library here has a deadline of its own.

    Raises:
        NotDelivered: No answer came.
    """
    problems: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            call()
        except BaseException as problem:  # noqa: BLE001  # raised again by the caller
            problems.append(problem)
        finally:
            done.set()

    context = contextvars.copy_context()  # so that Prefect's settings are known there too
    threading.Thread(target=lambda: context.run(run), name="tell", daemon=True).start()
    timeout = _TIMEOUT_SECONDS if seconds is None else seconds
    if not done.wait(timeout):
        raise NotDelivered(f"{who} did not answer within {timeout:.0f} s")
    if problems:
        raise problems[0]


def _show(site: Site) -> None:
    rows = [
        {
            "state": "✅" if each.delivered_at else "⏳" if not each.attempts else "❌",
            "written": f"{each.written_at:%Y-%m-%d %H:%M}",
            "message": each.message.subject,
            "by": each.channel,
            "arrived": f"{each.delivered_at:%Y-%m-%d %H:%M}" if each.delivered_at else "not yet",
            "attempts": str(each.attempts),
            "problem": each.problem,
        }
        for each in messages.recent_deliveries(site.catalog.file)
    ]
    if rows:
        said = "What people were told, and what waits for a server"
        put_table(site.key_of("messages"), rows, said)

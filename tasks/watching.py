"""Watch over what does not happen: find it, tell of it, and let a watchman know if all is well."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import httpx
from prefect import get_run_logger

from blocks import Site
from catalog import messages
from catalog import versions as catalog_versions
from catalog.messages import Message, message_id
from catalog.values import VersionRow
from likeness.clock import system_clock
from likeness.errors import LikenessError, TransientError
from likeness.model.sizes import counted
from tasks.ages import age_limit
from tasks.notify import channels, tell, within_timeout
from tasks.overdue import Cause, overdue_validation, overdue_vault, overdue_vms
from tasks.overdue_jobs import overdue_jobs
from tasks.protection import planned_jobs
from tasks.reports import letter
from tasks.retries import ONCE, STEP, task
from tasks.sentinel import anomalies

_PING_SECONDS = 10.0
_ALARM_FOR = timedelta(days=2)


@task(task_run_name="look for what is overdue", **STEP)
def find_overdue(site_name: str, *, site: Site) -> tuple[Cause, ...]:
    """Everything of a site that should have happened by now and has not.

    Args:
        site_name: Name of the Site block.
        site: The installation.
    """
    now, timeout, vault = system_clock(), site.alarm_after, site.place_of("vault")
    found = overdue_jobs(site_name, now, timeout, vault=bool(vault))
    if timeout is not None:
        limit = age_limit(site.revalidate_after)
        rows = catalog_versions.list_versions(site.catalog.file, now, limit.green_for)
        jobs = planned_jobs.fn(site_name)
        found = [
            *overdue_vms(site, jobs, rows, now, timeout),
            *overdue_validation(rows, now, timeout),
            *(overdue_vault(vault, rows, now, timeout) if vault else ()),
            *unlike_nights(rows, now),
            *found,
        ]
    for cause in found:
        get_run_logger().error("%s", cause.sentence)
    return tuple(found)


def unlike_nights(rows: Sequence[VersionRow], now: datetime) -> Iterator[Cause]:
    """Nights on which a VM was unlike itself, as when somebody encrypts it; for two days.

    The dashboard shows them for longer: an alarm that nobody can end would hold up the ping.
    """
    for each in (each for each in anomalies(rows, now) if now - each.taken_at < _ALARM_FOR):
        yield Cause(
            f"unlike {each.version}",
            f"VM {each.vm_name!r} was unlike itself on {each.taken_at:%Y-%m-%d}: {each.reason};"
            " look at it, and keep its earlier versions",
        )


@task(task_run_name="tell of what is overdue", **ONCE)
def tell_overdue(causes: Sequence[Cause], site_name: str, *, site: Site) -> None:
    """Tell people of causes, each once a day, all new ones in one message."""
    now = system_clock()
    ids = {message_id("watch", site_name, each.key, f"{now:%Y-%m-%d}"): each for each in causes}
    known = messages.written(site.catalog.file, ids)
    new = {matter: each for matter, each in ids.items() if matter not in known}
    if new:
        told_of = overdue_letter(message_id("watch", *new), list(new.values()), site_name)
        messages.write_message(site.catalog.file, told_of, channels(site), now)
    for matter, each in new.items():  # kept, so that the next run knows; sent to nobody
        note = letter(matter, "watch", each.key, [each.sentence])
        messages.write_message(site.catalog.file, note, (), now)
    told = tell(site)
    if told.waiting:
        get_run_logger().error("%s; the next run tries again", told.sentence)


def overdue_letter(matter: str, causes: Sequence[Cause], site_name: str) -> Message:
    """What did not happen, and what that means."""
    lines = [
        "WHAT DID NOT HAPPEN",
        *(f"- {each.sentence}" for each in causes),
        *("", "WHAT IT MEANS"),
        "The VMs named, or what these runs were to protect, are less safe than this site's settings"
        " ask for.",
        *("", "WHAT HAPPENS NEXT"),
        "The watch looks again in an hour. The same cause is told once a day until it is gone.",
    ]
    subject = f"Likeness: overdue in {site_name}: {counted(len(causes), 'alarm')}"
    return letter(matter, "watch", subject, lines)


@task(task_run_name="ping", **ONCE)
def ping(*, site: Site) -> str:
    """Call the address that misses us when we are silent; what went wrong, or nothing.

    The address may hold a secret, so that it is never repeated.
    """
    try:
        within_timeout(lambda: _call(site.ping_url), "the ping's server", _PING_SECONDS)
    except Exception as cause:  # noqa: BLE001  # a ping that fails must fail nothing else
        why = str(cause) if isinstance(cause, LikenessError) else type(cause).__name__
        problem = f"all is well, but the ping did not arrive: {why}; see ping_url of the Site block"
        get_run_logger().error("%s", problem)
        return problem
    return ""


class PingRefused(TransientError):
    """The ping's server did not take it."""


def _call(url: str) -> None:
    answer = httpx.get(url, timeout=_PING_SECONDS, follow_redirects=True)
    if not answer.is_success:
        raise PingRefused(f"its server answers with {answer.status_code}")

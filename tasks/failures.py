"""Failures: whatever flow ends badly, people are told of it; Prefect calls this for each run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from blocks import Site
from catalog import messages
from catalog import versions as catalog_versions
from catalog.messages import Message, message_id
from catalog.session import kept_open, nothing_follows
from catalog.values import VersionRow
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import RunId, VmId
from tasks.ages import age_limit
from tasks.announcing import announce_commit
from tasks.artifacts import read_together
from tasks.dashboard import show_dashboard
from tasks.failure_letters import failure_letter, flow_letter, flow_matter, store_lines
from tasks.last_results import JOB_FLOW
from tasks.notify import channels, made_by, send_now, tell
from tasks.outcomes import is_told_otherwise
from tasks.reporting import show_versions
from tasks.start_page import show_start


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run that ended badly.

    Attributes:
        flow: Its flow's name.
        site: Name of the Site block.
        job: What the job is called; empty if it is no job's run.
        run: Which.
        how: Its state in Prefect's words.
        sentence: Why.
        at: When.
    """

    flow: str
    site: str
    job: str
    run: RunId
    how: str
    sentence: str
    at: datetime

    @property
    def matter(self) -> str:
        """What the message about it is known by."""
        if self.job:
            return message_id("job", self.run)
        return flow_matter(self.flow, self.site, self.run, self.how, self.sentence, self.at)

    @classmethod
    def of(cls, flow: str, flow_run: Any, state: Any) -> "FailedRun":
        """What Prefect knows of a run."""
        given = flow_run.parameters
        over = state.is_cancelled() or state.is_cancelling()  # it is about to be
        return cls(
            flow=flow,
            site=str(given.get("site", "main")),
            job=_name_of(given.get("job")) if flow == JOB_FLOW else "",
            run=RunId(flow_run.id.hex),
            how="Cancelled" if over else str(state.name),
            sentence=state.message or "",
            at=state.timestamp,
        )


def tell_failure(flow: Any, flow_run: Any, state: Any) -> None:  # Prefect's names
    """A hook for runs that failed, crashed or were cancelled.

    Nothing that goes wrong here matters to the run, which is over. What runs inside a job is told
    by the job, and damage by its incident.
    """
    if flow_run.parent_task_run_id is None and not is_told_otherwise(state):
        with kept_open():
            _told(str(flow.name), flow_run, state)
    show_ended(flow, flow_run, state)


def _told(flow: str, flow_run: Any, state: Any) -> None:
    with suppress(Exception):
        failure = FailedRun.of(flow, flow_run, state)
        site = Site.named(failure.site)
        with site.session():
            tell_of(site, failure)


def show_ended(flow: Any, flow_run: Any, state: Any) -> None:  # Prefect's names
    """A hook for every run that is over, well or not: the pages say how it ended."""
    del flow, state
    if flow_run.parent_task_run_id is None:
        with suppress(Exception):
            site = Site.named_lately(str(flow_run.parameters.get("site", "main")))
            pages = [site.key_of(page) for page in ("versions", "dashboard", "start")]
            with site.session(), read_together(pages):
                show_versions(site=site)
                show_dashboard(site=site)
                show_start(site.name, site=site, run=flow_run.id)
        nothing_follows()


def tell_of(site: Site, failure: FailedRun) -> bool:
    """Write it into the outbox, and deliver; without a catalog it is sent as it is.

    What a job had made until then is validated like everything else.

    Returns:
        Whether nobody was told of it before.
    """
    with suppress(Exception):
        if messages.written(site.catalog.file, [failure.matter]):
            tell(site)
            return False
    made: list[VersionRow] = []
    with suppress(Exception):
        made = made_by(site, failure.run) if failure.job else []
    announce_commit(failure.site, failure.run, [row.version for row in made])
    letter = _letter(site, failure, made)
    try:
        new = messages.write_message(site.catalog.file, letter, channels(site), system_clock())
    except Exception:  # noqa: BLE001  # whatever ails the catalog, people must hear of it
        send_now(site, letter)
        return True
    with suppress(Exception):  # it waits in the outbox for whoever tells next
        tell(site)
    return new


def _letter(site: Site, failure: FailedRun, made: Sequence[VersionRow]) -> Message:
    store = _of_the_store(site)
    if not failure.job:
        return flow_letter(
            failure.matter,
            failure.flow,
            failure.site,
            failure.run,
            failure.how,
            failure.sentence,
            store,
        )
    return failure_letter(failure.job, failure.run, failure.how, failure.sentence, made, store)


def _of_the_store(site: Site) -> list[str]:
    """What people should know about a data store that cannot be opened; nothing if it can."""
    try:
        with site.data_store.look():
            return []
    except LikenessError as cause:
        place, vault = site.place_of("data_store"), site.place_of("vault")
        return list(store_lines(place, str(cause), vault, _in_the_vault(site)))


def _in_the_vault(site: Site) -> list[VersionRow]:
    newest: dict[VmId, VersionRow] = {}
    with suppress(Exception):
        limit = age_limit(site.revalidate_after)
        rows = catalog_versions.list_versions(site.catalog.file, system_clock(), limit.green_for)
        for row in rows:
            if row.vaults:
                newest.setdefault(row.vm, row)
    return list(newest.values())


def _name_of(job: Any) -> str:
    """What a job is called, also one that cannot be run because of its other fields."""
    if job is None:
        return "without a name"
    return str(job.get("name", "without a name") if isinstance(job, Mapping) else job.name)

"""A job's plan: its VMs, what is in their way, how much it will be, and when it will be over."""

import heapq
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from blocks import Site
from catalog import nights
from catalog.nights import VmPace
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import RunId, VmId, random_name
from likeness.model.job import BackupJob
from likeness.model.outcome import SizedVm
from likeness.model.sizes import readable_size
from likeness.xen.inventory import XenVm
from likeness.xen.preflight import preflight
from likeness.xen.session import XenSession
from likeness.xen.snapshots import Consistency
from tasks.artifacts import put_markdown, slug
from tasks.guests import guests_of
from tasks.mend_catalog import ready_catalog
from tasks.reports import render
from tasks.retries import STEP, task
from tasks.selection import vms_of

_SPEED = 50e6  # bytes a second, where nothing is known of the pool yet
_KEPT = 0.6  # of what is read first, after compression
_FOLDER = "plans"
_MAX_KEPT = 50


@dataclass(frozen=True, slots=True)
class VmPlan:
    """One VM of a plan.

    Attributes:
        read_bytes: Expected, as sent_bytes and seconds are.
        known: Whether that follows from its own earlier backups.
        obstacle: What is in its way, in words; empty if nothing is.
        passing: Whether that goes away by itself.
    """

    vm: VmId
    name: str
    disk_bytes: int
    read_bytes: int
    sent_bytes: int
    seconds: float
    known: bool
    obstacle: str = ""
    passing: bool = True


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a job would do if it began at this moment.

    Attributes:
        refused: What it names and cannot be, each with a sentence.
        free_bytes: At the data store; none if it does not say.
        seconds: Until all is done, with as many VMs at once as the job says.
        problems: Why it cannot work, in sentences; empty if it can.
    """

    job: str
    made_at: datetime
    concurrency: int
    vms: tuple[VmPlan, ...]
    refused: tuple[tuple[str, str], ...]
    free_bytes: int | None
    seconds: float
    problems: tuple[str, ...] = ()

    @property
    def read_bytes(self) -> int:
        """Of all VMs together."""
        return sum(each.read_bytes for each in self.vms)

    @property
    def sent_bytes(self) -> int:
        """Of all VMs together."""
        return sum(each.sent_bytes for each in self.vms)

    @property
    def over_at(self) -> datetime:
        """When it would be over."""
        return self.made_at + timedelta(seconds=self.seconds)


@task(task_run_name="plan {job.name}", **STEP)
def plan_job(job: BackupJob, *, site: Site) -> JobPlan:
    """Resolve a job into VMs, sizes, room and time; nothing is changed.

    Raises:
        HostUnreachable: The pool does not answer; tried again.
        LoginRefused: The pool does not accept the account.
    """
    if job.from_inside:
        guests, unknown = guests_of(job)
        refused = tuple((each.name, each.sentence) for each in unknown)
        return planned(job, guests, refused, free=_free(site), site=site)
    ready_catalog(site)
    with site.xen_pool.open() as xen:
        vms, unknown = vms_of(xen, job)
        obstacles = {vm.vm: _obstacle(xen, vm, job) for vm in vms}
    refused = tuple((each.name, each.sentence) for each in unknown)
    return planned(job, vms, refused, obstacles, free=_free(site), site=site)


def planned(
    job: BackupJob,
    vms: Sequence[SizedVm],
    refused: Sequence[tuple[str, str]] = (),
    obstacles: Mapping[VmId, tuple[str, bool]] | None = None,
    *,
    free: int | None,
    site: Site,
) -> JobPlan:
    """The plan for VMs that are resolved already."""
    paces = nights.vm_paces(site.catalog.file)
    each = tuple(_vm_plan(vm, paces.get(vm.vm), (obstacles or {}).get(vm.vm)) for vm in vms)
    seconds = _window([vm.seconds for vm in each if not vm.obstacle], job.concurrency)
    made = JobPlan(
        job=job.name,
        made_at=system_clock(),
        concurrency=job.concurrency,
        vms=each,
        refused=tuple(refused),
        free_bytes=free,
        seconds=seconds,
    )
    return _judged(made, site)


def _judged(plan: JobPlan, site: Site) -> JobPlan:
    problems = [f"{name}: {why}" for name, why in plan.refused]
    problems += [
        f"VM {vm.name}: {vm.obstacle}" for vm in plan.vms if vm.obstacle and not vm.passing
    ]
    if not plan.vms:
        problems.append("the job means no VM at this moment; correct it")
    if plan.free_bytes is not None and plan.sent_bytes > plan.free_bytes:
        problems.append(
            f"{readable_size(plan.sent_bytes)} are expected, and {readable_size(plan.free_bytes)}"
            f" are free at {site.place_of('data_store')}; make room"
        )
    return replace(plan, problems=tuple(problems))


def _vm_plan(vm: SizedVm, pace: VmPace | None, obstacle: tuple[str, bool] | None) -> VmPlan:
    why, passing = obstacle or ("", True)
    size = vm.size_bytes
    if pace is None:
        read, sent, seconds = size, int(size * _KEPT), size / _SPEED
    else:
        read, sent, seconds = pace.read_bytes, pace.sent_bytes, pace.seconds
    return VmPlan(vm.vm, vm.name, size, read, sent, seconds, pace is not None, why, passing)


def _obstacle(xen: XenSession, vm: XenVm, job: BackupJob) -> tuple[str, bool]:
    try:
        found = preflight(xen, vm, mode=Consistency(job.consistency))
    except LikenessError as problem:
        return str(problem), False
    return "; ".join(each.reason for each in found), all(each.passing for each in found)


def _free(site: Site) -> int | None:
    with site.data_store.open() as store:  # the session's own opening, if there is one
        space = store.transport.space()
    return space.free_bytes if space.total_bytes < 1 << 60 else None


def _window(seconds: Sequence[float], at_once: int) -> float:
    """How long so many VMs take, in list order, each beginning as one ends."""
    ends: list[float] = []
    for each in seconds:
        begun = heapq.heappop(ends) if len(ends) >= at_once else 0.0
        heapq.heappush(ends, begun + each)
    return max(ends, default=0.0)


def show_plan(plan: JobPlan, *, site: Site) -> None:
    """The artifact `plan-<job>`: what it would do, and what it cannot."""
    key = site.key_of(f"plan-{slug(plan.job)}")
    put_markdown(key, plan_text(plan), "What a job would do if it began now")


def plan_text(plan: JobPlan) -> str:
    """A plan for people."""
    return render("plan.md.j2", plan=plan)


def keep_plan(run: RunId, plan: JobPlan, *, site: Site) -> None:
    """Keep a run's plan beside the catalog, so that it can be held against what came of it."""
    folder = site.catalog.file.path.with_name(_FOLDER)
    folder.mkdir(mode=0o700, exist_ok=True)
    draft = folder / f"draft-{random_name()}"
    draft.write_bytes(msgspec.json.encode(plan))
    draft.replace(folder / f"{run}.json")
    with suppress(OSError):
        for old in sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime)[:-_MAX_KEPT]:
            old.unlink()


def kept_plan(run: RunId, *, site: Site) -> JobPlan | None:
    """The plan of a run; none if none is kept."""
    path = site.catalog.file.path.with_name(_FOLDER) / f"{run}.json"
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=JobPlan)
    return None


def note_plan(job: BackupJob, run: RunId, vms: Sequence[SizedVm], *, site: Site) -> JobPlan:
    """Keep the plan that a job is about to carry out: of the VMs it has resolved, no others."""
    plan = planned(job, vms, free=_free(site), site=site)
    keep_plan(run, plan, site=site)
    return plan

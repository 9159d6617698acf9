"""What the pool has and which job means it, kept beside the catalog between two looks."""

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import msgspec

from blocks import Site
from likeness.clock import system_clock
from likeness.model.ids import VmId, random_name
from likeness.model.job import BackupJob
from likeness.xen.inventory import XenVm, list_vms
from tasks.selection import meant_by

_FILE = "pool.json"
NEVER_MEANT = str(BackupJob.model_fields["excluded_tag"].default)


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A deployment of a backup job.

    Attributes:
        job: What it backs up.
        starts_by_itself: Whether one of its schedules is switched on.
    """

    job: BackupJob
    starts_by_itself: bool


@dataclass(frozen=True, slots=True)
class PoolVm:
    """A VM of the pool.

    Attributes:
        vm: Which.
        name: What its owner calls it.
        power_state: As the pool says.
        size_bytes: Of its disks together.
        jobs: Names of those that mean it.
        starts_by_itself: Whether a schedule starts one of them.
        kept_out: The tag that keeps it out of every job; empty if none does.
        reason: Why no job backs it up by itself, in words; empty if one does.
    """

    vm: VmId
    name: str
    power_state: str
    size_bytes: int
    jobs: tuple[str, ...]
    starts_by_itself: bool = True
    kept_out: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PoolView:
    """What the pool had at a moment, by name."""

    at: datetime
    vms: tuple[PoolVm, ...]


def look_at_pool(jobs: Sequence[PlannedJob], *, site: Site) -> PoolView:
    """Ask the pool, and keep what it says for the pages.

    Raises:
        LikenessError: The pool did not say.
    """
    with site.xen_pool.open() as xen:
        everything = list_vms(xen)
        meant = [(planned, meant_by(xen, planned.job)) for planned in jobs]
    tags = {NEVER_MEANT, *(planned.job.excluded_tag for planned in jobs)} - {""}
    seen = []
    for vm in everything:
        mine = [planned for planned, vms in meant if vm.vm in vms]
        by_itself = any(planned.starts_by_itself for planned in mine)
        kept_out = next(iter(sorted(tags.intersection(vm.tags))), "") if not mine else ""
        names = tuple(planned.job.name for planned in mine)
        seen.append(
            PoolVm(
                vm=vm.vm,
                name=vm.name,
                power_state=vm.power_state,
                size_bytes=vm.size_bytes,
                jobs=names,
                starts_by_itself=by_itself,
                kept_out=kept_out,
                reason="" if by_itself else _reason(vm, names, kept_out),
            )
        )
    seen += _elsewhere(meant, {vm.vm for vm in everything})
    view = PoolView(system_clock(), tuple(seen))
    keep_pool_view(view, site)
    return view


def _elsewhere(
    meant: Sequence[tuple[PlannedJob, Mapping[VmId, str]]], here: Container[VmId]
) -> Iterator[PoolVm]:
    """VMs that are read from inside and that this pool does not have."""
    names = {vm: name for _, vms in meant for vm, name in vms.items() if vm not in here}
    for vm, name in names.items():
        mine = [planned for planned, vms in meant if vm in vms]
        jobs = tuple(planned.job.name for planned in mine)
        by_itself = any(planned.starts_by_itself for planned in mine)
        yield PoolVm(vm, name, "", 0, jobs, by_itself, "", "" if by_itself else _scheduled(jobs))


def _scheduled(jobs: Sequence[str]) -> str:
    names = ", ".join(map(repr, jobs))
    return f"it is in job {names}, which no schedule starts; switch a schedule on"


def _reason(vm: XenVm, jobs: Sequence[str], kept_out: str) -> str:
    if jobs:
        return _scheduled(jobs)
    if kept_out:
        return f"its tag {kept_out!r} keeps it out of every job; take the tag off if that is wrong"
    return "no job means it; add it to one by its name, a tag or its host"


def last_pool_view(site: Site) -> PoolView | None:
    """What the pool had when it was last asked; none if nobody knows."""
    with suppress(OSError, msgspec.MsgspecError):
        path = site.catalog.file.path.with_name(_FILE)
        return msgspec.json.decode(path.read_bytes(), type=PoolView)
    return None


def keep_pool_view(view: PoolView, site: Site) -> None:
    """Keep it for the pages; a picture that cannot be kept fails nothing."""
    with suppress(OSError):
        path = site.catalog.file.path.with_name(_FILE)
        draft = path.with_name(f"{_FILE}-{random_name()}")
        draft.write_bytes(msgspec.json.encode(view))
        draft.replace(path)

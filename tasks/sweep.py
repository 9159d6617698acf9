"""Sweep: what carries our mark and belongs to no run that is alive."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from prefect import get_run_logger

from blocks import Site, XenPool
from catalog.staging import sweep_left
from catalog.versions import list_versions
from likeness.claims import forget_claims
from likeness.clock import system_clock
from likeness.errors import BadInput
from likeness.model.ids import DiskId, RunId, VmId, is_name
from likeness.store.prune.sweeping import Swept as SweptObjects
from likeness.store.prune.sweeping import sweep_inboxes
from likeness.xen.owner import Owner
from likeness.xen.sweeping import SweptObject as SweptSnapshot
from likeness.xen.sweeping import sweep_snapshots
from tasks.claims import is_live
from tasks.retries import STEP, task

_CLAIMS_KEPT = timedelta(days=2)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep removed.

    Attributes:
        snapshots: Snapshots, tasks and the like in the pool; each with the problem if it is still
            there.
        store: In the store's inboxes.
        scratch: Folders and files on this machine.
    """

    snapshots: tuple[SweptSnapshot, ...]
    store: SweptObjects
    scratch: int


@task(task_run_name="sweep the pool", **STEP)
def sweep_pool(run: RunId, *, site: Site) -> tuple[SweptSnapshot, ...]:
    """Remove snapshots, tasks and the like of runs that are over."""
    return _swept(site.xen_pool, run, site)


@task(task_run_name="sweep the pool of {name}", **STEP)
def sweep_other_pool(name: str, run: RunId, *, site: Site) -> tuple[SweptSnapshot, ...]:
    """The same in a pool that something was restored into, by the name of its Xen Pool block.

    Raises:
        BadInput: That block is gone or of no use; the pool is not looked at any more.
    """
    try:
        pool = site.pool_called(name)
    except BadInput:
        site.catalog.forget_other_pool(name)
        raise
    return _swept(pool, run, site)


def _swept(pool: XenPool, run: RunId, site: Site) -> tuple[SweptSnapshot, ...]:
    newest = cache(lambda: frozenset(_last_runs(site)))  # asked after the pool, never before
    with pool.open(owner=Owner(site.installation, run)) as xen:
        found = sweep_snapshots(
            xen,
            site.installations,
            lambda run: is_live(site, run),
            is_compared_with=lambda kept: (kept.vm, kept.disk, kept.run) in newest(),
        )
    for each in found:
        get_run_logger().info("%s %s: %s", each.what, each.name, each.problem or "removed")
    return found


def _last_runs(site: Site) -> Iterator[tuple[VmId, DiskId, RunId]]:
    """Each disk of every VM's newest version, with the VM and the run that made it."""
    seen: set[VmId] = set()
    for row in list_versions(site.catalog.file, system_clock(), None):
        if row.vm not in seen:
            seen.add(row.vm)
            yield from ((row.vm, disk.disk, row.run) for disk in row.disks)


@task(task_run_name="sweep the inboxes", **STEP)
def sweep_store(*, site: Site) -> SweptObjects:
    """Remove packs that no commit will ever admit."""
    with site.data_store.open() as store:
        return sweep_inboxes(store, lambda run: is_live(site, run))


@task(task_run_name="sweep the scratch folder", **STEP)
def sweep_scratch(*, site: Site) -> int:
    """Remove block maps and rows of runs that are over, and the claims nobody will ask for."""
    removed = 0
    for folder in site.catalog.scratch.iterdir() if site.catalog.scratch.is_dir() else ():
        if is_name(folder.name) and not is_live(site, RunId(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    for kind in ("run-", "reads-"):
        forget_claims(site.catalog.claims, kind, made_before=system_clock() - _CLAIMS_KEPT)
    return removed + sweep_left(site.catalog.file)

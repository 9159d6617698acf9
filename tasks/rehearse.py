"""A rehearsal of the day the installation is lost: its memory made anew, and compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import get_run_logger

from blocks import CatalogFile, Site
from catalog.connection import make_room
from catalog.session import catalog_session
from catalog.staging import private_folder
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import stopwatch, system_clock
from likeness.model.ids import VmId
from likeness.model.sizes import counted
from likeness.store.format.data_store import DataStore
from likeness.store.write.heads import read_head_state
from likeness.store.write.kept_installation import newest_installation
from tasks.catch_up import bring_together
from tasks.mend_catalog import WHAT_THE_STORE_SAYS, newest_copy
from tasks.needs_lists import short_lists
from tasks.retries import STEP, task

_STALE = timedelta(days=30)
_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal showed.

    Attributes:
        versions: How many the live catalog knows.
        head: The newest head.
        copy: Which copy of the catalog a recovery would take.
        copy_seconds: How long its versions took to come back.
        store_seconds: How long they took without any copy.
        problems: In what the two differ from the live catalog, in words.
        short_lists: VMs whose needs list omits something, or is damaged, and that in words.
    """

    versions: int
    head: str
    copy: str
    copy_seconds: float
    store_seconds: float
    problems: tuple[str, ...]
    short_lists: tuple[tuple[VmId, str], ...] = ()


@task(task_run_name="rehearse a recovery", **STEP)
def rehearse_recovery(*, site: Site) -> Rehearsed:
    """Make the catalog of its newest copy, and once more of the store alone, in scratch files.

    With the second, what needs lists say is compared, too. Changes neither the store nor the
    catalog.
    """
    before = _facts(site)
    with site.data_store.open() as store:
        copy, copy_seconds, of_copy, problems = _made(site, store, with_copy=True)
        short: dict[VmId, str] = {}
        _, store_seconds, of_store, more = _made(site, store, with_copy=False, short=short)
        head = read_head_state(store).short
        if not newest_installation(store):
            problems.append("no copy of the catalog says which blocks and jobs there are")
    after = _facts(site)
    if copy == WHAT_THE_STORE_SAYS:
        problems.append("no copy of the catalog is of use")
    for source, found in (("of the copy", of_copy), ("of the store alone", of_store)):
        problems += _differences(source, found, before, after)
    for each in dict.fromkeys((*problems, *more, *short.values())):
        get_run_logger().error("%s", each)
    return Rehearsed(
        len(after),
        head,
        copy,
        copy_seconds,
        store_seconds,
        tuple(dict.fromkeys(problems + more)),
        tuple(short.items()),
    )


_Facts = dict[str, tuple[object, ...]]


def _facts(site: Site) -> _Facts:
    """What must be the same of each version, whoever made the catalog."""
    rows = list_versions(site.catalog.file, system_clock(), _STALE)
    return {row.version: _told(row) for row in rows}


def _told(row: VersionRow) -> tuple[object, ...]:
    return (row.vm, row.vm_name, row.sequence, row.record, row.digest, row.taken_at, row.disks)


def _made(
    site: Site, store: DataStore, *, with_copy: bool, short: dict[VmId, str] | None = None
) -> tuple[str, float, _Facts, list[str]]:
    """A catalog made anew; with it `short` is told of needs lists that omit something."""
    began, memory = stopwatch(), WHAT_THE_STORE_SAYS
    with TemporaryDirectory(prefix="likeness-rehearsal-") as scratch:
        catalog = CatalogFile(folder=str(Path(scratch).absolute()))
        make_room(catalog.file)
        if with_copy:
            with private_folder(catalog.file) as folder:
                memory = newest_copy(store, folder, catalog.file) or memory
        catalog.ready(system_clock)
        here = Site(xen_pool="not needed", data_store=site.data_store, catalog=catalog)
        with catalog_session(catalog.file):  # opened once for all versions
            _, left_out = bring_together(here, store)
            if short is not None:
                short.update(short_lists(store, site.catalog.file, catalog.file))
        found = _facts(here)
    return memory, stopwatch() - began, found, list(left_out)


def _differences(source: str, found: _Facts, before: _Facts, after: _Facts) -> Iterable[str]:
    """Versions that came or went meanwhile are no difference."""
    lacking = [each for each in before if each in after and each not in found]
    strange = [each for each in found if each not in before and each not in after]
    other = [each for each, facts in after.items() if found.get(each, facts) != facts]
    for ids, what in ((lacking, "lacks"), (strange, "has besides"), (other, "tells otherwise of")):
        if ids:
            shown = ", ".join(each[:8] for each in sorted(ids)[:_MAX_SHOWN])
            yield f"a catalog made {source} {what} {counted(len(ids), 'version')}: {shown}"

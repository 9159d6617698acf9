"""The second, global deduplication: what another VM had already is dropped."""

from dataclasses import dataclass

from prefect import get_run_logger, task

from blocks import Site
from catalog import dedup
from likeness.clock import system_clock
from likeness.model.ids import RunId
from likeness.store.sweeping import give_back_packs
from tasks.retries import STEP


@dataclass(frozen=True, slots=True)
class Dropped:
    """What the global deduplication found.

    Attributes:
        known_bytes: Sealed bytes of chunks that another pack holds too.
        freed_bytes: Sealed bytes given back now.
    """

    known_bytes: int
    freed_bytes: int


@task(task_run_name="global deduplication", **STEP)
def drop_duplicates(run: RunId | None, *, site: Site) -> Dropped:
    """Rely on one copy of each chunk, and give back packs that hold nothing else.

    One set operation in the catalog decides, and only a copy that was proved may serve: data of
    another VM that nobody has read back yet is never relied on. What waits for that is dropped
    after validation. Safe to repeat: packs that a call before this one could not delete come again.

    Args:
        run: Whose packs to look at; all if none.
        site: The installation.
    """
    now = system_clock()
    found = dedup.drop_duplicates(site.catalog.file, now, run=run)
    freed = 0
    if found.redundant:
        with site.data_store.open() as store:
            reason = "every chunk of them is proved to be in another pack"
            swept = give_back_packs(store, found.redundant, reason=reason, clock=system_clock)
        dedup.packs_given_back(site.catalog.file, found.redundant, system_clock())
        freed = swept.freed_bytes
    get_run_logger().info("%d bytes known elsewhere, %d given back", found.known_bytes, freed)
    return Dropped(found.known_bytes, freed)

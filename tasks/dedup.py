"""The second, global deduplication: what another VM had already is dropped."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from prefect import get_run_logger

from blocks import Site
from catalog import dedup
from catalog.values import Duplicates
from likeness.clock import system_clock
from likeness.model.ids import PackId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.prune.sweeping import delete_redundant_packs
from tasks.ages import age_limit
from tasks.claims import store_claimed
from tasks.proving import Prover
from tasks.retries import STEP, task


@dataclass(frozen=True, slots=True)
class DedupOutcome:
    """What the global deduplication found.

    Attributes:
        known_bytes: Sealed bytes of chunks that another pack holds too.
        freed_bytes: Sealed bytes given back now.
    """

    known_bytes: int
    freed_bytes: int


@task(task_run_name="global deduplication", **STEP)
def drop_duplicates(packs: Collection[PackId] | None, *, site: Site) -> DedupOutcome:
    """Rely on one copy of each chunk, and give back packs that hold nothing else.

    One set operation in the catalog decides, and only a copy that was proved within the age limit
    may serve: data of another VM that nobody has read back yet, or not for long, is never relied
    on. What waits for that is dropped after validation, which reads such a copy once more. Safe to
    repeat: what a call that died left behind is given back by the next that looks at all packs, as
    every validation does.

    Args:
        packs: Which to look at, and to count; all if none.
        site: The installation.
    """
    if packs is not None and not packs:
        return DedupOutcome(0, 0)  # an unchanged VM brought none
    age = age_limit(site.revalidate_after).green_for or dedup.PROOF_COUNTS_FOR
    found = _renewed(site, age) if packs is None else None
    with store_claimed(site):
        if found is None:
            found = dedup.drop_duplicates(
                site.catalog.file, system_clock(), packs=packs, max_age=age
            )
        looked_at = set(found.redundant if packs is None else packs)
        freed = _delete([pack for pack in found.redundant if pack in looked_at], site, age)
    known, given = readable_size(found.known_bytes), readable_size(freed)
    get_run_logger().info("%s known elsewhere, %s given back", known, given)
    return DedupOutcome(found.known_bytes, freed)


def _renewed(site: Site, age: timedelta) -> Duplicates | None:
    """Read back once more what would be kept, and was proved too long ago to rely on.

    Returns:
        What several packs hold, if nothing had to be read; it is looked for again otherwise.
    """
    found = dedup.drop_duplicates(site.catalog.file, system_clock(), max_age=age)
    if not (old := found.to_renew):
        return found
    with site.data_store.open() as store:
        prover = Prover(
            site.catalog.file,
            store,
            age_limit(site.revalidate_after),
            system_clock,
            StopToken(),
        )
        prover.prove(old)
    return None


def _delete(packs: Collection[PackId], site: Site, age: timedelta) -> int:
    if not packs:
        return 0
    reason = "every chunk of them is proved to be in another pack"
    with site.data_store.open() as store:
        swept = delete_redundant_packs(
            store,
            lambda: dedup.holders(site.catalog.file, packs, system_clock(), max_age=age),
            reason=reason,
            clock=system_clock,
        )
    for pack in swept.kept:
        get_run_logger().warning(
            "pack %s is kept: what holds its data too is not in the data store in its full length;"
            " validate to learn what is missing",
            pack[:12],
        )
    dedup.record_deleted_packs(site.catalog.file, swept.packs, system_clock())
    return swept.freed_bytes

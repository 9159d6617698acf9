"""Reclaim: give back the room of what no version needs; condemned first, deleted a week later."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from prefect import get_run_logger

from blocks import Site
from catalog import reconciling, space
from catalog.all_blocks import sparse_packs
from catalog.dedup import packs_condemned, record_deleted_packs
from catalog.forgotten import REMEMBERED, drop_forgotten
from catalog.recording_packs import record_packs
from likeness.clock import system_clock
from likeness.model.ids import PackId, RunId, VersionId
from likeness.model.sizes import counted, readable_size
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, PackProof
from likeness.store.format.data_store import DataStore
from likeness.store.format.pack import PackReceipt
from likeness.store.prune.compacting import LIVE_SHARE, Compaction
from likeness.store.prune.reclaiming import Reclaim, Reclaimed
from likeness.store.read.index import known_packs
from likeness.store.read.versions import read_version
from likeness.store.repair.undeleting import find_forgotten, undelete
from tasks.ages import age_limit
from tasks.claims import is_live, store_claimed, store_gate
from tasks.known_ids import copies_of, proof_counts_for
from tasks.progress import shown
from tasks.proving import Prover, Validated
from tasks.remember import remember_version
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder
from tasks.unknown_packs import unknown_for_long


@task(task_run_name="reclaim", **STEP)
def reclaim_packs(run: RunId, *, site: Site, most_percent: int, stop: StopToken) -> Reclaimed:
    """Condemn what nothing needs any more, and delete what was condemned long enough.

    The catalog only proposes; the versions on the share decide, and are asked once more right
    before anything is deleted. May be stopped anywhere, and be run beside anything.

    Args:
        run: This one; runs are counted.
        site: The installation.
        most_percent: Of all packs, how many may be condemned at once.
        stop: Looked at everywhere.

    Raises:
        ReclaimStopped: Something is not as it should be, or more would go than that.
        StoreTakenOver: Another installation owns the store now.
        ShareUnreachable: The store went away; tried again.
    """
    age, done = proof_counts_for(site), _Percent()
    with site.data_store.open() as store, scratch_folder(site, run) as scratch:
        moving = Compaction(
            store, run, system_clock, stop, prove=partial(_taken_in, site, store, stop)
        )
        work = Reclaim(
            store,
            run,
            system_clock,
            scratch,
            gate=partial(_alone, site),
            stop=stop,
            copies=partial(copies_of, site),
            rewrite=moving.rewrite,
            is_live=partial(is_live, site),
            unknown=lambda there: unknown_for_long(site, there, system_clock()),
            progress=done.reached,
            most_share=most_percent / 100,
        )
        now, catalog = system_clock(), site.catalog.file
        candidates = [pack for pack, _ in space.spare_packs(catalog, now, age)]
        sparse = [e.pack for e in sparse_packs(catalog, now, age, live_share=LIVE_SHARE)]
        try:
            with shown(
                f"reclaim-{run[:12]}", "Packs looked at once more and deleted", done.percent
            ):
                work.work(candidates, sparse)
        finally:  # the catalog learns what was done, however far it came
            work.done.moved_bytes = moving.moved_bytes
            _remember(site, store, work.done)
    found = work.done
    get_run_logger().info(
        "%s condemned, of which %s rewritten (%s), %s deleted: %s given back",
        counted(len(found.condemned), "pack"),
        len(found.rewritten),
        readable_size(found.moved_bytes),
        counted(len(found.deleted), "pack"),
        readable_size(found.freed_bytes),
    )
    return found


@contextmanager
def _alone(site: Site) -> Generator[None, None, None]:
    """Alone with what gives packs back, too: it relies on packs that others condemn."""
    with store_claimed(site), store_gate(site):
        yield


def _taken_in(
    site: Site, store: DataStore, stop: StopToken, packs: Sequence[PackReceipt]
) -> set[PackId]:
    """Tell the catalog of rewritten packs, read them back, and tell which are whole."""
    record_packs(site.catalog.file, packs, system_clock())
    whole: set[PackId] = set()

    def note(batch: Sequence[PackProof], _so_far: Validated) -> None:
        whole.update(proof.pack for proof in batch if proof.finding is Finding.PROVED)

    limit = age_limit(site.revalidate_after)
    prover = Prover(site.catalog.file, store, limit, system_clock, stop)
    prover.prove([pack.pack for pack in packs], told=note)
    return whole


def _remember(site: Site, store: DataStore, done: Reclaimed) -> None:
    now, catalog = system_clock(), site.catalog.file
    if done.condemned:
        packs_condemned(catalog, done.condemned, now)
    if done.deleted:
        record_deleted_packs(catalog, done.deleted, now)
    if done.spared:
        reconciling.packs_are_back(catalog, list(known_packs(store, done.spared)), now)


def drop_long_forgotten(*, site: Site) -> None:
    """Drop what the catalog knows of versions that nobody takes back any more."""
    dropped = drop_forgotten(site.catalog.file, system_clock())
    if dropped:
        get_run_logger().info(
            "%s of versions forgotten %d days ago left the catalog",
            counted(dropped, "map row"),
            REMEMBERED.days,
        )


class _Percent:
    def __init__(self) -> None:
        self._done, self._of = 0, 1

    def reached(self, done: int, of: int) -> None:
        self._done, self._of = done, max(of, 1)

    def percent(self) -> float:
        return 100.0 * self._done / self._of


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A forgotten version that exists again.

    Attributes:
        record: The name of its record.
        packs: How many packs it needs that were condemned.
    """

    record: str
    packs: int


@task(task_run_name="undelete {version}", **STEP)
def take_back_version(version: str, run: RunId, *, site: Site) -> TakenBack:
    """Take a forgotten version back, as long as its data is there.

    Raises:
        UnknownVersion: No forgotten version's id begins so, or some of it is deleted already.
    """
    with site.data_store.open() as store, scratch_folder(site, run) as scratch:
        record = find_forgotten(store, version.strip().lower())
        with store_claimed(site), store_gate(site):
            packs = undelete(
                store,
                record,
                run=run,
                clock=system_clock,
                scratch=scratch,
                stop=StopToken(),
            )
    now, catalog = system_clock(), site.catalog.file
    if packs:
        reconciling.packs_are_back(catalog, packs, now)
    if not reconciling.versions_are_back(catalog, [VersionId(record.rpartition("-")[2])], now):
        with site.data_store.open() as store:  # it was forgotten so long ago that nobody knows it
            remember_version(site, store, read_version(store, record))
    return TakenBack(record, len(packs))

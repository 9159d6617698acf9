"""Validate: packs read back and proved, and the verdict on every version that needs them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from prefect import get_run_logger, task

from blocks import Site
from catalog import chunks, proofs, validation
from catalog import versions as catalog_versions
from catalog.values import DocumentCheck, Verdict, VerdictChange, VersionRow
from likeness.clock import stopwatch, system_clock
from likeness.errors import TransientError
from likeness.model.ids import PackId, RunId, VersionId
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.proving import PackProof, prove_documents, prove_packs
from likeness.transport.tuning import keep_large_buffers
from tasks.ages import AgeLimit, age_limit
from tasks.progress import shown
from tasks.retries import STEP
from tasks.transfer import scratch_folder

_PROOFS_AT_ONCE = 64
_SECONDS_AT_ONCE = 5.0


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation did and found.

    Attributes:
        packs: How many packs were read.
        proved_bytes: Bytes read back and proved.
        damaged_chunks: Data blocks found damaged or missing.
        could_not_check: Packs that could not be read; nothing is said about them.
        good: Versions judged good now.
        changes: Versions whose verdict changed.
    """

    packs: int = 0
    proved_bytes: int = 0
    damaged_chunks: int = 0
    could_not_check: int = 0
    good: int = 0
    changes: tuple[VerdictChange, ...] = field(default=())

    @property
    def turned_bad(self) -> tuple[VerdictChange, ...]:
        """Versions that were not bad before."""
        return tuple(change for change in self.changes if change.after is Verdict.BAD)


@task(task_run_name="prove what is due", **STEP)
def prove_due(
    run: RunId | None, this: RunId, byte_budget: int | None, *, site: Site, stop: StopToken
) -> Validated:
    """Prove packs that are new or due, and the documents of the versions concerned.

    Goes on where an attempt that died left off: proofs are recorded every few seconds, each batch
    in one transaction with the verdicts that follow from it.

    Args:
        run: The run whose versions to judge; all versions if none.
        this: The run that validates.
        byte_budget: Stop taking in packs after so many bytes; no limit if none.
        site: The installation.
        stop: Looked at before every pack.
    """
    keep_large_buffers()
    limit = age_limit(site.revalidate_after)
    versions = _versions(run, site, limit)
    with site.data_store.open() as store, scratch_folder(site, this) as scratch:
        due = _due(run, versions, byte_budget, store, site, limit)
        checks = _documents(store, versions, scratch, stop)
        report = Validated()
        progress = _Progress(len(due))
        with shown("validation", "Validation", progress.percent):
            for batch in _batches(prove_packs(store, due, clock=system_clock, stop=stop)):
                report = _recorded(report, batch, site, limit)
                progress.done += len(batch)
    judged = [row.version for row in versions]
    return _judged(report, judged, checks, site, limit)


def _versions(run: RunId | None, site: Site, limit: AgeLimit) -> Sequence[VersionRow]:
    rows = catalog_versions.list_versions(site.catalog.file, system_clock(), limit.green_for)
    return [row for row in rows if run is None or row.run == run]


def _due(
    run: RunId | None,
    versions: Sequence[VersionRow],
    byte_budget: int | None,
    store: DataStore,
    site: Site,
    limit: AgeLimit,
) -> list[PackId]:
    """Packs to read: new ones, those whose age is up, and those the store's listing lacks."""
    ids = [row.version for row in versions]
    if not ids:
        return []
    due = validation.packs_to_prove(
        site.catalog.file,
        system_clock(),
        limit.due_after,
        versions=ids if run is not None else None,
        byte_budget=byte_budget,
    )
    packs = [pack.pack for pack in due]
    present = {entry.name for entry in store.transport.entries(layout.PACKS)}
    needed = chunks.packs_of_versions(site.catalog.file, ids)
    chosen = set(packs)
    return packs + [p for p in needed if layout.pack(p) not in present and p not in chosen]


def _documents(
    store: DataStore, versions: Iterable[VersionRow], scratch: Path, stop: StopToken
) -> list[DocumentCheck]:
    checks = []
    for row in versions:
        stop.check()
        try:
            proof = prove_documents(store, row.record, scratch)
        except TransientError as cause:
            checks.append(DocumentCheck(row.version, system_clock(), None, (str(cause),)))
        else:
            checks.append(
                DocumentCheck(row.version, system_clock(), proof.readable, proof.problems)
            )
    return checks


def _batches(proofs: Iterator[PackProof]) -> Iterator[list[PackProof]]:
    """Proofs in lists: as many as come in a few seconds, 64 at most."""
    while batch := list(islice(proofs, 1)):
        begun = stopwatch()
        while len(batch) < _PROOFS_AT_ONCE and stopwatch() - begun < _SECONDS_AT_ONCE:
            following = next(proofs, None)
            if following is None:
                break
            batch.append(following)
        yield batch


def _recorded(
    report: Validated, batch: Sequence[PackProof], site: Site, limit: AgeLimit
) -> Validated:
    proved = proofs.record_proofs(site.catalog.file, batch, system_clock(), limit.green_for)
    for proof in batch:
        if proof.cause:
            get_run_logger().warning("pack %s: %s: %s", proof.pack, proof.finding, proof.cause)
    return replace(
        report,
        packs=report.packs + len(batch),
        proved_bytes=report.proved_bytes + proved.proved_bytes,
        damaged_chunks=report.damaged_chunks + proved.damaged_chunks,
        could_not_check=report.could_not_check + proved.could_not_check,
        changes=report.changes + proved.changes,
    )


def _judged(
    report: Validated,
    versions: Sequence[VersionId],
    checks: Sequence[DocumentCheck],
    site: Site,
    limit: AgeLimit,
) -> Validated:
    """The verdict on every version concerned, also where nothing had to be read."""
    judged = proofs.record_proofs(
        site.catalog.file,
        (),
        system_clock(),
        limit.green_for,
        versions=versions,
        documents=checks,
    )
    changes = report.changes + judged.changes
    rows = catalog_versions.list_versions(site.catalog.file, system_clock(), limit.green_for)
    wanted = set(versions)
    good = sum(row.verdict is Verdict.GOOD for row in rows if row.version in wanted)
    return replace(report, changes=changes, good=good)


class _Progress:
    """How many packs are done."""

    def __init__(self, packs: int) -> None:
        self._packs, self.done = max(packs, 1), 0

    def percent(self) -> float:
        return 100.0 * self.done / self._packs

"""Reading back: packs proved, documents proved, verdicts recorded.

Plain functions over one store and one catalog, with their clock; the tasks around them add what
Prefect needs.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path

from catalog import planning, proofs
from catalog import versions as catalog_versions
from catalog.connection import CatalogLocation
from catalog.planning import DocumentsDue
from catalog.values import DocumentCheck, Verdict, VerdictChange, VersionRow
from likeness.clock import Clock, stopwatch
from likeness.errors import (
    Damaged,
    ObjectMissing,
    ShareRefused,
    StoreTooNew,
    TransientError,
)
from likeness.model.ids import PackId, RunId, VersionId
from likeness.stopping import StopToken
from likeness.store.check.proving import PackProof, prove_documents, prove_packs
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.read.versions import read_version
from tasks.ages import AgeLimit

_DAY = timedelta(days=1)
_PROOFS_AT_ONCE = 64
_SECONDS_AT_ONCE = 4.0


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation did and found.

    Attributes:
        packs: How many packs were read.
        proved_bytes: Bytes read back and proved.
        damaged_chunks: Data blocks found damaged or missing.
        could_not_check: Packs that could not be read; nothing is said about them.
        good: Versions judged good now.
        changes: Versions whose verdict changed, in order.
        warnings: What is not as it should be and no damage, in words.
    """

    packs: int = 0
    proved_bytes: int = 0
    damaged_chunks: int = 0
    could_not_check: int = 0
    good: int = 0
    changes: tuple[VerdictChange, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def turned_bad(self) -> tuple[VerdictChange, ...]:
        """Versions that are bad now and were not before."""
        last = {change.version: change for change in self.changes}
        return tuple(c for c in last.values() if c.after is Verdict.BAD)

    @property
    def healed(self) -> tuple[VerdictChange, ...]:
        """Versions that were bad and are good now."""
        was_bad = {c.version for c in self.changes if c.before is Verdict.BAD}
        last = {change.version: change for change in self.changes}
        return tuple(c for c in last.values() if c.after is Verdict.GOOD and c.version in was_bad)

    def and_then(self, more: "Validated") -> "Validated":
        """Both together; `more` came later."""
        return Validated(
            packs=self.packs + more.packs,
            proved_bytes=self.proved_bytes + more.proved_bytes,
            damaged_chunks=self.damaged_chunks + more.damaged_chunks,
            could_not_check=self.could_not_check + more.could_not_check,
            good=more.good or self.good,
            changes=self.changes + more.changes,
            warnings=self.warnings + more.warnings,
        )


@dataclass(frozen=True, slots=True)
class Prover:
    """What reading back needs.

    Attributes:
        catalog: Where it is written down.
        store: What is read.
        limit: How old a proof may be.
        clock: The present.
        stop: Looked at before every pack and every version.
        elsewhere: Proves packs by other workers; none if all is done here.
    """

    catalog: CatalogLocation
    store: DataStore
    limit: AgeLimit
    clock: Clock
    stop: StopToken
    elsewhere: Callable[[DataStore, Collection[PackId]], Iterator[PackProof]] | None = None

    def prove(
        self,
        packs: Collection[PackId],
        *,
        told: Callable[[Sequence[PackProof], Validated], None] = lambda _batch, _so_far: None,
        workers: int | None = None,
    ) -> Validated:
        """Prove packs and record it every few seconds, each batch with the verdicts it changes.

        Args:
            packs: Which.
            told: Told of each batch once it is recorded, and of all that was found so far.
            workers: See `prove_packs`.
        """
        report = Validated()
        if not packs:
            return report
        if self.elsewhere is not None and len(packs) > 1:
            found = self.elsewhere(self.store, packs)
        else:
            found = prove_packs(
                self.store,
                packs,
                clock=self.clock,
                stop=self.stop,
                segments=self._segments(packs),
                workers=workers,
            )
        for batch in _batches(found):
            report = self._recorded(report, batch)
            told(batch, report)
        return report

    def documents(
        self, versions: Iterable[VersionId] | None, scratch: Path, *, all_of_them: bool = False
    ) -> list[DocumentCheck]:
        """Prove the records and block maps of versions where that is due; of all if none.

        Where one is found broken, the VM's other versions are looked at too: their block maps rest
        on each other.

        Args:
            versions: Which.
            scratch: A folder for a block map while it is needed.
            all_of_them: Whether it is due or not.
        """
        age = timedelta(0) if all_of_them else self._documents_age()
        due = self._documents_due(age, versions)
        checks = {each.version: self._document(each, scratch) for each in due}
        hit = {e.vm for e in due if checks[e.version].readable is False and not e.known_broken}
        for each in self._documents_due(timedelta(0), None) if hit else ():
            if each.vm in hit and each.version not in checks:
                checks[each.version] = self._document(each, scratch)
        return list(checks.values())

    def _documents_age(self) -> timedelta | None:
        """They are read some time before their age is up: the next turn may be a day away."""
        age = self.limit.due_after
        return age and max(age - _DAY, age / 2)

    def _documents_due(
        self, age: timedelta | None, versions: Iterable[VersionId] | None
    ) -> list[DocumentsDue]:
        return planning.documents_to_prove(self.catalog, self.clock(), age, versions=versions)

    def _document(self, due: DocumentsDue, scratch: Path) -> DocumentCheck:
        """What reading one version's documents back shows; twice, before they are broken."""
        self.stop.check()
        try:
            proof = prove_documents(self.store, due.record, scratch)
        except (TransientError, ShareRefused, StoreTooNew) as cause:
            return DocumentCheck(due.version, self.clock(), None, (str(cause),))
        problems = (*proof.problems, *proof.unread)
        return DocumentCheck(due.version, self.clock(), proof.readable, problems)

    def judge(
        self, versions: Sequence[VersionId], documents: Iterable[DocumentCheck] = ()
    ) -> Validated:
        """The verdict on versions, also where nothing had to be read."""
        judged = proofs.record_proofs(
            self.catalog,
            (),
            self.clock(),
            self.limit.green_for,
            versions=versions,
            documents=documents,
        )
        wanted = set(versions)
        rows = [row for row in self.versions() if row.version in wanted]
        good = sum(row.verdict is Verdict.GOOD for row in rows)
        return Validated(good=good, changes=judged.changes)

    def versions(self, run: RunId | None = None) -> list[VersionRow]:
        """Versions as the catalog has them; of one run only, if it is given."""
        rows = catalog_versions.list_versions(self.catalog, self.clock(), self.limit.green_for)
        return [row for row in rows if run is None or row.run == run]

    def _recorded(self, report: Validated, batch: Sequence[PackProof]) -> Validated:
        proved = proofs.record_proofs(self.catalog, batch, self.clock(), self.limit.green_for)
        causes = tuple(f"pack {p.pack}: {p.finding}: {p.cause}" for p in batch if p.cause)
        return replace(
            report,
            packs=report.packs + len(batch),
            proved_bytes=report.proved_bytes + proved.proved_bytes,
            damaged_chunks=report.damaged_chunks + proved.damaged_chunks,
            could_not_check=report.could_not_check + proved.could_not_check,
            changes=report.changes + proved.changes,
            warnings=report.warnings + causes,
        )

    def _segments(self, packs: Collection[PackId]) -> list[str]:
        """The index segments that the versions which brought the packs brought too."""
        names: dict[str, None] = {}
        for record in planning.records_that_brought(self.catalog, packs):
            with suppress(Damaged, ObjectMissing, StoreTooNew, TransientError, ShareRefused):
                objects = read_version(self.store, record).clear.objects
                names.update((o, None) for o in objects if o.startswith(f"{layout.INDEX}/"))
        return list(names)


def _batches(proofs_found: Iterator[PackProof]) -> Iterator[list[PackProof]]:
    """Proofs in lists: as many as come in a few seconds, 64 at most."""
    while batch := list(islice(proofs_found, 1)):
        begun = stopwatch()
        while len(batch) < _PROOFS_AT_ONCE and stopwatch() - begun < _SECONDS_AT_ONCE:
            following = next(proofs_found, None)
            if following is None:
                break
            batch.append(following)
        yield batch

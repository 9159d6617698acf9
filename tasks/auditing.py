"""Looking whether everything is there: names and lengths, before anything is read back.

Nothing is believed at the first look. Packs and versions in doubt are handed on to be proved; what
concerns no version is believed when it shows twice, over two connections.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

from catalog import audits
from likeness.model.ids import PackId, VersionId
from likeness.store import layout
from likeness.store.auditing import audit_presence
from likeness.store.data_store import DataStore
from likeness.store.observations import Observation, Weight
from tasks.proving import Prover

EVERYTHING_EVERY = timedelta(hours=20)
"""So that a nightly validation looks at everything, and an hourly one does so once a day."""


@dataclass(frozen=True, slots=True)
class Doubts:
    """What has to be proved now.

    Attributes:
        packs: Missing, or of another length than they were written with.
        versions: Whose records or block maps are.
    """

    packs: tuple[PackId, ...]
    versions: tuple[VersionId, ...]


def look_at_packs_and_records(prover: Prover) -> Doubts:
    """Compare what the catalog knows with the store's listing: quick enough for every run."""
    there = {
        entry.name.rpartition("/")[2]: entry.size_bytes
        for entry in prover.store.transport.entries(layout.PACKS)
    }
    expected = dict(audits.packs_expected(prover.catalog))
    packs = tuple(pack for pack, size in expected.items() if there.get(PackId(pack)) != size)
    records = audits.records_expected(prover.catalog)
    listed = {entry.name for entry in prover.store.transport.entries(layout.VERSIONS)}
    versions = tuple(version for record, version in records.items() if record not in listed)
    audits.record_audit(prover.catalog, prover.clock(), packs=len(expected), doubtful=len(packs))
    return Doubts(packs, versions)


def look_at_everything(prover: Prover) -> Doubts:
    """Compare what signed documents say with what is there; once a day.

    What turns no version red is written down as a trouble of the store.

    Raises:
        ShareUnreachable: The store does not answer; nothing is known then.
    """
    quick = look_at_packs_and_records(prover)
    found = _seen_twice(prover, _observed(prover, prover.store))
    packs = [PackId(each.name.rpartition("/")[2]) for each in found if _is_pack(each)]
    versions = [
        VersionId(record.rpartition("-")[2])
        for each in found
        if each.weight in (Weight.DAMAGE, Weight.SPARE_LOST) and not _is_pack(each)
        for record in each.versions
    ]
    audits.record_troubles(
        prover.catalog, [each for each in found if not _is_a_versions(each)], prover.clock()
    )
    audits.record_audit(
        prover.catalog, prover.clock(), packs=0, doubtful=len(packs), everything=True
    )
    return Doubts(
        tuple(dict.fromkeys((*quick.packs, *packs))),
        tuple(dict.fromkeys((*quick.versions, *versions))),
    )


def _observed(prover: Prover, store: DataStore) -> list[Observation]:
    return list(audit_presence(store, stop=prover.stop))


def _seen_twice(prover: Prover, first: Sequence[Observation]) -> list[Observation]:
    """Notices, and whatever else shows over a second connection too."""
    notices = [each for each in first if each.weight is Weight.NOTICE]
    serious = [each for each in first if each.weight is not Weight.NOTICE]
    if not serious:
        return notices
    with prover.again() if prover.again is not None else nullcontext(prover.store) as store:
        again = {each.name for each in _observed(prover, store)}
    return [*(each for each in serious if each.name in again), *notices]


def _is_pack(found: Observation) -> bool:
    return found.weight is Weight.DAMAGE and found.name.startswith(f"{layout.PACKS}/")


def _is_a_versions(found: Observation) -> bool:
    """Whether proving the versions it names says all there is to say."""
    return found.weight is Weight.DAMAGE and (_is_pack(found) or bool(found.versions))

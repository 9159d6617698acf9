"""Looking whether everything is there: names and lengths, before anything is read back.

Nothing is believed at the first look: an audit looks twice at what seems lost, and packs and
versions in doubt are handed on to be proved.
"""

from dataclasses import dataclass
from datetime import timedelta

from catalog import audits
from likeness.model.ids import PackId, VersionId
from likeness.store.check.auditing import audit_presence
from likeness.store.format import layout
from likeness.store.format.observations import Observation, Weight
from likeness.store.write.forgetting import read_forgotten
from likeness.transport.passing import CarefulTransport
from tasks.catch_up import ListedStore
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


def look_at_packs_and_records(prover: Prover, seen: ListedStore | None = None) -> Doubts:
    """Compare what the catalog knows with the store's listing: quick enough for every run.

    A folder that cannot be listed puts nothing in doubt; the daily look tells of it.

    Args:
        prover: Whose store and catalog.
        seen: What was listed a moment ago, if all of it could be.
    """
    listing = CarefulTransport(prover.store.transport)
    if seen is None:
        packs_there = {entry.name: entry.size_bytes for entry in listing.entries(layout.PACKS)}
        records_there = frozenset(entry.name for entry in listing.entries(layout.VERSIONS))
        seen = ListedStore(packs_there, records_there)
    expected = {layout.pack(p): (p, size) for p, size in audits.packs_expected(prover.catalog)}
    packs = tuple(
        pack
        for name, (pack, size) in expected.items()
        if seen.packs.get(name) != size and not listing.is_closed(name)
    )
    records = audits.records_expected(prover.catalog)
    missing = {
        record: version
        for record, version in records.items()
        if record not in seen.records and not listing.is_closed(record)
    }
    forgotten = read_forgotten(prover.store).now if missing else frozenset()
    versions = tuple(v for record, v in missing.items() if record not in forgotten)
    audits.record_audit(prover.catalog, prover.clock(), packs=len(expected), doubtful=len(packs))
    return Doubts(packs, versions)


def look_at_everything(prover: Prover, seen: ListedStore | None = None) -> Doubts:
    """Compare what signed documents say with what is there; once a day.

    What turns no version red is written down as a trouble of the store.

    Raises:
        ShareUnreachable: The store does not answer; nothing is known then.
    """
    quick = look_at_packs_and_records(prover, seen)
    found = list(audit_presence(prover.store, stop=prover.stop))
    packs = [PackId(each.name.rpartition("/")[2]) for each in found if _is_pack(each)]
    versions = [
        VersionId(record.rpartition("-")[2])
        for each in found
        if each.weight is not Weight.NOTICE and not _is_pack(each) and not _is_index(each)
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


def _is_pack(found: Observation) -> bool:
    return found.weight is Weight.DAMAGE and found.name.startswith(f"{layout.PACKS}/")


def _is_index(found: Observation) -> bool:
    """An index segment: its packs are proved by their own tables, and the documents by theirs."""
    return found.name.startswith(f"{layout.INDEX}/")


def _is_a_versions(found: Observation) -> bool:
    """Whether proving the versions it names says all there is to say."""
    return found.weight is Weight.DAMAGE and (_is_pack(found) or bool(found.versions))

"""What the catalog takes and gives: frozen values, no rows and no connections."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from likeness.model.disk import Extent
from likeness.model.ids import DiskId, PackId, RunId, VersionId, VmId
from likeness.model.outcome import VmOutcome
from likeness.store.format.documents import Counts
from likeness.store.format.maps import Run


class Verdict(StrEnum):
    """What may be said of a version."""

    UNCHECKED = "unchecked"
    """Grey: not everything it refers to was read back yet."""
    GOOD = "good"
    """Green: every pack it refers to was read back whole, and not too long ago."""
    BAD = "bad"
    """Red: a chunk it refers to is damaged or missing, or its own documents are."""
    STALE = "stale"
    """Amber: proved once, but too long ago, or it could not be checked when it was due."""


@dataclass(frozen=True, slots=True)
class DiskMap:
    """How a disk's block map changed with a version.

    Attributes:
        disk: Which.
        whole: `runs` give the whole map, and what they leave out is zero; otherwise they give
            what is unlike the VM's version before.
        runs: Chunk ids; the zero id is "now zero". Consumed once.
    """

    disk: DiskId
    whole: bool
    runs: Iterable[Run]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What recording a version did.

    Attributes:
        new: False if the catalog had it already.
        chunks: Positions whose chunk changed, those that are zero now not counted.
        packs: Packs it brought.
        lost_chunks: Chunks it refers to that no known pack holds; then it is red at once.
    """

    new: bool
    chunks: int = 0
    packs: int = 0
    lost_chunks: int = 0


@dataclass(frozen=True, slots=True)
class VmRow:
    """A VM with its committed versions."""

    vm: VmId
    name: str
    versions: int
    last_taken_at: datetime | None
    last_sequence: int


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A disk as a version has it."""

    disk: DiskId
    name: str
    plugged_at: str
    size_bytes: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version, for people.

    Attributes:
        kept_bytes: Size of the packs it brought that are still needed.
        reason: Why the verdict is what it is, in words.
        oldest_proof_at: When the pack that was not read back for longest was; none if a pack
            never was, or if there is none.
        vaults: Where it was copied to.
        read_back: To a vault, since when all that the version needs was read there and found whole;
            a vault that only has a copy is not in it.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    sequence: int
    record: str
    digest: str
    taken_at: datetime
    committed_at: datetime
    run: RunId
    job: str
    consistency: str
    consistency_asked: str
    note: str
    disks: tuple[DiskRow, ...]
    counts: Counts
    kept_bytes: int
    verdict: Verdict
    reason: str
    packs: int
    unproved_packs: int
    oldest_proof_at: datetime | None
    vaults: tuple[str, ...]
    read_back: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VaultAges:
    """What is known of the versions in a vault.

    Attributes:
        there: How many were copied.
        read_back: Of how many all was read there and found whole.
        oldest: When that was longest ago.
        proved: Of how many all was opened there with the key, too.
        proved_oldest: When that was longest ago.
    """

    there: int
    read_back: int
    oldest: datetime | None
    proved: int
    proved_oldest: datetime | None


@dataclass(frozen=True, slots=True)
class AffectedDisk:
    """Where on a disk certain chunks lie.

    Attributes:
        affected_bytes: How much of the disk they are.
        ranges: The first of these byte ranges, neighbours joined.
        more_ranges: How many are left out.
    """

    disk: DiskId
    name: str
    affected_bytes: int
    ranges: tuple[Extent, ...]
    more_ranges: int


@dataclass(frozen=True, slots=True)
class Affected:
    """A version that refers to certain chunks."""

    version: VersionId
    vm: VmId
    vm_name: str
    sequence: int
    taken_at: datetime
    disks: tuple[AffectedDisk, ...]


@dataclass(frozen=True, slots=True)
class PackFact:
    """A pack the catalog knows."""

    pack: PackId
    size_bytes: int
    chunks: int
    recorded_at: datetime
    proved_at: datetime | None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What the global pass found.

    Attributes:
        known_chunks: Chunks of the packs looked at of which another pack has the older copy.
        known_bytes: Their sealed length.
        served_chunks: Of these, those whose other copy was proved, so that nothing relies on this
            one any more.
        served_bytes: Their sealed length.
        dropped_chunks: Of these, those in packs that are wholly redundant.
        dropped_bytes: Their sealed length.
        redundant: All packs that wait to be given back.
        redundant_bytes: Their size.
        to_renew: Packs that would have to be proved again for more to be redundant.
    """

    known_chunks: int
    known_bytes: int
    served_chunks: int
    served_bytes: int
    dropped_chunks: int
    dropped_bytes: int
    redundant: tuple[PackId, ...]
    redundant_bytes: int
    to_renew: tuple[PackId, ...] = ()


class Why(StrEnum):
    """Why a pack is to be proved."""

    NEW = "new"
    RECHECK = "recheck"
    DUE = "due"


@dataclass(frozen=True, slots=True)
class PackToProve:
    """A pack that should be read back."""

    pack: PackId
    size_bytes: int
    digest: bytes
    chunks: int
    proved_at: datetime | None
    why: Why


@dataclass(frozen=True, slots=True)
class DocumentCheck:
    """What became of looking at a version's own record and block maps.

    Attributes:
        readable: Whether the version can be put together from them; none if that could not be
            found out.
        problems: What is wrong, in words.
    """

    version: VersionId
    at: datetime
    readable: bool | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A version of which something else is said now.

    Attributes:
        disks: Where it is damaged; empty unless it turned bad.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    sequence: int
    taken_at: datetime
    before: Verdict
    after: Verdict
    reason: str
    disks: tuple[AffectedDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class Proved:
    """What recording proofs did.

    Attributes:
        packs: Packs that were read back, whole or not.
        proved_bytes: Their size.
        damaged_chunks: Chunk copies that were not seen damaged or missing before.
        moved_chunks: Of the chunks in the packs, those that another proved copy serves now.
        could_not_check: Packs that could not be read.
        changes: Versions of which something else is said now.
    """

    packs: int
    proved_bytes: int
    damaged_chunks: int
    moved_chunks: int
    could_not_check: int
    changes: tuple[VerdictChange, ...]

    @property
    def turned_bad(self) -> tuple[VerdictChange, ...]:
        """Versions that got the red mark."""
        return tuple(c for c in self.changes if c.after is Verdict.BAD)

    @property
    def turned_good(self) -> tuple[VerdictChange, ...]:
        """Versions that got the green mark."""
        return tuple(c for c in self.changes if c.after is Verdict.GOOD)

    @property
    def healed(self) -> tuple[VerdictChange, ...]:
        """Versions that were red and are green."""
        return tuple(c for c in self.turned_good if c.before is Verdict.BAD)


@dataclass(frozen=True, slots=True)
class ProofOutlook:
    """How old the proofs are, and what keeping them young costs.

    Attributes:
        unproved_packs: Never proved, and not known to be damaged either.
        due_bytes: Of the live bytes, those never proved or proved too long ago.
        oldest_proof_at: Of those proved at all.
        oldest_age: Nothing that was proved at all has been unread for longer.
        days_per_round: How long one reading of everything takes with the budget.
        reachable: Whether the budget keeps everything within the age.
        reachable_age: The smallest age the budget can keep.
    """

    packs: int
    live_bytes: int
    unproved_packs: int
    unproved_bytes: int
    due_bytes: int
    oldest_proof_at: datetime | None
    oldest_age: timedelta | None
    days_per_round: float | None
    reachable: bool | None
    reachable_age: timedelta | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run, for people."""

    run: RunId
    job: str
    begun_at: datetime
    finished_at: datetime | None
    state: str
    sentence: str
    vms: tuple[VmOutcome, ...]


@dataclass(frozen=True, slots=True)
class ExportedCopy:
    """A copy of the catalog in a folder.

    Attributes:
        schema: Of the catalog it was made from.
        rows: By table.
        size_bytes: Of all its files.
    """

    schema: int
    made_at: datetime
    rows: dict[str, int]
    size_bytes: int

"""What is unlike a VM: a night on which far more changed, or changed into what does not compress.

That is what encryption by an intruder looks like from outside. It may be an upgrade as well: people
are told, and nothing of that VM should be forgotten until they have looked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from blocks import Site
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.model.ids import RunId, VersionId, VmId
from likeness.model.sizes import readable_size
from likeness.store.format.documents import Counts
from tasks.ages import age_limit

LEAST_NIGHTS = 5
"""So many earlier versions are needed to know what a VM is like."""
LOOKED_BACK = 14
_LEAST_SHARE = 0.10
_TIMES = 5.0
_INCOMPRESSIBLE = 0.95
_LEAST_BYTES = 64 << 20
SUSPICIOUS_FOR = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Night:
    """What a version says of its night.

    Attributes:
        new_share: Of the VM's disks, what was never seen before.
        new_bytes: The same, uncompressed.
        kept_of_new: What compression left of it; 1 is nothing gained.
    """

    new_share: float
    new_bytes: int
    kept_of_new: float


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A night unlike the ones before.

    Attributes:
        version: That was made on it.
        reason: What is unlike, in words.
    """

    version: VersionId
    vm: VmId
    vm_name: str
    taken_at: datetime
    reason: str


def night_of(counts: Counts) -> Night:
    """The figures of one version."""
    return Night(
        counts.new_bytes / max(counts.disk_bytes, 1),
        counts.new_bytes,
        counts.sent_bytes / counts.new_bytes if counts.new_bytes else 0.0,
    )


def why_unlike(counts: Counts, before: Sequence[Counts]) -> str:
    """Why a version is unlike those before it; empty if it is not, or nobody can tell yet.

    Args:
        counts: Of the version.
        before: Of earlier ones of the VM, without its first, which sends everything.
    """
    if len(before) < LEAST_NIGHTS:
        return ""
    now, past = night_of(counts), [night_of(each) for each in before]
    usual = median(each.new_share for each in past)
    jump = now.new_share > max(_TIMES * usual, usual + _LEAST_SHARE)
    if not jump or now.new_bytes < _LEAST_BYTES:
        return ""
    said = (
        f"{now.new_share:.0%} of its disks ({readable_size(now.new_bytes)}) is data never seen"
        f" before, {usual:.1%} on other nights"
    )
    squeezed = [each.kept_of_new for each in past if each.new_bytes]
    if squeezed and now.kept_of_new > _INCOMPRESSIBLE > median(squeezed) + 0.05:
        said += "; and it does not compress, as encrypted data does not"
    return said


def anomalies(rows: Sequence[VersionRow], now: datetime) -> Iterator[Anomaly]:
    """Nights of the last two weeks that are unlike the ones before.

    Args:
        rows: All versions, newest first.
        now: The present.
    """
    by_vm: dict[VmId, list[VersionRow]] = {}
    for row in rows:
        by_vm.setdefault(row.vm, []).append(row)
    for mine in by_vm.values():
        for at, row in enumerate(mine):
            if now - row.taken_at > SUSPICIOUS_FOR:
                break
            before = [each.counts for each in mine[at + 1 : -1][:LOOKED_BACK]]
            if reason := why_unlike(row.counts, before):
                yield Anomaly(row.version, row.vm, row.vm_name, row.taken_at, reason)


def suspicious_vms(rows: Sequence[VersionRow], now: datetime) -> Mapping[VmId, str]:
    """VMs of which nothing should be forgotten for now, each with the reason."""
    return {
        each.vm: f"its version of {each.taken_at:%Y-%m-%d %H:%M} is unlike it: {each.reason}"
        for each in anomalies(rows, now)
    }


def suspicious_vms_of(site: Site) -> Mapping[VmId, str]:
    """The same, of a site's catalog as it is now."""
    now = system_clock()
    rows = list_versions(site.catalog.file, now, age_limit(site.revalidate_after).green_for)
    return suspicious_vms(rows, now)


def unlike_nights_of(run: RunId, *, site: Site) -> list[str]:
    """What is unlike itself of what a run brought in, in sentences."""
    now = system_clock()
    rows = list_versions(site.catalog.file, now, age_limit(site.revalidate_after).green_for)
    mine = {row.version for row in rows if row.run == run}
    return [
        f"{each.vm_name} is unlike its other nights: {each.reason}; look at it, and keep its"
        " earlier versions"
        for each in anomalies(rows, now)
        if each.version in mine
    ]

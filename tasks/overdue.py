"""What is overdue of VMs, validation and vault: everything that should have happened by now."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks import Site
from catalog.values import Verdict, VersionRow
from likeness.errors import LikenessError
from likeness.model.ids import VmId, random_name
from likeness.model.sizes import counted, readable_age
from tasks.pool_view import PlannedJob, look_at_pool

_SEEN_FILE = "watched.json"


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that should have happened and has not.

    Attributes:
        key: The same for the same cause, whatever its age is.
        sentence: What it is, and what to do.
    """

    key: str
    sentence: str


def overdue_vms(
    site: Site,
    jobs: Sequence[PlannedJob],
    rows: Sequence[VersionRow],
    now: datetime,
    patience: timedelta,
) -> Iterator[Cause]:
    """VMs whose last good version is older than the site allows.

    Watched is every VM of the pool that a job means or that has a version, unless a tag keeps it
    out of every job; without the pool's answer, every VM that has a version.

    Args:
        site: The installation.
        jobs: Those that are deployed for it.
        rows: Its versions, newest first.
        now: The present.
        patience: How old a last good version may be.
    """
    watched = {row.vm: row.vm_name for row in rows}
    try:
        watched = _watched(site, jobs, watched)
    except LikenessError as problem:
        yield Cause("pool", f"nobody can say which VMs need a backup: {problem}")
    seen = _first_seen(site, watched, now)
    for vm, name in sorted(watched.items(), key=lambda each: each[1]):
        mine = [row for row in rows if row.vm == vm]
        good = next((row for row in mine if row.verdict is Verdict.GOOD), None)
        since = good.taken_at if good else min([seen[vm], *(row.taken_at for row in mine)])
        if now - since > patience:
            yield Cause(f"vm {vm}", _of_vm(name, good, mine, now))


def _of_vm(name: str, good: VersionRow | None, mine: Sequence[VersionRow], now: datetime) -> str:
    said = f"VM {name!r} has no good version"
    if good is not None:
        said = (
            f"VM {name!r}: its last good version is {readable_age(now - good.taken_at)} old, of"
            f" {good.taken_at:%Y-%m-%d %H:%M} UTC"
        )
    if mine and mine[0] is not good:
        return f"{said}; a newer one is {mine[0].verdict.value}, so look at its validation"
    return f"{said}; see that a job means it and runs"


def _watched(site: Site, jobs: Sequence[PlannedJob], known: Mapping[VmId, str]) -> dict[VmId, str]:
    """VMs of the pool that must have versions.

    Raises:
        LikenessError: The pool did not say.
    """
    return {
        each.vm: each.name
        for each in look_at_pool(jobs, site=site).vms
        if each.jobs or (each.vm in known and not each.kept_out)
    }


def _first_seen(site: Site, vms: Mapping[VmId, str], now: datetime) -> dict[VmId, datetime]:
    """When each VM was first watched: a new one has time until its first backup.

    It is kept beside the catalog; where that was lost, the time begins anew.
    """
    path = site.catalog.file.path.with_name(_SEEN_FILE)
    kept: dict[str, datetime] = {}
    with suppress(OSError, ValueError, TypeError, AttributeError):
        kept = {vm: datetime.fromisoformat(at) for vm, at in json.loads(path.read_text()).items()}
    seen = {vm: kept[vm] if vm in kept and kept[vm].tzinfo else now for vm in vms}
    draft = path.with_name(f"{_SEEN_FILE}-{random_name()}")
    draft.write_text(json.dumps({vm: at.isoformat() for vm, at in seen.items()}))
    draft.replace(path)
    return seen


def overdue_validation(
    rows: Sequence[VersionRow], now: datetime, patience: timedelta
) -> Iterator[Cause]:
    """Versions that should have been read back, or read back again, by now."""
    behind = [
        row
        for row in rows
        if row.verdict is Verdict.UNCHECKED and now - row.committed_at > patience
    ]
    if behind:
        yield Cause(
            "validation",
            f"validation falls behind: {_oldest(behind, 'not validated', now)}; see that validate"
            " and revalidate run",
        )
    if stale := [row for row in rows if row.verdict is Verdict.STALE]:
        yield Cause(
            "revalidation",
            f"validation falls behind: {counted(len(stale), 'version')} were proved too long ago"
            " or could not be checked; see that revalidate runs and the share answers",
        )


def overdue_vault(
    place: str, rows: Sequence[VersionRow], now: datetime, patience: timedelta
) -> Iterator[Cause]:
    """Versions newer than any of their VM in the vault that should be there by now."""
    there: dict[VmId, int] = {}
    for row in rows:
        if place in row.vaults:
            there[row.vm] = max(there.get(row.vm, 0), row.sequence)
    behind = [
        row
        for row in rows
        if place not in row.vaults
        and row.sequence > there.get(row.vm, -1)
        and now - row.committed_at > patience
    ]
    if behind:
        yield Cause(
            "vault",
            f"the vault falls behind: {_oldest(behind, f'not in {place}', now)}; see that the"
            " deployment vault runs",
        )


def _oldest(rows: Sequence[VersionRow], lack: str, now: datetime) -> str:
    oldest = min(rows, key=lambda row: row.committed_at)
    age = readable_age(now - oldest.committed_at)
    return f"{counted(len(rows), 'version')} {lack}, the oldest of VM {oldest.vm_name!r} for {age}"

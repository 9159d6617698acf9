"""Forget: which versions go by the policies, why, and what that frees; then it is done.

The plan is what people look at first. What is done is planned anew at that moment, and the store
refuses whatever is pinned, locked or the last of its VM, whoever asks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from itertools import groupby

from prefect import get_run_logger

from blocks import Site
from catalog import space
from catalog.dedup import PROOF_COUNTS_FOR
from catalog.space import Freed, VersionFacts
from likeness.clock import system_clock
from likeness.errors import BadInput, UnknownVersion, UnknownVm
from likeness.model.choosing import ambiguous, called, offered
from likeness.model.ids import VersionId, VmId, as_uuid, from_uuid
from likeness.model.retention import Point, Retention, judged, parse_policy, policies_by_tag
from likeness.store.format.data_store import DataStore
from likeness.store.prune.brakes import require_all_pins
from likeness.store.repair.begun_for_nothing import holds_now
from likeness.store.write.forgetting import finish_moves, forget_versions
from likeness.store.write.holding import Hold
from tasks.ages import age_limit
from tasks.claims import is_backed_up_now, store_claimed, store_gate, versions_read
from tasks.retries import STEP, task
from tasks.sentinel import suspicious_vms_of

_BUSY, _READ = "its VM is being backed up at this moment", "it is being read at this moment"
_LAST_GOOD = "the last version of its VM that is known to restore"
_LAST = "the last one that may restore"
_AT_ONCE = 64
"""Versions forgotten while the gate is held once."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A version, and what becomes of it.

    Attributes:
        version: Which.
        policy: What it was judged by, in words.
        reasons: Why it stays; empty if it goes.
    """

    version: VersionFacts
    policy: str
    reasons: tuple[str, ...]

    @property
    def goes(self) -> bool:
        """Whether nothing keeps it."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What forgetting by policy does, or has done.

    Attributes:
        versions: Every version that was judged, by VM and job, newest first.
        freed: What forgetting those that go frees.
        done: Whether it was done.
    """

    versions: tuple[Judged, ...]
    freed: Freed = field(default_factory=Freed)
    done: bool = False

    @property
    def going(self) -> tuple[Judged, ...]:
        """Those that go."""
        return tuple(each for each in self.versions if each.goes)


def plan_forget(
    site: Site, *, keep: str = "", vms: Collection[str] = (), versions: Collection[str] = ()
) -> ForgetPlan:
    """Which versions go, and exactly what that frees; changes nothing.

    Args:
        site: The installation.
        keep: A policy to try instead of those that are set.
        vms: Names or uuids of VMs; all if none.
        versions: Beginnings of ids; then these go and no others, whatever a policy says, unless
            they are pinned, locked, read at this moment, or the last one of their VM that may
            restore.

    Raises:
        BadInput: It is no policy, or there is no such VM or version.
        ReclaimStopped: A pin is gone from the store, so nobody knows what must stay.
    """
    facts = space.versions_to_judge(site.catalog.file)
    chosen = _of_vms(facts, vms)
    with site.data_store.open() as store:
        require_all_pins(store)
        holds = holds_now(store)
    reading = versions_read(site)
    if versions:
        wanted = _named(chosen, versions)
        last = _last_of_vms(chosen, wanted)
        found = [_by_hand(each, last, holds, reading) for each in chosen if each in wanted]
    else:
        found = list(_by_policy(site, chosen, keep, holds, reading))
    going = [each.version.version for each in found if each.goes]
    return ForgetPlan(tuple(found), _freed(site, going))


def _freed(site: Site, going: Sequence[VersionId]) -> Freed:
    age = age_limit(site.revalidate_after).green_for or PROOF_COUNTS_FOR
    return space.freed_by(site.catalog.file, going, system_clock(), age)


@task(task_run_name="plan what to forget", **STEP)
def preview_forget(
    *, site: Site, keep: str = "", vms: Collection[str] = (), versions: Collection[str] = ()
) -> ForgetPlan:
    """See `plan_forget`."""
    return plan_forget(site, keep=keep, vms=vms, versions=versions)


@task(task_run_name="forget", **STEP)
def forget(
    *, site: Site, keep: str = "", vms: Collection[str] = (), versions: Collection[str] = ()
) -> ForgetPlan:
    """Forget what a plan made at this moment says; VMs that are backed up now are left out.

    The store is told first, then the catalog: whatever a crash leaves, the next run of anything
    catches up with. Safe to repeat.

    Raises:
        StoreTakenOver: Another installation owns the store now.
        ShareUnreachable: The store went away; tried again.
    """
    plan = plan_forget(site, keep=keep, vms=vms, versions=versions)
    kept: dict[VersionId, str] = {}
    going = [each.version for each in plan.going]
    with site.data_store.open() as store:
        if going:
            with store_gate(site):
                finish_moves(store)
        for start in range(0, len(going), _AT_ONCE):
            kept |= _forget_some(site, store, going[start : start + _AT_ONCE])
    for each in plan.going:
        if each.version.version not in kept:
            get_run_logger().info("forgotten: %s", _label(each.version))
    told = tuple(
        Judged(e.version, e.policy, (kept[e.version.version],)) if e.version.version in kept else e
        for e in plan.versions
    )
    freed = plan.freed
    if kept:
        freed = _freed(site, [each.version for each in going if each.version not in kept])
    return ForgetPlan(told, freed, done=True)


def _forget_some(
    site: Site, store: DataStore, going: Sequence[VersionFacts]
) -> dict[VersionId, str]:
    """Forget some versions; those that stay after all, with the reason."""
    kept: dict[VersionId, str] = {}
    with store_claimed(site), store_gate(site):
        busy = {vm for vm in {each.vm for each in going} if is_backed_up_now(site, vm)}
        read_now = versions_read(site)
        for each in going:
            if each.vm in busy or each.version in read_now:
                kept[each.version] = _BUSY if each.vm in busy else _READ
        ids = {each.record: each.version for each in going if each.version not in kept}
        done = forget_versions(
            store,
            ids,
            reason="by policy, or by hand",
            clock=system_clock,
            holds=holds_now(store),
        )
    space.forget_versions(site.catalog.file, [ids[record] for record in done.gone], system_clock())
    return kept | {ids[record]: why for record, why in done.kept.items()}


def _label(version: VersionFacts) -> str:
    return f"{version.vm_name}, version {version.version[:8]} of {version.taken_at:%Y-%m-%d %H:%M}"


def _of_vms(facts: Sequence[VersionFacts], vms: Collection[str]) -> list[VersionFacts]:
    if not vms:
        return list(facts)
    known = {each.vm: _Vm(as_uuid(each.vm), each.vm_name) for each in facts}
    found: set[VmId] = set()
    for asked in vms:
        meant = called(asked, known.values())
        if not meant:
            near = offered(asked, list(known.values())) or "give a name or uuid from the dashboard"
            raise UnknownVm(f"no VM {asked!r} has a version; {near}")
        if len(meant) > 1:
            raise BadInput(ambiguous(asked, "VMs with versions", meant))
        found.add(VmId(from_uuid(meant[0].uuid)))
    return [each for each in facts if each.vm in found]


@dataclass(frozen=True, slots=True)
class _Vm:
    uuid: str
    name: str


def _named(facts: Sequence[VersionFacts], versions: Collection[str]) -> list[VersionFacts]:
    found: list[VersionFacts] = []
    for digits in versions:
        meant = [e for e in facts if len(digits) >= 4 and e.version.startswith(digits.lower())]
        if len(meant) != 1:
            many = "several versions begin" if meant else "no version begins"
            raise UnknownVersion(f"{many} with {digits!r}; give more of the id")
        found += meant
    return found


def _last_of_vms(
    facts: Sequence[VersionFacts], wanted: Collection[VersionFacts]
) -> dict[VersionId, str]:
    """What stays of each VM, and why: its newest good version, and one if all are asked for."""
    found: dict[VersionId, str] = {}
    for _, group in groupby(facts, lambda each: each.vm):
        versions = sorted(group, key=lambda each: each.taken_at, reverse=True)
        good = [each for each in versions if each.trust == "good"]
        sound = [each for each in versions if each.trust != "damaged"]
        if good and all(each in wanted for each in good):
            found[good[0].version] = _LAST_GOOD
        elif all(each in wanted for each in versions):
            found[(sound or versions)[0].version] = _LAST
    return found


def _by_hand(
    version: VersionFacts,
    last: Mapping[VersionId, str],
    holds: Mapping[str, Sequence[Hold]],
    reading: Collection[VersionId],
) -> Judged:
    (kept,) = judged(
        [_point(version, holds, reading)], Retention(last=1), now=system_clock(), zone=UTC
    )
    own = [why for why in kept.reasons if why.startswith(("pinned", "locked", "being"))]
    if version.version in last:
        own.append(last[version.version])
    return Judged(version, "by hand", tuple(own))


def _by_policy(
    site: Site,
    facts: Sequence[VersionFacts],
    keep: str,
    holds: Mapping[str, Sequence[Hold]],
    reading: Collection[VersionId],
) -> list[Judged]:
    """Each VM's versions of each job on their own."""
    given = _policy(keep) if keep else None
    by_tag, unlike = policies_by_tag(site.keep_by_tag), suspicious_vms_of(site)
    found: list[Judged] = []
    for _, group in groupby(facts, lambda each: (each.vm, each.job)):
        versions = list(group)
        policy, whose = (given, "given") if given else _policy_of(site, versions[-1], by_tag)
        points = [_point(each, holds, reading) for each in versions]
        by_id = {each.version: each for each in versions}
        for kept in judged(points, policy, now=system_clock(), zone=UTC):
            version = by_id[VersionId(kept.point.version)]
            reasons = kept.reasons
            if not reasons and version.vm in unlike:  # nothing goes before a person has looked
                reasons = (unlike[version.vm],)
            found.append(Judged(version, f"{policy} ({whose})", reasons))
    return found


def _policy_of(
    site: Site, newest: VersionFacts, by_tag: Mapping[str, Retention]
) -> tuple[Retention, str]:
    """What a VM's versions of one job are kept by, and who says so."""
    for tag, policy in by_tag.items():
        if tag in newest.tags:
            return policy, f"tag {tag}"
    if newest.keep:
        return _policy(newest.keep), f"job {newest.job}"
    return _policy(site.keep), "site"


def _policy(text: str) -> Retention:
    try:
        return parse_policy(text)
    except ValueError as cause:
        raise BadInput(f"{text!r} is no policy: {cause}") from cause


def _point(
    version: VersionFacts, holds: Mapping[str, Sequence[Hold]], reading: Collection[VersionId]
) -> Point:
    now = system_clock()
    held = [each for each in holds.get(version.record, ()) if each.holds_at(now)]
    pin = next((each for each in held if not each.locked), None)
    locks = [each.until for each in held if each.locked and each.until]
    locks += [version.locked_until] if version.locked_until else []
    return Point(
        version=version.version,
        taken_at=version.taken_at,
        trust=version.trust,
        pinned=pin.note or "no reason given" if pin else "",
        pinned_until=pin.until if pin else None,
        locked_until=max(locks, default=None),
        in_use=version.version in reading,
    )

"""Validate: packs read back and proved, and the verdict on every version that needs them."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks import Site
from catalog import planning, progress
from catalog.at_work import forget_work
from catalog.audits import audit_is_due
from catalog.planning import ReadingPlan
from catalog.progress import DiskProof, Validation
from catalog.runs import is_known
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import stopwatch, system_clock
from likeness.errors import BadInput, LikenessError, UnknownVersion
from likeness.model.choosing import called, offered
from likeness.model.ids import RunId, VersionId, as_uuid, from_uuid
from likeness.model.sizes import counted, readable_size
from likeness.stopping import StopToken
from likeness.store.check.proving import PackProof
from likeness.store.format import layout
from likeness.transport.metered import MeteredTransport
from likeness.transport.tuning import keep_large_buffers
from tasks.ages import age_limit, is_hour
from tasks.auditing import EVERYTHING_EVERY, look_at_everything, look_at_packs_and_records
from tasks.catch_up import ListedStore
from tasks.claims import is_live
from tasks.dashboard import Reading, reading_shown
from tasks.notify import tell
from tasks.other_workers import OtherWorkers
from tasks.proving import Prover, Validated
from tasks.retries import ONCE, STEP, task
from tasks.transfer import scratch_folder

_DAY = timedelta(days=1)
_TELL_AFTER_SECONDS = 60.0
_TELL_AGAIN_AFTER_SECONDS = 3600.0


class DiskNotProved(LikenessError):
    """Not all data blocks of a disk are proved."""


@task(task_run_name="look whether everything is there", **STEP)
def audit_presence(
    this: RunId,
    *,
    site: Site,
    stop: StopToken,
    daily: bool = False,
    everything: bool = False,
    seen: ListedStore | None = None,
) -> Validated:
    """Compare the store's listing with what must be there, and prove at once what is in doubt.

    Args:
        this: The run that looks.
        site: The installation.
        stop: Looked at between objects.
        daily: Look at keys, heads, index, statements and block maps too, unless that was done
            today.
        everything: Look at them whenever that was.
        seen: What the store was seen to have a moment ago.

    Raises:
        ShareUnreachable: The store does not answer; tried again.
    """
    with _prover(site, stop) as (prover, _), scratch_folder(site, this) as scratch:
        due = everything or (
            daily and audit_is_due(prover.catalog, prover.clock(), EVERYTHING_EVERY)
        )
        doubts = (
            look_at_everything(prover, seen) if due else look_at_packs_and_records(prover, seen)
        )
        report = prover.prove(doubts.packs)
        if doubts.versions:
            checks = prover.documents(doubts.versions, scratch, all_of_them=True)
            report = report.and_then(prover.judge(doubts.versions, checks))
    return report


def backup_run(given: str, *, site: Site) -> RunId:
    """The backup run of that id, with or without dashes.

    Raises:
        BadInput: There was none; validating nothing must not look well.
    """
    with suppress(ValueError):
        run = RunId(from_uuid(given.strip()))
        if is_known(site.catalog.file, run):
            return run
    raise BadInput(
        f"no backup run {given!r} is known; give the id of one, as its page in the UI has it, or"
        " none to validate whatever is new or due"
    )


def asked_for(*, everything: bool, vm: str, site: Site) -> list[VersionId] | None:
    """The versions of which a person wants all read now; none if nobody asked.

    Raises:
        UnknownVersion: The VM has no version here.
    """
    if not (everything or vm):
        return None
    rows = list_versions(site.catalog.file, system_clock(), None)
    known = sorted({_BackedUp(row.vm_name, as_uuid(row.vm)) for row in rows})
    meant = {each.uuid for each in called(vm, known)}
    found = [row.version for row in rows if not vm or as_uuid(row.vm) in meant]
    if vm and not found:
        names = ", ".join(dict.fromkeys(each.name for each in known)) or "none"
        hint = offered(vm, known) or f"there are: {names[:200]}"
        raise UnknownVersion(f"no VM {vm!r} has a version here; {hint}")
    return found


@dataclass(frozen=True, slots=True, order=True)
class _BackedUp:
    """A VM that has versions, by a name it bears or bore."""

    name: str
    uuid: str


def check_presence(run: RunId, seen: ListedStore | None, *, site: Site) -> None:
    """The same before a job, which goes on whatever comes of it; people are told after the job."""
    audit_presence(run, site=site, stop=StopToken(), seen=seen, return_state=True)


@dataclass
class ProofAttempts:
    """What the attempts of one run to prove what is due have found and recorded.

    Attributes:
        earlier: All of them but the latest.
        latest: The one that is under way.
    """

    earlier: Validated = field(default_factory=Validated)
    latest: Validated = field(default_factory=Validated)

    def begin(self) -> None:
        """Another attempt."""
        self.earlier, self.latest = self.earlier.and_then(self.latest), Validated()


@task(task_run_name="prove what is due", **STEP)
def prove_due(
    run: RunId | None,
    this: RunId,
    byte_budget: int | None,
    *,
    site: Site,
    stop: StopToken,
    attempts: ProofAttempts,
    asked: Sequence[VersionId] | None = None,
) -> Validated:
    """Prove packs that are new or due, and the documents of the versions concerned.

    Goes on where an attempt that died left off: proofs are recorded every few seconds, each batch
    in one transaction with the verdicts that follow from it.

    Args:
        run: The run whose versions to judge; all versions if none.
        this: The run that validates.
        byte_budget: Read at most so many bytes of what was proved before; no limit if none.
        site: The installation.
        stop: Looked at before every pack.
        attempts: What earlier attempts of this run found stays found.
        asked: Versions of which a person wants all read now, whatever its age.
    """
    attempts.begin()
    keep_large_buffers()
    with _prover(site, stop) as (prover, meter), scratch_folder(site, this) as scratch:
        under_way = _begin(run, this, site)
        rows = prover.versions(run)
        if asked is not None:
            rows = [row for row in rows if row.version in asked]
        if asked is None:
            plan = _plan(under_way, rows, byte_budget, prover, site)
        else:
            plan = planning.plan_new(prover.catalog, system_clock(), timedelta(0), versions=asked)
        report = _prove(plan, under_way, prover, meter, site, attempts)
        versions = [row.version for row in rows]
        which = versions if run is not None else asked
        checks = prover.documents(which, scratch, all_of_them=asked is not None)
        report = report.and_then(prover.judge(versions, checks))
        done = under_way.done_bytes + plan.size_bytes
        progress.note_validation(
            prover.catalog,
            this,
            system_clock(),
            todo_bytes=done,
            done_bytes=done,
            finished=True,
        )
    for warning in report.warnings:
        get_run_logger().warning("%s", warning)
    return attempts.earlier.and_then(report)


@contextmanager
def _prover(site: Site, stop: StopToken) -> Generator[tuple[Prover, MeteredTransport], None, None]:
    with site.data_store.open() as store:
        meter = MeteredTransport(store.transport, folder=layout.PACKS)
        store.transport = meter
        limit = age_limit(site.revalidate_after)
        others = OtherWorkers(site, site.prove_on_workers, stop) if site.prove_on_workers else None
        elsewhere = others.prove if others else None
        yield Prover(site.catalog.file, store, limit, system_clock, stop, elsewhere), meter


def _begin(run: RunId | None, this: RunId, site: Site) -> Validation:
    """Go on after a validation of the same matter that died, if there is one."""
    catalog, now = site.catalog.file, system_clock()
    dead = [
        each
        for each in progress.list_validations(catalog, unfinished_only=True)
        if each.run != this and not is_live(site, each.run)
    ]
    same = next((each.run for each in dead if each.of_run == run), None)
    for each in dead:
        if each.run != same and (run is None or each.of_run == run):
            progress.note_validation(
                catalog,
                each.run,
                now,
                todo_bytes=each.todo_bytes,
                done_bytes=each.done_bytes,
                finished=True,
            )
            forget_work(catalog, [each.run])
    return progress.begin_validation(catalog, this, run, now, goes_on_after=same)


def _plan(
    under_way: Validation,
    rows: Sequence[VersionRow],
    byte_budget: int | None,
    prover: Prover,
    site: Site,
) -> ReadingPlan:
    """What a run brought in and what it relies on; or what is new anywhere, and what is old."""
    now, age = system_clock(), prover.limit.due_after
    went_on = under_way.done_bytes > 0 or under_way.begun_at < under_way.seen_at
    unseen = under_way.begun_at if went_on else None
    if under_way.of_run is not None:
        versions = [row.version for row in rows]
        return planning.plan_new(prover.catalog, now, age, versions=versions, unseen_since=unseen)
    last = progress.last_revalidation(prover.catalog, now)
    pause = min(now - last, _DAY) if last is not None else _DAY
    if byte_budget is None and site.revalidate_gib_a_day:
        byte_budget = int((site.revalidate_gib_a_day << 30) * (pause / _DAY))
    return planning.plan_revalidation(
        prover.catalog,
        now,
        age,
        pause=pause,
        budget_bytes=byte_budget,
        with_new=not _others_at_what_is_new(site),
        with_old=is_hour(site.revalidate_at_hours, now),
        unseen_since=unseen,
    )


def _others_at_what_is_new(site: Site) -> bool:
    """Whether the validation of a job is under way; then it reads what is new."""
    unfinished = progress.list_validations(site.catalog.file, unfinished_only=True)
    return any(each.of_run is not None and is_live(site, each.run) for each in unfinished)


def _prove(
    plan: ReadingPlan,
    under_way: Validation,
    prover: Prover,
    meter: MeteredTransport,
    site: Site,
    attempts: ProofAttempts,
) -> Validated:
    packs = {pack.pack: pack.size_bytes for pack in plan.packs}
    before = under_way.done_bytes
    reading = Reading(
        before_bytes=before,
        todo_bytes=before + plan.size_bytes,
        packs=len(packs),
        vms=planning.vms_of_packs(prover.catalog, packs),
        meter=meter,
    )
    teller = _Teller(site)
    done = before

    def told(batch: Sequence[PackProof], so_far: Validated) -> None:
        nonlocal done
        attempts.latest = so_far
        done += sum(packs[proof.pack] for proof in batch)
        reading.note([proof.pack for proof in batch], done)
        progress.note_validation(
            prover.catalog,
            under_way.run,
            system_clock(),
            todo_bytes=reading.todo_bytes,
            done_bytes=done,
        )
        teller.look(so_far)

    progress.note_validation(
        prover.catalog,
        under_way.run,
        system_clock(),
        todo_bytes=reading.todo_bytes,
        done_bytes=before,
    )
    try:
        with reading_shown(site, under_way.run, reading):
            return prover.prove(list(packs), told=told)
    except Exception:
        teller.tell_what_was_seen()
        raise


class _Teller:
    """Tells people of damage while a long validation goes on: soon, and then once an hour.

    Damage seldom comes alone, so what shows within a minute is one incident and one message.
    """

    def __init__(self, site: Site) -> None:
        self._site, self._damaged = site, 0
        self._seen_at: float | None = None
        self._told_at: float | None = None

    def look(self, so_far: Validated) -> None:
        """Tell, if it is time to."""
        now = stopwatch()
        if so_far.damaged_chunks > self._damaged and self._seen_at is None:
            self._seen_at = now
        self._damaged = so_far.damaged_chunks
        if self._seen_at is None or now - self._seen_at < _TELL_AFTER_SECONDS:
            return
        if self._told_at is None or now - self._told_at >= _TELL_AGAIN_AFTER_SECONDS:
            self.tell_what_was_seen()

    def tell_what_was_seen(self) -> None:
        """Tell of damage that nobody was told of yet."""
        if self._seen_at is not None:
            tell(self._site)
            self._seen_at, self._told_at = None, stopwatch()


def judge_disks(run: RunId, *, site: Site) -> list[State[Any]]:
    """One step for every disk that a run backed up: whether all of it is proved."""
    limit = age_limit(site.revalidate_after)
    rows = list_versions(site.catalog.file, system_clock(), limit.green_for, run=run)
    versions = [row.version for row in rows]
    found = progress.disk_proofs(site.catalog.file, versions)
    return [judge_disk(disk, return_state=True) for disk in found]


@task(task_run_name="validate {disk.vm_name}, disk {disk.name}", **ONCE)
def judge_disk(disk: DiskProof) -> State[Any]:
    """Say of one disk whether every data block of it was read back and proved."""
    size = readable_size(disk.size_bytes)
    if disk.damaged_chunks:
        said = f"{disk.damaged_chunks} data blocks are damaged or missing"
        return Failed(message=said, data=DiskNotProved(said))
    if disk.unreachable or disk.unproved:
        said = f"{disk.unreachable or disk.unproved} of {disk.packs} packs could not be checked"
        return Failed(name="CouldNotCheck", message=said, data=DiskNotProved(said))
    return Completed(
        name="Validated", message=f"{size}, {counted(disk.packs, 'pack')} proved", data=disk
    )

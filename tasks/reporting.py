"""What people look at: artifacts of versions, jobs, validations; and the commit event."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks import Site
from catalog import versions as catalog_versions
from catalog.incidents import Incident
from catalog.values import Verdict, VersionRow
from likeness.clock import system_clock
from likeness.model.ids import RunId, VmId
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.model.sizes import counted, readable_size
from tasks.ages import age_limit
from tasks.artifacts import ends_alone, put_markdown, put_table, slug
from tasks.heal import Healed
from tasks.job_plan import JobPlan, VmPlan, kept_plan
from tasks.notify import Delivered
from tasks.outcomes import DAMAGE_FOUND, HAD_WARNINGS, DamageFound
from tasks.page import MARKS, age_of, store_problem
from tasks.protection import Unprotected
from tasks.proving import Validated
from tasks.rehearse import Rehearsed
from tasks.reports import cell
from tasks.restore import RestoredDisk
from tasks.restore_vm import VmBack
from tasks.sweep import SweepReport
from tasks.vault import Vaulted

_VM_MARKS = {VmState.DONE: "✅", VmState.FAILED: "❌", VmState.STOPPED: "⏹"}


def show_job(
    job: BackupJob,
    run: RunId,
    outcomes: Sequence[VmOutcome],
    *,
    site: Site,
    head: str,
    warnings: Sequence[str] = (),
) -> None:
    """The job's result against its plan as a table."""
    plan = kept_plan(run, site=site)
    planned = {vm.vm: vm for vm in plan.vms} if plan else {}
    rows = [_outcome_row(outcome, planned.get(outcome.vm)) for outcome in outcomes]
    description = (
        f"Job **{cell(job.name)}**: {counted(len(outcomes), 'VM')}; store at {head or 'no head'}"
    )
    if plan:
        description += f"\n\n{_against(plan, outcomes)}"
    description += "".join(f"\n\n⚠ {cell(warning)}" for warning in warnings)
    put_table(site.key_of(f"job-{slug(job.name)}"), rows, description)


def _planned(vm: VmPlan | None) -> str:
    if vm is None:
        return "–"
    read, sent = readable_size(vm.read_bytes), readable_size(vm.sent_bytes)
    return f"read {read}, send {sent}, {vm.seconds:.0f} s"


def _against(plan: JobPlan, outcomes: Sequence[VmOutcome]) -> str:
    read, sent = sum(o.read_bytes for o in outcomes), sum(o.sent_bytes for o in outcomes)
    return (
        f"Planned: about {readable_size(plan.read_bytes)} to read and"
        f" {readable_size(plan.sent_bytes)} to send until {plan.over_at:%Y-%m-%d %H:%M} UTC."
        f" It was {readable_size(read)} and {readable_size(sent)}, until {_now(system_clock())}."
    )


def _outcome_row(outcome: VmOutcome, planned: VmPlan | None) -> dict[str, str]:
    return {
        "result": _VM_MARKS[outcome.state],
        "VM": outcome.name,
        "version": outcome.version[:8],
        "disks": readable_size(outcome.disk_bytes),
        "read": readable_size(outcome.read_bytes),
        "in the store already": readable_size(outcome.known_bytes),
        "sent": readable_size(outcome.sent_bytes),
        "kept": readable_size(outcome.kept_bytes),
        "known elsewhere": readable_size(outcome.dropped_bytes),
        "planned": _planned(planned),
        "snapshot seconds": f"{outcome.snapshot_seconds:.0f}",
        "read by": outcome.read_by,
        "CPU seconds": f"{outcome.cpu_seconds:.1f}",
        "remark": outcome.sentence,
    }


def show_versions(*, site: Site) -> None:
    """Every version, VM by VM, newest first: ✅ ❌ ⏳, and the age of its oldest check."""
    now = system_clock()
    rows = catalog_versions.list_versions(
        site.catalog.file, now, age_limit(site.revalidate_after).green_for
    )
    called: dict[VmId, str] = {}
    for row in rows:
        called.setdefault(row.vm, row.vm_name)  # newest first: what the VM is called by now
    rows.sort(key=lambda row: (called[row.vm], row.vm))  # stable: newest first within a VM
    away = store_problem(site)
    table = [version_row(row, now, called[row.vm], known=not away) for row in rows]
    card = f"{legend([as_known(row.verdict, known=not away) for row in rows])} · as of {_now(now)}"
    if away:
        card = f"🟠 **the data store cannot be opened**: {cell(away)} · {card}"
    put_table(site.key_of("versions"), table, card, keep=1)


def show_changed_versions(*, site: Site) -> None:
    """The same in the middle of another run; what the end of a run is, `show_ended` shows."""
    if not ends_alone():
        show_versions(site=site)


def as_known(verdict: Verdict, *, known: bool) -> Verdict:
    """What may be shown of a verdict: nothing is green while its store cannot be opened."""
    return Verdict.STALE if verdict is Verdict.GOOD and not known else verdict


def version_row(
    row: VersionRow, now: datetime, called: str = "", *, known: bool = True
) -> dict[str, str]:
    """One version as people see it.

    Args:
        row: Which.
        now: The present.
        called: What its VM is called by now; it was renamed if that is another name.
        known: Whether the store could be opened.
    """
    renamed = bool(called) and called != row.vm_name
    return {
        "verdict": MARKS[as_known(row.verdict, known=known)],
        "VM": f"{called} (was {row.vm_name})" if renamed else row.vm_name,
        "version": row.version[:8],
        "taken": f"{row.taken_at:%Y-%m-%d %H:%M:%S}",
        "oldest check": age_of(row.oldest_proof_at, now) if row.oldest_proof_at else "never",
        "vault": ", ".join(vault_mark(row, place, now) for place in row.vaults),
        "remark": row.reason,
        "disks": readable_size(row.counts.disk_bytes),
        "read": readable_size(row.counts.read_bytes),
        "sent": readable_size(row.counts.sent_bytes),
        "kept": readable_size(row.kept_bytes),
    }


def vault_mark(row: VersionRow, place: str, now: datetime) -> str:
    """✅ only where all that the version needs was read back at the vault."""
    read = row.read_back.get(place)
    return f"✅ read back {age_of(read, now)}: {place}" if read else f"copied: {place}"


def show_rehearsal(found: Rehearsed, *, site: Site) -> None:
    """The proof that a lost installation would come back, with its date."""
    mark = "❌" if found.problems else "✅"
    lines = [
        f"# {mark} Rehearsal of a recovery, {system_clock():%Y-%m-%d %H:%M} UTC",
        "",
        f"{counted(found.versions, 'version')}; {found.head}.",
        f"Of {found.copy}: {found.copy_seconds:.1f} s.",
        f"Of the data store alone: {found.store_seconds:.1f} s.",
        *(f"- {cell(each)}" for each in found.problems),
    ]
    put_markdown(site.key_of("rehearsal"), "\n".join(lines), "Rehearsal of a recovery")


def legend(verdicts: Sequence[Verdict]) -> str:
    """What a card says of all versions at first glance: no mark that counts nothing."""
    if not verdicts:
        return "No version yet"
    words = {
        Verdict.BAD: "damaged",
        Verdict.STALE: "validated too long ago",
        Verdict.UNCHECKED: "not validated yet",
        Verdict.GOOD: "proved",
    }
    counts = {each: verdicts.count(each) for each in words}
    if counts[Verdict.GOOD] == len(verdicts):
        all_of_them = f"all {len(verdicts)}" if len(verdicts) > 1 else "the only version"
        return f"{MARKS[Verdict.GOOD]} {all_of_them} proved"
    return " · ".join(
        f"{MARKS[each]} {count} {words[each]}" for each, count in counts.items() if count
    )


def show_validation(found: Validated, healed: Healed, *, site: Site) -> None:
    """What a validation read, what turned red, and what is green again; the state's own figures."""
    turned_bad, found = found.turned_bad, found.and_then(healed.validated)
    lines = [
        f"Read back and proved **{readable_size(found.proved_bytes)}** in"
        f" {counted(found.packs, 'pack')}; {counted(found.good, 'version')} good."
    ]
    if found.could_not_check:
        lines.append(f"{counted(found.could_not_check, 'pack')} could not be read this time.")
    for change in turned_bad:
        get_run_logger().error("%s", _damage(change))
        lines.append(f"- ❌ {cell(_damage(change))}")
    if healed.found:
        lines.append(f"{counted(healed.found, 'data block')} came back from the vault.")
    if healed.documents:
        what = counted(healed.documents, "record, block map, index segment or statement")
        lines.append(f"From the vault again, under its own name: {what}.")
    for change in found.healed:
        lines.append(f"- ✅ healed: {cell(_damage(change))}")
    text = "\n\n".join(lines)
    put_markdown(site.key_of("validation-report"), text, "What one validation read and found")


def _damage(change: Any) -> str:
    return (
        f"{change.vm_name}, version {change.version[:8]} of {change.taken_at:%Y-%m-%d %H:%M}:"
        f" {change.reason}"
    )


def validation_state(
    found: Validated,
    healed: Healed,
    told: Delivered,
    incidents: Sequence[Incident] = (),
    warnings: Sequence[str] = (),
) -> State[Any]:
    """How a validation ends: *Failed* when it found damage that is not healed.

    Args:
        found: What was read.
        healed: What came back.
        told: What became of the messages.
        incidents: Those that are open still.
        warnings: What else went wrong, and the next run does again.
    """
    found = found.and_then(healed.validated)
    warnings = [*filter(None, (told.sentence,)), *warnings]
    if found.turned_bad:
        message = "; ".join([*(_damage(change) for change in found.turned_bad), *warnings])
        return Failed(message=f"{DAMAGE_FOUND}{message}", data=DamageFound(message))
    said = f"{counted(found.good, 'version')} good, {readable_size(found.proved_bytes)} proved"
    if found.healed:
        said += f", {counted(len(found.healed), 'version')} healed"
    if found.could_not_check:
        said += f", {counted(found.could_not_check, 'pack')} could not be checked"
    warnings = [*(f"still open: {_incident(each)}" for each in incidents), *warnings]
    if warnings:
        return Completed(name=HAD_WARNINGS, message=f"{said}; {'; '.join(warnings)}", data=found)
    return Completed(message=said, data=found)


def _incident(incident: Incident) -> str:
    """An open incident in a few words."""
    red = [each for each in incident.versions if each.settled_at is None]
    names = ", ".join(sorted({each.vm_name for each in red})) or "no version is red"
    return f"incident {incident.number} ({counted(len(red), 'version')} red: {names})"


def show_vault(copied: Vaulted, *, site: Site) -> None:
    """What went to the vault, and what did not."""
    lines = [f"Copied {copied.objects} objects, {readable_size(copied.copied_bytes)}."]
    lines += [f"- not copied: {cell(problem)}" for problem in copied.problems]
    put_markdown(site.key_of("vault"), "\n\n".join(lines), "What went to the vault")


def show_restore(version: str, disks: Sequence[RestoredDisk], *, site: Site) -> None:
    """Where the restored disks are."""
    rows = [
        {
            "disk": disk.name,
            "file": str(disk.path),
            "size": readable_size(disk.size_bytes),
            "proved": "all of it" if not disk.lost_bytes else f"❌ {disk.lost_bytes:,} bytes lost",
        }
        for disk in disks
    ]
    said = f"Version {version[:8]}, every data block proved on its way"
    put_table(site.key_of("restore"), rows, said)


def show_vm_back(vm: VmBack, *, site: Site) -> None:
    """The VM that is back, disk by disk, and what is not as it was."""
    rows = [{"disk": name, "size": readable_size(size)} for name, size in vm.disks]
    said = (
        f"VM **{cell(vm.name)}** ({vm.uuid}), version {vm.version[:8]} of {_moment(vm.taken_at)}"
        f" UTC, {readable_size(vm.written_bytes)} written, every data block proved on its way"
    )
    said += "".join(f"\n\n⚠ {cell(note)}" for note in vm.notes)
    put_table(site.key_of("restore-vm"), rows, said)


def show_unprotected(vms: Sequence[Unprotected], *, jobs: int, site: Site) -> None:
    """VMs that no job backs up by itself."""
    rows = [
        {
            "VM": each.name,
            "power": each.power_state,
            "disks": readable_size(each.size_bytes),
            "last version": _moment(each.last_taken_at),
            "why": each.reason,
        }
        for each in vms
    ]
    said = f"{counted(len(rows), 'VM')} that none of {counted(jobs, 'job')} backs up by itself"
    put_table(site.key_of("unprotected"), rows, said)


def show_sweep(report: SweepReport, *, site: Site) -> None:
    """What a sweep removed."""
    rows = [
        {"what": each.what, "name": each.name, "result": each.problem or "removed"}
        for each in report.snapshots
    ]
    removed = (
        f"{counted(report.store.objects, 'object')} ({readable_size(report.store.freed_bytes)})"
    )
    put_table(site.key_of("sweep"), rows, f"Also removed from inboxes: {removed}")


def _now(now: datetime) -> str:
    return f"{now:%Y-%m-%d %H:%M} UTC"


def _moment(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "none"

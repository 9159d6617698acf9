"""From what happened to what a run's final state says, at first glance."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from catalog.values import VersionRow
from likeness.errors import LikenessError, PermanentError, Stopped, TransientError
from likeness.model.job import BackupJob
from likeness.model.outcome import NamedVm, VmOutcome, VmState
from likeness.model.sizes import counted, readable_size
from likeness.store.read.disk_writers import damage_map_of
from likeness.store.read.versions import Version
from tasks.dedup import DedupOutcome
from tasks.drill import Drilled
from tasks.failure_letters import HAS_UNPROTECTED
from tasks.files import FilesFound
from tasks.overdue import Cause
from tasks.protection import Unprotected
from tasks.rehearse import Rehearsed
from tasks.replicate import FailedOver, Replicated
from tasks.restore import RestoredDisk
from tasks.restore_vm import VmBack
from tasks.serve import Served
from tasks.sweep import SweepReport
from tasks.vault import Vaulted
from tasks.vault_check import CheckedVault
from tasks.vault_keep import VaultKept

DAMAGE_FOUND = "damage found: "
_MAX_NAMES = 8
_MAX_CAUSES = 20
HAD_ERRORS = "CompletedWithErrors"
HAD_WARNINGS = "CompletedWithWarnings"
OVERDUE = "Overdue"


def is_told_otherwise(state: State[Any]) -> bool:
    """Whether people are told of a failure by an incident, a job's report or the watch itself."""
    return state.name in (HAD_ERRORS, OVERDUE) or (state.message or "").startswith(DAMAGE_FOUND)


class JobHadErrors(LikenessError):
    """Some VMs of a job have no new version, or what follows a backup went wrong.

    Attributes:
        outcomes: What became of each VM.
    """

    def __init__(self, message: str, outcomes: Sequence[VmOutcome]) -> None:
        self.outcomes = tuple(outcomes)
        super().__init__(message)


class DamageFound(LikenessError):
    """Validation found versions that cannot be restored whole."""


_SHOWN = 5


class NotVaulted(PermanentError):
    """Something in the data store is damaged, and was therefore not copied to the vault."""


class UnprotectedFound(LikenessError):
    """There are VMs that no job backs up by itself.

    Attributes:
        vms: Which.
    """

    def __init__(self, message: str, vms: Sequence[Unprotected]) -> None:
        self.vms = tuple(vms)
        super().__init__(message)


class OverdueFound(LikenessError):
    """Something should have happened and has not.

    Attributes:
        causes: What.
    """

    def __init__(self, message: str, causes: Sequence[Cause]) -> None:
        self.causes = tuple(causes)
        super().__init__(message)


class NotSwept(TransientError):
    """Some places could not be swept; the next sweep tries again."""


def finished_vm(
    version: Version,
    dropped: DedupOutcome,
    *,
    seconds: float,
    notes: Sequence[str],
    read_by: str = "",
    cpu_seconds: float = 0.0,
    warnings: Sequence[str] = (),
) -> VmOutcome:
    """The outcome of a VM that has a new version."""
    counts = version.record.counts
    return VmOutcome(
        version.record.vm_name,
        VmState.DONE,
        vm=version.vm,
        version=version.version,
        disk_bytes=counts.disk_bytes,
        read_bytes=counts.read_bytes,
        sent_bytes=counts.sent_bytes,
        new_bytes=counts.new_bytes,
        known_bytes=counts.known_bytes,
        dropped_bytes=dropped.known_bytes,
        freed_bytes=dropped.freed_bytes,
        snapshot_seconds=seconds,
        read_by=read_by,
        cpu_seconds=cpu_seconds,
        sentence="; ".join(part for part in (version.record.note, *notes) if part),
        warnings=tuple(warnings),
    )


def done_before(row: VersionRow) -> VmOutcome:
    """The outcome of a VM that has its version from an earlier attempt of the same run."""
    return VmOutcome(
        row.vm_name,
        VmState.DONE,
        vm=row.vm,
        version=row.version,
        disk_bytes=row.counts.disk_bytes,
        read_bytes=row.counts.read_bytes,
        sent_bytes=row.counts.sent_bytes,
        new_bytes=row.counts.new_bytes,
        known_bytes=row.counts.known_bytes,
        sentence="; ".join(filter(None, (row.note, "made by an earlier attempt of this run"))),
    )


def failed_vm(vm: NamedVm, problem: object) -> VmOutcome:
    """The outcome of a VM that has none."""
    state = VmState.STOPPED if isinstance(problem, Stopped) else VmState.FAILED
    return VmOutcome(vm.name, state, vm=vm.vm, sentence=str(problem) or repr(problem))


def final_state(
    job: BackupJob,
    outcomes: Sequence[VmOutcome],
    afterwards: Sequence[State[Any]] = (),
    warnings: Sequence[str] = (),
) -> State[Any]:
    """How the job's flow run ends.

    *Completed* when every VM has a new version and all went well, *CompletedWithWarnings* when
    what the next run does again went wrong, *CompletedWithErrors* when some VMs have none, or when
    validation or vaulting failed, *Failed* when none has. The last two are failures to Prefect,
    since a backup that lacks a VM must not look well in any list.

    Args:
        job: Which.
        outcomes: What became of each VM.
        afterwards: How the flows after the backup ended: validation, vault.
        warnings: What else went wrong once the versions were there, in sentences.
    """
    failed = [each for each in outcomes if each.state is not VmState.DONE]
    done = len(outcomes) - len(failed)
    troubles = [_sentence(state) for state in afterwards if not state.is_completed()]
    if not failed and not troubles:
        message = f"{counted(done, 'VM')} backed up"
        if not warnings:
            return Completed(message=message, data=list(outcomes))
        message = f"{message}, but: {'; '.join(warnings)}"
        return Completed(name=HAD_WARNINGS, message=message, data=list(outcomes))
    said = [f"{each.name}: {each.sentence}" for each in failed] + troubles + list(warnings)
    count = (
        f"{len(failed)} of {counted(len(outcomes), 'VM')} failed"
        if failed
        else f"{counted(done, 'VM')} backed up, but"
    )
    message = f"job {job.name!r}: {count}: {'; '.join(said)}"
    problem = JobHadErrors(message, outcomes)
    return Failed(name=HAD_ERRORS if done else "Failed", message=message, data=problem)


def untold_troubles(afterwards: Sequence[State[Any]]) -> list[str]:
    """What went wrong after a backup, without damage, of which the validation itself tells."""
    return [
        _sentence(state)
        for state in afterwards
        if not state.is_completed() and not isinstance(_problem(state), DamageFound)
    ]


class DamageAccepted(PermanentError):
    """Images were restored that have zeros where data is lost, as was asked for.

    Attributes:
        disks: All that were restored.
    """

    def __init__(self, message: str, disks: Sequence[RestoredDisk]) -> None:
        self.disks = tuple(disks)
        super().__init__(message)


def restored_state(
    disks: Sequence[RestoredDisk], folder: str, notes: Sequence[str] = ()
) -> State[Any]:
    """How a restore ends that gave back every disk: never well where some of it is zeros."""
    lost = sum(disk.lost_bytes for disk in disks)
    size = readable_size(sum(disk.size_bytes for disk in disks) - lost)
    names = ", ".join(disk.path.name for disk in disks)
    message = f"{size} proved and written to {folder}: {names}"
    if lost:
        where = ", ".join(damage_map_of(disk.path).name for disk in disks if disk.lost_bytes)
        message = f"{lost:,} bytes are lost and are zeros, see {where}; {message}"
        return Failed(name=HAD_ERRORS, message=message, data=DamageAccepted(message, disks))
    if notes:
        message = "; ".join((message, *notes))
        return Completed(name=HAD_WARNINGS, message=message, data=tuple(disks))
    return Completed(message=message, data=tuple(disks))


def vm_back_state(vm: VmBack) -> State[Any]:
    """How the restore of a VM ends; what is not as it was is a warning."""
    how = "was written over, and is as of" if vm.over else "is back as of"
    message = (
        f"VM {vm.name} ({vm.uuid}) {how} {vm.taken_at:%Y-%m-%d %H:%M} UTC:"
        f" {counted(len(vm.disks), 'disk')}, {readable_size(vm.written_bytes)} proved and written;"
        f" it {'was started' if vm.started else 'is halted'}"
    )
    if vm.notes:
        message = "; ".join((message, *vm.notes))
        return Completed(name=HAD_WARNINGS, message=message, data=vm)
    return Completed(message=message, data=vm)


def served_state(served: Served) -> State[Any]:
    """How the serving of a version ends."""
    message = (
        f"{counted(served.disks, 'disk')} of {served.vm_name} served, and no longer;"
        f" {readable_size(served.read_bytes)} proved and read"
    )
    if served.notes:
        message = "; ".join((message, *served.notes))
        return Completed(name=HAD_WARNINGS, message=message, data=served)
    return Completed(message=message, data=served)


def replicated_state(done: Sequence[Replicated]) -> State[Any]:
    """How a replication ends: never well where a standby is not up to date."""
    failed = [each for each in done if each.problem]
    size = readable_size(sum(each.written_bytes for each in done))
    message = f"{counted(len(done) - len(failed), 'standby')} up to date, {size} written"
    if failed:
        said = "; ".join(f"{each.name}: {each.problem}" for each in failed)
        message = f"{len(failed)} of {len(done)} VMs were not replicated: {said}"
        name = HAD_ERRORS if len(failed) < len(done) else "Failed"
        return Failed(name=name, message=message, data=NotReplicated(message))
    return Completed(message=message, data=list(done))


class NotReplicated(PermanentError):
    """Some standbys are not up to date."""


def failed_over_state(done: FailedOver) -> State[Any]:
    """How a fail-over ends."""
    message = f"VM {done.name} ({done.uuid}) is released, version {done.version[:8]}"
    if done.problem:
        message = f"{message}, but was not started: {done.problem}"
        return Completed(name=HAD_WARNINGS, message=message, data=done)
    said = "and was started" if done.started else "and is halted"
    return Completed(message=f"{message}, {said}", data=done)


class DrillFailed(PermanentError):
    """A VM that was restored for a drill did not come up.

    Attributes:
        drilled: What became of it.
    """

    def __init__(self, message: str, drilled: Drilled) -> None:
        self.drilled = drilled
        super().__init__(message)


def drilled_state(drilled: Drilled) -> State[Any]:
    """How a drill ends: *Failed* when the VM did not come up."""
    what = f"VM {drilled.name} as of {drilled.taken_at:%Y-%m-%d %H:%M} UTC"
    if not drilled.drill.well:
        message = f"{what} did not come up in a drill: {drilled.drill.said}"
        return Failed(message=message, data=DrillFailed(message, drilled))
    message = f"{what} was restored and came up: {drilled.drill.said}"
    if drilled.notes:
        message = "; ".join((message, *drilled.notes))
        return Completed(name=HAD_WARNINGS, message=message, data=drilled)
    return Completed(message=message, data=drilled)


def files_state(found: FilesFound) -> State[Any]:
    """How looking for files ends: never well where some could not be read."""
    message = found.sentence
    if found.troubles:
        shown = found.troubles[:_SHOWN]
        more = len(found.troubles) - len(shown)
        said = [*shown, *([f"and {more} more"] if more else [])]
        message = f"{message}; could not be read: {'; '.join(said)}"
        return Failed(name=HAD_ERRORS, message=message, data=FilesLost(message, found))
    return Completed(message=message, data=found)


class FilesLost(PermanentError):
    """Some files of a guest could not be read.

    Attributes:
        found: All that was.
    """

    def __init__(self, message: str, found: FilesFound) -> None:
        self.found = found
        super().__init__(message)


def vaulted_state(copied: Vaulted) -> State[Any]:
    """How a vaulting ends: *Failed* when something is damaged and was left out."""
    message = f"{counted(copied.objects, 'object')} copied, {readable_size(copied.copied_bytes)}"
    if copied.left_bytes:
        message = f"{message}; {readable_size(copied.left_bytes)} are left for the next hours"
    if copied.problems:
        more = len(copied.problems) - _SHOWN
        said = [*copied.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        message = f"{message}; not copied: {'; '.join(said)}"
        return Failed(message=message, data=NotVaulted(message))
    return Completed(message=message, data=copied)


def checked_vault_state(found: CheckedVault) -> State[Any]:
    """How reading a vault back ends: *Failed* when something there was not whole or not read."""
    size, what = readable_size(found.read_bytes), counted(found.objects, "object")
    message = f"{what} read back at the vault and whole, {size}"
    if found.left:
        message = f"{message}; {found.left} more are due"
    if found.problems:
        more = len(found.problems) - _SHOWN
        said = [*found.problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        message = f"{message}; not whole there, and copied again if it is here: {'; '.join(said)}"
        return Failed(message=message, data=NotVaulted(message))
    return Completed(message=message, data=found)


def kept_vault_state(found: VaultKept) -> State[Any]:
    """How keeping by the vault's rules ends."""
    message = (
        f"{counted(found.forgotten, 'version')} given up at the vault, {found.kept} kept;"
        f" {counted(found.waiting, 'pack')} wait to be deleted,"
        f" {readable_size(found.freed_bytes)} freed"
    )
    return Completed(message=message, data=found)


class NotRecoverable(LikenessError):
    """A lost installation would not come back as it is."""


def protected_state(head: str) -> State[Any]:
    """How copying the catalog ends."""
    return Completed(message=f"the catalog was copied to the data store; {head}", data=head)


def rehearsed_state(found: Rehearsed) -> State[Any]:
    """How a rehearsal ends: *Failed* when what comes back is not what there is."""
    message = (
        f"{counted(found.versions, 'version')} come back of {found.copy} in"
        f" {found.copy_seconds:.0f} s, and of the store alone in {found.store_seconds:.0f} s;"
        f" {found.head}"
    )
    if found.problems:
        message = f"a recovery would not bring all back: {'; '.join(found.problems[:_SHOWN])}"
    if found.short_lists:
        said = "; ".join(each for _, each in found.short_lists[:_SHOWN])
        message = f"{message}; written anew for vault hosts without a key: {said}"
    if found.problems or found.short_lists:
        return Failed(message=message, data=NotRecoverable(message))
    return Completed(message=message, data=found)


def swept_state(report: SweepReport) -> State[Any]:
    """How a sweep ends; what could not be removed is for the next one."""
    left = [f"{each.what} {each.name}: {each.problem}" for each in report.snapshots if each.problem]
    removed = len(report.snapshots) - len(left) + report.store.objects + report.scratch
    message = (
        f"{counted(removed, 'thing')} of dead runs removed" if removed else "nothing to remove"
    )
    if left:
        message += f"; still there, for the next sweep: {'; '.join(left)}"
        return Completed(name=HAD_WARNINGS, message=message, data=report)
    return Completed(message=message, data=report)


def unprotected_state(found: Sequence[Unprotected]) -> State[Any]:
    """How the listing of VMs that no job backs up ends: never well while there are some."""
    if not found:
        return Completed(message="every VM is in a job that a schedule starts", data=())
    names = ", ".join(each.name for each in found[:_MAX_NAMES])
    more = f" and {len(found) - _MAX_NAMES} more" if len(found) > _MAX_NAMES else ""
    message = f"no job backs up {counted(len(found), 'VM')} by itself: {names}{more}"
    return Failed(name=HAS_UNPROTECTED, message=message, data=UnprotectedFound(message, found))


def watched_state(found: Sequence[Cause], missed: str = "") -> State[Any]:
    """How a watch ends: *Overdue*, a failure, while something is; a lost ping fails nothing."""
    if found:
        said = [each.sentence for each in found[:_MAX_CAUSES]]
        more = [f"and {len(found) - _MAX_CAUSES} more"] if len(found) > _MAX_CAUSES else []
        message = "; ".join((*said, *more))
        return Failed(name=OVERDUE, message=message, data=OverdueFound(message, found))
    if missed:
        return Completed(name=HAD_WARNINGS, message=missed, data=())
    return Completed(message="nothing is overdue", data=())


def _sentence(state: State[Any]) -> str:
    """Why a step failed."""
    problem = _problem(state)
    return str(problem) or state.message or repr(problem)


def _problem(state: State[Any]) -> object:
    try:
        return state.result(raise_on_failure=False)
    except Exception as cause:  # noqa: BLE001  # whatever it is, it is what went wrong
        return cause

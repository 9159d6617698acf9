"""From what happened to a VM to what its job's final state says."""

from collections.abc import Sequence
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from likeness.errors import LikenessError, Stopped
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome, VmState
from likeness.store.versions import Version
from likeness.xen.inventory import XenVm
from tasks.dedup import Dropped


class JobHadErrors(LikenessError):
    """Some VMs of a job have no new version, or what follows a backup went wrong.

    Attributes:
        outcomes: What became of each VM.
    """

    def __init__(self, message: str, outcomes: Sequence[VmOutcome]) -> None:
        self.outcomes = tuple(outcomes)
        super().__init__(message)


def finished_vm(version: Version, dropped: Dropped, *, seconds: float, note: str) -> VmOutcome:
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
        dropped_bytes=dropped.known_bytes,
        freed_bytes=dropped.freed_bytes,
        snapshot_seconds=seconds,
        sentence="; ".join(part for part in (version.record.note, note) if part),
    )


def failed_vm(vm: XenVm, problem: object) -> VmOutcome:
    """The outcome of a VM that has none."""
    state = VmState.STOPPED if isinstance(problem, Stopped) else VmState.FAILED
    return VmOutcome(vm.name, state, vm=vm.vm, sentence=str(problem) or repr(problem))


def final_state(
    job: BackupJob, outcomes: Sequence[VmOutcome], afterwards: Sequence[State[Any]] = ()
) -> State[Any]:
    """How the job's flow run ends.

    *Completed* when every VM has a new version and all went well, *CompletedWithErrors* when some
    have, or when what comes after a backup failed, *Failed* when none has. The last two are
    failures to Prefect, since a backup that lacks a VM must not look well in any list.

    Args:
        job: Which.
        outcomes: What became of each VM.
        afterwards: How the steps after the backup ended: catalog copy, validation, vault.
    """
    failed = [each for each in outcomes if each.state is not VmState.DONE]
    done = len(outcomes) - len(failed)
    troubles = [_sentence(state) for state in afterwards if not state.is_completed()]
    if not failed and not troubles:
        return Completed(message=f"{_vms(done)} backed up", data=list(outcomes))
    said = [f"{each.name}: {each.sentence}" for each in failed] + troubles
    count = (
        f"{len(failed)} of {_vms(len(outcomes))} failed"
        if failed
        else f"{_vms(done)} backed up, but"
    )
    message = f"job {job.name!r}: {count}: {'; '.join(said)}"
    problem = JobHadErrors(message, outcomes)
    name = "CompletedWithErrors" if done else "Failed"
    return Failed(name=name, message=message, data=problem)


def _sentence(state: State[Any]) -> str:
    """Why a step failed."""
    try:
        problem = state.result(raise_on_failure=False)
    except Exception as cause:  # noqa: BLE001  # whatever it is, it is what went wrong
        problem = cause
    return str(problem) or state.message or repr(problem)


def _vms(count: int) -> str:
    return f"{count} VM" if count == 1 else f"{count} VMs"

"""Drills: the VM that waited longest is restored, started without network cards, and taken away."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from catalog.drills import Drill, last_drills, record_drill
from catalog.values import VersionRow
from catalog.versions import list_versions
from likeness.clock import stopwatch, system_clock
from likeness.errors import BadInput, LikenessError, Stopped, TransientError
from likeness.model.ids import RunId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.xen.drilling import end_drill, guest_answers, start_drill
from likeness.xen.owner import Owner
from tasks.ages import age_limit
from tasks.artifacts import put_table
from tasks.reports import cell
from tasks.restore_sources import PROVED, Chosen, Notes, choose_version
from tasks.restore_vm import MadeVm, VmRestore, filled_vm
from tasks.retries import ONCE, STEP, task

_LOOK_SECONDS = 0.5
_MAX_SAID = 200


@dataclass(frozen=True, slots=True)
class DrillWanted:
    """How a drill goes.

    Attributes:
        storage: Name or uuid of the storage to restore to; empty: the pool's default.
        pool: Name of the Xen Pool block to restore into; empty: the site's own.
        seconds: How long the guest may take until it answers.
        script: Name of a program in the folder for them that judges instead of the guest's tools.
    """

    storage: str = ""
    pool: str = ""
    seconds: float = 600.0
    script: str = ""


@dataclass(frozen=True, slots=True)
class Drilled:
    """What a drill came to.

    Attributes:
        name: The VM's name.
        taken_at: When its version was taken.
        drill: What is noted of it.
        restored_bytes: How much was proved and written.
        start_seconds: From the start to the verdict.
        notes: What else is to be told.
    """

    name: str
    taken_at: datetime
    drill: Drill
    restored_bytes: int
    start_seconds: float
    notes: tuple[str, ...]


def scripts_of(site: Site) -> Path:
    """Where programs lie that may judge drills: whoever may write there may run them."""
    return Path(site.catalog.folder) / "drills"


@task(task_run_name="choose what to drill", **STEP)
def choose_drill(vm: str, version: str, *, site: Site) -> VersionRow:
    """The version that is meant; without a VM that of the one whose last drill is oldest.

    A VM that never had one comes first; among these the one with the oldest good version.

    Raises:
        BadInput: No version of any VM was proved good.
        UnknownVm, UnknownVersion: There is no such VM or version.
    """
    rows = list_versions(
        site.catalog.file, system_clock(), age_limit(site.revalidate_after).green_for
    )
    if vm.strip() or version.strip():
        chosen = choose_version(vm, version, site=site)
        found = [row for row in rows if row.version.startswith(chosen.version)]
        if not found:
            raise BadInput(f"version {chosen.version} is not in the catalog; run the sweep first")
        return found[0]
    newest: dict[str, VersionRow] = {}
    for row in rows:  # newest first
        if row.verdict in PROVED:
            newest.setdefault(row.vm, row)
    if not newest:
        raise BadInput("no version was proved good yet, so there is nothing to drill; validate")
    drilled = last_drills(site.catalog.file)

    def oldest_first(row: VersionRow) -> tuple[bool, datetime]:
        last = drilled.get(row.vm)
        return (last is not None, last.ended_at if last else row.taken_at)

    return min(newest.values(), key=oldest_first)


def drilled_vm(
    row: VersionRow, wanted: DrillWanted, *, run: RunId, site: Site, stop: StopToken
) -> Drilled:
    """Restore a version, start it, hear its verdict, and take all of it away again.

    What cannot be restored or does not come up is noted as a drill that did not go well; nothing is
    left in the pool.
    """
    _require_script(wanted, site)
    say, owner = Notes(get_run_logger().warning), Owner(site.installation, run)
    version = VmRestore(
        Chosen(row.version),
        name=f"{row.vm_name} (drill)",
        storage=wanted.storage,
        pool=wanted.pool,
        with_cards=False,
    )
    written, begun, said, well = 0, stopwatch(), "", False
    try:
        with filled_vm(version, owner=owner, site=site, stop=stop, say=say) as (made, written):
            try:
                begun = stopwatch()
                well, said = start_and_hear(made, wanted, owner=owner, site=site, stop=stop)
            finally:
                _take_away(made, wanted, owner=owner, site=site, say=say)
    except (TransientError, Stopped):
        raise  # no drill was held, so none is noted
    except LikenessError as problem:
        said = str(problem)
    took = stopwatch() - begun
    drill = Drill(row.vm, row.version, system_clock(), well, said)
    record_drill(site.catalog.file, drill)
    return Drilled(row.vm_name, row.taken_at, drill, written, took, tuple(say.said))


def _require_script(wanted: DrillWanted, site: Site) -> None:
    if not wanted.script:
        return
    program = scripts_of(site) / wanted.script
    if Path(wanted.script).name != wanted.script or not os.access(program, os.X_OK):
        raise BadInput(
            f"no program {wanted.script!r} judges drills here; put one into {scripts_of(site)} on"
            " the worker and make it executable"
        )


@task(task_run_name="start {made.vm.name}", **ONCE)
def start_and_hear(
    made: MadeVm, wanted: DrillWanted, *, owner: Owner, site: Site, stop: StopToken
) -> tuple[bool, str]:
    """Start it; whether it came up, and what the guest or the script says."""
    with site.pool_called(wanted.pool).open(owner=owner, stop=stop) as xen:
        start_drill(xen, made.vm, owner=owner)
        if not wanted.script:
            said = guest_answers(xen, made.vm, seconds=wanted.seconds, stop=stop)
    if wanted.script:
        return _judged(made, wanted, site, stop)
    if not said:
        limit = f"{wanted.seconds / 60:g} minutes"
        return False, f"it started, and its guest tools said nothing within {limit}"
    return True, f"its guest answered: {said}"


def _judged(made: MadeVm, wanted: DrillWanted, site: Site, stop: StopToken) -> tuple[bool, str]:
    """What a program says that is given the VM's uuid and name, and no secret."""
    told = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LIKENESS_VM_UUID": made.vm.uuid,
        "LIKENESS_VM_NAME": made.vm.name,
        "LIKENESS_VERSION": made.version.version,
    }
    begun = stopwatch()
    with subprocess.Popen(  # noqa: S603  # it lies where only the installation's owner may write
        [str(scripts_of(site) / wanted.script)],
        env=told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            while stopwatch() - begun < wanted.seconds:
                stop.check()
                with suppress(subprocess.TimeoutExpired):
                    said, _ = process.communicate(timeout=_LOOK_SECONDS)
                    last = (said.strip().splitlines() or ["nothing"])[-1][:_MAX_SAID]
                    return process.returncode == 0, f"{wanted.script} says: {last}"
        finally:
            process.kill()
    return False, f"{wanted.script} gave no verdict within {wanted.seconds / 60:g} minutes"


def _take_away(
    made: MadeVm, wanted: DrillWanted, *, owner: Owner, site: Site, say: Callable[[str], None]
) -> None:
    try:
        with site.pool_called(wanted.pool).open(owner=owner) as xen:
            end_drill(xen, made.vm.ref)
    except Exception as cause:  # noqa: BLE001  # whatever it is, the sweep comes
        say(f"VM {made.vm.name} is still there and the next sweep will remove it: {cause}")


def show_drill(drilled: Drilled, *, site: Site) -> None:
    """How a drill went, as a page."""
    row = {
        "VM": drilled.name,
        "version": f"{drilled.drill.version[:8]} of {drilled.taken_at:%Y-%m-%d %H:%M}",
        "verdict": "✅ came up" if drilled.drill.well else "❌ did not come up",
        "said": drilled.drill.said,
        "restored": readable_size(drilled.restored_bytes),
        "seconds until the verdict": f"{drilled.start_seconds:.0f}",
    }
    said = "Restored without network cards, started, and taken away again"
    said += "".join(f"\n\n⚠ {cell(note)}" for note in drilled.notes)
    put_table(site.key_of("drill"), [row], said)

"""Replication: a standby in another pool becomes what a VM's newest good version is."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefect import get_run_logger

from blocks import Site
from likeness.errors import BadInput, LikenessError, Stopped
from likeness.model.ids import RunId, VersionId, VmId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.read.versions import Version
from likeness.xen.inventory import list_vms
from likeness.xen.owner import Owner
from likeness.xen.restoring import RestoredVm, start_vm
from likeness.xen.standby import (
    HOLDS,
    Standby,
    become_standby,
    fail_over,
    find_standby,
    require_untouched,
)
from tasks.artifacts import put_table
from tasks.overwrite_vm import VmOverwrite, overwritten_vm
from tasks.restore_sources import Chosen, Notes, choose_version, sources, version_in
from tasks.restore_vm import VmRestore, filled_vm
from tasks.retries import STEP, task


@dataclass(frozen=True, slots=True)
class Replication:
    """Where standbys are, and how new ones are made.

    Attributes:
        pool: Name of the Xen Pool block.
        storage: Name or uuid; empty: the pool's default.
        networks: Networks as they were to those to use.
        from_vault: Read from the vault alone.
    """

    pool: str
    storage: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    from_vault: bool = False


@dataclass(frozen=True, slots=True)
class Replicated:
    """What became of one standby.

    Attributes:
        name: The VM's name.
        standby: The standby's name; empty if it failed before there was one.
        version: What it holds.
        taken_at: When that was taken, as words.
        written_bytes: How much was proved and written.
        notes: What else is to be told.
        problem: Why it failed; empty when it did not.
    """

    name: str
    standby: str = ""
    version: str = ""
    taken_at: str = ""
    written_bytes: int = 0
    notes: tuple[str, ...] = ()
    problem: str = ""


def replicated_vm(
    vm: str, wanted: Replication, *, run: RunId, site: Site, stop: StopToken
) -> Replicated:
    """Bring one VM's standby up to date, or make it; a failure is told in what is returned."""
    try:
        chosen = choose_version(vm, "", site=site)
        version, standby = look_for_standby(chosen, wanted, site=site)
        if standby is not None and standby.holds == version.version:
            return _told(version, standby.name, 0, ("it was up to date",))
        if standby is not None:
            require_untouched(standby)
            over = VmOverwrite(
                chosen,
                standby.uuid,
                wanted.pool,
                from_vault=wanted.from_vault,
                holds=standby.holds,
                note={HOLDS: version.version},
            )
            back = overwritten_vm(over, run=run, site=site, stop=stop)
            return _told(version, standby.name, back.written_bytes, back.notes)
        return _made(chosen, version, wanted, run=run, site=site, stop=stop)
    except LikenessError as problem:
        if isinstance(problem, Stopped):
            raise
        get_run_logger().error("%s: %s", vm, problem)
        return Replicated(vm, problem=str(problem))


@task(task_run_name="look for the standby", **STEP)
def look_for_standby(
    chosen: Chosen, wanted: Replication, *, site: Site
) -> tuple[Version, Standby | None]:
    """The version that is meant, and the standby of its VM if there is one."""
    say = Notes(get_run_logger().warning)
    with sources(site, from_vault=wanted.from_vault, say=say) as stores:
        version = version_in(stores, chosen)
    site.note_pool(wanted.pool)
    with site.pool_called(wanted.pool).open() as xen:
        return version, find_standby(xen, site.installations, version.vm)


def _made(
    chosen: Chosen,
    version: Version,
    wanted: Replication,
    *,
    run: RunId,
    site: Site,
    stop: StopToken,
) -> Replicated:
    say, owner = Notes(get_run_logger().warning), Owner(site.installation, run)
    fresh = VmRestore(
        chosen,
        name=f"{version.record.vm_name} (standby)",
        storage=wanted.storage,
        networks=wanted.networks,
        keep_addresses=True,
        from_vault=wanted.from_vault,
        pool=wanted.pool,
    )
    with filled_vm(fresh, owner=owner, site=site, stop=stop, say=say) as (made, written):
        keep_as_standby(made.vm, version, wanted.pool, owner=owner, site=site)
    return _told(version, made.vm.name, written, (*made.vm.notes, *say.said))


@task(task_run_name="make {vm.name} a standby", **STEP)
def keep_as_standby(
    vm: RestoredVm, version: Version, pool: str, *, owner: Owner, site: Site
) -> None:
    """Keep a restored VM as a standby, which cannot be started by accident."""
    with site.pool_called(pool).open(owner=owner) as xen:
        become_standby(xen, vm, owner=owner, of=version.vm, holds=version.version)


def _told(version: Version, standby: str, written: int, notes: tuple[str, ...]) -> Replicated:
    return Replicated(
        name=version.record.vm_name,
        standby=standby,
        version=version.version,
        taken_at=f"{version.taken_at:%Y-%m-%d %H:%M}",
        written_bytes=written,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class FailedOver:
    """A standby that is a VM like any other now.

    Attributes:
        name: What it is called.
        uuid: Its uuid.
        version: What it held when it was released.
        started: Whether it was started.
        problem: Why not; empty if it was, or was not to be.
    """

    name: str
    uuid: str
    version: VersionId
    started: bool
    problem: str = ""


@task(task_run_name="fail over to the standby of {vm}", **STEP)
def failed_over(
    vm: str, pool: str, *, start: bool, though_running: bool, run: RunId, site: Site
) -> FailedOver:
    """Release a VM's standby, and start it.

    Raises:
        BadInput: There is no standby, or the VM itself runs.
        HostBusy, HostRefused, HostUnreachable: Not possible.
    """
    source = _source(vm, site)
    if not though_running:
        _require_down(source, vm, site)
    with site.pool_called(pool).open(owner=Owner(site.installation, run)) as xen:
        standby = find_standby(xen, site.installations, source)
        if standby is None:
            raise BadInput(f"VM {vm} has no standby in the pool of {pool}; restore it there")
        fail_over(xen, standby)
        if not start:
            return FailedOver(standby.name, standby.uuid, standby.holds, started=False)
        try:
            start_vm(xen, RestoredVm(standby.ref, standby.uuid, standby.name, (), ()))
        except LikenessError as problem:
            said = str(problem)
            return FailedOver(standby.name, standby.uuid, standby.holds, False, said)  # noqa: FBT003
    return FailedOver(standby.name, standby.uuid, standby.holds, started=True)


def _source(vm: str, site: Site) -> VmId:
    chosen = choose_version(vm, "", site=site)
    with sources(site, from_vault=False, say=lambda _: None) as stores:
        return version_in(stores, chosen).vm


def _require_down(source: VmId, vm: str, site: Site) -> None:
    """Two of them must not run; a pool that does not answer is why one fails over."""
    try:
        with site.xen_pool.open() as xen:
            there = [each for each in list_vms(xen) if each.vm == source]
    except LikenessError as problem:
        get_run_logger().warning("whether VM %s runs is not known: %s", vm, problem)
        return
    if there and there[0].power_state != "Halted":
        raise BadInput(
            f"VM {vm} is {there[0].power_state.lower()} in its own pool; shut it down first, or say"
            " that both may run"
        )


def show_replicated(done: list[Replicated], pool: str, *, site: Site) -> None:
    """Every standby, as a page."""
    rows = [
        {
            "result": "❌" if each.problem else "✅",
            "VM": each.name,
            "standby": each.standby,
            "as of": each.taken_at,
            "version": each.version[:8],
            "written": readable_size(each.written_bytes),
            "remark": each.problem or "; ".join(each.notes),
        }
        for each in done
    ]
    said = f"Standbys in the pool of {pool}; every data block written was proved"
    put_table(site.key_of("replicate"), rows, said)

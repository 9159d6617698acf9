"""Restoring, looking into files and vaulting by other workers.

The catalog's host says which version is meant, keeps it from being forgotten, and records what came
of it; a worker elsewhere does the reading and writing. It neither opens the catalog nor writes to
the data store. Where a worker died another one does it anew, and what it left half-made is swept.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgspec
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.futures import wait
from prefect.states import Cancelling
from prefect.task_runners import ThreadPoolTaskRunner

from blocks import Site
from catalog.vaulting import note_vaulting
from catalog.versions import find_version
from likeness.clock import system_clock
from likeness.errors import BadInput, LikenessError, PermanentError, TransientError
from likeness.model.ids import RunId, VersionId
from likeness.stopping import StopToken
from likeness.xen.owner import Owner
from tasks import handing_out
from tasks.claims import version_read
from tasks.files import FilesFound, FilesWanted, look_into
from tasks.restore import DisksDone, RestoredDisk, restore_version_disks
from tasks.restore_sources import Chosen, Notes
from tasks.restore_vm import VmBack, VmRestore, restored_vm
from tasks.retries import ONCE, task
from tasks.vault import vault_of
from tasks.vault_elsewhere import (
    CopiedElsewhere,
    VersionsToVault,
    copy_for_host,
    shares_to_copy,
)
from tasks.vault_tally import VaultTally

ELSEWHERE_FLOW = "work-elsewhere"
Work = Literal["restore disks", "restore a VM", "look into files", "copy to the vault"]
T = TypeVar("T")
_TRIES = 2


class FailedElsewhere(PermanentError):
    """A worker elsewhere could not do it, and says why."""


class WorkerGone(TransientError):
    """No worker elsewhere did it: none began, or those that did have died."""


@dataclass(frozen=True, slots=True)
class DisksWanted:
    """Disks to be restored to images on the other worker's machine; see `restore_version_disks`."""

    version: Chosen
    folder: str
    from_vault: bool = False
    accept_damage: bool = False
    image_format: str = "raw"


@dataclass(frozen=True, slots=True)
class DisksBack:
    """Disks that are restored, and what people should know of it."""

    disks: tuple[RestoredDisk, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VmWanted:
    """A VM to be made.

    Attributes:
        restore: Which, and how.
        installation: Whose it is until it is whole.
    """

    restore: VmRestore
    installation: str


@dataclass(frozen=True, slots=True)
class FilesLookedFor:
    """Files to be looked for; see `look_into`."""

    version: Chosen
    wanted: FilesWanted
    from_vault: bool = False


def restored_here(wanted: DisksWanted, run: RunId, site: Site, stop: StopToken) -> DisksBack:
    """Disks restored by this worker."""
    done = DisksDone(Notes(get_run_logger().warning))
    disks = restore_version_disks(
        wanted.version,
        Path(wanted.folder),
        run=run,
        site=site,
        from_vault=wanted.from_vault,
        stop=stop,
        done=done,
        accept_damage=wanted.accept_damage,
        image_format=wanted.image_format,
    )
    return DisksBack(disks, tuple(done.notes.said))


def _vm(wanted: VmWanted, run: RunId, site: Site, stop: StopToken) -> VmBack:
    owner = Owner(wanted.installation, run)
    return restored_vm(wanted.restore, owner=owner, site=site, stop=stop)


def _files(wanted: FilesLookedFor, run: RunId, site: Site, stop: StopToken) -> FilesFound:
    del stop
    return look_into(
        wanted.version, wanted.wanted, from_vault=wanted.from_vault, run=run, site=site
    )


Doer = Callable[[Any, RunId, Site, StopToken], Any]
WORKS: dict[Work, tuple[type, Doer]] = {
    "restore disks": (DisksWanted, restored_here),
    "restore a VM": (VmWanted, _vm),
    "look into files": (FilesLookedFor, _files),
    "copy to the vault": (VersionsToVault, copy_for_host),
}
"""What a worker elsewhere can do: what it is told, and who does it."""


def do_for_host(
    work: Work, wanted: Mapping[str, Any], run: UUID, *, host: RunId, site: Site, stop: StopToken
) -> None:
    """In the run elsewhere: do it, and hand back what came of it.

    Args:
        work: What to do.
        wanted: With what.
        run: This one.
        host: The run on the catalog's host, which claims what is made until it is whole.
        site: The installation.
        stop: Looked at everywhere.
    """
    told, do = WORKS[work]
    with handing_out.handing_back(run, lambda: work) as hand_back:
        found = do(msgspec.convert(dict(wanted), told), host, site, stop)
        hand_back(msgspec.json.encode(found, enc_hook=str).decode())


@task(task_run_name="{work} on another worker", **ONCE)
def told_by_another(
    work: Work, wanted: object, *, run: RunId, site: Site, stop: StopToken, tries: int = _TRIES
) -> str:
    """What another worker hands back, as JSON.

    Args:
        work: What it is to do.
        wanted: With what.
        run: This one.
        site: The installation.
        stop: Looked at while it is waited for.
        tries: How many workers may die of it.

    Raises:
        BadInput: There is no deployment for it.
        FailedElsewhere: It cannot be done; why.
        WorkerGone: Nobody did it.
    """
    parameters = {
        "work": work,
        "wanted": msgspec.to_builtins(wanted, enc_hook=str),
        "host": run,
        "site": site.name,
    }
    for _ in range(tries):
        text, failed = _carried_out(parameters, site, stop)
        if text:
            return text
        if failed:
            raise FailedElsewhere(failed)
        get_run_logger().warning("%s: no worker handed anything back", work)
    raise WorkerGone(
        f"no other worker could {work}: none began in time, or it died; see that one serves the"
        f" work pool of the deployment {ELSEWHERE_FLOW}, then run it again"
    )


def _read(text: str, kind: type[T]) -> T:
    return msgspec.json.decode(text, type=kind, dec_hook=lambda told, said: told(said))


def _carried_out(parameters: dict[str, Any], site: Site, stop: StopToken) -> tuple[str, str]:
    """What one run elsewhere hands back, or why it failed; neither if its worker is gone."""
    with get_client(sync_client=True) as client:
        try:
            deployment = handing_out.deployment_for(client, ELSEWHERE_FLOW, site.name)
        except LookupError as cause:
            raise BadInput(f"{cause}; deploy it, or let the site's settings do all here") from cause
        work = handing_out.hand_out(client, deployment, parameters)
        try:
            while not handing_out.is_over(client, work, by_nobody_else=True):
                if stop.wait(handing_out.LOOK_EVERY_SECONDS):
                    stop.check()
        except BaseException:
            with suppress(Exception):
                client.set_flow_run_state(work.run, Cancelling())
            raise
        state = client.read_flow_run(work.run).state
        text = handing_out.taken_back(client, work)
        failed = state is not None and state.is_failed() and (state.message or "no reason given")
        return text, failed or ""


def restored_elsewhere(
    wanted: DisksWanted, *, run: RunId, site: Site, stop: StopToken
) -> DisksBack:
    """Disks restored by another worker; one that dies leaves files, so no other is tried."""
    version = _full(wanted.version, site)
    with version_read(site, version):
        told = told_by_another("restore disks", wanted, run=run, site=site, stop=stop, tries=1)
    return _read(told, DisksBack)


def vm_made_elsewhere(wanted: VmRestore, *, run: RunId, site: Site, stop: StopToken) -> VmBack:
    """A VM restored by another worker; until it is whole it is this run's, and swept with it."""
    site.note_pool(wanted.pool)
    with version_read(site, _full(wanted.version, site)):
        mine = VmWanted(wanted, site.installation)
        told = told_by_another("restore a VM", mine, run=run, site=site, stop=stop)
    return _read(told, VmBack)


def looked_into_elsewhere(
    wanted: FilesLookedFor, *, run: RunId, site: Site, stop: StopToken
) -> FilesFound:
    """Files found, or taken out on its machine, by another worker."""
    with version_read(site, _full(wanted.version, site)):
        told = told_by_another("look into files", wanted, run=run, site=site, stop=stop)
    return _read(told, FilesFound)


def copy_elsewhere(run: RunId, *, site: Site, stop: StopToken, tally: VaultTally) -> None:
    """Let other workers copy what the vault lacks, VM by VM; then copy here what they left.

    Whatever goes wrong there, the copying here looks at everything once more.

    Args:
        run: This one.
        site: The installation.
        stop: Looked at while they are waited for.
        tally: Counts what they did.
    """
    block = vault_of(site)
    shares = shares_to_copy(site, site.vault_on_workers)
    if not shares:
        return
    note_vaulting(site.catalog.file, block.place, system_clock(), whole=False)
    runner: ThreadPoolTaskRunner[str] = ThreadPoolTaskRunner(max_workers=len(shares))
    with runner:
        futures = [
            runner.submit(
                told_by_another,
                {
                    "work": "copy to the vault",
                    "wanted": VersionsToVault(share, len(shares)),
                    "run": run,
                    "site": site,
                    "stop": stop,
                },
            )
            for share in shares
        ]
        try:
            wait(list(futures))
        except BaseException:
            stop.stop()
            raise
    for each in futures:
        try:
            copied = _read(each.result(), CopiedElsewhere)
        except Exception as problem:  # noqa: BLE001  # whatever it is, the rest is copied here
            get_run_logger().warning("%s; the rest is copied here", problem)
            continue
        tally.objects += copied.objects
        tally.copied_bytes += copied.copied_bytes
        tally.pack_bytes += copied.pack_bytes
        tally.versions += copied.versions


def _full(version: Chosen, site: Site) -> VersionId:
    """The whole id, where the catalog knows it."""
    with suppress(LikenessError):
        return find_version(site.catalog.file, version.version, system_clock(), None).version
    return VersionId(version.version)

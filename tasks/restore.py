"""Restore: the disks of a version, as raw images, every chunk proved on its way."""

from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger, task

from blocks import Site
from likeness.errors import BadInput
from likeness.model.ids import RunId
from likeness.model.naming import disk_file_name, disk_label
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.data_store import DataStore, open_store_with_key_file
from likeness.store.disk_writers import FileDiskWriter
from likeness.store.restoring import restore_disk
from likeness.store.versions import Version, find_version
from likeness.transport.base import Transport
from likeness.transport.tuning import keep_large_buffers
from tasks.progress import shown
from tasks.retries import STEP
from tasks.transfer import scratch_folder


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that was restored whole."""

    name: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DisksDone:
    """Those that this run has restored, whatever became of the attempt that did."""

    disks: dict[Path, RestoredDisk] = field(default_factory=dict)


@task(task_run_name="restore version {version}", **STEP)
def restore_version_disks(
    version: str,
    folder: Path,
    *,
    run: RunId,
    site: Site,
    from_vault: bool,
    stop: StopToken,
    done: DisksDone,
) -> tuple[RestoredDisk, ...]:
    """Write the disks of a version to new sparse files in `folder`.

    A disk's file gets its name only when all of it was proved and written. When the task is tried
    again it goes on with the disks that are left.

    Raises:
        UnknownVersion: No version, or several, have an id that begins so.
        DataLost: Some bytes of a disk are not to be had; none of that disk is left behind.
        BadInput: A file of that name exists, or the folder cannot be written.
    """
    keep_large_buffers()
    place = _place(site, from_vault=from_vault)
    try:
        store = open_store_with_key_file(place, Path(site.data_store.key_file))
        found = find_version(store, version)
        with scratch_folder(site, run) as scratch:
            return _restore_all(store, found, folder, scratch, stop, done.disks)
    finally:
        place.close()


def _place(site: Site, *, from_vault: bool) -> Transport:
    if not from_vault:
        return site.data_store.connect()
    if site.vault is None:
        raise BadInput("this site has no vault to restore from; add a Vault block to its Site")
    return site.vault.connect()


def _restore_all(
    store: DataStore,
    version: Version,
    folder: Path,
    scratch: Path,
    stop: StopToken,
    done: dict[Path, RestoredDisk],
) -> tuple[RestoredDisk, ...]:
    name, at = version.record.vm_name, version.taken_at
    targets = [
        (disk, folder / disk_file_name(name, at, disk.position)) for disk in version.record.disks
    ]
    left = [(disk, path) for disk, path in targets if path not in done]
    for _, path in left:
        if path.exists():
            raise BadInput(f"{path} exists already; choose another folder or remove it first")
    for disk, path in left:
        progress = _Progress(disk.size_bytes)
        writer = FileDiskWriter(path, disk.size_bytes)
        with shown(f"restore-{version.version[:12]}", f"Restore of {path.name}", progress.percent):
            restore_disk(store, disk, writer, scratch=scratch, stop=stop, progress=progress.add)
        get_run_logger().info("%s: restored and proved, %s", path, readable_size(disk.size_bytes))
        done[path] = RestoredDisk(disk_label(disk.position, disk.name), path, disk.size_bytes)
    return tuple(done[path] for _, path in targets)


class _Progress:
    """How much of a disk is done."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._done = max(size_bytes, 1), 0

    def add(self, done_bytes: int) -> None:
        self._done += done_bytes

    def percent(self) -> float:
        return 100.0 * self._done / self._size

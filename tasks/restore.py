"""Restore: the disks of a version, as images, every chunk proved on its way."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from likeness.errors import BadInput
from likeness.model.ids import RunId
from likeness.model.naming import disk_file_name, disk_label
from likeness.model.sizes import readable_size
from likeness.serving.converting import convert_disk
from likeness.stopping import StopToken
from likeness.store.format.documents import DiskRecord
from likeness.store.read.chunk_source import DataLost
from likeness.store.read.disk_view import open_disk
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.locating import Locator
from likeness.store.read.restoring import Progress, restore_disk
from likeness.store.read.versions import Version
from likeness.transport.tuning import keep_large_buffers
from tasks.claims import version_read
from tasks.progress import shown
from tasks.restore_sources import Chosen, Notes, known_locations, sources, version_in
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder


@dataclass(frozen=True, slots=True)
class RestoredDisk:
    """A disk that was restored.

    Attributes:
        lost_bytes: How much of it is lost and zero in the image, where that was accepted; a map of
            it lies beside the image.
    """

    name: str
    path: Path
    size_bytes: int
    lost_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DisksDone:
    """Those that this run has restored, whatever became of the attempt that did.

    Attributes:
        notes: Takes what people should know of it, such as what came from the vault.
    """

    notes: Notes
    disks: dict[Path, RestoredDisk] = field(default_factory=dict)


@task(task_run_name="restore version {version.version}", **STEP)
def restore_version_disks(
    version: Chosen,
    folder: Path,
    *,
    run: RunId,
    site: Site,
    from_vault: bool,
    stop: StopToken,
    done: DisksDone,
    accept_damage: bool = False,
    image_format: str = "raw",
) -> tuple[RestoredDisk, ...]:
    """Write the disks of a version to new images in `folder`.

    A disk's file gets its name only when all of it was proved and written. When the task is tried
    again it goes on with the disks that are left.

    Raises:
        UnknownVersion: No version, or several, have an id that begins so.
        DataLost: Some bytes of a disk are not to be had, and that was not accepted; none of that
            disk is left behind.
        BadInput: A file of that name exists, or the folder cannot be written.
    """
    keep_large_buffers()
    with (
        sources(site, from_vault=from_vault, say=done.notes) as stores,
        scratch_folder(site, run) as scratch,
        ExitStack() as held,
    ):
        found = version_in(stores, version)
        held.enter_context(version_read(site, found.version))

        def locations(disk: DiskRecord) -> Locator | None:
            return known_locations(site, found, disk, from_vault=from_vault)

        def restore(disk: DiskRecord, path: Path, progress: Progress) -> DataLost | None:
            if image_format != "raw":
                folder.mkdir(parents=True, exist_ok=True)
                with open_disk(
                    stores, disk, scratch, say=done.notes, locator=locations(disk)
                ) as view:
                    convert_disk(view, path, image_format, stop=stop, progress=progress)
                return None
            return restore_disk(
                stores,
                disk,
                FileDiskWriter(path, disk.size_bytes),
                scratch=scratch,
                stop=stop,
                progress=progress,
                say=done.notes,
                accept_damage=accept_damage,
                locator=locations(disk),
            )

        return _restore_all(found, folder, image_format, done.disks, restore)


def _restore_all(
    version: Version,
    folder: Path,
    image_format: str,
    done: dict[Path, RestoredDisk],
    restore: Callable[[DiskRecord, Path, Progress], DataLost | None],
) -> tuple[RestoredDisk, ...]:
    name, at = version.record.vm_name, version.taken_at
    targets = [
        (disk, (folder / disk_file_name(name, at, disk.position)).with_suffix(f".{image_format}"))
        for disk in version.record.disks
    ]
    left = [(disk, path) for disk, path in targets if path not in done]
    for _, path in left:
        if path.exists():
            raise BadInput(f"{path} exists already; choose another folder or remove it first")
    for disk, path in left:
        progress = _Progress(disk.size_bytes)
        with shown(f"restore-{version.version[:12]}", f"Restore of {path.name}", progress.percent):
            lost = restore(disk, path, progress.add)
        label, lost_bytes = disk_label(disk.position, disk.name), 0
        if lost is None:
            size = readable_size(disk.size_bytes)
            get_run_logger().info("%s: restored and proved, %s", path, size)
        else:
            lost_bytes = sum(extent.length for extent in lost.extents)
            get_run_logger().error("%s has zeros where data is lost: %s", path, lost)
        done[path] = RestoredDisk(label, path, disk.size_bytes, lost_bytes)
    return tuple(done[path] for _, path in targets)


class _Progress:
    """How much of a disk is done."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._done = max(size_bytes, 1), 0

    def add(self, done_bytes: int) -> None:
        self._done += done_bytes

    def percent(self) -> float:
        return 100.0 * self._done / self._size

"""A version's disks, at once, for other programs on the worker's machine: over NBD, on loopback."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from prefect import get_run_logger

from blocks import Site
from likeness.model.ids import RunId, random_name
from likeness.model.naming import disk_label, fit_for_file
from likeness.model.sizes import readable_size
from likeness.serving.exports import Export, Overlay
from likeness.serving.nbd import NbdServer
from likeness.stopping import StopToken
from likeness.store.read.disk_view import DiskView, open_disk
from likeness.store.read.versions import Version
from tasks.artifacts import put_table
from tasks.claims import version_read
from tasks.reports import cell
from tasks.restore_sources import Chosen, Notes, known_locations, sources, version_in
from tasks.retries import ONCE, task
from tasks.transfer import scratch_folder


@dataclass(frozen=True, slots=True)
class Served:
    """What was served.

    Attributes:
        vm_name: Whose version it was.
        disks: How many disks.
        read_bytes: How much was asked for, and proved before it was given.
        notes: What was taken from elsewhere, in sentences.
    """

    vm_name: str
    disks: int
    read_bytes: int
    notes: tuple[str, ...]


class _Counted:
    """A disk that counts what is read of it."""

    def __init__(self, view: DiskView, count: Callable[[int], None]) -> None:
        self._view, self._count = view, count

    @property
    def size_bytes(self) -> int:
        return self._view.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        data = self._view.read(offset, length)
        self._count(len(data))
        return data

    def is_zero(self, offset: int, length: int) -> bool:
        return self._view.is_zero(offset, length)


class _Sum:
    def __init__(self) -> None:
        self.total, self._lock = 0, threading.Lock()

    def __call__(self, more: int) -> None:
        with self._lock:
            self.total += more


@task(task_run_name="serve version {chosen.version}", **ONCE)
def serve_version(
    chosen: Chosen,
    *,
    seconds: float,
    port: int,
    writable: bool,
    from_vault: bool,
    run: RunId,
    site: Site,
    stop: StopToken,
) -> Served:
    """Serve every disk of a version for a while; what was written to it is thrown away.

    Raises:
        UnknownVersion: No version, or several, have an id that begins so.
        BadInput: Nothing can listen at that port.
    """
    say, read = Notes(get_run_logger().warning), _Sum()
    with (
        sources(site, from_vault=from_vault, say=say) as stores,
        scratch_folder(site, run) as scratch,
        ExitStack() as held,
    ):
        version = version_in(stores, chosen)
        held.enter_context(version_read(site, version.version))
        exports: dict[str, Export] = {}
        for disk in version.record.disks:
            locations = known_locations(site, version, disk, from_vault=from_vault)
            view = held.enter_context(open_disk(stores, disk, scratch, say=say, locator=locations))
            served: Export = _Counted(view, read)
            if writable:
                overlay = Overlay(served, scratch / random_name())
                held.callback(overlay.close)
                served = overlay
            exports[f"disk-{fit_for_file(disk.position)}"] = served
        server = held.enter_context(NbdServer(exports, port=port))
        _show(version, server, exports, seconds, site=site, writable=writable)
        stop.wait(seconds)
    return Served(version.record.vm_name, len(exports), read.total, tuple(say.said))


def _show(
    version: Version,
    server: NbdServer,
    exports: dict[str, Export],
    seconds: float,
    *,
    site: Site,
    writable: bool,
) -> None:
    """Where the disks are, as long as they are."""
    rows = [
        {
            "disk": disk_label(disk.position, disk.name),
            "address": server.uri(name),
            "size": readable_size(disk.size_bytes),
        }
        for disk, name in zip(version.record.disks, exports, strict=True)
    ]
    for row in rows:
        get_run_logger().info("%s is served at %s", row["disk"], row["address"])
    said = (
        f"**{cell(version.record.vm_name)}** as of {version.taken_at:%Y-%m-%d %H:%M} UTC, version"
        f" {version.version[:8]}, on the worker's machine for {seconds / 60:g} minutes; every data"
        " block is proved before it is given"
    )
    said += "; what is written is thrown away at the end" if writable else "; read-only"
    put_table(site.key_of("serve"), rows, said)

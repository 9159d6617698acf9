"""The command that gives a version's disks to other programs."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from likeness.cli.opening import opened
from likeness.cli.options import Options
from likeness.cli.terminal import printable, say, tell
from likeness.model.choosing import disk_called
from likeness.model.ids import random_name
from likeness.model.naming import fit_for_file
from likeness.model.sizes import readable_size
from likeness.serving.exports import Export, Overlay
from likeness.serving.nbd import NbdServer
from likeness.stopping import StopToken
from likeness.store.check.meant import version_meant
from likeness.store.format.data_store import DataStore
from likeness.store.read.disk_view import open_disk
from likeness.store.read.versions import Version


def serve(options: Options, stop: StopToken) -> int:
    """Serve until somebody stops it; nothing is left behind."""
    store = opened(options)
    version = version_meant(store, options.version)
    with ExitStack() as held:
        scratch = Path(
            held.enter_context(tempfile.TemporaryDirectory(prefix="likeness-", dir=options.scratch))
        )
        exports = _exports(store, version, options, scratch, held)
        server = held.enter_context(
            NbdServer(exports, socket_path=options.socket, port=options.port)
        )
        for name, export in exports.items():
            say(f"{server.uri(name)}  {readable_size(export.size_bytes)}")
        tell(
            f"{printable(version.record.vm_name)} as of {version.taken_at:%Y-%m-%d %H:%M} UTC;"
            " stop with Ctrl-C"
        )
        while not stop.wait(3600):
            pass
    return 0


def _exports(
    store: DataStore,
    version: Version,
    options: Options,
    scratch: Path,
    held: ExitStack,
) -> dict[str, Export]:
    disks = version.record.disks
    if options.disk is not None:
        disks = (disk_called(options.disk, disks, f"version {version.version[:12]}"),)
    exports: dict[str, Export] = {}
    for disk in disks:
        view: Export = held.enter_context(open_disk([store], disk, scratch, say=tell))
        if options.writable:
            overlay = Overlay(view, scratch / random_name())
            held.callback(overlay.close)
            view = overlay
        exports[f"disk-{fit_for_file(disk.position)}"] = view
    return exports

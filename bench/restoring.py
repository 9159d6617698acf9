"""Bringing a disk back, in a process that knows nothing else.

python -m bench.restoring FOLDER VM
"""

import sys
from pathlib import Path

from likeness.clock import system_clock
from likeness.model.ids import VmId
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import create_store, open_store_with_key_file
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import last_version
from likeness.transport.local import LocalTransport
from likeness.transport.tuning import keep_large_buffers


def store_in(folder: Path) -> DataStore:
    """The store of a folder, made if there is none."""
    place = LocalTransport(folder / "store", make=True)
    if (folder / "key").exists():
        return open_store_with_key_file(place, folder / "key")
    return create_store(place, key_file=folder / "key", clock=system_clock).store


def restore(store: DataStore, folder: Path, *, vm: VmId) -> None:
    """The first disk of a VM's last version, as an image.

    Raises:
        SystemExit: The VM has none.
    """
    last = last_version(store, vm)
    if last is None:
        raise SystemExit("there is no version to restore")
    disk = last.record.disks[0]
    writer = FileDiskWriter(folder / "restored.raw", disk.size_bytes)
    restore_disk(store, disk, writer, scratch=folder, stop=StopToken())


if __name__ == "__main__":
    keep_large_buffers()
    restore(store_in(Path(sys.argv[1])), Path(sys.argv[1]), vm=VmId(sys.argv[2]))

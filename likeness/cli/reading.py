"""Commands that look into a store and get data out of it."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from likeness.cli.opening import opened
from likeness.cli.terminal import Meter, printable, say, tell
from likeness.errors import BadInput
from likeness.model.ids import DiskId, as_uuid
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.data_store import DataStore
from likeness.store.disk_writers import FileDiskWriter
from likeness.store.documents import DiskRecord
from likeness.store.observations import UNREADABLE, cause_of
from likeness.store.restoring import restore_disk
from likeness.store.versions import Version, find_version, read_version, record_names, vms

_ROW = "{:<24}  {:<12}  {:<20}  {:>5}  {:>9}  {}"


def list_versions(options: argparse.Namespace, stop: StopToken) -> int:
    """Print a line for every version; 1 if a record is damaged."""
    store = opened(options)
    damaged = 0
    say(_ROW.format("VM", "VERSION", "TAKEN (UTC)", "DISKS", "SIZE", "NOTE").rstrip())
    for name, version, problem in _versions(store):
        stop.check()
        if version is None:
            damaged += 1
            say(f"{name}: damaged, {problem}")
        elif _wanted(version, options.vm):
            say(_row(version))
    return 1 if damaged else 0


def show_version(options: argparse.Namespace, _stop: StopToken) -> int:
    """Print one version."""
    version = find_version(opened(options), options.version)
    record, counts = version.record, version.record.counts
    if options.configuration:
        say(record.configuration)
        return 0
    facts = {
        "VM": printable(record.vm_name),
        "uuid": as_uuid(version.vm),
        "version": version.version,
        "number": version.sequence,
        "taken at": version.taken_at.isoformat(" ", "seconds"),
        "committed at": version.clear.committed_at,
        "consistency": f"{record.consistency} (asked for: {record.consistency_asked})",
        "note": printable(record.note) or "none",
        "job": printable(record.job),
        "run": record.run,
        "read": readable_size(counts.read_bytes),
        "sent": readable_size(counts.sent_bytes),
        "made by": f"likeness {printable(record.release)}",
    }
    for title, value in facts.items():
        say(f"{title:<14}{value}")
    say()
    for number, disk in enumerate(record.disks, 1):
        say(
            f"disk {number}: {printable(disk.name) or 'without a name'}, position"
            f" {printable(disk.position)}, {readable_size(disk.size_bytes)},"
            f" uuid {as_uuid(DiskId(disk.disk))}"
        )
    return 0


def restore(options: argparse.Namespace, stop: StopToken) -> int:
    """Write one disk to a file; nothing is left of it when that fails."""
    store = opened(options)
    version = find_version(store, options.version)
    disk = _disk(version, options.disk)
    target: Path = options.to
    tell(
        f"disk {options.disk} ({printable(disk.name)}) of {printable(version.record.vm_name)},"
        f" {readable_size(disk.size_bytes)}, as it was at {version.taken_at:%Y-%m-%d %H:%M} UTC"
    )
    writer = FileDiskWriter(target, disk.size_bytes)
    meter = Meter("restored", disk.size_bytes)
    with _scratch(options.scratch or target.absolute().parent, writer) as scratch:
        restore_disk(store, disk, writer, scratch=Path(scratch), stop=stop, progress=meter.add)
    meter.finish()
    tell(f"{target} is whole: every chunk was proved on its way")
    return 0


def _scratch(folder: Path, writer: FileDiskWriter) -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix=".likeness-", dir=folder)
    except OSError as cause:
        writer.abandon()
        raise BadInput(
            f"the block map cannot be kept in {folder}: {cause.strerror}; name another folder with"
            " --scratch"
        ) from cause


def _disk(version: Version, number: int) -> DiskRecord:
    disks = version.record.disks
    if not 1 <= number <= len(disks):
        raise BadInput(
            f"version {version.version[:12]} has {len(disks)} disks, and none is number {number};"
            " `show` lists them"
        )
    return disks[number - 1]


def _versions(store: DataStore) -> Iterator[tuple[str, Version | None, str]]:
    for vm in vms(store):
        for name in record_names(store, vm):
            try:
                yield name, read_version(store, name), ""
            except UNREADABLE as cause:
                yield name, None, cause_of(cause)


def _wanted(version: Version, part: str | None) -> bool:
    names = (version.record.vm_name.lower(), version.vm, as_uuid(version.vm))
    return part is None or any(part.lower() in name for name in names)


def _row(version: Version) -> str:
    record = version.record
    size = readable_size(sum(disk.size_bytes for disk in record.disks))
    taken = f"{version.taken_at:%Y-%m-%d %H:%M:%S}"
    name = printable(record.vm_name)
    note = printable(record.note)
    return _ROW.format(name, version.version[:12], taken, len(record.disks), size, note).rstrip()

"""Commands that look into a store and get data out of it."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from likeness.cli.opening import opened
from likeness.cli.options import Options
from likeness.cli.terminal import Meter, printable, say, say_json, tell
from likeness.errors import BadInput
from likeness.model.choosing import disk_called, looks
from likeness.model.ids import VmId, as_uuid
from likeness.model.naming import disk_file_name, disk_label
from likeness.model.sizes import readable_size
from likeness.serving.converting import convert_disk, require_format
from likeness.stopping import StopToken
from likeness.store.check.meant import version_meant
from likeness.store.check.recorded import ReadableVersions, recorded_versions
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.format.observations import Weight
from likeness.store.read.chunk_source import DataLost
from likeness.store.read.disk_view import open_disk
from likeness.store.read.disk_writers import FileDiskWriter, damage_map_of
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version, last_version, read_version_at

_STATES = {
    Weight.DAMAGE: "damaged",
    Weight.SPARE_LOST: "not in its place",
    Weight.UNCHECKED: "could not be read",
    Weight.NOTICE: "no version",
}
_ROW = "{:<24}  {:<12}  {:<20}  {:>5}  {:>9}  {:<8}  {}"


def list_versions(options: Options, stop: StopToken) -> int:
    """Print a line for every version; 1 if a record is damaged."""
    store = opened(options)
    recorded = recorded_versions(store)
    damaged = any(each.weight is not Weight.NOTICE for each in recorded.told)
    if options.as_json:
        wanted = _chosen(_read(store, recorded, stop), options.vm)
        unread = [{"name": each.name, "cause": each.cause} for each in recorded.told]
        say_json({"versions": [_facts(each) for each in wanted], "unread": unread})
        return 1 if damaged else 0
    say(_ROW.format("VM", "VERSION", "TAKEN (UTC)", "DISKS", "SIZE", "UUID", "NOTE").rstrip())
    for line in _lines(_read(store, recorded, stop), options.vm):
        say(line)
    for each in recorded.told:
        say(f"{each.name}: {_STATES[each.weight]}, {printable(each.cause)}; {each.meaning}")
    return 1 if damaged else 0


def _chosen(versions: Iterable[Version], part: str | None) -> Iterator[Version]:
    """Those of the VMs that are wanted, under whatever name they ever had."""
    for vm, its in itertools.groupby(versions, key=lambda version: version.vm):
        of_vm = list(its)
        if part is None or _wanted(part, vm, {each.record.vm_name for each in of_vm}):
            yield from of_vm


def _facts(version: Version) -> dict[str, object]:
    record, counts = version.record, version.record.counts
    return {
        "vm": record.vm_name,
        "uuid": as_uuid(version.vm),
        "version": version.version,
        "number": version.sequence,
        "taken_at": version.taken_at.isoformat(),
        "committed_at": str(version.clear.committed_at),
        "consistency": record.consistency,
        "note": record.note,
        "job": record.job,
        "run": record.run,
        "read_bytes": counts.read_bytes,
        "sent_bytes": counts.sent_bytes,
        "disks": [
            {
                "position": disk.position,
                "name": disk.name,
                "uuid": disk.uuid,
                "size_bytes": disk.size_bytes,
            }
            for disk in record.disks
        ],
    }


def show_version(options: Options, _stop: StopToken) -> int:
    """Print one version."""
    store = opened(options)
    version = version_meant(store, options.version)
    record, counts = version.record, version.record.counts
    if options.configuration:
        say(record.configuration)
        return 0
    if options.as_json:
        say_json(_facts(version))
        return 0
    facts = {
        "VM": shown_name(record.vm_name) + _renamed(store, version),
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
    for disk in record.disks:
        say(f"{_label(disk)}: {readable_size(disk.size_bytes)}, uuid {disk.uuid}")
    return 0


def _renamed(store: DataStore, version: Version) -> str:
    newest = last_version(store, version.vm)
    if newest is None or newest.record.vm_name == version.record.vm_name:
        return ""
    return f", was renamed to {shown_name(newest.record.vm_name)}"


def restore(options: Options, stop: StopToken) -> int:
    """Write one disk to a file; nothing is left of it when that fails, and 1 if it has zeros."""
    require_format(options.format, accept_damage=options.accept_damage)
    store = opened(options)
    version = version_meant(store, options.version)
    disk = _disk(version, options.disk)
    target = _target(options, version, disk)
    tell(
        f"{_label(disk)} of {shown_name(version.record.vm_name)},"
        f" {readable_size(disk.size_bytes)}, as it was at {version.taken_at:%Y-%m-%d %H:%M} UTC"
    )
    meter = Meter("restored", disk.size_bytes)
    with _scratch(options.scratch or target.absolute().parent) as scratch:
        write = _write_raw if options.format == "raw" else _write_converted
        lost = write(store, disk, target, options, Path(scratch), stop, meter)
    meter.finish()
    if lost is not None:
        where = damage_map_of(target)
        tell(
            printable(
                f"{target} is NOT whole, it has zeros where data is lost, see {where}: {lost}"
            )
        )
        return 1
    tell(f"{target} is whole: every chunk was proved on its way")
    return 0


def _target(options: Options, version: Version, disk: DiskRecord) -> Path:
    target: Path = options.to
    if not target.is_dir():
        return target
    name = disk_file_name(version.record.vm_name, version.taken_at, disk.position)
    return target / Path(name).with_suffix(f".{options.format}")


def _write_raw(
    store: DataStore,
    disk: DiskRecord,
    target: Path,
    options: Options,
    scratch: Path,
    stop: StopToken,
    meter: Meter,
) -> DataLost | None:
    return restore_disk(
        store,
        disk,
        FileDiskWriter(target, disk.size_bytes),
        scratch=scratch,
        stop=stop,
        progress=meter.add,
        say=lambda text: tell(printable(text)),
        accept_damage=options.accept_damage,
    )


def _write_converted(
    store: DataStore,
    disk: DiskRecord,
    target: Path,
    options: Options,
    scratch: Path,
    stop: StopToken,
    meter: Meter,
) -> None:
    with open_disk([store], disk, scratch, say=lambda text: tell(printable(text))) as view:
        convert_disk(view, target, options.format, stop=stop, progress=meter.add)


def _label(disk: DiskRecord) -> str:
    return printable(disk_label(disk.position, disk.name))


def _scratch(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix=".likeness-", dir=folder)
    except OSError as cause:
        raise BadInput(
            f"the block map cannot be kept in {folder}: {cause.strerror}; name another folder with"
            " --scratch"
        ) from cause


def _disk(version: Version, wanted: str | None) -> DiskRecord:
    disks = version.record.disks
    if wanted is None and disks:
        return disks[0]
    return disk_called(wanted or "", disks, f"version {version.version[:12]}")


def _read(store: DataStore, recorded: ReadableVersions, stop: StopToken) -> Iterator[Version]:
    """Every version that can be read, a VM's after each other."""
    for name, lies_at in recorded.versions.items():
        stop.check()
        yield read_version_at(store, name, lies_at)


@dataclass(frozen=True, slots=True)
class _ListedVersion:
    """What the list shows of a version."""

    name: str
    version: str
    taken: str
    disks: int
    size: str
    uuid: str
    note: str

    def shown(self, now: str) -> str:
        renamed = f"was renamed to {shown_name(now)}" if now != self.name else ""
        note = "; ".join(filter(None, (renamed, printable(self.note))))
        facts = (self.version, self.taken, self.disks, self.size, self.uuid, note)
        return _ROW.format(shown_name(self.name), *facts).rstrip()


def _lines(versions: Iterable[Version], part: str | None) -> Iterator[str]:
    """A line for each version of the VMs that are wanted, under whatever name they ever had."""
    for vm, its in itertools.groupby(versions, key=lambda version: version.vm):
        lines = [_line(version) for version in its]
        names = {line.name for line in lines}
        if part is None or _wanted(part, vm, names):
            for line in lines:
                yield line.shown(lines[-1].name)


def _wanted(part: str, vm: VmId, names: Iterable[str]) -> bool:
    of_uuid = any(part.strip().lower() in uuid for uuid in (vm, as_uuid(vm)))
    return of_uuid or any(looks(part) in looks(name) for name in names)


def _line(version: Version) -> _ListedVersion:
    record = version.record
    return _ListedVersion(
        name=record.vm_name,
        version=version.version[:12],
        taken=f"{version.taken_at:%Y-%m-%d %H:%M:%S}",
        disks=len(record.disks),
        size=readable_size(sum(disk.size_bytes for disk in record.disks)),
        uuid=version.vm[:8],
        note=record.note,
    )


def shown_name(name: str) -> str:
    """A VM's name; between quotes if blanks at its ends would not be seen."""
    return printable(name) if name == name.strip() != "" else f"'{printable(name)}'"

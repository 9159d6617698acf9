"""The command that lists, finds and takes out files of a version's disks."""

import stat
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from likeness.cli.opening import opened
from likeness.cli.options import Options
from likeness.cli.terminal import printable, say, tell
from likeness.errors import BadInput, Damaged
from likeness.files.messages import Ask, FileEntry, Trouble, Volume
from likeness.files.opening import GuestFiles, open_files
from likeness.files.writing import TreeWriter
from likeness.model.choosing import disk_called
from likeness.model.naming import fit_for_file
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.check.meant import version_meant, versions_of
from likeness.store.format.data_store import DataStore
from likeness.store.read.disk_view import open_disk
from likeness.store.read.versions import Version

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def files(options: Options, stop: StopToken) -> int:
    """Look into a version's disks, or all of a VM; 1 if some of it could not be read."""
    store = opened(options)
    if not options.every_version:
        return _in_version(store, version_meant(store, options.version), options)
    if not options.find or options.to is not None:
        raise BadInput("to look in every version, name the VM, what to --find, and no --to")
    code = 0
    for version in reversed(versions_of(store, options.version)):
        stop.check()
        say(f"version {version.version[:12]} of {version.taken_at:%Y-%m-%d %H:%M} UTC:")
        try:
            code = max(code, _in_version(store, version, options))
        except (Damaged, BadInput) as problem:  # one that cannot be read hides no other
            tell(printable(str(problem)))
            code = 1
    return code


def _in_version(store: DataStore, version: Version, options: Options) -> int:
    with ExitStack() as held:
        scratch = Path(
            held.enter_context(tempfile.TemporaryDirectory(prefix="likeness-", dir=options.scratch))
        )
        disks = [
            (
                fit_for_file(disk.position),
                held.enter_context(open_disk([store], disk, scratch, say=tell)),
            )
            for disk in version.record.disks
        ]
        guest = held.enter_context(open_files(disks))
        volumes = guest.volumes()
        if options.disk is not None:
            chosen = disk_called(
                options.disk, version.record.disks, f"version {version.version[:12]}"
            )
            number = version.record.disks.index(chosen)
            volumes = [volume for volume in volumes if number in volume.disks]
        for remark in remarks(volumes, options.path or "", options.find):
            tell(remark)
        return _looked(guest, volumes, options)


def _looked(guest: GuestFiles, volumes: list[Volume], options: Options) -> int:
    volume, path = path_of(options.path or "")
    if volume and volume not in [each.name for each in volumes]:
        names = ", ".join(shown_path((each.name,)) for each in volumes) or "none"
        raise BadInput(f"no volume {shown_path((volume,))!r} in this version; it has {names}")
    if options.to is not None:
        if not volume or options.find:
            raise BadInput("name the one file or folder to take out, as a listing shows it")
        return _taken(guest, volume, path, options.to)
    if options.find:
        asked = [volume] if volume else [each.name for each in volumes if each.kind]
        codes = [_printed(guest, Ask("find", each, path, options.find)) for each in asked]
        return max(codes, default=0)
    if volume:
        return _printed(guest, Ask("list", volume, path))
    for each in volumes:
        facts = f"{each.kind or '-':<6}  {readable_size(each.size_bytes):>10}"
        say(f"{facts}  {shown_path((each.name,))}  {printable(each.note)}".rstrip())
    return 0


def remarks(volumes: Iterable[Volume], path: str, find: str | None) -> list[str]:
    """What must be known of the file systems that are looked into: all, if no volume is named."""
    volume, _ = path_of(path)
    if not volume and not find:
        return []
    return [
        f"{shown_path((each.name,))}: {printable(each.note)}"
        for each in volumes
        if each.kind and each.note and volume in (b"", each.name)
    ]


def path_of(text: str) -> tuple[bytes, tuple[bytes, ...]]:
    """A path as people write it: the volume, and what leads to a thing in it."""
    parts = [part for part in text.encode(errors="surrogateescape").split(b"/") if part]
    return (parts[0], tuple(parts[1:])) if parts else (b"", ())


def _printed(guest: GuestFiles, ask: Ask) -> int:
    code = 0
    for told in guest.asked(ask):
        if isinstance(told, FileEntry):
            say(line_of(ask.volume, told))
        elif isinstance(told, Trouble):
            where = shown_path((ask.volume, *told.path))
            tell(f"{where}: could not be read: {printable(told.cause)}")
            code = 1
    return code


def line_of(volume: bytes, told: FileEntry) -> str:
    """One thing as `ls -l` would show it."""
    kinds = {"folder": stat.S_IFDIR, "link": stat.S_IFLNK, "file": stat.S_IFREG}
    mode = stat.filemode(kinds.get(told.kind, 0) | told.mode & 0o7777)
    try:
        moment = f"{_EPOCH + timedelta(microseconds=told.modified_ns // 1000):%Y-%m-%d %H:%M}"
    except OverflowError:
        moment = "-"
    target = f" -> {printable(told.target.decode(errors='replace'))}" if told.target else ""
    size = readable_size(told.size_bytes) if told.kind == "file" else "-"
    return f"{mode}  {size:>10}  {moment:<16}  {shown_path((volume, *told.path))}{target}"


def _taken(guest: GuestFiles, volume: bytes, path: tuple[bytes, ...], to: Path) -> int:
    def note(where: tuple[bytes, ...], what: str) -> None:
        tell(f"{shown_path((volume, *where))}: {printable(what)}")

    writer = TreeWriter(to, len(path), note)
    writer.take(guest.asked(Ask("take", volume, path)), path[-1] if path else volume)
    tell(f"{writer.files} files are in {to}")
    return 0 if writer.whole else 1


def shown_path(parts: Iterable[bytes]) -> str:
    """A path for people, whatever bytes are in it."""
    return printable("/".join(part.decode(errors="backslashreplace") for part in parts))

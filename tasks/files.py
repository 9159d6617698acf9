"""Files of a guest: listed, found across versions, taken out; read by a process without secrets."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from blocks import Site
from likeness.cli.files import line_of, path_of, remarks, shown_path
from likeness.cli.terminal import printable
from likeness.errors import BadInput
from likeness.files.messages import Ask, FileEntry, Trouble
from likeness.files.opening import GuestFiles, open_files
from likeness.files.writing import TreeWriter
from likeness.model.ids import RunId
from likeness.model.naming import fit_for_file
from likeness.model.sizes import counted, readable_size
from likeness.store.read.disk_view import open_disk
from likeness.store.read.versions import Version
from tasks.artifacts import put_table
from tasks.claims import version_read
from tasks.reports import cell
from tasks.restore_sources import Chosen, Notes, known_locations, sources, version_in
from tasks.retries import STEP, task
from tasks.transfer import scratch_folder

MAX_SHOWN = 2000
"""Rows of the page; what is more is counted."""


@dataclass(frozen=True, slots=True)
class FilesWanted:
    """What is looked for.

    Attributes:
        path: A volume and a path in it, such as ``0-1/etc``; empty: name the volumes.
        find: A name, or a pattern with * and ?; empty: list what is in `path`.
        to: A folder to take it out into; empty: only list.
    """

    path: str = ""
    find: str = ""
    to: str = ""


@dataclass(slots=True)
class FilesFound:
    """What was found.

    Attributes:
        sentence: Of it, for the run's end.
        rows: The page's rows.
        total: How many things, shown or not.
        troubles: What could not be read, in sentences.
    """

    sentence: str = ""
    rows: list[dict[str, str]] = field(default_factory=list)
    total: int = 0
    troubles: list[str] = field(default_factory=list)

    def add(self, **row: str) -> None:
        """One thing more."""
        self.total += 1
        if len(self.rows) < MAX_SHOWN:
            self.rows.append(row)


@task(task_run_name="look into version {chosen.version}", **STEP)
def look_into(
    chosen: Chosen, wanted: FilesWanted, *, from_vault: bool, run: RunId, site: Site
) -> FilesFound:
    """List, find or take out files of one version.

    Raises:
        BadInput: There is no such volume, file or folder, or the reading library is not installed.
        UnknownVersion: No version, or several, have an id that begins so.
    """
    found = FilesFound()
    with _opened(chosen, from_vault=from_vault, run=run, site=site) as (version, guest):
        if wanted.to:
            _take(guest, wanted, found)
        else:
            _list(guest, version, wanted, found)
            found.sentence = f"{counted(found.total, 'thing')} found"
        told = remarks(guest.volumes(), wanted.path, wanted.find)
    found.sentence = "; ".join((found.sentence, *told))
    for each in found.troubles:
        get_run_logger().error("%s", each)
    return found


@contextmanager
def _opened(
    chosen: Chosen, *, from_vault: bool, run: RunId, site: Site
) -> Generator[tuple[Version, GuestFiles], None, None]:
    say = Notes(get_run_logger().warning)
    with (
        sources(site, from_vault=from_vault, say=say) as stores,
        scratch_folder(site, run) as scratch,
        ExitStack() as held,
    ):
        version = version_in(stores, chosen)
        held.enter_context(version_read(site, version.version))
        disks = [
            (
                fit_for_file(disk.position),
                held.enter_context(
                    open_disk(
                        stores,
                        disk,
                        scratch,
                        say=say,
                        locator=known_locations(site, version, disk, from_vault=from_vault),
                    )
                ),
            )
            for disk in version.record.disks
        ]
        yield version, held.enter_context(open_files(disks))


def _list(guest: GuestFiles, version: Version, wanted: FilesWanted, found: FilesFound) -> None:
    volume, path = path_of(wanted.path)
    volumes = guest.volumes()
    if volume and volume not in {each.name for each in volumes}:
        there = ", ".join(shown_path((each.name,)) for each in volumes) or "none"
        raise BadInput(f"no volume {shown_path((volume,))!r} in this version; it has {there}")
    if not volume and not wanted.find:
        for each in volumes:
            size, kind = readable_size(each.size_bytes), each.kind or "-"
            found.add(volume=shown_path((each.name,)), kind=kind, size=size, note=each.note)
        return
    action = "find" if wanted.find else "list"
    for name in [volume] if volume else [each.name for each in volumes if each.kind]:
        for told in guest.asked(Ask(action, name, path, wanted.find)):
            if isinstance(told, FileEntry):
                when = f"{version.taken_at:%Y-%m-%d %H:%M}"
                found.add(version=version.version[:8], taken=when, file=line_of(name, told))
            elif isinstance(told, Trouble):
                where = shown_path((name, *told.path))
                found.troubles.append(f"{where}: {printable(told.cause)}")


def _take(guest: GuestFiles, wanted: FilesWanted, found: FilesFound) -> None:
    volume, path = path_of(wanted.path)
    if not volume or wanted.find:
        raise BadInput("name the one file or folder to take out, as a listing shows it")

    def note(where: tuple[bytes, ...], what: str) -> None:
        found.troubles.append(f"{shown_path((volume, *where))}: {printable(what)}")

    writer = TreeWriter(Path(wanted.to), len(path), note)
    writer.take(guest.asked(Ask("take", volume, path)), path[-1] if path else volume)
    if writer.whole:  # a name that had to be changed is told, and nothing is missing
        for each in found.troubles:
            get_run_logger().warning("%s", each)
        found.troubles.clear()
    found.total = writer.files
    found.add(folder=wanted.to, taken=shown_path((volume, *path)), files=str(writer.files))
    found.sentence = f"{counted(writer.files, 'file')} taken out into {wanted.to}"


def show_files(found: FilesFound, what: str, *, site: Site) -> None:
    """What was found, on a page."""
    more = found.total - len(found.rows)
    said = f"{cell(what)}: {cell(found.sentence)}; every data block read was proved"
    said += f"; {more} more are not shown" if more > 0 else ""
    put_table(site.key_of("files"), found.rows, said)

"""In the reader's process: what lies in a file system, and what is in its files."""

import fnmatch
import stat
from collections.abc import Iterator
from typing import Any

from dissect.target.filesystem import DirEntry
from dissect.util.stream import RunlistStream

from likeness.files.messages import MAX_READ, Data, FileEntry, Hole, Trouble
from likeness.files.stored import inside, require_clear, stream_of, written_bytes

_DEEPEST = 512
_ONE_PLACE = ("ext", "xfs", "ntfs")  # a folder's number is its own, and it is in one place
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
_ZEROS = bytes(4096)
_OF_NTFS = frozenset(
    f"${name}"
    for name in (
        *("MFT", "MFTMirr", "LogFile", "Volume", "AttrDef", "Bitmap", "Boot", "BadClus"),
        *("Secure", "UpCase", "Extend"),
    )
)
"""Where NTFS keeps itself: nobody's files."""
_ENCRYPTED, _SPARSE = 0x4000, 0x8000
_CLOUD, _CLOUD_MASK = 0x9000001A, 0xFFFF0FFF
_LATEST_NS = (1 << 62) - 1

Path = tuple[bytes, ...]
Walked = FileEntry | Trouble | Data | Hole


def as_bytes(name: str) -> bytes:
    """A name as the guest wrote it, as far as the library kept it."""
    try:
        return name.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return name.encode(errors="backslashreplace")


def at_path(files: Any, path: Path) -> Any:
    """The entry that a path names, links on the way not followed.

    Raises:
        LookupError: There is no such thing.
    """
    here = files.get("/")
    for part in path:
        if not here.is_dir(follow_symlinks=False):
            raise LookupError
        here = next((e for e in inside(here) if as_bytes(e.name) == part), None)
        if here is None:
            raise LookupError
        here = here.get()
    return here


def children(folder: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """What is directly in a folder, by name."""
    own = _OF_NTFS if not path and folder.fs.__type__ == "ntfs" else frozenset()
    for entry in inside(folder):
        if entry.name not in own:
            yield (*path, as_bytes(entry.name)), entry


def listed(path: Path, entry: Any) -> FileEntry | Trouble:
    """What is told of one thing."""
    try:
        return described(path, entry.get())
    except Exception as cause:  # noqa: BLE001 -- a guest's bytes may make the library fail in any way
        return Trouble(path, _said(cause))


def described(path: Path, entry: Any) -> FileEntry:
    """The same, of an entry that is opened."""
    facts = entry.lstat()
    kind = _KINDS.get(stat.S_IFMT(int(facts.st_mode)), "other")
    return FileEntry(
        path,
        kind,
        max(int(facts.st_size), 0),
        stat.S_IMODE(int(facts.st_mode)),
        _moment(facts.st_mtime_ns, facts.st_mtime),
        _moment(facts.st_atime_ns, facts.st_atime),
        as_bytes(entry.readlink()) if kind == "link" else b"",
    )


def walked(path: Path, entry: Any, *, with_data: bool) -> Iterator[Walked]:
    """A thing and, in depth, whatever is in it; files with their content if asked for."""
    waiting: list[tuple[Path, Any]] = [(path, entry)]
    seen: set[int] = set()
    while waiting:
        path, entry = waiting.pop()
        try:
            if isinstance(entry, DirEntry):
                entry = entry.get()
            told = described(path, entry)
            yield told
            if told.kind == "folder":
                _not_again(entry, path, seen)
                inside = list(children(entry, path))
                waiting.extend(reversed(inside))
            elif told.kind == "file" and with_data:
                yield from content(entry, told.size_bytes)
        except Exception as cause:  # noqa: BLE001 -- as above
            yield Trouble(path, _said(cause))


def _not_again(folder: Any, path: Path, seen: set[int]) -> None:
    """A hostile file system may say that a folder lies in itself; nobody walks that to its end."""
    number = folder.lstat().st_ino if folder.fs.__type__ in _ONE_PLACE else None
    if len(path) >= _DEEPEST or number in seen:
        raise ValueError("folders lie in one another without end")
    if number is not None:
        seen.add(int(number))


def content(entry: Any, size: int) -> Iterator[Data | Hole]:
    """The bytes of a file, up to the size it says; what takes no room in the guest as holes.

    Raises:
        ValueError: What its file system keeps under its name are not its bytes.
    """
    if size and entry.fs.__type__ == "ntfs":
        _require_own_bytes(entry.entry.attributes)
    require_clear(entry)
    file, written = stream_of(entry), written_bytes(entry, size)
    at = 0
    for begin, end in _holes(file, written):
        yield from _stretch(file, at, begin)
        yield Hole(end - begin)
        at = end
    yield from _stretch(file, at, written)
    if written < size:
        yield Hole(size - written)


def _require_own_bytes(attributes: Any) -> None:
    """Windows has files whose bytes are elsewhere, where the library would read zeros."""
    flags = 0
    for each in attributes.DATA:
        if not each.header.name:
            flags |= int(each.header.flags)
    if flags & _ENCRYPTED:
        raise ValueError("it is encrypted by Windows")
    for each in attributes.REPARSE_POINT:
        tag = int(each.tag)
        if tag & _CLOUD_MASK != _CLOUD or flags & _SPARSE:  # what a cloud gave back is here
            raise ValueError(
                "what it holds is not under its name: Windows has compressed or deduplicated it, or"
                f" it is in a cloud (reparse tag {tag:#x}); restore the VM to read it"
            )


def _stretch(file: Any, at: int, end: int) -> Iterator[Data | Hole]:
    file.seek(at)
    while at < end:
        data = file.read(min(MAX_READ, end - at))
        if not data:
            raise ValueError("it ends before its size")
        at += len(data)
        yield Hole(len(data)) if _zeros(data) else Data(data)


def _zeros(data: bytes) -> bool:
    return data.startswith(_ZEROS[: len(data)]) and not data.strip(b"\0")


def _holes(file: Any, size: int) -> Iterator[tuple[int, int]]:
    """Where the library's own list of runs says that nothing is stored.

    In the runs of a compressed file what is not stored is what compression saved, and no hole.
    """
    if type(file) is not RunlistStream:
        return
    runs, block = file.runlist, file.block_size
    at = 0
    for run in runs:
        place, count = run[0], run[1]
        end = min(at + count * block, size)
        if place is None and end > at:
            yield at, end
        at = end


def matching(name: str) -> Any:
    """Whether a name is what was looked for: whole with * and ?, else some part of it."""
    wanted = name.casefold()
    pattern = wanted if any(c in wanted for c in "*?[") else f"*{wanted}*"
    return lambda given: fnmatch.fnmatchcase(given.decode(errors="replace").casefold(), pattern)


def _moment(exact: Any, rough: Any) -> int:
    moment = int(exact) if exact else int(rough * 1_000_000_000)
    return max(min(moment, _LATEST_NS), -_LATEST_NS)


def _said(cause: Exception) -> str:
    return f"{type(cause).__name__}: {cause}"[:200] if str(cause) else type(cause).__name__

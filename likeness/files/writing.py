"""Writing what came out of a guest: every name is hostile, and nothing leaves the target folder."""

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from likeness.errors import BadInput
from likeness.files.messages import Data, FileEntry, FromReader, Hole, Trouble

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_NAME = 255
_KEPT_OF_A_LONG_NAME = 230
_BLOCK = 4096
_RIGHTS = 0o777  # what may run as somebody else in the guest may not do so here


Say = Callable[[tuple[bytes, ...], str], None]
"""Takes a sentence about one path."""


class TreeWriter:
    """Makes files and folders below one folder, each for the first time.

    Every step goes from an open folder to a name in it that is no link, so neither the guest's
    names nor its links lead out. Folders get their own times and modes when all in them is there.

    Attributes:
        whole: Whether all that was asked for was read.
        files: How many files are there.
    """

    def __init__(self, target: Path, skip: int, say: Say) -> None:
        """Write below `target`, without the first `skip` parts of each path."""
        self.whole, self.files = True, 0
        self._skip, self._say = skip, say
        try:
            target.mkdir(mode=0o700, exist_ok=True)
            top = os.open(target, _FOLDER & ~os.O_NOFOLLOW)
        except OSError as cause:
            raise BadInput(
                f"{target} cannot be written to: {cause.strerror}; name another folder"
            ) from cause
        self._open: list[tuple[bytes, int, FileEntry | None]] = [(b"", top, None)]
        self._file: tuple[tuple[bytes, ...], int, FileEntry] | None = None
        self._at = 0

    def take(self, told: Iterable[FromReader], top: bytes) -> None:
        """Write all of it; what lies directly at the start of the paths is called `top`."""
        try:
            for each in told:
                self._one(each, top)
        except BaseException:
            self._drop_file()
            raise
        finally:
            self._finish_file()
            self._leave(1)
            os.close(self._open[0][1])

    def _one(self, told: FromReader, top: bytes) -> None:
        if isinstance(told, Data | Hole):
            self._more(told)
        elif isinstance(told, Trouble):
            self._trouble(told)
        elif isinstance(told, FileEntry):
            self._finish_file()
            self._entry(told, (top, *told.path[self._skip :]))

    def _entry(self, told: FileEntry, path: tuple[bytes, ...]) -> None:
        fit = tuple(_fit(part) for part in path)
        folder = self._enter(fit[:-1])
        name = fit[-1]
        if name is None or folder is None:
            self._lose(told.path, "left out: a name or folder on its way cannot be here")
            return
        if name != path[-1]:
            self._say(
                told.path, f"its name is too long here: it is {name.decode(errors='replace')}"
            )
        try:
            self._make(told, folder, name, len(fit))
        except FileExistsError:
            self._lose(told.path, "left out: something of that name is there already")
        except (OSError, ValueError) as cause:
            if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
                raise
            self._lose(told.path, f"left out: {cause}")

    def _make(self, told: FileEntry, folder: int, name: bytes, depth: int) -> None:
        if told.kind == "folder":
            os.mkdir(name, 0o700, dir_fd=folder)
            self._open.append((name, os.open(name, _FOLDER, dir_fd=folder), told))
        elif told.kind == "file":
            if told.size_bytes < 0:
                raise ValueError("its size is below nothing")
            self._file = (told.path, os.open(name, _NEW, 0o600, dir_fd=folder), told)
            self._at, self._name, self._in = 0, name, folder
        elif told.kind == "link":
            if not stays_inside(told.target, depth - 2):
                where = told.target.decode(errors="replace")
                self._say(told.path, f"left out: a link out of what is taken, to {where}")
                return
            os.symlink(told.target, name, dir_fd=folder)
            _stamp(name, told, folder)
        else:
            self._say(told.path, "left out: a device, pipe or socket")

    def _enter(self, parts: tuple[bytes | None, ...]) -> int | None:
        """The open folder that these lead to; only folders that were made here."""
        kept = 0
        names = [name for name, _, _ in self._open[1:]]
        while kept < min(len(parts), len(names)) and parts[kept] == names[kept]:
            kept += 1
        self._leave(kept + 1)
        return self._open[-1][1] if kept == len(parts) else None

    def _leave(self, upto: int) -> None:
        while len(self._open) > upto:
            _, handle, told = self._open.pop()
            if told is not None:
                _settle(handle, told)
            os.close(handle)

    def _more(self, told: Data | Hole) -> None:
        if self._file is None:  # what this belongs to was left out
            return
        _, handle, entry = self._file
        length = len(told.data) if isinstance(told, Data) else told.length
        if length < 0 or self._at + length > entry.size_bytes:
            raise BadInput("the reader of the guest's files said more than a file holds")
        if isinstance(told, Data):
            _write_sparse(handle, self._at, told.data)
        self._at += length

    def _finish_file(self) -> None:
        if self._file is None:
            return
        path, handle, told = self._file
        if self._at != told.size_bytes:
            self._drop_file()
            self._lose(path, "left out: it could not be read to its end")
            return
        try:
            os.ftruncate(handle, told.size_bytes)
        except (OSError, OverflowError) as cause:  # a guest may say any size
            self._drop_file()
            self._lose(path, f"left out: {cause}")
            return
        _settle(handle, told)
        self.files += 1
        self._file = None
        os.close(handle)

    def _drop_file(self) -> None:
        if self._file is not None:
            os.close(self._file[1])
            self._file = None
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._in)

    def _trouble(self, told: Trouble) -> None:
        self._drop_file()
        self._lose(told.path, f"could not be read: {told.cause}")

    def _lose(self, path: tuple[bytes, ...], what: str) -> None:
        self.whole = False
        self._say(path, what)


_NO_ROOM = {28, 122, 5}  # no space, no quota, a broken disk: of the target, not of one name


def stays_inside(target: bytes, depth: int) -> bool:
    """Whether a link's target cannot lead out, `depth` folders below the top of what is taken.

    Steps up come first or not at all: after a name, which may be a link itself, they could lead
    anywhere.
    """
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = next((n for n, part in enumerate(parts) if part != b".."), len(parts))
    absolute = target.startswith(b"/") or not target or b"\0" in target
    return not absolute and ups <= depth and b".." not in parts[ups:]


def _fit(name: bytes) -> bytes | None:
    """A name as it can be here; none for what is no name but a way."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        return None
    if len(name) <= _MAX_NAME:
        return name
    digest = hashlib.sha256(name).hexdigest()[:16].encode()
    kept = name[:_KEPT_OF_A_LONG_NAME].decode(errors="ignore").encode()
    return kept + b"~" + digest


def _write_sparse(handle: int, at: int, data: bytes) -> None:
    """Write all but whole blocks of zeros."""
    view, begin = memoryview(data), 0
    for start in range(0, len(data) + 1, _BLOCK):
        block = data[start : start + _BLOCK]
        if start >= len(data) or not any(block):
            _write_all(handle, at + begin, view[begin:start])
            begin = min(start + _BLOCK, len(data))
    if begin < len(data):
        _write_all(handle, at + begin, view[begin:])


def _write_all(handle: int, at: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(handle, data, at)
        data, at = data[count:], at + count


def _settle(handle: int, told: FileEntry) -> None:
    os.fchmod(handle, told.mode & _RIGHTS)
    with suppress(OSError, OverflowError):  # a moment that this file system cannot name
        os.utime(handle, ns=(told.accessed_ns, told.modified_ns))


def _stamp(name: bytes, told: FileEntry, folder: int) -> None:
    with suppress(OSError, OverflowError):
        os.utime(
            name,
            ns=(told.accessed_ns, told.modified_ns),
            dir_fd=folder,
            follow_symlinks=False,
        )

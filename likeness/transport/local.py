"""A folder on this machine: a local disk, or a share the operating system has mounted."""

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from likeness.errors import (
    LikenessError,
    NameTaken,
    ObjectMissing,
    ObjectUnreadable,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
    StoreMissing,
)
from likeness.transport.base import Entry, Listing, Space
from likeness.transport.tuning import batches

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_TROUBLE = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)
_IN_USE = (errno.EBUSY, errno.ETXTBSY, errno.EAGAIN)
_NO_OBJECT = (errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
CANNOT = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""A file system has no such operation, as fsync of a folder over FUSE, 9p and some CIFS mounts."""
_FOLDER_TRIES = 10
_NEVER_WAIT = os.O_NONBLOCK  # as opening a pipe that somebody put there would; no file minds


class LocalTransport:
    """Objects as files below one folder. Files are made 0600, folders 0700."""

    def __init__(self, root: Path | str, *, make: bool = False) -> None:
        """Use `root`, which must exist unless `make` is true.

        Raises:
            StoreMissing: There is no such folder.
        """
        self.root = Path(root).absolute()
        self._keeps_names = self._afresh = False
        if make:
            with self._translated(str(self.root)):
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.root.is_dir():
            raise StoreMissing(
                f"there is no folder {self.root}; mount its share or correct the path; make it only"
                " for a new store"
            )

    def __repr__(self) -> str:
        return f"LocalTransport({str(self.root)!r})"

    def __str__(self) -> str:
        return str(self.root)

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`: O_EXCL, write, fsync the file, fsync its folder."""
        path = self._path(name)
        with self._translated(name):
            self._require_names_kept()
            handle = self._open_new(path)
            try:
                _write_all(handle, parts)
                os.fsync(handle)
            except OSError as cause:
                if cause.errno in _FULL:
                    path.unlink()  # what was written before the room ran out
                raise
            finally:
                os.close(handle)
            _sync_folder(path.parent)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        with self._translated(name):
            handle = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | _NEVER_WAIT)
            try:
                size = _size_of_file(name, os.fstat(handle))
                if self._afresh:
                    with suppress(OSError):
                        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                wanted = size - offset if length is None else length
                return _read_exactly(handle, offset, max(wanted, 0))
            finally:
                os.close(handle)

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        with self._translated(name):
            return _size_of_file(name, self._path(name).stat())

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        with self._translated(folder):
            for path in self._children(folder):
                name = f"{folder}/{path.name}" if folder else path.name
                if path.is_dir():
                    yield from self.entries(name) if deep else ()
                else:
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        yield Entry(name, Path(path.path).stat().st_size)

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        with self._translated(folder):
            return [path.name for path in self._children(folder) if path.is_dir()]

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`."""
        files, folders = [], []
        with self._translated(folder):
            for path in self._children(folder):
                if path.is_dir():
                    folders.append(path.name)
                    continue
                name = f"{folder}/{path.name}" if folder else path.name
                with suppress(FileNotFoundError):  # deleted since it was listed
                    files.append(Entry(name, Path(path.path).stat().st_size))
        return Listing(tuple(files), tuple(folders))

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`."""
        old, new = self._path(name), self._path(new_name)
        with self._translated(name):
            self._require_names_kept()
            _make_folder(new.parent)
            if new.exists():
                raise NameTaken(new_name)
            old.rename(new)
            _sync_folder(new.parent)
            _sync_folder(old.parent)

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        with self._translated(name), suppress(IsADirectoryError):  # which is no object
            self._path(name).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        with suppress(OSError):
            self._path(folder).rmdir()

    def space(self) -> Space:
        """See `Transport.space`."""
        with self._translated(str(self.root)):
            facts = os.statvfs(self.root)
        return Space(facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize)

    def again(self) -> AbstractContextManager["LocalTransport"]:
        """See `Transport.again`: read from the disk anew, not from this machine's memory."""
        self._require_root()
        other = LocalTransport(self.root)
        other._afresh = True
        return nullcontext(other)

    def close(self) -> None:
        """See `Transport.close`; there is nothing to let go of."""

    def _path(self, name: str) -> Path:
        if name.startswith("/") or ".." in name.split("/"):
            raise ShareRefused(f"{name!r} is no name inside a data store")
        return self.root / name

    def _require_root(self) -> None:
        """An unmounted share must not look like an empty one."""
        if not self.root.is_dir():
            raise ShareUnreachable(f"the folder {self.root} is gone; is its share still mounted?")

    def _require_names_kept(self) -> None:
        """Before anything is written: a name that cannot be made durable may go in a power cut.

        Raises:
            ShareRefused: The file system has no fsync of folders.
        """
        if self._keeps_names:
            return
        try:
            _sync_folder(self.root)
        except OSError as cause:
            if cause.errno in CANNOT:
                raise ShareRefused(
                    f"the file system at {self.root} cannot make file names durable (fsync of a"
                    f" folder: {cause.strerror}), so a power cut could take backups away; put the"
                    " data store on another one, or use the share directly over SMB"
                ) from cause
            raise
        self._keeps_names = True

    @contextmanager
    def _translated(self, name: str) -> Generator[None, None, None]:
        try:
            yield
        except FileNotFoundError as cause:
            self._require_root()
            raise ObjectMissing(name) from cause
        except OSError as cause:
            raise _meaning(name, cause) from cause

    def _children(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._path(folder)) as found:
                return sorted(filter(_leads_somewhere, found), key=_sort_key)
        except (FileNotFoundError, NotADirectoryError):
            self._require_root()
            return []

    @staticmethod
    def _open_new(path: Path) -> int:
        """Open a new file; its folder may be swept away, empty, while we are about to use it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(_FOLDER_TRIES):
            with suppress(FileNotFoundError):
                return os.open(path, flags, 0o600)
            _make_folder(path.parent)
        return os.open(path, flags, 0o600)


def _leads_somewhere(entry: os.DirEntry[str]) -> bool:
    """Whether there is anything behind a name: a link may dangle, or lead to itself."""
    return not entry.is_symlink() or Path(entry.path).exists()


def _size_of_file(name: str, facts: os.stat_result) -> int:
    """Length of an object; a folder of its name, or a pipe, is none."""
    if not stat.S_ISREG(facts.st_mode):
        raise ObjectMissing(name)
    return facts.st_size


def _sort_key(entry: os.DirEntry[str]) -> str:
    """So that what lies below a folder comes where its whole name belongs."""
    return f"{entry.name}/" if entry.is_dir() else entry.name


def _meaning(name: str, cause: OSError) -> LikenessError:
    if cause.errno == errno.EEXIST:
        return NameTaken(name)
    if cause.errno in _NO_OBJECT:
        return ObjectMissing(name)
    if cause.errno in _FULL:
        return ShareFull(f"no room left for {name}; free space on the data store and run again")
    if cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ShareRefused(f"{name}: {cause.strerror}; check the rights on the data store")
    told = f"{name}: {cause.strerror or cause}"
    if cause.errno in CANNOT:
        return ShareRefused(f"{told}; its file system cannot do this: put the store on another one")
    if cause.errno in _DISK_TROUBLE:
        return ObjectUnreadable(f"{told}; is the data store's disk well?")
    if cause.errno in _IN_USE:
        return ObjectUnreadable(f"{told}; somebody else has it open: run again when they are done")
    return ShareUnreachable(f"{told}; see whether the data store is mounted and its server answers")


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, each durable in the one above."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, parts: Sequence[bytes]) -> None:
    for batch in batches(parts):
        while batch:
            written = os.writev(handle, batch)
            while batch and written >= len(batch[0]):
                written -= len(batch.pop(0))
            if written:
                batch[0] = batch[0][written:]


def _read_exactly(handle: int, offset: int, length: int) -> bytes:
    data = os.pread(handle, length, offset)
    if len(data) == length or not data:
        return data
    pieces = [data]
    have = len(data)
    while have < length and (data := os.pread(handle, length - have, offset + have)):
        pieces.append(data)
        have += len(data)
    return b"".join(pieces)

"""Versions as a folder of raw images: VM, then date, then one file a disk; read-only, by FUSE.

Nothing is restored to look: what a program reads of an image is read from the store, and proved.
"""

import errno
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from likeness.errors import BadInput, LikenessError
from likeness.model.naming import fit_for_file
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import DiskRecord
from likeness.store.read.disk_view import DiskView, open_disk
from likeness.store.read.versions import Version

HOW_TO_INSTALL = "pip install --require-hashes -r requirements/mount.txt"
_OPEN_SECONDS = 10.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Image:
    disk: DiskRecord
    taken_ns: int


class VersionTree:
    """What there is, by path; a disk is opened when somebody opens its image."""

    def __init__(
        self,
        store: DataStore,
        versions: Iterable[Version],
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        """Lay the versions out; nothing is read of them yet."""
        self._store, self._scratch, self.say = store, scratch, say
        self.folders: dict[str, set[str]] = {"/": set()}
        self.images: dict[str, _Image] = {}
        for version in versions:
            self._add(version)
        self._lock = threading.Lock()
        self._open: dict[int, tuple[DiskView, ExitStack]] = {}
        self._last = 0

    def _add(self, version: Version) -> None:
        vm = f"{fit_for_file(version.record.vm_name)}-{version.vm[:8]}"
        name = f"{version.taken_at:%Y-%m-%d-%H%M%S}-{version.version[:8]}"
        self.folders["/"].add(vm)
        self.folders.setdefault(f"/{vm}", set()).add(name)
        disks = self.folders.setdefault(f"/{vm}/{name}", set())
        for disk in version.record.disks:
            image = f"disk{fit_for_file(disk.position)}.raw"
            disks.add(image)
            taken_ns = int(version.taken_at.timestamp()) * 10**9
            self.images[f"/{vm}/{name}/{image}"] = _Image(disk, taken_ns)

    def open(self, path: str) -> int:
        """Open an image; a number for it."""
        held = ExitStack()
        view = held.enter_context(
            open_disk([self._store], self.images[path].disk, self._scratch, say=self.say)
        )
        with self._lock:
            self._last += 1
            self._open[self._last] = (view, held)
            return self._last

    def read(self, number: int, offset: int, length: int) -> bytes:
        """A range of an open image."""
        view, _ = self._open[number]
        return view.read(offset, max(min(length, view.size_bytes - offset), 0))

    def release(self, number: int) -> None:
        """Close an image."""
        with self._lock:
            _, held = self._open.pop(number)
        held.close()

    def close(self) -> None:
        """Close whatever is open."""
        for number in list(self._open):
            self.release(number)


def require_fuse() -> ModuleType:
    """The library that speaks to FUSE.

    Raises:
        BadInput: It, or FUSE itself, is not here.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise BadInput("this machine has no FUSE for you (/dev/fuse); use `serve` or `files`")
    try:
        import mfusepy  # an optional extra
    except (ImportError, OSError) as cause:
        raise BadInput(
            f"mounting needs mfusepy and libfuse ({cause}); run {HOW_TO_INSTALL}, and install fuse3"
        ) from cause
    module: ModuleType = mfusepy
    return module


class _Answers:
    """What FUSE may ask of a folder that nobody writes to."""

    use_ns = True

    def __init__(self, tree: VersionTree) -> None:
        self._tree = tree

    def getattr(self, path: str, fh: int | None = None) -> Mapping[str, Any]:
        del fh
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if path in self._tree.folders:
            return {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2, **owner}
        image = _there(self._tree, path)
        moments = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), image.taken_ns)
        mode = {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1}
        return {**mode, **owner, **moments, "st_size": image.disk.size_bytes}

    def readdir(self, path: str, fh: int) -> list[str]:
        del fh
        if path not in self._tree.folders:
            raise OSError(errno.ENOENT, path)
        return [".", "..", *sorted(self._tree.folders[path])]

    def open(self, path: str, flags: int) -> int:
        _there(self._tree, path)
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, path)
        return _asked(lambda: self._tree.open(path), self._tree)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        del path
        return _asked(lambda: self._tree.read(fh, offset, size), self._tree)

    def release(self, path: str, fh: int) -> int:
        del path
        self._tree.release(fh)
        return 0


def _there(tree: VersionTree, path: str) -> _Image:
    if path not in tree.images:
        raise OSError(errno.ENOENT, path)
    return tree.images[path]


def _asked(ask: Callable[[], T], tree: VersionTree) -> T:
    """The answer; what cannot be read is said, and an I/O error to whoever reads."""
    try:
        return ask()
    except LikenessError as problem:
        tree.say(str(problem))
        raise OSError(errno.EIO, str(problem)) from problem


class Mounted:
    """A tree at a folder, until it is closed or somebody unmounts it."""

    def __init__(self, tree: VersionTree, folder: Path) -> None:
        """Mount it.

        Raises:
            BadInput: The folder is not there, not empty, or cannot be mounted to.
        """
        self._fuse, self._tree, self._folder = require_fuse(), tree, folder
        try:
            empty = not any(folder.iterdir())
        except OSError as cause:
            raise BadInput(f"{folder} is no folder to mount to: {cause.strerror}") from cause
        if not empty:
            raise BadInput(f"{folder} is not empty; mount to an empty folder")
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mount", daemon=True)
        self._thread.start()
        self._wait()

    def _run(self) -> None:
        answers = type("Answers", (_Answers, self._fuse.Operations), {})
        try:
            self._fuse.FUSE(
                answers(self._tree),
                str(self._folder),
                foreground=True,
                ro=True,
                fsname="likeness",
            )
        except Exception as cause:  # noqa: BLE001  # told by whoever waits
            self._problem = cause

    def _wait(self) -> None:
        over = threading.Event()
        for _ in range(int(_OPEN_SECONDS / 0.02)):
            if os.path.ismount(self._folder):
                return
            if not self._thread.is_alive():
                break
            over.wait(0.02)
        raise BadInput(f"{self._folder} cannot be mounted to: {self._problem or 'FUSE says no'}")

    @property
    def is_there(self) -> bool:
        """Whether nobody unmounted it yet."""
        return self._thread.is_alive()

    def __enter__(self) -> "Mounted":
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount; a program that still looks at it keeps what it has open."""
        if self._thread.is_alive():
            _unmount(self._folder)
            self._thread.join(timeout=_OPEN_SECONDS)
        self._tree.close()


def _unmount(folder: Path) -> None:
    for words in (["fusermount3", "-u", "-z"], ["fusermount", "-u", "-z"], ["umount", "-l"]):
        if (tool := shutil.which(words[0])) is not None:
            done = subprocess.run(  # noqa: S603  # its words are ours, and no shell reads them
                [tool, *words[1:], str(folder)], capture_output=True, check=False
            )
            if done.returncode == 0:
                return

"""Where a restored disk goes: a sparse raw image that has its name only when it is whole."""

import ctypes
import errno
import fcntl
import itertools
import json
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from likeness.errors import BadInput
from likeness.model.disk import Extent
from likeness.store.read.direct_writing import DirectWriter, open_directly
from likeness.transport.local import CANNOT
from likeness.transport.tuning import batches


class DiskWriter(Protocol):
    """Takes a disk's data in any order; what is never written is zero."""

    def reserve(self, extents: Iterable[Extent], total_bytes: int) -> None:
        """These ranges, so many bytes in all, will be written; told before anything is."""

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`; may be called from several threads."""

    def mark_lost(self, extents: Sequence[Extent], cause: str) -> None:
        """These ranges are lost and stay zero; told before `finish`, where that is accepted."""

    def finish(self) -> None:
        """Everything is written: make it durable."""

    def abandon(self) -> None:
        """The restore failed: leave nothing that looks like a disk."""


_LIBC = ctypes.CDLL(None, use_errno=True)
_FLUSH_BYTES = 128 << 20
"""So much may wait for the disk while more is read and proved; the rest at the end is short."""


class _Flusher:
    """Makes durable what was written while others go on writing.

    Attributes:
        problem: What the disk could not keep.
    """

    def __init__(self, handle: int) -> None:
        """Flush `handle` whenever enough was written to it."""
        self._handle, self._waiting, self._over = handle, 0, False
        self.problem: OSError | None = None
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def wrote(self, count: int) -> None:
        """So many bytes more were written."""
        with self._turn:
            self._waiting += count
            if self._waiting >= _FLUSH_BYTES:
                self._turn.notify()

    def end(self) -> None:
        """Flush no more; what is not durable yet is for the caller. Safe to repeat."""
        with self._turn:
            self._over = True
            self._turn.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._over or self._waiting >= _FLUSH_BYTES)
                if self._over:
                    return
                self._waiting = 0
            try:
                os.fdatasync(self._handle)
            except OSError as cause:
                if cause.errno not in CANNOT:  # the kernel tells of it once, so it is kept
                    self.problem = self.problem or cause


class FileDiskWriter:
    """A sparse raw image; it has its final name only when it is whole."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """Begin a new image of `size_bytes` at `path`.

        Raises:
            BadInput: There is a file already, it cannot be made, or another restore is making it.
        """
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._map, self._size = damage_map_of(path), size_bytes
        self._map_made = False
        self._flusher: _Flusher | None = None
        self._direct: DirectWriter | None = None
        self._opened: DirectWriter | None = None
        try:
            self._require_free()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = _only_handle(self._partial)
        except BlockingIOError as cause:
            raise BadInput(
                f"another restore is writing {path} at this moment; wait for it, or restore to"
                " another name"
            ) from cause
        except OSError as cause:
            raise self._refused(cause) from cause
        try:
            self._require_free()  # the other restore may just have come to its end
            os.ftruncate(self._handle, 0)
            os.ftruncate(self._handle, size_bytes)
        except BadInput:
            self.abandon()
            raise
        except OSError as cause:
            self.abandon()
            raise self._refused(cause) from cause
        self._flusher = _Flusher(self._handle)
        if (direct := open_directly(self._handle)) is not None:
            self._direct = self._opened = DirectWriter(direct)

    def _require_free(self) -> None:
        for path in (self._path, *(() if self._map_made else (self._map,))):
            if path.exists():
                raise BadInput(f"{path} exists already; restore to another name or remove it first")

    def reserve(self, extents: Iterable[Extent], total_bytes: int) -> None:
        """See `DiskWriter.reserve`: room is set aside where the file system can.

        Not where there seems to be too little: one that compresses may have room all the same, and
        another would be full for everybody until it had found out.
        """
        place = os.fstatvfs(self._handle)
        if total_bytes > place.f_bavail * place.f_frsize:
            return
        with suppress(OSError):  # whatever it is, writing tells
            for extent in extents:
                _set_aside(self._handle, extent)

    def write(self, offset: int, data: bytes) -> None:
        """See `DiskWriter.write`.

        Raises:
            BadInput: There is no room for the image.
        """
        try:
            if self._written_directly(offset, data):
                return
            for piece in itertools.chain.from_iterable(batches([data])):
                _write_all(self._handle, piece, offset)
                offset += len(piece)
        except OSError as cause:
            raise self._refused(cause) from cause
        if self._flusher is not None:
            self._flusher.wrote(len(data))

    def _written_directly(self, offset: int, data: bytes) -> bool:
        direct = self._direct
        if direct is None or not direct.takes(offset, data):
            return False
        try:
            direct.write(offset, data)
        except OSError as cause:
            if cause.errno not in CANNOT:
                raise
            self._direct = None  # this file system has no such writing after all
            return False
        return True

    def mark_lost(self, extents: Sequence[Extent], cause: str) -> None:
        """See `DiskWriter.mark_lost`: a map beside the image, there before the image has its name.

        Raises:
            BadInput: There is no room for the map, or a file of its name.
        """
        facts = {
            "image": self._path.name,
            "size_bytes": self._size,
            "lost_bytes": sum(extent.length for extent in extents),
            "lost": [{"offset": extent.offset, "length": extent.length} for extent in extents],
            "cause": cause,
        }
        try:
            with open(_private(self._map), "w", encoding="utf-8") as file:
                self._map_made = True
                json.dump(facts, file, indent=1)
                file.flush()
                _sync(file.fileno())
        except OSError as problem:
            raise self._refused(problem) from problem

    def finish(self) -> None:
        """See `DiskWriter.finish`.

        Raises:
            BadInput: There is no room for the image, or meanwhile there is a file of its name.
        """
        try:
            self._require_flushed()
            _sync(self._handle)
            self._require_free()
            self._partial.rename(self._path)
            _sync_folder(self._path.parent)
        except OSError as cause:
            raise self._refused(cause) from cause
        self._close()

    def _require_flushed(self) -> None:
        if self._flusher is not None:
            self._flusher.end()
            if self._flusher.problem is not None:
                raise self._flusher.problem

    def abandon(self) -> None:
        """See `DiskWriter.abandon`; safe to repeat."""
        if self._handle >= 0:
            self._partial.unlink(missing_ok=True)
            if self._map_made:
                self._map.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._flusher is not None:
            self._flusher.end()
        if self._opened is not None:
            self._opened.close()
        os.close(self._handle)
        self._handle = -1

    def _refused(self, cause: OSError) -> BadInput:
        return BadInput(
            f"{self._partial} cannot be written: {cause.strerror}; make room or choose another"
            " place, then restore again"
        )


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(handle, data, offset)
        offset, data = offset + written, data[written:]


def _set_aside(handle: int, extent: Extent) -> None:
    """Have blocks for a range, which reads as zeros until it is written.

    (`os.posix_fallocate` would write the zeros itself where the file system has no such thing.)
    """
    call = getattr(_LIBC, "fallocate64", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    keep_size = 1  # FALLOC_FL_KEEP_SIZE
    if call(handle, keep_size, ctypes.c_int64(extent.offset), ctypes.c_int64(extent.length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def damage_map_of(image: Path) -> Path:
    """Where the map of an image's lost ranges lies."""
    return image.with_name(f"{image.name}.damage.json")


def _private(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _only_handle(path: Path) -> int:
    """A file of that name, new or left by a process that died, which nobody else writes.

    Raises:
        BlockingIOError: Somebody does.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            return handle  # a file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # whoever had it gave it its final name, or gave up, meanwhile


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """Make durable what the file system can; a restore that a power cut spoils is made again."""
    try:
        os.fsync(handle)
    except OSError as cause:
        if cause.errno not in CANNOT:
            raise

"""A data store in this process's memory, for tests and simulations."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from likeness.errors import NameTaken, ObjectMissing, ShareFull, ShareRefused
from likeness.transport.base import Entry, Listing, Space

_ROOMY = 1 << 50


class MemoryTransport:
    """Objects in a dictionary; gone with the process.

    Attributes:
        objects: Name to bytes. Tests may read and damage them here.
    """

    def __init__(self, *, capacity_bytes: int = _ROOMY) -> None:
        """Begin empty; `capacity_bytes` is what all objects together may hold."""
        self.objects: dict[str, bytes] = {}
        self._folders: set[str] = set()
        self._capacity_bytes = capacity_bytes
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"MemoryTransport({len(self.objects)} objects)"

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`."""
        _checked(name)
        data = b"".join(parts)
        with self._lock:
            self._require_free(name)
            if self._used_bytes() + len(data) > self._capacity_bytes:
                raise ShareFull(f"no room left for {name}; give the memory transport more capacity")
            self._make_folders(name)
            self.objects[name] = data

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        data = self._object(name)
        return data[offset:] if length is None else data[offset : offset + length]

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        return len(self._object(name))

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`; what is there when it is called."""
        inside = _inside(folder)
        with self._lock:
            found = [
                Entry(name, len(data))
                for name, data in self.objects.items()
                if name.startswith(inside) and (deep or "/" not in name[len(inside) :])
            ]
        return iter(sorted(found, key=lambda entry: entry.name))

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`; empty ones count, as they do on a disk."""
        inside = _inside(folder)
        with self._lock:
            below = [name for name in self._folders if name.startswith(inside)]
        names = [name.removeprefix(inside) for name in below]
        return sorted(name for name in names if "/" not in name)

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`."""
        return Listing(tuple(self.entries(folder, deep=False)), tuple(self.folders(folder)))

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`."""
        _checked(new_name)
        with self._lock:
            self._object(name)
            self._require_free(new_name)
            self._make_folders(new_name)
            self.objects[new_name] = self.objects.pop(name)

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        _checked(name)
        with self._lock:
            self.objects.pop(name, None)

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        _checked(folder)
        inside = _inside(folder)
        with self._lock:
            if not any(name.startswith(inside) for name in (*self.objects, *self._folders)):
                self._folders.discard(folder)

    def space(self) -> Space:
        """See `Transport.space`."""
        with self._lock:
            used = self._used_bytes()
        return Space(self._capacity_bytes, self._capacity_bytes - used)

    def again(self) -> AbstractContextManager["MemoryTransport"]:
        """See `Transport.again`; there is no connection, so it is this very one."""
        return nullcontext(self)

    def close(self) -> None:
        """See `Transport.close`; there is nothing to let go of."""

    def _object(self, name: str) -> bytes:
        _checked(name)
        with self._lock:
            if name not in self.objects:
                raise ObjectMissing(name)
            return self.objects[name]

    def _require_free(self, name: str) -> None:
        if name in self.objects or name in self._folders:
            raise NameTaken(name)

    def _make_folders(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        while folder:
            if folder in self.objects:
                raise ObjectMissing(name)
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]

    def _used_bytes(self) -> int:
        return sum(len(data) for data in self.objects.values())


def _inside(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _checked(name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise ShareRefused(f"{name!r} is no name inside a data store")

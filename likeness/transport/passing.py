"""Transports that stand before another one: all is passed on but what they are there for."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from likeness.errors import LikenessError, ObjectUnreadable, ShareRefused
from likeness.transport.base import Entry, Listing, Space, Transport

CLOSED = (ObjectUnreadable, ShareRefused)
"""Why one folder cannot be listed while the share answers."""


class PassingTransport:
    """Passes everything on to another transport."""

    def __init__(self, inner: Transport) -> None:
        """Stand before `inner`."""
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __str__(self) -> str:
        return str(self._inner)

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """See `Transport.create`."""
        self._inner.create(name, parts)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        return self._inner.read(name, offset, length)

    def size(self, name: str) -> int:
        """See `Transport.size`."""
        return self._inner.size(name)

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        return self._inner.entries(folder, deep=deep)

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`."""
        return self._inner.folders(folder)

    def listing(self, folder: str) -> Listing:
        """See `Transport.listing`; made of the two, since whoever stands before one means both."""
        return Listing(tuple(self.entries(folder, deep=False)), tuple(self.folders(folder)))

    def rename(self, name: str, new_name: str) -> None:
        """See `Transport.rename`."""
        self._inner.rename(name, new_name)

    def delete(self, name: str) -> None:
        """See `Transport.delete`."""
        self._inner.delete(name)

    def delete_folder(self, folder: str) -> None:
        """See `Transport.delete_folder`."""
        self._inner.delete_folder(folder)

    def space(self) -> Space:
        """See `Transport.space`."""
        return self._inner.space()

    def again(self) -> AbstractContextManager[Transport]:
        """See `Transport.again`."""
        return self._inner.again()

    def close(self) -> None:
        """See `Transport.close`."""
        self._inner.close()


class CarefulTransport(PassingTransport):
    """Lists what can be listed: a folder that cannot be counts as empty, and is noted.

    For whoever checks or copies object by object. Nobody may take what is in no listing for gone
    where `closed` names its folder.

    Attributes:
        closed: Folders that could not be listed, each with the reason.
    """

    def __init__(self, inner: Transport) -> None:
        """Stand before `inner`."""
        super().__init__(inner)
        self.closed: dict[str, LikenessError] = {}

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`; folder by folder once one of them could not be listed.

        Raises:
            ObjectUnreadable: The share as a whole cannot be listed.
            ShareRefused: Likewise.
        """
        last = ""
        try:
            for entry in self._inner.entries(folder, deep=deep):
                last = entry.name
                yield entry
        except CLOSED as cause:
            if not deep:
                self._note(folder, cause)
                return
            yield from (each for each in self._walk(folder) if each.name > last)

    def folders(self, folder: str) -> list[str]:
        """See `Transport.folders`.

        Raises:
            ObjectUnreadable: The share as a whole cannot be listed.
            ShareRefused: Likewise.
        """
        try:
            return self._inner.folders(folder)
        except CLOSED as cause:
            self._note(folder, cause)
            return []

    def is_closed(self, name: str) -> bool:
        """Whether an object or folder would be in no listing even if it is there."""
        parts = name.split("/")
        return any("/".join(parts[:end]) in self.closed for end in range(1, len(parts) + 1))

    def require_all(self) -> None:
        """Return, if everything could be listed.

        Raises:
            ObjectUnreadable: Not everything; what was looked for may lie there.
            ShareRefused: Likewise.
        """
        for cause in self.closed.values():
            raise cause

    def _walk(self, folder: str) -> Iterator[Entry]:
        """In the order of `Transport.entries`: a folder's name goes on with a slash."""
        files = {entry.name: entry for entry in self.entries(folder, deep=False)}
        below = [f"{folder}/{name}/" if folder else f"{name}/" for name in self.folders(folder)]
        for name in sorted([*files, *below]):
            if name in files:
                yield files[name]
            else:
                yield from self._walk(name[:-1])

    def _note(self, folder: str, cause: LikenessError) -> None:
        if folder not in self.closed:
            self._inner.folders("")
        self.closed[folder] = cause


class OnceTransport(PassingTransport):
    """Lists each folder and reads each object once: for one look at what does not change meanwhile.

    A second look, over `again`, is a look of its own.
    """

    def __init__(self, inner: Transport) -> None:
        """Stand before `inner`."""
        super().__init__(inner)
        self._read: dict[tuple[str, int, int | None], bytes] = {}
        self._listed: dict[str, tuple[Entry, ...]] = {}

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Transport.read`."""
        what = name, offset, length
        if what not in self._read:
            self._read[what] = self._inner.read(*what)
        return self._read[what]

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """See `Transport.entries`."""
        if not deep:
            return self._inner.entries(folder, deep=False)
        if folder not in self._listed:
            self._listed[folder] = tuple(self._inner.entries(folder))
        return iter(self._listed[folder])

    def seen(self, folder: str) -> dict[str, bytes]:
        """What was read of the objects directly in a folder."""
        below = f"{folder}/"
        return {name: data for (name, *_), data in self._read.items() if name.startswith(below)}

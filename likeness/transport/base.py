"""What every transport promises; `tests/contract/test_transport.py` holds each to it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One object in a listing."""

    name: str
    """Full name inside the store, such as ``packs/3f/3f…``."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies directly in a folder, seen at one look."""

    files: tuple[Entry, ...]
    """Sorted by name."""
    folders: tuple[str, ...]
    """Their names, sorted, without the path before them."""

    @property
    def names(self) -> list[str]:
        """Full names of the files."""
        return [entry.name for entry in self.files]


@dataclass(frozen=True, slots=True)
class Space:
    """Room at the place where the store lies, in bytes."""

    total_bytes: int
    free_bytes: int


class Transport(Protocol):
    """Write-once objects under slash-separated names.

    Names are made by the store from lower-case hex and fixed words; a transport need not defend
    itself against hostile names, but refuses ``..`` and absolute ones. Every method may be called
    from several threads at once. Every method raises `ShareUnreachable` when the place does not
    answer within its deadline, and `ShareRefused` when it denies access.
    """

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        """Write a new object and make it durable: the bytes, then the name.

        When this returns, a power cut at the far end does not take the object away. When it
        raises, an object of that name may exist in part, and the name must not be used again
        (except after `NameTaken`, which leaves the existing object untouched).

        Args:
            name: Where to; missing folders are made.
            parts: The object's bytes, in order; joined by the transport.

        Raises:
            NameTaken: There is an object of that name.
            ShareFull: No room.
        """

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Read a range, or from `offset` to the end.

        Returns:
            Fewer bytes than `length` only when the object ends before.

        Raises:
            ObjectMissing: There is no such object.
        """

    def size(self, name: str) -> int:
        """Length of an object in bytes.

        Raises:
            ObjectMissing: There is no such object.
        """

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        """Everything in a folder and below it, sorted by name; nothing if there is no such folder.

        Args:
            folder: Such as ``packs`` or ``in/3f…``; the empty string is the whole store.
            deep: Whether folders in it are looked into too.
        """

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted, without the path before them."""

    def listing(self, folder: str) -> Listing:
        """What `entries` and `folders` say of what lies directly in a folder, at one look."""

    def rename(self, name: str, new_name: str) -> None:
        """Move an object to a name that is free, and make the move durable.

        Raises:
            ObjectMissing: There is no such object.
            NameTaken: The new name is in use (seen before the move; not a lock).
        """

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if it is not there."""

    def delete_folder(self, folder: str) -> None:
        """Remove an empty folder; nothing happens if it is not there or not empty."""

    def space(self) -> Space:
        """How much room there is."""

    def again(self) -> "AbstractContextManager[Transport]":
        """The same place over a connection of its own, for a second look at what is in doubt."""

    def close(self) -> None:
        """Let go of connections; safe to repeat."""

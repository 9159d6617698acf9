"""Adopted: what there was when an installation took a store over.

Whoever owned it before may wake up in mid-write and finish it. Every document says under which
owner it was written, and each owner says what it found; so readers tell what came late, and it
counts for nothing.
"""

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from likeness.codec.documents import Frame, Kind
from likeness.errors import WrittenLate
from likeness.store.format import layout
from likeness.store.format.documents import AdoptedDocument
from likeness.store.format.observations import UNREADABLE
from likeness.transport.base import Transport
from likeness.transport.passing import CLOSED

_D = TypeVar("_D", bound=msgspec.Struct)
_MAX_IN_PART = 1 << 18
"""Versions that one part tells of: about 9 MiB."""


class SignedStore(Protocol):
    """A store whose documents can be read and verified."""

    @property
    def transport(self) -> Transport:
        """Where it is."""

    def read(self, name: str, kind: Kind, clear: type[_D]) -> tuple[_D, Frame]:
        """The clear part of a signed document, and its frame."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What one owner found.

    Attributes:
        owner: Its number.
        versions: Ids of the versions, as bytes.
        numbers: The highest number in each folder of numbered documents.
    """

    owner: int
    versions: frozenset[bytes]
    numbers: dict[str, int]

    def lacks(self, name: str) -> bool:
        """Whether a document of an earlier owner came after this one had taken over."""
        folder = name.partition("/")[0]
        if folder == layout.VERSIONS:
            return bytes.fromhex(name.rpartition("-")[2]) not in self.versions
        return folder in self.numbers and layout.number_of(name) > self.numbers[folder]


@dataclass(slots=True)
class Past:
    """Owners of an open store, as far as it was asked; shared by all who use that opening.

    Attributes:
        newest: Number of the newest owner when it was looked for; none if nobody looked yet.
        documents: What never changes, as it was read whole over this opening, by name: owner
            documents, and statements that every gate asks for.
        written: Version records that were written over this opening, whole.
    """

    newest: int | None = None
    documents: dict[str, bytes] = field(default_factory=dict, repr=False)
    written: set[str] = field(default_factory=set, repr=False)
    _adopted: list[Adopted] | None = field(default=None, repr=False)

    def owner_now(self, view: SignedStore) -> int:
        """The number that documents are written under; 0 in a place without an owner."""
        if self.newest is None:
            names = (entry.name for entry in view.transport.entries(layout.OWNER))
            self.newest = max(map(layout.number_of, filter(layout.is_owner, names)), default=0)
        return self.newest

    def moved_on(self, newest: int) -> None:
        """There is a newer owner; what it found is read when it is asked for."""
        if newest != self.newest:
            self.newest, self._adopted = newest, None

    def adopted(self, view: SignedStore) -> list[Adopted]:
        """What each owner found that took the store over; nothing is read where there was one."""
        if self.owner_now(view) <= 1:
            return []
        if self._adopted is None:
            self._adopted = read_adopted(view)
        return self._adopted

    def require_timely(self, view: SignedStore, frame: Frame) -> None:
        """Return, unless a document was written by an installation that had lost the store.

        Raises:
            WrittenLate: It was.
        """
        folder = frame.name.partition("/")[0]
        if folder not in (layout.VERSIONS, *layout.NUMBERED) or not layout.is_known(frame.name):
            return
        if "-" in frame.name and folder != layout.VERSIONS:
            return
        try:
            adopted = self.adopted(view) if frame.owner < self.owner_now(view) else []
        except CLOSED:
            return  # a folder that cannot be listed refuses nothing
        for each in adopted:
            if each.owner > frame.owner and each.lacks(frame.name):
                raise WrittenLate(
                    frame.name,
                    f"it was written under owner {frame.owner}, after owner {each.owner} had taken"
                    " the store over",
                )


def read_adopted(view: SignedStore) -> list[Adopted]:
    """What each owner found; one whose word is not whole refuses nothing."""
    parts: dict[int, dict[int, AdoptedDocument]] = defaultdict(dict)
    for entry in view.transport.entries(layout.ADOPTED):
        if layout.is_known(entry.name):
            with suppress(*UNREADABLE):  # an audit tells of it
                said, _ = view.read(entry.name, Kind.ADOPTED, AdoptedDocument)
                if layout.adopted(said.number, said.part) == entry.name:
                    parts[said.number][said.part] = said
    return [
        Adopted(
            number,
            frozenset(bytes.fromhex(each) for part in found.values() for each in part.versions),
            dict(found[0].numbers),
        )
        for number, found in sorted(parts.items())
        if 0 in found and len(found) == found[0].parts
    ]


def found_there(view: SignedStore, owner: int) -> list[AdoptedDocument]:
    """What an owner finds at this moment, in the parts it is to be written in."""
    versions = [
        entry.name.rpartition("-")[2]
        for folder in (layout.VERSIONS, layout.FORGOTTEN)
        for entry in view.transport.entries(folder)
        if layout.is_known(entry.name)
    ]
    numbers = {
        folder: max(
            (
                layout.number_of(entry.name)
                for entry in view.transport.entries(folder)
                if layout.is_known(entry.name)
            ),
            default=0,
        )
        for folder in layout.NUMBERED
    }
    starts = range(0, max(len(versions), 1), _MAX_IN_PART)
    return [
        AdoptedDocument(
            number=owner,
            part=part,
            parts=len(starts),
            versions=tuple(versions[start : start + _MAX_IN_PART]),
            numbers=numbers,
        )
        for part, start in enumerate(starts)
    ]

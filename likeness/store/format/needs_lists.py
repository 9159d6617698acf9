"""Needs lists: which objects each version of a VM needs, signed, and readable without any secret.

A version's record says it too, but sealed. So whoever holds no key of the store, as the host of a
vault may, learns from these lists what to copy, and when a version is whole. What a list says stays
true for ever, since objects never change: where data moved since, some of its objects are gone, and
never do all of them stand for less than the version.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from likeness.codec.documents import Kind
from likeness.errors import Damaged, LikenessError
from likeness.model.ids import PackId, VersionId, VmId
from likeness.store.format import layout
from likeness.store.format.documents import NeedsDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView


@dataclass(frozen=True, slots=True)
class NeededMap:
    """A part of a block map in two copies, of which either will do."""

    copies: tuple[str, str]
    digests: tuple[str, str]
    sizes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Needed:
    """What one version needs besides its record.

    Attributes:
        maps: Parts of its disks' block maps.
        packs: Every pack with data of it.
    """

    maps: tuple[NeededMap, ...]
    packs: frozenset[PackId]


class NeedsList:
    """What a VM's versions need, as one signed list says."""

    def __init__(self, name: str, document: NeedsDocument) -> None:
        """Use `read_list`."""
        self.name = name
        self.made_at = document.made_at
        self.versions = tuple(VersionId(each) for each in document.versions)
        self._document = document

    def __contains__(self, version: object) -> bool:
        return version in self.versions

    def needed(self, version: VersionId) -> Needed:
        """What one of its versions needs."""
        at, said = self.versions.index(version), self._document
        maps = (each for each in said.maps if each.since <= at < each.until)
        packs = (PackId(each.pack) for each in said.packs if each.since <= at < each.until)
        parts = tuple(NeededMap(each.copies, each.digests, each.sizes) for each in maps)
        return Needed(parts, frozenset(packs))


def read_list(view: SignedView, name: str) -> NeedsList:
    """Read and verify one list; damage is believed when it was read twice.

    Raises:
        ObjectMissing: It is not there.
        Damaged: It is not whole, or not signed by this store for this VM.
        StoreTooNew: A later release wrote it.
        ObjectUnreadable: Nobody knows.
    """
    said, _ = view.read_surely(name, Kind.NEEDS, NeedsDocument)
    if name.split("/")[1] != said.vm:
        raise Damaged(name, "it is the list of another VM")
    return NeedsList(name, said)


def list_names(view: SignedView, vm: VmId | None = None) -> list[str]:
    """Names of the lists of one VM, or of all."""
    folder = f"{layout.NEEDS}/{vm}" if vm else layout.NEEDS
    return [e.name for e in view.transport.entries(folder) if layout.is_known(e.name)]


def lists_of(view: SignedView, vm: VmId, problems: list[LikenessError]) -> Iterator[NeedsList]:
    """A VM's lists that can be read, the newest first; why the others cannot, is added."""
    found: list[NeedsList] = []
    for name in list_names(view, vm):
        try:
            found.append(read_list(view, name))
        except UNREADABLE as cause:
            problems.append(cause)
    yield from sorted(found, key=lambda each: each.made_at, reverse=True)


def remove_list(view: SignedView, name: str) -> None:
    """Delete a list that another one has taken the place of; it may stay, too."""
    with suppress(*UNREADABLE):
        view.for_writing().delete(name)

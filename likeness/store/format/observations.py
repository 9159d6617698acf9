"""What an audit or a scrub says: one observation for each thing that is not as it should be."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from likeness.errors import (
    Damaged,
    LikenessError,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    StoreTooNew,
    WrittenLate,
)
from likeness.store.format import layout
from likeness.store.format.believing import LOST
from likeness.transport.passing import CarefulTransport

UNKNOWN = (ObjectUnreadable, ShareRefused, StoreTooNew)
"""Why nothing is known of one object: neither that it is well nor that it is lost."""
NOT_READ = UNKNOWN
UNREADABLE = (*LOST, *UNKNOWN)
"""What may be the matter with one object, and no reason to stop looking at the others."""


MISSING = "missing"
"""How the cause of every observation begins that rests on a listing alone."""


class Weight(StrEnum):
    """How bad it is."""

    DAMAGE = "damage"
    """Something that a version needs is gone or altered."""
    SPARE_LOST = "spare lost"
    """One of several copies or ways is gone or altered; every version still restores."""
    UNCHECKED = "could not check"
    """Nothing is known: neither that it is well nor that it is not."""
    NOTICE = "notice"
    """Worth knowing, and nothing is wrong with any version."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing that was noticed.

    Attributes:
        weight: How bad it is.
        name: The object, as the store names it; safe to print.
        cause: What is the matter with it.
        meaning: What that means for which versions, and what to do.
        versions: Names of the version records it is known to concern; empty if none are known.
    """

    weight: Weight
    name: str
    cause: str
    meaning: str
    versions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.cause}; {self.meaning}"


_BY_FOLDER = {
    layout.KEYS: "the store still opens with its other keys; add a new slot, or renew the public"
    " keys, with one of them",
    layout.OWNER: "versions restore; take the store over anew before the next job",
    layout.INDEX: "versions restore by the packs' own tables, slowly",
    layout.HEADS: "versions restore, but whether others were lost before cannot be told in full",
    layout.SWEPT: "versions restore; packs that were given back may be reported as missing",
    layout.HOLDS: "nothing is forgotten until it is put back, or what must stay is pinned anew",
    layout.FORGETS: "versions restore; nothing is forgotten or reclaimed until it is put back from"
    " the vault, or moved out of the store: what it gave up counts again then",
    layout.CONDEMNED: "versions restore; nothing is reclaimed until it is moved out of the store,"
    " once no earlier installation is at work on it: its packs wait once more then",
    layout.CATALOG: "another copy of the catalog is used instead",
    layout.NEEDS: "versions restore; a vault host without a key waits for the VM's next list",
    layout.MAPS: "the other copy of this block map stands in for it, as long as that is whole",
}


def cause_of(error: Exception) -> str:
    """An error's sentence without the name of the object, which an observation says anyway."""
    if isinstance(error, ObjectMissing):
        return MISSING
    if isinstance(error, Damaged):
        return str(error).removeprefix(f"{error.name} is damaged: ")
    return str(error)


def trouble(name: str, cause: str, versions: tuple[str, ...] = ()) -> Observation:
    """An observation about a known object that is missing or damaged."""
    folder = name.partition("/")[0]
    if folder == layout.PACKS:
        meaning = "what it holds is lost unless other packs hold it too; `prove` says for whom"
        return Observation(Weight.DAMAGE, name, cause, meaning, versions)
    if folder == layout.VERSIONS:
        meaning = "this version cannot be restored from here; look for it in the vault"
        return Observation(Weight.DAMAGE, name, cause, meaning, versions or (name,))
    meaning = _BY_FOLDER.get(folder, "its other copies stand in for it")
    return Observation(Weight.SPARE_LOST, name, cause, meaning, versions)


def unchecked(name: str, cause: object, versions: tuple[str, ...] = ()) -> Observation:
    """An object that nothing was learnt about."""
    meaning = "whether it is whole is not known; try again when the store answers"
    if isinstance(cause, StoreTooNew):
        meaning = "whether it is whole is not known to this one"
    if not versions and name.startswith(f"{layout.VERSIONS}/"):
        versions = (name,)
    return Observation(Weight.UNCHECKED, name, str(cause), meaning, versions)


def told(name: str, error: LikenessError, versions: tuple[str, ...] = ()) -> Observation:
    """An observation about an object that one of `UNREADABLE` was raised for."""
    if isinstance(error, WrittenLate):
        return late(name, error)
    if isinstance(error, UNKNOWN):
        return unchecked(name, error, versions)
    return trouble(name, cause_of(error), versions)


def late(name: str, error: WrittenLate) -> Observation:
    """A document of an installation that had lost the store."""
    return Observation(Weight.NOTICE, name, cause_of(error), "it counts for nothing; none is lost")


def notice(name: str, cause: str, meaning: str) -> Observation:
    """Something that harms no version; the name may be anybody's."""
    safe = name if layout.is_known(name) else name.encode("unicode_escape").decode()
    return Observation(Weight.NOTICE, safe, cause, meaning)


def with_closed(found: Iterable[Observation], listing: CarefulTransport) -> Iterator[Observation]:
    """What was found; of folders that could not be listed this once, and nothing *missing* there.

    Args:
        found: Observations made over `listing`.
        listing: What they were made over; its closed folders are asked for as they come.
    """
    for each in found:
        seems_gone = each.cause.startswith(MISSING) or not layout.is_known(each.name)
        if not (seems_gone and listing.is_closed(each.name)):
            yield each
    for folder, cause in sorted(listing.closed.items()):
        said = str(cause).removeprefix(f"{folder}: ")
        meaning = "whether what lies in it is whole is not known; see whether the disk is well"
        if folder.startswith((f"{layout.INBOX}/", f"{layout.QUARANTINE}/")):
            yield notice(folder, said, "no version needs what lies in it")
        else:
            yield Observation(Weight.UNCHECKED, folder, said, meaning)

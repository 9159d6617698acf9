"""Which of several things a name means: the one that is called exactly so, or none.

Two names may look alike and differ: by blanks or tabs at their ends, by upper and lower case, by
the Unicode form of a letter. Whoever wrote one of them may have meant the other, so nothing is
guessed: what comes near is offered with its uuid.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from likeness.errors import BadInput
from likeness.model.ids import from_uuid

_MAX_OFFERED = 4


class Named(Protocol):
    """A thing with a name that its owner chose, and a uuid that nobody else has."""

    @property
    def uuid(self) -> str:
        """With or without dashes."""

    @property
    def name(self) -> str:
        """Anything."""


class Plugged(Named, Protocol):
    """A disk at its place in a VM."""

    @property
    def position(self) -> str:
        """As XenServer numbers it, such as ``0``."""


N = TypeVar("N", bound=Named)
D = TypeVar("D", bound=Plugged)


def looks(name: str) -> str:
    """What a person sees of a name: without what cannot be seen, in one form and case."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(" " if c.isspace() else c for c in folded)
    return " ".join("".join(c for c in seen if unicodedata.category(c) != "Cf").split())


def uuid_in(text: str) -> str:
    """The 32 hex digits of the uuid that a text is; empty if it is none."""
    try:
        return from_uuid(text)
    except ValueError:
        return ""


def called(wanted: str, among: Iterable[N]) -> list[N]:
    """The thing of that uuid, or else all that are called exactly so.

    The uuid comes first: anyone may give a VM the uuid of another one as its name.
    """
    everything, uuid = list(among), uuid_in(wanted)
    by_uuid = [each for each in everything if uuid and uuid_in(each.uuid) == uuid]
    return by_uuid or [each for each in everything if wanted and each.name == wanted]


def alike(wanted: str, among: Iterable[N]) -> list[N]:
    """Those whose names look the same, but are not."""
    return [each for each in among if looks(each.name) == looks(wanted) != ""]


def offered(wanted: str, among: Sequence[N]) -> str:
    """A question that offers what may have been meant; empty if nothing comes near."""
    if same := alike(wanted, among):
        return f"did you mean {' or '.join(map(shown, same[:_MAX_OFFERED]))}?"
    by_look = {looks(each.name): each.name for each in among}
    near = difflib.get_close_matches(looks(wanted), by_look, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(by_look[look]) for look in near)}?" if near else ""


def shown(thing: Named) -> str:
    """Its name between quotes, so that blanks show, and its uuid."""
    return f"{thing.name!r} ({thing.uuid})"


def ambiguous(wanted: str, what: str, found: Sequence[Named]) -> str:
    """A sentence that asks for a uuid where several things bear a name."""
    uuids = ", ".join(sorted(each.uuid for each in found)[:_MAX_OFFERED])
    return f"{len(found)} {what} are called {wanted!r}; name the one you mean by its uuid: {uuids}"


def disk_called(wanted: str, disks: Sequence[D], whose: str) -> D:
    """The one disk of that uuid, position or name.

    Args:
        wanted: What was said.
        disks: Those there are.
        whose: For the sentence, such as ``VM web``.

    Raises:
        BadInput: There is none, or one of that position and another one of that name.
    """
    uuid = uuid_in(wanted)
    found = [disk for disk in disks if uuid and uuid_in(disk.uuid) == uuid]
    found = found or [disk for disk in disks if wanted and wanted in (disk.position, disk.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{whose}: {ambiguous(wanted, 'disks', found)}")
    there = ", ".join(f"{disk.position} ({disk.name})" for disk in disks[: 2 * _MAX_OFFERED])
    near = " or ".join(map(shown, alike(wanted, disks)[:_MAX_OFFERED]))
    raise BadInput(
        f"{whose} has no disk {wanted!r}; it has {there or 'none'}"
        + (f"; did you mean {near}?" if near else "")
    )

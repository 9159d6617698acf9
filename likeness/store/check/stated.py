"""Statements that are there and not whole: who rests on one, stops there.

What a killed process only began to write is no damage as long as no head knows it: the next run
sets it aside.
"""

from collections.abc import Container, Iterator

import msgspec

from likeness.errors import Damaged, ObjectMissing, WrittenLate
from likeness.store.format import layout
from likeness.store.format.documents import (
    CondemnedDocument,
    ForgetDocument,
    HoldDocument,
    SweptDocument,
)
from likeness.store.format.observations import UNREADABLE, Observation, notice, told
from likeness.store.format.public_view import SignedView
from likeness.store.format.unfinished import is_unfinished

_KINDS: dict[str, type[msgspec.Struct]] = {
    layout.FORGETS: ForgetDocument,
    layout.HOLDS: HoldDocument,
    layout.SWEPT: SweptDocument,
    layout.CONDEMNED: CondemnedDocument,
}


def damaged_statements(view: SignedView, known: Container[str]) -> Iterator[Observation]:
    """What is the matter with statements that are listed.

    Args:
        view: Where.
        known: Names of objects that the newest head knows.
    """
    for folder, kind in _KINDS.items():
        for entry in view.transport.entries(folder):
            if layout.is_known(entry.name) and (found := _one(view, entry.name, kind, known)):
                yield found


def _one(
    view: SignedView, name: str, kind: type[msgspec.Struct], known: Container[str]
) -> Observation | None:
    try:
        view.read(name, layout.kind_of(name), kind)
    except ObjectMissing:
        return None  # it went meanwhile
    except WrittenLate as cause:
        return told(name, cause)
    except Damaged as cause:
        if name not in known and _is_begun(view, name):
            meaning = "its writer died, or is at it now; nothing it says was done, none is lost"
            return notice(name, "its writing was never finished", meaning)
        return told(name, cause)
    except UNREADABLE as cause:
        return told(name, cause)
    return None


def _is_begun(view: SignedView, name: str) -> bool:
    try:
        return is_unfinished(name, view.transport.read(name))
    except UNREADABLE:
        return False

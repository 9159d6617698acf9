"""Doomed: packs that are there, and that somebody has said to delete, however long ago.

Whoever said so may stand still in the middle of it, and go on when another owns the store; so
nothing is relied on that only such a pack holds.
"""

from collections.abc import Collection
from contextlib import suppress

from likeness.codec.documents import Kind
from likeness.model.ids import PackId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import SweptDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.write.condemning import condemned_packs

_LATELY = 8
"""Statements of which one process makes at most so many before it deletes what they say."""


def doomed_packs(store: DataStore) -> set[PackId]:
    """Packs that are condemned, or that the last statements of each owner say are deleted.

    Raises:
        One of `UNREADABLE`: What is condemned cannot be read.
    """
    return said_lately(store) | condemned_packs(store)


def said_lately(store: DataStore) -> set[PackId]:
    """Packs of the last statements of each owner: whoever made one may still be deleting them."""
    names = swept_names(store)
    until = [each.numbers.get(layout.SWEPT, 0) for each in store.past.adopted(store)]
    lately = set(names[-_LATELY:])
    for number in until:
        lately.update([name for name in names if layout.number_of(name) <= number][-_LATELY:])
    return said_in(store, lately)


def swept_names(store: SignedView) -> list[str]:
    """Names of all statements of what was given back, in their order."""
    entries = store.transport.entries(layout.SWEPT)
    return sorted(entry.name for entry in entries if layout.is_known(entry.name))


def said_in(store: SignedView, statements: Collection[str]) -> set[PackId]:
    """The packs that some of these statements tell of."""
    packs: set[PackId] = set()
    for name in statements:
        with suppress(*UNREADABLE):  # then its packs look missing, which is safe
            statement, _ = store.read(name, Kind.SWEPT, SweptDocument)
            packs.update(PackId(pack) for pack in statement.packs)
    return packs

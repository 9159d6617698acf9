"""Statements: signed documents that are counted, one folder a kind, and never changed.

What is to be done is said before it is done. Whoever finds the work half done knows what it was,
and whoever finds an object gone knows that it went on purpose.
"""

from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from likeness.errors import Damaged, NameTaken, WrittenLate
from likeness.store.format import layout
from likeness.store.format.believing import read_surely
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.format.unfinished import is_unfinished
from likeness.transport.passing import CarefulTransport

_ATTEMPTS = 20  # others who write one at this moment
_FROM_VAULT = (
    "put it back from the vault, where it has the same name; if no copy is whole, move it out"
)
_ASKED_OFTEN = (layout.FORGETS, layout.HOLDS)
"""Asked for each time somebody goes through the gate."""
_HELPS = {
    layout.HOLDS: f"{_FROM_VAULT} of the store and pin anew what must stay",
    layout.FORGETS: f"{_FROM_VAULT} of the store: what it gave up counts again",
    layout.CONDEMNED: "if no earlier installation is at work on this store, move it out of the"
    " store: its packs wait once more",
}
"""What to do about one that is damaged for good."""
_D = TypeVar("_D", bound=msgspec.Struct)


def state(
    store: DataStore, folder: str, make: Callable[[int], msgspec.Struct], *, above: int = 0
) -> int:
    """Write the next statement of a folder; its number.

    Args:
        store: Where.
        folder: `layout.SWEPT`, `layout.FORGETS` and their like.
        make: Gives the document, told its number.
        above: Its number is larger: that one is taken by what is gone.

    Raises:
        NameTaken: Others took every number.
        StoreTakenOver: Another installation owns the store now.
    """
    for attempt in range(_ATTEMPTS):
        there = store.transport.listing(folder)
        number = layout.free_number(folder, there.names, there.folders)
        number = max(number, above + 1) + attempt // 2
        name = layout.numbered(folder, number)
        with suppress(NameTaken):
            store.write(name, layout.kind_of(name), make(number))
            return number
    raise NameTaken(name)


def statements(view: SignedView, folder: str, kind: type[_D]) -> Iterator[tuple[str, _D]]:
    """Name and contents of every statement of a folder that is whole, in their order."""
    names = sorted(entry.name for entry in CarefulTransport(view.transport).entries(folder))
    for name in filter(layout.is_known, names):
        with suppress(*UNREADABLE):  # then what it tells of looks lost, which is safe
            yield name, view.read(name, layout.kind_of(name), kind)[0]


def whole_statements(
    store: DataStore, folder: str, kind: type[_D], *, but: Container[str] = ()
) -> list[tuple[str, _D]]:
    """The same, for decisions that must not rest on a part of them; what came late does not count.

    Args:
        store: Where.
        folder: Which statements.
        kind: What they are.
        but: Names of those that say nothing.

    Raises:
        One of `UNREADABLE`: One of them cannot be read.
    """
    names = sorted(entry.name for entry in store.transport.entries(folder))
    found = []
    for name in filter(layout.is_known, names):
        if name in but:
            continue
        with suppress(WrittenLate), _saying_what_helps(name, folder):
            read = store.read_unchanging if folder in _ASKED_OFTEN else store.read_surely
            found.append((name, read(name, layout.kind_of(name), kind)[0]))
    return found


@contextmanager
def _saying_what_helps(name: str, folder: str) -> Generator[None, None, None]:
    try:
        yield
    except Damaged as cause:
        if type(cause) is not Damaged or folder not in _HELPS:
            raise
        why = str(cause).removeprefix(f"{name} is damaged: ")
        raise Damaged(name, f"{why}; {_HELPS[folder]}") from cause


def set_aside_unfinished(store: DataStore, folder: str) -> list[str]:
    """Set aside statements whose writing was never finished; the names they had.

    What they would have said was never done, since it is said before. The caller makes sure that
    nobody is writing one. One that was whole and is damaged stays: what it said was done.
    """
    found = []
    for entry in list(CarefulTransport(store.transport).entries(folder)):
        if layout.is_known(entry.name) and _is_unfinished(store, entry.name):
            set_aside(store, entry.name)
            found.append(entry.name)
    return found


def _is_unfinished(store: DataStore, name: str) -> bool:
    """As two looks over two connections say."""

    def judge(data: bytes) -> None:
        if is_unfinished(name, data):
            raise Damaged(name, "its writing was never finished")

    try:
        read_surely(store, name, judge)
    except Damaged:
        return True
    except UNREADABLE:
        return False
    return False

"""What can be listed is listed, once and in order, whatever a folder beside it is called."""

import pytest

from likeness.errors import ObjectUnreadable, ShareRefused
from likeness.transport.base import Entry
from likeness.transport.passing import CarefulTransport
from tests.faults.closed_folders import Closed
from tests.support.memory import MemoryTransport

NAMES = [
    *("versions/a", "versions/x-copy/1", "versions/x.old/1", "versions/x/1"),
    *("versions/x/2", "versions/y/1"),
]
"""In the order of a transport: what a folder is called goes on with a slash."""


def listed(closed: str) -> tuple[list[str], list[str]]:
    """What is listed with a folder closed, and what is told to be."""
    inner = MemoryTransport()
    for name in NAMES:
        inner.create(name, [b"some"])
    careful = CarefulTransport(Closed(inner, closed, ObjectUnreadable(f"{closed}: bad sector")))
    return [entry.name for entry in careful.entries("versions")], sorted(careful.closed)


@pytest.mark.parametrize("closed", ["versions/x-copy", "versions/x.old", "versions/x", "packs"])
def test_a_closed_folder_takes_nothing_with_it(closed: str) -> None:
    assert sorted(NAMES) == NAMES
    left = [name for name in NAMES if not name.startswith(f"{closed}/")]

    assert listed(closed) == (left, [closed] if len(left) < len(NAMES) else [])


def test_a_share_that_cannot_be_listed_at_all_is_no_closed_folder() -> None:
    class Refused(MemoryTransport):
        def entries(self, folder: str, *, deep: bool = True) -> "list[Entry]":  # type: ignore[override]
            raise ShareRefused(f"{folder}: permission denied")

        def folders(self, folder: str) -> list[str]:
            raise ShareRefused(f"{folder}: permission denied")

    with pytest.raises(ShareRefused):
        list(CarefulTransport(Refused()).entries("versions"))  # type: ignore[arg-type]

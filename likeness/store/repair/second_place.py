"""Whether the vault is a second place at all, and not the data store by another name.

Paths say nothing: a link, a bind mount, a mounted share or a server's other name lead to the same
disk. So a small mark with a random name is written at one place and looked for at the other. It
lies in `in/`, under the name a pack of a run would have there; a mark that a crash leaves in the
data store goes with the sweep of inboxes, one in the vault with the next look.
"""

from collections.abc import Iterator
from contextlib import suppress

from likeness.errors import (
    NoVault,
    ObjectMissing,
    ObjectUnreadable,
    ShareFull,
    ShareRefused,
    ShareUnreachable,
)
from likeness.model.ids import PackId, RunId, random_name
from likeness.store.format import layout
from likeness.transport.base import Transport

_MARK = b"likeness: a mark, to see whether two places are one\n"
_ATTEMPTS = 3
_MAX_FOLDERS = 200
_DEEPEST = 4
_PASSED_BY = (ObjectMissing, ObjectUnreadable, ShareRefused)


def require_second_place(store: Transport, vault: Transport) -> None:
    """Write to both places, and return if neither is, or lies in, the other.

    Leaves both as they were. Two folders beside each other on one disk are not told apart from two
    disks: nothing but a person can.

    Args:
        store: Where the data store is, or is to be.
        vault: Where copies of it are to go.

    Raises:
        NoVault: They are one place, or one lies inside the other.
        ShareRefused, ShareFull: The vault takes nothing.
        ShareUnreachable: One of them does not answer.
    """
    with suppress(ShareFull, ShareRefused):  # a full data store needs its vault all the more
        if _is_seen(store, vault):
            raise NoVault(
                f"the vault at {vault} is no second place: what is written to the data store at"
                f" {store} shows there too; choose a place on other disks for the vault"
            )
    if _is_seen(vault, store):
        raise NoVault(
            f"the vault at {vault} is, or lies inside, the data store at {store}, and would be lost"
            " with it; choose a place on other disks for the vault"
        )
    _remove_old_marks(vault)


def _is_seen(written: Transport, looked_at: Transport) -> bool:
    """Whether what is written at one place shows at the other, or in a folder of it.

    A sweep may remove the mark before it was looked for, so it must be there afterwards, too.
    """
    for _ in range(_ATTEMPTS):
        with _Mark(written) as mark:
            if any(mark.shows_in(looked_at, folder) for folder in _folders(looked_at)):
                return True
            if mark.shows_in(written, ""):
                return False
    raise ShareUnreachable(
        f"what was written to {written} was gone a moment later, {_ATTEMPTS} times; see who else"
        " changes that place, then run again"
    )


class _Mark:
    """An object at one place, for as long as the `with` lasts."""

    def __init__(self, place: Transport) -> None:
        self._place = place
        self._inbox = layout.inbox(RunId(random_name()))
        self._name = f"{self._inbox}/{PackId(random_name())}"
        self._first = layout.INBOX not in place.folders("")

    def __enter__(self) -> "_Mark":
        self._place.create(self._name, [_MARK])
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ShareRefused):  # a vault may be a place that lets nobody delete
            self._place.delete(self._name)
            self._place.delete_folder(self._inbox)
            if self._first:
                self._place.delete_folder(layout.INBOX)

    def shows_in(self, place: Transport, folder: str) -> bool:
        with suppress(*_PASSED_BY):
            return place.size(f"{folder}/{self._name}".lstrip("/")) == len(_MARK)
        return False


def _folders(place: Transport) -> Iterator[str]:
    """The place itself and folders in it that are no store's own, those on top first."""
    waiting = [("", 0)]
    for _ in range(_MAX_FOLDERS):
        if not waiting:
            return
        folder, depth = waiting.pop(0)
        yield folder
        if depth < _DEEPEST and folder not in layout.FOLDERS:
            below = f"{folder}/" if folder else ""
            with suppress(*_PASSED_BY):
                waiting += [(f"{below}{name}", depth + 1) for name in place.folders(folder)]


def _remove_old_marks(vault: Transport) -> None:
    """A vault has no other use for inboxes; a mark of another run under way is written anew."""
    for run in vault.folders(layout.INBOX):
        for entry in list(vault.entries(f"{layout.INBOX}/{run}")):
            with suppress(*_PASSED_BY):
                mark = vault.read(entry.name, 0, len(_MARK) + 1)
                if mark and _MARK.startswith(mark):  # or a torn one
                    vault.delete(entry.name)
        with suppress(ShareRefused):
            vault.delete_folder(f"{layout.INBOX}/{run}")

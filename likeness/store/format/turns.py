"""Turns: of an installation and a copy of it, only one may write.

Both have the same keys and the same name. Whenever an installation begins to write, it leaves a
signed document with a random word of its own, its *pen*, and keeps the word beside its catalog.
A copy that finds a word it never wrote down knows that it is not alone, and is refused.
"""

import fcntl
import os
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from likeness.clock import system_clock
from likeness.codec.documents import Kind
from likeness.errors import LikenessError, NameTaken, ShareUnreachable, StoreTakenOver
from likeness.model.ids import is_name, random_name
from likeness.store.format import layout
from likeness.store.format.believing import LOST
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import TurnDocument

_KEPT_PENS = 256
_KEPT_TURNS = 2
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Pens:
    """The words that this installation wrote with, newest last; a file beside the catalog."""

    path: Path

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Keep this installation's other processes from taking a turn at the same moment."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def known(self) -> list[str]:
        """All of them; none where nothing was ever written down."""
        if not self.path.exists():
            return []
        return [each for each in self.path.read_text(errors="replace").split() if is_name(each)]

    def note(self, pen: str) -> None:
        """Write one down, before the store is told of it."""
        kept = [*self.known(), pen][-_KEPT_PENS:]
        draft = self.path.with_name(f"{self.path.name}-{random_name()}")
        with draft.open("x") as file:
            file.write("\n".join(kept) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


class Turns:
    """The turns of one opening of a store."""

    def __init__(self, pens: Pens) -> None:
        """Take none yet."""
        self._pens = pens
        self._seen = ""

    def require_ours(self, store: DataStore, owner: int, names: Iterable[str]) -> None:
        """Return, if nobody but this installation has begun to write.

        Args:
            store: Where.
            owner: The newest owner's number; it is this installation.
            names: What lies in `OWNER` at this moment.

        Raises:
            StoreTakenOver: A copy of this installation has.
        """
        turns = [name for name in names if layout.is_turn(name)]
        mine = [name for name in turns if name.startswith(layout.turn(owner, 0)[:-16])]
        if self._seen and max(mine, default="") == self._seen:
            return
        with self._pens.held():
            begun = bool(self._seen)
            listed = list(names)
            for _ in range(_ATTEMPTS):
                numbers = _numbers(owner, listed)
                newest = _newest(store, owner, numbers)
                if newest is not None:
                    self._require_known(store, newest)
                    if begun:
                        self._seen = layout.turn(owner, newest.turn)
                        return
                with suppress(NameTaken):  # by one that came after the listing
                    self._take(store, owner, max(numbers, default=0) + 1)
                    break
                listed = store.transport.listing(layout.OWNER).names
            else:
                raise ShareUnreachable(
                    f"data store {store.store_id[:8]}: others begin to write at every moment;"
                    " run again"
                )
        _clear_old(store, turns)

    def _take(self, store: DataStore, owner: int, number: int) -> None:
        pen = random_name()
        name = layout.turn(owner, number)
        document = TurnDocument(
            number=owner,
            turn=number,
            pen=pen,
            taken_at=system_clock().isoformat(),
            host=socket.gethostname()[:200],
        )
        self._pens.note(pen)
        store.write_unfenced(name, Kind.TURN, document)
        self._seen = name

    def _require_known(self, store: DataStore, newest: TurnDocument) -> None:
        """A folder that was lost and begun anew on the same machine is no copy."""
        known = self._pens.known()
        if newest.pen in known or (not known and newest.host == socket.gethostname()[:200]):
            return
        raise StoreTakenOver(
            f"data store {store.store_id[:8]}: a copy of this installation writes on"
            f" {newest.host[:60] or 'another machine'} since {newest.taken_at[:16]}, so nothing is"
            " written here; stop one of them, or run python -m flows.recover"
        )


def _numbers(owner: int, names: Iterable[str]) -> list[int]:
    beginning = layout.turn(owner, 0)[:-16]
    return sorted(
        int(name[-16:], 16)
        for name in names
        if name.startswith(beginning) and layout.is_known(name)
    )


def _newest(store: DataStore, owner: int, numbers: list[int]) -> TurnDocument | None:
    for number in reversed(numbers):
        with suppress(*LOST):
            return store.read_surely(layout.turn(owner, number), Kind.TURN, TurnDocument)[0]
    return None


def _clear_old(store: DataStore, before: list[str]) -> None:
    transport = store.transport  # `for_writing` would ask the fence that asks this
    for name in sorted(before)[: -_KEPT_TURNS + 1]:
        with suppress(LikenessError):  # the next one, then
            transport.delete(name)

"""Believing: that something is lost is believed only when two looks say so, over two connections.

A bit flips in a network card, in a server's memory or in this machine's, and a whole object looks
damaged. Whatever moves, deletes or replaces an object, writes down what another must hash to, or
calls a version broken rests on what is seen here.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from likeness.codec.documents import MAX_DOCUMENT_BYTES
from likeness.codec.hashing import digest
from likeness.errors import Damaged, ObjectMissing, ObjectUnreadable, ShareRefused
from likeness.transport.base import Transport

LOST = (Damaged, ObjectMissing)
"""What is wrong with an object itself: it is there and not whole, or not there."""


class Reopenable(Protocol):
    """Where to look: a transport, or a store on one."""

    def again(self) -> AbstractContextManager[Self]:
        """The same over a connection of its own."""


class ReopenableStore(Reopenable, Protocol):
    """A store: its second look says first whether it is still there."""

    @property
    def transport(self) -> Transport:
        """Where its objects are."""


@dataclass(frozen=True, slots=True)
class Unopened:
    """A store that is just being opened."""

    transport: Transport

    @contextmanager
    def again(self) -> Generator["Unopened", None, None]:
        """See `Reopenable.again`."""
        with self.transport.again() as transport:
            yield Unopened(transport)


_T = TypeVar("_T")
_W = TypeVar("_W", bound=Reopenable)
_S = TypeVar("_S", bound=ReopenableStore)


def look_twice(
    look: Callable[[_W], _T], where: _W, *, doubtful: Callable[[_T], bool]
) -> tuple[_T, ...]:
    """Look, and once more over another connection where what is seen is in doubt.

    Args:
        look: What to do there.
        where: Where; it gives the other connection.
        doubtful: Whether what was seen must be seen twice.
    """
    first = look(where)
    if not doubtful(first):
        return (first,)
    with where.again() as other:
        return first, look(other)


@dataclass(frozen=True, slots=True)
class _Seen(Generic[_T]):
    value: _T | None
    problem: Damaged | ObjectMissing | None = None


def surely(look: Callable[[_W], _T], where: _W) -> _T:
    """What a look gives; that something is lost only where two looks say the same.

    Args:
        look: Gives only what proved to be whole; raises one of `LOST` otherwise.
        where: Where; it gives the other connection.

    Raises:
        Damaged: Both looks say so.
        ObjectMissing: Likewise.
        ObjectUnreadable: They differ, so nothing is known.
        ShareUnreachable: There was no second look.
    """

    def seen(place: _W) -> _Seen[_T]:
        try:
            return _Seen(look(place))
        except LOST as problem:
            return _Seen(None, problem)

    looks = look_twice(seen, where, doubtful=lambda each: each.problem is not None)
    first, last = looks[0].problem, looks[-1].problem
    if last is None:
        return looks[-1].value  # type: ignore[return-value]  # a look without a problem has one
    if (type(first), str(first)) != (type(last), str(last)):
        raise ObjectUnreadable(differ(str(first), str(last))) from last
    raise last


def read_surely(
    store: _S,
    name: str,
    judge: Callable[[bytes], _T],
    *,
    max_bytes: int = MAX_DOCUMENT_BYTES,
) -> _T:
    """What `judge` makes of an object's bytes; see `surely`.

    Damage is believed only if it was the same bytes both times: a faulty network spoils every
    reading, each in its own way.

    Args:
        store: Where.
        name: The object.
        judge: Raises `Damaged` about bytes that are not as they should be.
        max_bytes: How long it may be; of a longer one just so much is read that it shows.
    """
    refused: list[bytes] = []

    def look(place: _S) -> _T:
        data = place.transport.read(name, 0, max_bytes + 1)
        try:
            return judge(data)
        except Damaged:
            refused.append(digest([data]))
            raise

    try:
        return surely(look, store)
    except Damaged as cause:
        if len(set(refused)) > 1:
            raise ObjectUnreadable(differ(str(cause), "and other bytes the second time")) from cause
        raise


def exists_surely(store: ReopenableStore, name: str) -> bool:
    """Whether there is an object of that name, readable or not."""
    try:
        surely(lambda place: place.transport.size(name), store)
    except ObjectMissing:
        return False
    except (ObjectUnreadable, ShareRefused):
        return True
    return True


def differ(first: str, second: str) -> str:
    """A sentence for two looks that do not agree."""
    return (
        f"two readings differ ({first}; {second}); the network card, the memory or the share may be"
        " at fault"
    )

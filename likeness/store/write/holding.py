"""Holding: a version that somebody pins stays, whatever any policy says; a lock nobody can lift.

Pins lie in the store, signed, so that an installation that was recovered knows them too.
"""

from collections import defaultdict
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from likeness.clock import Clock
from likeness.errors import BadInput
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import HoldDocument, SweptDocument
from likeness.store.format.public_view import SignedView
from likeness.store.format.statements import state, statements, whole_statements


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a version must stay.

    Attributes:
        note: A person's own words.
        until: When it ends; never if none.
        locked: Whether it cannot be lifted before.
    """

    note: str
    until: datetime | None
    locked: bool

    def holds_at(self, now: datetime) -> bool:
        """Whether it is still in force."""
        return self.until is None or self.until > now

    def __str__(self) -> str:
        word = "locked" if self.locked else "pinned"
        until = f" until {self.until:%Y-%m-%d %H:%M}" if self.until else ""
        note = f": {self.note}" if self.note else ""
        return f"it is {word}{until}{note}"


def holds_on(store: DataStore, *, but: Container[str] = ()) -> Mapping[str, Sequence[Hold]]:
    """The pin and the lock of each version that has one, by the name of its record.

    Args:
        store: Where.
        but: Names of statements that say nothing; see `begun_for_nothing`.

    Raises:
        One of `UNREADABLE`: A statement cannot be read, so nobody knows what must stay.
    """
    pins: dict[str, Hold] = {}
    locks: dict[str, Hold] = {}
    for _, said in whole_statements(store, layout.HOLDS, HoldDocument, but=but):
        until = datetime.fromisoformat(said.until) if said.until else None
        hold = Hold(said.note, until, said.locked)
        if said.locked:
            locks[said.record] = _longer(locks.get(said.record), hold)
        elif said.lifted:
            pins.pop(said.record, None)
        else:
            pins[said.record] = hold
    found: dict[str, list[Hold]] = defaultdict(list)
    for each in (locks, pins):
        for record, hold in each.items():
            found[record].append(hold)
    return dict(found)


def pin(
    store: DataStore,
    record: str,
    *,
    note: str,
    until: datetime | None,
    clock: Clock,
    locked: bool = False,
    above: int = 0,
) -> None:
    """Keep a version; a later pin takes the place of an earlier one, a lock only grows longer.

    Args:
        store: Where.
        record: The name of its record.
        note: Why, in a person's words.
        until: When it ends; never if none.
        clock: The present.
        locked: Make it a lock, which nobody can lift before its time.
        above: The number of the last statement that is gone, see `lost_holds`.

    Raises:
        BadInput: Its end has passed, or a lock has none.
        ObjectMissing: There is no such version.
    """
    if until is not None and until <= clock():
        raise BadInput(f"a pin until {until:%Y-%m-%d %H:%M} would be over; give a later moment")
    if locked and until is None:
        raise BadInput("a lock without an end could never be lifted; give the moment it ends")
    store.transport.size(record)
    _say(store, record, note, until.isoformat() if until else "", clock, locked=locked, above=above)


def unpin(store: DataStore, record: str, *, note: str, clock: Clock, above: int = 0) -> None:
    """Let policy decide on a version again; a lock on it stays."""
    _say(store, record, note, "", clock, lifted=True, above=above)


def lost_holds(view: SignedView, missing: Collection[str]) -> set[str]:
    """Those of some missing objects that are pins: no run deletes one; a person says it is gone."""
    holds = {name for name in missing if name.startswith(f"{layout.HOLDS}/")}
    for _, said in statements(view, layout.SWEPT, SweptDocument) if holds else ():
        holds.difference_update(said.objects)
    return holds


def _say(
    store: DataStore,
    record: str,
    note: str,
    until: str,
    clock: Clock,
    *,
    locked: bool = False,
    lifted: bool = False,
    above: int = 0,
) -> None:
    def made(number: int) -> HoldDocument:
        return HoldDocument(
            number=number,
            made_at=clock().isoformat(),
            record=record,
            note=note,
            until=until,
            locked=locked,
            lifted=lifted,
        )

    state(store, layout.HOLDS, made, above=above)


def _longer(one: Hold | None, other: Hold) -> Hold:
    if one is None or one.until is None or other.until is None:
        return other
    return one if one.until >= other.until else other

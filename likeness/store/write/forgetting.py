"""Forgetting: a version is given up on purpose; what only it needed goes later (`reclaiming`).

First a signed statement names the record, then the record moves from `versions/` to `forgotten/`.
A version exists as long as its record lies in `versions/`, so every reader copes. A statement says
of a record that is not there that it went on purpose: without one it is lost. Until the data is
deleted the record can be moved back.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from likeness.clock import Clock
from likeness.errors import Damaged, NameTaken, ObjectMissing
from likeness.model.ids import VmId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import ForgetDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.format.statements import (
    set_aside_unfinished,
    state,
    statements,
    whole_statements,
)
from likeness.store.read.versions import read_version_surely, record_names
from likeness.store.write.holding import Hold, holds_on

MAX_AT_ONCE = 1 << 12
"""Versions that one statement names."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What all statements say together.

    Attributes:
        said: Name of each statement, in their order, with what it says.
    """

    said: tuple[tuple[str, ForgetDocument], ...] = ()

    @property
    def now(self) -> frozenset[str]:
        """Names of the records that are given up, as they were in `versions/`."""
        return self._by(None)

    def known_to(self, statements_known: Collection[str]) -> frozenset[str]:
        """The same, as it was when only these statements were known."""
        return self._by(statements_known)

    def _by(self, known: Collection[str] | None) -> frozenset[str]:
        found: set[str] = set()
        for name, document in self.said:
            if known is None or name in known:
                records = set(document.records)
                found = found - records if document.back else found | records
        return frozenset(found)

    def as_told(
        self, names: Sequence[str], vm: VmId, statements_known: Collection[str]
    ) -> list[str]:
        """A VM's records as a head that knew these statements would have them, and later ones.

        Args:
            names: Those that are there.
            vm: Whose.
            statements_known: What the head knows; see `HeadState.objects`.
        """
        if not self.said:
            return list(names)
        folder = f"{layout.versions_of(vm)}/"
        gone = {name for name in self.now if name.startswith(folder)}
        return sorted((set(names) | gone) - self.known_to(statements_known))


def read_forgotten(view: SignedView) -> Forgotten:
    """Everything that was ever forgotten or taken back, as far as it can be read."""
    return Forgotten(tuple(statements(view, layout.FORGETS, ForgetDocument)))


def whole_forgotten(store: DataStore) -> Forgotten:
    """The same, for whoever must not call lost what was forgotten, or the other way.

    Raises:
        One of `UNREADABLE`: A statement cannot be read, so nobody knows what was given up.
    """
    return Forgotten(tuple(whole_statements(store, layout.FORGETS, ForgetDocument)))


@dataclass
class Forgetting:
    """What became of versions that were to be forgotten.

    Attributes:
        gone: Names of their records, as they were.
        kept: Those that stay, each with the reason.
    """

    gone: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def forget_versions(
    store: DataStore,
    records: Collection[str],
    *,
    reason: str,
    clock: Clock,
    holds: Mapping[str, Sequence[Hold]] | None = None,
    even_last: bool = False,
) -> Forgetting:
    """Give versions up; safe to repeat, after `finish_moves`. The caller holds the gate.

    Whatever the caller thinks: a version that is pinned or locked stays, and so does the last one
    of a VM that can be read.

    Args:
        store: Where.
        records: Names of their records.
        reason: For the statement.
        clock: The present.
        holds: What must stay, as it was read behind the gate; it is read here if none.
        even_last: Let a VM lose its last version, too.

    Raises:
        StoreTakenOver: Another installation owns the store now.
    """
    done = Forgetting()
    holds = holds_on(store) if holds is None else holds
    by_vm: dict[VmId, list[str]] = {}
    for name in dict.fromkeys(records):
        by_vm.setdefault(VmId(name.split("/")[1]), []).append(name)
    for vm, asked in sorted(by_vm.items()):
        done.gone += _of_vm(store, vm, asked, holds, clock(), done.kept, even_last=even_last)
    for start in range(0, len(done.gone), MAX_AT_ONCE):
        part = tuple(done.gone[start : start + MAX_AT_ONCE])
        _say(store, part, reason, clock, back=False)
        for name in part:
            _move(store, name, layout.forgotten_record(name))
    return done


def take_back(store: DataStore, record: str, *, reason: str, clock: Clock) -> None:
    """Make a forgotten version one that exists again; see `reclaiming.undelete`, which looks first.

    Raises:
        ObjectMissing: Its record was deleted.
    """
    finish_moves(store)
    store.transport.size(layout.forgotten_record(record))
    _say(store, (record,), reason, clock, back=True)
    _move(store, layout.forgotten_record(record), record)


def finish_moves(store: DataStore) -> None:
    """Make records lie where the statements say, whatever a crash left; the gate is held.

    One that lies among the forgotten ones, and that nobody gave up who owned the store then, is
    moved back, too. A statement that was never finished is set aside.

    Raises:
        One of `UNREADABLE`: A statement cannot be read, so nobody knows what was given up.
    """
    try:
        gone = whole_forgotten(store).now
    except Damaged:
        if not set_aside_unfinished(store, layout.FORGETS):
            raise
        gone = whole_forgotten(store).now
    for entry in list(store.transport.entries(layout.VERSIONS)) if gone else ():
        if entry.name in gone:
            _move(store, entry.name, layout.forgotten_record(entry.name))
    for entry in list(store.transport.entries(layout.FORGOTTEN)):
        name = layout.signed_name(entry.name)
        if layout.is_known(entry.name) and name not in gone:
            _move(store, entry.name, name)


def _of_vm(
    store: DataStore,
    vm: VmId,
    asked: Sequence[str],
    holds: Mapping[str, Sequence[Hold]],
    now: datetime,
    kept: dict[str, str],
    *,
    even_last: bool,
) -> list[str]:
    """Those of a VM's versions that may go; the others are `kept`, each with the reason."""
    there = record_names(store, vm)
    going = []
    for name in asked:
        why = _held(store, name, holds.get(name, ()), now) if name in there else "it is not there"
        if why:
            kept[name] = why
        else:
            going.append(name)
    if not even_last and going and not _one_restores(store, set(there) - set(going)):
        newest = next((n for n in sorted(going, reverse=True) if _is_whole(store, n)), None)
        if newest is not None:
            going.remove(newest)
            kept[newest] = "it is the last version of its VM that can be read"
    return going


def _held(store: DataStore, name: str, holds: Sequence[Hold], now: datetime) -> str:
    for hold in holds:
        if hold.holds_at(now):
            return str(hold)
    with suppress(*UNREADABLE):  # a record that is damaged tells of no lock
        locked = read_version_surely(store, name).record.locked_until
        if locked and datetime.fromisoformat(locked) > now:
            return f"it is locked until {locked[:16]}"
    return ""


def _one_restores(store: DataStore, names: Collection[str]) -> bool:
    return any(_is_whole(store, name) for name in sorted(names, reverse=True))


def _is_whole(store: DataStore, name: str) -> bool:
    try:
        read_version_surely(store, name)
    except UNREADABLE:
        return False
    return True


def _say(
    store: DataStore, records: tuple[str, ...], reason: str, clock: Clock, *, back: bool
) -> None:
    def made(number: int) -> ForgetDocument:
        return ForgetDocument(
            number=number, made_at=clock().isoformat(), reason=reason, records=records, back=back
        )

    state(store, layout.FORGETS, made)


def _move(store: DataStore, name: str, to: str) -> None:
    """Move a record; that somebody, or an earlier attempt, has moved it is just as well.

    Raises:
        Damaged: Another object lies in its way.
    """
    try:
        store.for_writing().rename(name, to)
    except ObjectMissing:
        store.transport.size(to)
    except NameTaken as cause:
        raise Damaged(
            to, "another record lies in the place of one that is to move there"
        ) from cause

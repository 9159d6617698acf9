"""Condemning: packs that no version needs are named, wait, and are deleted by a later run.

Each run of the reclaim writes one statement, also if it has nothing to name: so runs can be counted
from the share alone. Whoever condemned a pack and is not the owner any more may still be deleting
it, however late; so such a pack counts as gone, and nothing is relied on that only it holds.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from likeness.clock import Clock
from likeness.model.ids import PackId, RunId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import CondemnedDocument
from likeness.store.format.owning import newest_owner
from likeness.store.format.statements import state, whole_statements

WAIT = timedelta(days=7)
RUNS = 2
"""How long a condemned pack waits at least, and how many later runs must have looked."""
_MAX_PACKS = 1 << 18


@dataclass(frozen=True, slots=True)
class Sentence:
    """Since when a pack is condemned.

    Attributes:
        number: Of the statement.
        said_at: When.
        owner: The number of the owner who said so.
    """

    number: int
    said_at: datetime
    owner: int


@dataclass
class Condemned:
    """What waits to be deleted.

    Attributes:
        packs: Which, and since when.
        records: Records of forgotten versions, each with the number of its statement.
        runs: Number and run of every statement.
        said: When each was made.
        empty: Those that only show that a run was.
    """

    packs: dict[PackId, Sentence] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    runs: list[tuple[int, RunId]] = field(default_factory=list)
    said: dict[int, datetime] = field(default_factory=dict)
    empty: set[int] = field(default_factory=set)

    def ripe(self, now: datetime, wait: timedelta, runs: int) -> set[int]:
        """Numbers of the statements that waited long enough."""
        own = dict(self.runs)
        return {
            number
            for number, said_at in self._said_by(now).items()
            if said_at + wait <= now
            and len({r for n, r in self.runs if n > number} - {own[number]}) >= runs
        }

    def _said_by(self, now: datetime) -> dict[int, datetime]:
        """When each was made at the latest.

        One whose clock was ahead would never be due: it was made before the next one.
        """
        found: dict[int, datetime] = {}
        latest: datetime | None = None
        for number, said_at in sorted(self.said.items(), reverse=True):
            latest = said_at if said_at <= now else latest
            if latest is not None:
                found[number] = latest
        return found

    def by_others(self, owner: int) -> set[PackId]:
        """Packs that an earlier owner condemned: whether they are still there nobody knows."""
        return {pack for pack, each in self.packs.items() if each.owner != owner}


def read_condemned(store: DataStore) -> Condemned:
    """What all statements say together, spared packs left out.

    Raises:
        One of `UNREADABLE`: A statement cannot be read.
    """
    found = Condemned()
    for _, said in whole_statements(store, layout.CONDEMNED, CondemnedDocument):
        said_at = datetime.fromisoformat(said.made_at)
        found.runs.append((said.number, RunId(said.run)))
        found.said[said.number] = said_at
        if not said.packs and not said.records:
            found.empty.add(said.number)
        for pack in map(PackId, said.packs):
            if said.spared:
                found.packs.pop(pack, None)
            else:
                found.packs[pack] = Sentence(said.number, said_at, said.owner)
        for record in said.records:
            found.records.setdefault(record, said.number)
    return found


def condemned_packs(store: DataStore) -> frozenset[PackId]:
    """Packs that nobody may rely on, since they are condemned; whoever did that."""
    return frozenset(read_condemned(store).packs)


def owner_number(store: DataStore) -> int:
    """The number of the owner document that counts; 0 if there is none."""
    owner, _ = newest_owner(store)
    return owner.number if owner else 0


def say_condemned(
    store: DataStore,
    packs: Collection[PackId],
    records: Sequence[str],
    *,
    run: RunId,
    clock: Clock,
    spared: bool = False,
) -> None:
    """Write down what waits from now on, or what does not any more."""
    everything, owner = sorted(packs), owner_number(store)
    for start in range(0, max(len(everything), 1), _MAX_PACKS):

        def made(number: int, start: int = start) -> CondemnedDocument:
            return CondemnedDocument(
                number=number,
                made_at=clock().isoformat(),
                owner=owner,
                run=run,
                packs=tuple(everything[start : start + _MAX_PACKS]),
                records=tuple(records) if start == 0 else (),
                spared=spared,
            )

        state(store, layout.CONDEMNED, made)

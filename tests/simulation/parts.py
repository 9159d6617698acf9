"""Who and what there is in a simulated world: a store that gives way, and controllers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from greenlet import greenlet

from likeness.model.ids import ChunkId, PackId
from likeness.store.format import layout
from likeness.store.format.copies import Copy
from likeness.store.format.data_store import DataStore
from likeness.store.format.pack import PackReceipt
from likeness.transport.base import Entry
from tests.support.memory import MemoryTransport

BEGIN = datetime(2031, 1, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process is gone, at once."""


@dataclass(frozen=True)
class Rules:
    """What is switched off of what keeps versions safe; nothing, in the product.

    Attributes:
        flush: Packs are durable before they are spoken of (R1).
        recheck: A commit looks once more for what it relies on (R3).
        remark: What is condemned is looked at once more before it is deleted (R5).
        taint: Nobody relies on what an earlier owner condemned or began to delete (R6).
        mutex: Whoever commits, forgets or deletes is alone.
    """

    flush: bool = True
    recheck: bool = True
    remark: bool = True
    taint: bool = True
    mutex: bool = True


class Surroundings(Protocol):
    """The world, as its store sees it."""

    rules: Rules
    unflushed: list[PackId]

    def pause(self, *, risky: bool = False) -> None:
        """Let others go on."""


class SimTransport(MemoryTransport):
    """Everybody gives way before and after each operation; unflushed packs go with the power."""

    def __init__(self, world: Surroundings, objects: Mapping[str, bytes]) -> None:
        super().__init__()
        self._world = world
        self._of_folder: dict[str, set[str]] = {}
        for name, data in objects.items():
            self.objects[name] = data
            self._top(name).add(name)

    def _top(self, name: str) -> set[str]:
        """Names below one of the store's folders: no listing looks at all there is."""
        return self._of_folder.setdefault(name.partition("/")[0], set())

    def lose(self, name: str) -> None:
        """It is gone, by nobody's hand."""
        del self.objects[name]
        self._top(name).remove(name)

    def create(self, name: str, parts: Sequence[bytes]) -> None:
        self._world.pause(risky=name.startswith((layout.VERSIONS, layout.CONDEMNED)))
        super().create(name, parts)
        self._top(name).add(name)
        if not self._world.rules.flush and name.startswith((layout.INBOX, layout.PACKS)):
            self._world.unflushed.append(PackId(name.rpartition("/")[2]))
        self._world.pause()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return super().read(name, offset, length)

    def entries(self, folder: str, *, deep: bool = True) -> Iterator[Entry]:
        self._world.pause()
        inside = f"{folder}/" if folder else ""
        if not folder:
            return super().entries(folder, deep=deep)
        found = [
            Entry(name, len(self.objects[name]))
            for name in sorted(self._top(folder))
            if name.startswith(inside) and (deep or "/" not in name[len(inside) :])
        ]
        return iter(found)

    def rename(self, name: str, new_name: str) -> None:
        self._world.pause()
        super().rename(name, new_name)
        self._top(name).remove(name)
        self._top(new_name).add(new_name)

    def delete(self, name: str) -> None:
        self._world.pause(risky=name.startswith(layout.PACKS))
        super().delete(name)
        self._top(name).discard(name)

    def again(self) -> AbstractContextManager["SimTransport"]:
        return nullcontext(self)


class Packs(list[PackReceipt]):
    """What a transfer keeps in a file."""

    @property
    def packs(self) -> int:
        return len(self)


@dataclass
class Actor:
    """Somebody at work; `wakes_at` while it stands still."""

    name: str
    work: Callable[[], None]
    controller: "Controller"
    thread: greenlet | None = None
    wakes_at: datetime = BEGIN


@dataclass
class Lock:
    """As the kernel gives one: whoever stands still or waits keeps it, whoever dies does not."""

    holder: greenlet | None = None
    waiting: list[Actor] = field(default_factory=list)


@dataclass
class Controller:
    """One installation with its memory: which packs hold which data blocks, oldest first.

    Attributes:
        installation: 32 hex digits.
        store: With its fence.
        locations: What its catalog knows.
        gate: Held by who commits, forgets, or deletes what no version needs.
        claim: Held by who deletes what other packs make up for, and by who relies on those.
    """

    installation: str
    store: DataStore
    locations: dict[ChunkId, list[PackId]] = field(default_factory=dict)
    sizes: dict[PackId, int] = field(default_factory=dict)
    condemned: set[PackId] = field(default_factory=set)
    gate: Lock = field(default_factory=Lock)
    claim: Lock = field(default_factory=Lock)

    def learn(self, packs: Iterable[tuple[PackId, int, Iterable[ChunkId]]]) -> None:
        for pack, size, chunks in packs:
            self.sizes[pack] = size
            for chunk in chunks:
                if pack not in self.locations.setdefault(chunk, []):
                    self.locations[chunk].append(pack)

    def unlearn(self, packs: Collection[PackId]) -> None:
        for held in self.locations.values():
            held[:] = [pack for pack in held if pack not in packs]
        for pack in packs:
            self.sizes.pop(pack, None)

    def usable(self, chunk: ChunkId) -> list[PackId]:
        """Packs that hold a data block, and are not condemned."""
        return [pack for pack in self.locations.get(chunk, ()) if pack not in self.condemned]

    def holders(self) -> dict[PackId, dict[PackId, int]]:
        """Packs of which the first copy of every data block is elsewhere."""
        by_pack: dict[PackId, list[PackId]] = {}
        for held in map(self.usable, self.locations):
            for pack in held:
                by_pack.setdefault(pack, []).append(held[0])
        return {
            pack: {each: self.sizes[each] for each in firsts}
            for pack, firsts in by_pack.items()
            if pack not in firsts
        }

    def copies(self, chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
        return {
            chunk: Copy(held[0], self.sizes[held[0]])
            for chunk in chunks
            if (held := self.usable(chunk))
        }

"""Sweep: what runs that died left in the store, and packs that are no longer needed."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.errors import Damaged, ObjectMissing
from likeness.model.ids import PackId, RunId, is_name
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.documents import SweptDocument


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    objects: int = 0
    freed_bytes: int = 0


def sweep_inboxes(store: DataStore, is_live: Callable[[RunId], bool]) -> Swept:
    """Empty the inboxes of runs that are over; safe to repeat, and beside running jobs.

    Args:
        store: Where.
        is_live: Whether a run is still under way; asked once for every inbox.
    """
    store.require_writable()
    objects = freed = 0
    for run in store.transport.folders(layout.INBOX):
        if not is_name(run) or is_live(RunId(run)):
            continue
        for entry in list(store.transport.entries(layout.inbox(RunId(run)))):
            store.transport.delete(entry.name)
            objects += 1
            freed += entry.size_bytes
        store.transport.delete_folder(layout.inbox(RunId(run)))
    return Swept(objects, freed)


def give_back_packs(
    store: DataStore, packs: Collection[PackId], *, reason: str, clock: Clock
) -> Swept:
    """Delete packs that nothing needs any more, after saying so in a signed statement.

    The caller has made sure, in one catalog transaction, that every chunk of them is in another
    pack that was proved, and that nothing will rely on them again. Safe to repeat.
    """
    if not packs:
        return Swept()
    numbers = [
        layout.number_of(entry.name)
        for entry in store.transport.entries(layout.SWEPT)
        if layout.is_known(entry.name)
    ]
    number = max(numbers, default=0) + 1
    statement = SweptDocument(
        number=number, made_at=clock().isoformat(), reason=reason, packs=tuple(sorted(packs))
    )
    store.write(layout.numbered(layout.SWEPT, number), Kind.SWEPT, statement)
    sizes = {entry.name: entry.size_bytes for entry in store.transport.entries(layout.PACKS)}
    freed = 0
    for pack in packs:
        name = layout.pack(pack)
        freed += sizes.get(name, 0)
        store.transport.delete(name)
    return Swept(len(packs), freed)


def given_back(store: DataStore) -> set[PackId]:
    """Packs that signed statements say were given back: their absence is no loss."""
    packs: set[PackId] = set()
    for entry in store.transport.entries(layout.SWEPT):
        if layout.is_known(entry.name):
            with suppress(Damaged, ObjectMissing):  # then its packs look missing, which is safe
                statement, _ = store.read(entry.name, Kind.SWEPT, SweptDocument)
                packs.update(PackId(pack) for pack in statement.packs)
    return packs

"""Sweep: what runs that died left in the store, and packs that are no longer needed."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

from likeness.clock import Clock
from likeness.errors import ObjectUnreadable, ShareRefused
from likeness.model.ids import PackId, RunId, is_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import SweptDocument
from likeness.store.format.public_view import SignedView
from likeness.store.format.statements import state, statements
from likeness.store.write.condemning import condemned_packs
from likeness.store.write.doomed import said_in, said_lately, swept_names

_MAX_PACKS = 1 << 18
"""Packs that one statement tells of: about 10 MiB."""


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
    transport = store.for_writing()
    objects = freed = 0
    for run in transport.folders(layout.INBOX):
        if not is_name(run) or is_live(RunId(run)):
            continue
        for entry in list(transport.entries(layout.inbox(RunId(run)))):
            with suppress(ObjectUnreadable, ShareRefused):  # the next sweep, then
                transport.delete(entry.name)
                objects += 1
                freed += entry.size_bytes
        transport.delete_folder(layout.inbox(RunId(run)))
    return Swept(objects, freed)


@dataclass(frozen=True, slots=True)
class DeletedPacks:
    """What was given back.

    Attributes:
        packs: Which are not in the store any more.
        freed_bytes: Their size.
        kept: Which are, because a pack that holds their chunks too is missing or cut short.
    """

    packs: tuple[PackId, ...] = ()
    freed_bytes: int = 0
    kept: tuple[PackId, ...] = ()


Holders = Mapping[PackId, Mapping[PackId, int]]
"""A pack to the packs that hold all its chunks too, each with its size in bytes."""


def delete_redundant_packs(
    store: DataStore, holders: Callable[[], Holders], *, reason: str, clock: Clock
) -> DeletedPacks:
    """Delete packs that nothing needs any more, after saying so in a signed statement.

    The caller's word that other packs hold their chunks, proved, is not enough: it may come from a
    catalog that was set back. So those packs must be in the store, in their full length, and none
    of them may be given back as well, nor have been said to be: whoever said so, before this
    installation took over, may still wake up and delete it. What to rely on is asked before the
    packs are listed, so that the listing is the younger: a copy that somebody else deletes
    meanwhile is not in it. It is asked again afterwards, and only what is said both times is done.
    Safe to repeat.

    Args:
        store: Where.
        holders: Asked what may be deleted, before the packs are listed and right before they are
            deleted.
        reason: For the statement.
        clock: The present.
    """
    store.require_writable()
    doomed = said_lately(store)
    asked = without_condemned(store, holders())
    sizes = {entry.name: entry.size_bytes for entry in store.transport.entries(layout.PACKS)}
    still = without_condemned(store, holders())
    packs = tuple(
        sorted(
            pack
            for pack in asked.keys() & still.keys()
            if _is_held(asked[pack], doomed | asked.keys(), sizes)
            and _is_held(still[pack], doomed | still.keys(), sizes)
        )
    )
    if packs:
        _state(store, packs, reason, clock)
    gone: dict[PackId, int] = {}
    for pack in packs:
        name = layout.pack(pack)
        with suppress(ObjectUnreadable, ShareRefused):  # it is kept, and asked for again
            store.for_writing().delete(name)
            gone[pack] = sizes.get(name, 0)
    return DeletedPacks(tuple(gone), sum(gone.values()), tuple(sorted(set(asked) - set(gone))))


def without_condemned(store: DataStore, holders: Holders) -> Holders:
    """Rely on no pack that is condemned: whoever did that may be deleting it at this moment."""
    gone = condemned_packs(store)
    return {pack: others for pack, others in holders.items() if not gone & others.keys()}


def _is_held(
    holders: Mapping[PackId, int], going: Collection[PackId], sizes: Mapping[str, int]
) -> bool:
    whole = all(sizes.get(layout.pack(pack)) == size for pack, size in holders.items())
    return bool(holders) and whole and not holders.keys() & set(going)


def _state(store: DataStore, packs: tuple[PackId, ...], reason: str, clock: Clock) -> None:
    for start in range(0, len(packs), _MAX_PACKS):
        state_swept(store, packs[start : start + _MAX_PACKS], (), reason, clock)


def state_swept(
    store: DataStore,
    packs: tuple[PackId, ...],
    objects: tuple[str, ...],
    reason: str,
    clock: Clock,
) -> None:
    """Say that packs and other objects are about to be deleted."""

    def made(number: int) -> SweptDocument:
        return SweptDocument(
            number=number,
            made_at=clock().isoformat(),
            reason=reason,
            packs=packs,
            objects=objects,
        )

    state(store, layout.SWEPT, made)


def deleted_packs(view: SignedView) -> set[PackId]:
    """Packs that signed statements say were given back: their absence is no loss."""
    return said_in(view, swept_names(view))


def deleted_objects(view: SignedView) -> set[str]:
    """Block maps, index segments and the like of which the same is said."""
    said = statements(view, layout.SWEPT, SweptDocument)
    return {name for _, statement in said for name in statement.objects}

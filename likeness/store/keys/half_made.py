"""A place for a new store: tried out, and gone on with where an earlier try was cut short."""

from contextlib import suppress
from pathlib import Path

from likeness.errors import LikenessError, ObjectMissing, ShareRefused
from likeness.model.ids import PackId, RunId, random_name
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.keys.keyring import add_recovery_words
from likeness.transport.base import Transport

_MADE_FIRST = (f"{layout.KEYS}/", f"{layout.OWNER}/")
"""Where everything lies that is written before the document that makes a place a store."""


def try_out(place: Transport) -> None:
    """Write an object, read it back, and remove it.

    Raises:
        ShareRefused: The place does not take, give or remove it.
    """
    run, data = RunId(random_name()), random_name().encode()
    name = layout.arriving_pack(run, PackId(random_name()))
    was_there = layout.INBOX in place.folders("")  # perhaps with rights that delegates need
    place.create(name, [data])
    try:
        if place.read(name) != data:
            raise ShareRefused(f"{place} does not give back what was written; choose another place")
    finally:
        place.delete(name)
        place.delete_folder(layout.inbox(run))
        if not was_there:
            with suppress(LikenessError):  # it holds what others brought
                place.delete_folder(layout.INBOX)


def finish_store(place: Transport, key_file: Path) -> tuple[DataStore, str] | None:
    """The store that an earlier try made whole, with more recovery words: nobody saw the first.

    Returns:
        Nothing if the place holds none; what a try left half-made there is removed.

    Raises:
        WrongKey: The store there is not the one of this key file.
    """
    if any(_shows(place, copy) for copy in layout.FORMAT_COPIES):
        store = open_store_with_key_file(place, key_file)
        _, words = add_recovery_words(store)
        return store, words
    left = [entry.name for entry in place.entries("")]
    if all(name.startswith(_MADE_FIRST) for name in left):
        for name in left:
            place.delete(name)
        key_file.unlink(missing_ok=True)  # it opens nothing: there is no store
    return None


def _shows(place: Transport, name: str) -> bool:
    try:
        place.size(name)
    except ObjectMissing:
        return False
    return True

"""Begun for nothing: objects that a writer who was killed only began, and that nobody counts on.

They lie there for ever, and are no damage: whoever copies a store passes over them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from likeness.codec.blobs import MAX_BLOB_BYTES
from likeness.codec.documents import MAX_DOCUMENT_BYTES, Kind
from likeness.errors import Damaged, ObjectMissing
from likeness.model.ids import VmId
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import CatalogCopyDocument, HeadDocument
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import SignedView
from likeness.store.format.unfinished import is_unfinished
from likeness.store.read.versions import record_names
from likeness.store.write.heads import FIRST, read_head_state
from likeness.store.write.holding import Hold, holds_on
from likeness.store.write.torn_records import torn_records

_MAX_BYTES = max(MAX_BLOB_BYTES, MAX_DOCUMENT_BYTES)


def is_begun_for_nothing(store: SignedView, name: str) -> bool:
    """Whether an object was never finished, and no version and no head knows of it."""
    folder, _, rest = name.partition("/")
    if not _is_unfinished(store, name):
        return False
    if folder == layout.MAPS:
        return True  # versions speak for what they need, of maps and of the index
    if folder == layout.VERSIONS:
        vm = VmId(rest.partition("/")[0])
        return name in torn_records(store, vm, record_names(store, vm))
    if folder == layout.HEADS:
        return _begins_anew_after(store, layout.number_of(name))
    if folder == layout.CATALOG and "-" in rest:
        return name not in _parts(store, f"{folder}/{rest.partition('-')[0]}")
    return folder in (*layout.CONTROL, layout.CATALOG) and not _is_told_of(store, name)


def holds_now(store: DataStore) -> Mapping[str, Sequence[Hold]]:
    """As `holds_on`; a pin that somebody only began to write holds nothing."""
    try:
        return holds_on(store)
    except Damaged:
        names = [entry.name for entry in store.transport.entries(layout.HOLDS)]
        begun = {name for name in names if is_begun_for_nothing(store, name)}
        if not begun:
            raise
        return holds_on(store, but=begun)


def _is_unfinished(store: SignedView, name: str) -> bool:
    with suppress(*UNREADABLE):
        return is_unfinished(name, store.transport.read(name, 0, _MAX_BYTES + 1))
    return False


def _begins_anew_after(store: SignedView, number: int) -> bool:
    """Whether no head goes on from this one: there is none after it, or one that begins anew."""
    try:
        after = layout.numbered(layout.HEADS, number + 1)
        head, _ = store.read_surely(after, Kind.HEAD, HeadDocument)
    except ObjectMissing:
        return True
    except UNREADABLE:
        return False
    return head.previous == FIRST


def _parts(store: SignedView, copy: str) -> Sequence[str]:
    """What a copy of the catalog consists of."""
    with suppress(*UNREADABLE):
        document, _ = store.read(copy, Kind.CATALOG_COPY, CatalogCopyDocument)
        return document.parts
    return ()


def _is_told_of(store: SignedView, name: str) -> bool:
    try:
        return name in read_head_state(store).objects
    except UNREADABLE:
        return True

"""Unfinished objects: how one begins, and no more, since whoever wrote it died meanwhile."""

from likeness.codec.blobs import is_unfinished_blob
from likeness.codec.documents import Frame
from likeness.errors import Damaged, ObjectMissing
from likeness.store.format import layout
from likeness.store.format.believing import ReopenableStore, read_surely
from likeness.store.format.observations import UNKNOWN


def is_unfinished(name: str, data: bytes) -> bool:
    """Whether the bytes of an object are only how one of its kind begins; they may be none.

    Somebody may be writing it at this very moment. What was whole and was cut off since looks the
    same: whoever must know asks what counts on it.
    """
    folder = name.partition("/")[0]
    if folder == layout.MAPS or (folder == layout.CATALOG and "-" in name):
        return is_unfinished_blob(data)
    return Frame.is_unfinished(data)


def is_torn(store: ReopenableStore, name: str) -> bool:
    """Whether a document is not whole, seen twice.

    One that is whole and not to be believed is no torn one: a store that was opened before a new
    epoch began does not know that epoch's keys, and must not move its documents. Nor is one that
    nobody could read, or that a later release wrote.
    """
    try:
        read_surely(store, name, lambda data: Frame.parse(data, name=name))
    except Damaged:
        return True
    except (ObjectMissing, *UNKNOWN):
        return False
    return False

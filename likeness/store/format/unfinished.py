"""Unfinished objects: how one begins, and no more, since whoever wrote it died meanwhile."""

from likeness.codec.blobs import is_unfinished_blob
from likeness.codec.documents import Frame
from likeness.store.format import layout


def is_unfinished(name: str, data: bytes) -> bool:
    """Whether the bytes of an object are only how one of its kind begins; they may be none.

    Somebody may be writing it at this very moment. What was whole and was cut off since looks the
    same: whoever must know asks what counts on it.
    """
    folder = name.partition("/")[0]
    if folder == layout.MAPS or (folder == layout.CATALOG and "-" in name):
        return is_unfinished_blob(data)
    return Frame.is_unfinished(data)

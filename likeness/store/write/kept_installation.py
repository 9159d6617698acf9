"""What an installation needs to run again, sealed, so that it can lie in a copy of the catalog.

Blocks with their logins, settings and jobs: opened by whoever has the store's key, and by nobody
else, wherever the copy lies on its way.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from likeness.codec.blobs import BlobKind, read_blob, write_blob
from likeness.errors import Damaged, LikenessError
from likeness.store.format.data_store import DataStore
from likeness.store.write.catalog_copies import fetch_newest

FILE = "installation.sealed"
"""Beside the catalog's files in a copy."""
_CONTEXT = b"installation"


def seal_installation(store: DataStore, said: bytes) -> bytes:
    """Seal what an installation needs."""
    return write_blob(BlobKind.INSTALLATION, _CONTEXT, said, keys=store.keys, suite=store.suite)


def newest_installation(store: DataStore) -> bytes:
    """What the newest whole copy of the catalog says; nothing where none does."""
    with TemporaryDirectory(prefix="likeness-kept-") as scratch:
        folder = Path(scratch) / "copy"
        try:
            fetch_newest(store, folder)
            data = (folder / FILE).read_bytes()
            return read_blob(data, BlobKind.INSTALLATION, _CONTEXT, keys=store.keys, name=FILE)
        except (FileNotFoundError, Damaged, LikenessError):
            return b""

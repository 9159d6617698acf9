"""Vaulting: a second store of the same id and format, filled with the same sealed bytes.

No key is needed: packs are compared with the digests their index segments signed for, documents
with their signatures. Whatever a version needs is copied before the version's record, so the vault
never shows a version that it cannot restore.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from likeness.codec.blobs import check_blob
from likeness.codec.documents import Frame, Kind
from likeness.codec.hashing import digest
from likeness.errors import BadInput, Damaged, ObjectMissing
from likeness.model.ids import PackId, random_name
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.documents import IndexClear
from likeness.transport.base import Entry, Transport

_COPIERS = 3
_BEFORE = ((layout.KEYS, layout.OWNER, layout.MAPS), (layout.PACKS,))
_AFTER = ((layout.INDEX, layout.SWEPT), (layout.VERSIONS,), (layout.HEADS, layout.CATALOG))
"""Each group is whole in the vault before the next begins. What comes after the packs is listed
before them, so that a version committed meanwhile waits for the next time."""
_KINDS = {
    layout.OWNER: Kind.OWNER,
    layout.INDEX: Kind.INDEX,
    layout.SWEPT: Kind.SWEPT,
    layout.VERSIONS: Kind.VERSION,
    layout.HEADS: Kind.HEAD,
    layout.CATALOG: Kind.CATALOG_COPY,
}


@dataclass(frozen=True, slots=True)
class Copied:
    """One object that the vault has now.

    Attributes:
        name: Its name in both stores.
        size_bytes: Its length.
        problem: Why it was not copied, in words; empty if it was.
    """

    name: str
    size_bytes: int
    problem: str = ""


def copy_to_vault(store: DataStore, vault: Transport, *, stop: StopToken) -> Iterator[Copied]:
    """Copy everything the vault lacks.

    Args:
        store: Where from.
        vault: Where to: an empty place, or a vault of this store.
        stop: Looked at before every object.

    Yields:
        Each object that was copied, and each that was not because it is damaged here.

    Raises:
        BadInput: The vault is another store's.
        ShareFull: The vault has no room left.
        ShareUnreachable: One of the two places does not answer.
    """
    _require_own_vault(store, vault)
    listed = [list(_all_lacking(store, vault, group)) for group in reversed(_AFTER)]
    digests = _pack_digests(store)
    before: Iterable[Iterable[Entry]] = (_all_lacking(store, vault, group) for group in _BEFORE)

    def copy(entry: Entry) -> Copied:
        stop.check()
        return _copy(store, vault, entry, digests)

    for group in itertools.chain(before, reversed(listed)):
        yield from bounded_map(copy, group, workers=_COPIERS, name="vault")
    for name in reversed(layout.FORMAT_COPIES):
        if not _has(vault, name):
            data = store.transport.read(name)
            vault.create(name, [data])
            yield Copied(name, len(data))


class _NotCommitted(Exception):  # a state, and nothing is wrong
    """A pack whose commit is under way; the next vaulting takes it."""


def _require_own_vault(store: DataStore, vault: Transport) -> None:
    for copy in layout.FORMAT_COPIES:
        try:
            frame = Frame.parse(vault.read(copy), name=layout.FORMAT_COPIES[0])
            frame.require_signature(Kind.FORMAT, store.keys.public(frame.epoch))
        except ObjectMissing:
            continue
        except Damaged as cause:
            raise BadInput(
                f"the vault at {vault!r} belongs to another data store, or its {copy} is damaged;"
                " choose another place for this vault"
            ) from cause


def _pack_digests(store: DataStore) -> dict[PackId, bytes]:
    """What each pack's bytes must hash to. About 150 bytes of memory a pack (16 MiB of store)."""
    digests: dict[PackId, bytes] = {}
    for entry in store.transport.entries(layout.INDEX):
        if layout.is_known(entry.name):
            clear, _ = store.read(entry.name, Kind.INDEX, IndexClear)
            digests.update((PackId(p.pack), bytes.fromhex(p.digest)) for p in clear.packs)
    return digests


def _all_lacking(store: DataStore, vault: Transport, folders: tuple[str, ...]) -> Iterator[Entry]:
    for folder in folders:
        yield from _lacking(store, vault, folder)


def _lacking(store: DataStore, vault: Transport, folder: str) -> Iterator[Entry]:
    """Objects of ours that the vault lacks, or has in another length (torn in mid-write)."""
    there = vault.entries(folder)
    theirs = next(there, None)
    for mine in store.transport.entries(folder):
        while theirs is not None and theirs.name < mine.name:
            theirs = next(there, None)
        same = theirs is not None and theirs.name == mine.name
        if layout.is_known(mine.name) and not (
            same and theirs is not None and theirs.size_bytes == mine.size_bytes
        ):
            yield mine


def _copy(store: DataStore, vault: Transport, entry: Entry, digests: dict[PackId, bytes]) -> Copied:
    try:
        data = store.transport.read(entry.name)
        _require_whole(store, entry.name, data, digests)
    except _NotCommitted:
        return Copied(entry.name, 0)
    except (Damaged, ObjectMissing) as cause:
        return Copied(entry.name, 0, str(cause))
    if _has(vault, entry.name):
        vault.rename(entry.name, f"{layout.QUARANTINE}/{random_name()}")
    vault.create(entry.name, [data])
    return Copied(entry.name, len(data))


def _require_whole(store: DataStore, name: str, data: bytes, digests: dict[PackId, bytes]) -> None:
    """Nothing damaged is vaulted.

    Raises:
        Damaged: It is not what was signed.
        _NotCommitted: A pack no index segment knows.
    """
    folder = name.partition("/")[0]
    if folder == layout.PACKS:
        expected = digests.get(PackId(name.rpartition("/")[2]))
        if expected is None:
            raise _NotCommitted
        if digest([data]) != expected:
            raise Damaged(name, "its bytes are not what its index segment signed for")
    elif folder == layout.MAPS or (folder == layout.CATALOG and "-" in name):
        check_blob(data, name=name)
    else:
        frame = Frame.parse(data, name=name)
        frame.require_signature(_kind_of(name), store.verifier(frame))


def _kind_of(name: str) -> Kind:
    folder = name.partition("/")[0]
    if folder == layout.KEYS:
        return Kind.SLOT if "/slot-" in name else Kind.PUBLIC_KEYS
    return _KINDS[folder]


def _has(transport: Transport, name: str) -> bool:
    try:
        transport.size(name)
    except ObjectMissing:
        return False
    return True

"""Vaulting: a second store of the same id and format, filled with the same sealed bytes.

No key is needed: packs are compared with the digests their index segments signed for, documents
with their signatures. Whatever a version brought in is copied before the version's record; where
some of it is damaged or missing here, the record waits until it is whole again. A pack that was
given back is not waited for: a signed statement says that other packs hold all that was in it.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from likeness.codec.blobs import MOST_BLOB_BYTES, check_blob
from likeness.codec.documents import MOST_DOCUMENT_BYTES, Frame, Kind
from likeness.codec.hashing import digest
from likeness.codec.keys import FIRST_EPOCH
from likeness.errors import BadInput, Damaged, DocumentForged, ObjectMissing
from likeness.model.ids import PackId, random_name
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store import layout
from likeness.store.data_store import DataStore
from likeness.store.documents import IndexClear, VersionClear, decode
from likeness.store.pack import MOST_PACK_BYTES
from likeness.store.second_place import require_second_place
from likeness.store.sweeping import given_back
from likeness.transport.base import Entry, Transport

_COPIERS = 3
_MOST_BYTES = max(MOST_BLOB_BYTES, MOST_DOCUMENT_BYTES, MOST_PACK_BYTES)
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
        BadInput: The vault is another store's, or is the data store by another name.
        ShareFull: The vault has no room left.
        ShareUnreachable: One of the two places does not answer.
    """
    require_second_place(store.transport, vault)
    _require_own_vault(store, vault)
    listed = [list(_all_lacking(store, vault, group)) for group in reversed(_AFTER)]
    goods = _Goods(store, vault)
    before: Iterable[Iterable[Entry]] = (_all_lacking(store, vault, group) for group in _BEFORE)

    def copy(entry: Entry) -> Copied | None:
        stop.check()
        return goods.copy(entry)

    for group in itertools.chain(before, reversed(listed)):
        for copied in bounded_map(copy, group, workers=_COPIERS, name="vault"):
            if copied is not None:
                yield copied
    for name in reversed(layout.FORMAT_COPIES):
        if not _is_whole_format(store, vault, name) and (copied := goods.copy(Entry(name, 0))):
            yield copied


class _NotCommitted(Exception):  # a state, and nothing is wrong
    """A pack whose commit is under way; the next vaulting takes it."""


def _require_own_vault(store: DataStore, vault: Transport) -> None:
    """A copy of the format document that was torn in mid-write is no other store's."""
    for copy in layout.FORMAT_COPIES:
        try:
            _is_whole_format(store, vault, copy)
        except DocumentForged as cause:
            raise BadInput(
                f"the vault at {vault!r} belongs to another data store; choose another place for"
                " this vault"
            ) from cause


def _is_whole_format(store: DataStore, vault: Transport, copy: str) -> bool:
    """Whether the vault has this copy of our format document.

    Raises:
        DocumentForged: It is whole, and another store's.
    """
    try:
        data = vault.read(copy, 0, MOST_DOCUMENT_BYTES + 1)
        frame = Frame.parse(data, name=layout.FORMAT_COPIES[0])
    except (Damaged, ObjectMissing):
        return False
    frame.require_signature(Kind.FORMAT, store.keys.public(max(frame.epoch, FIRST_EPOCH)))
    return True


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


class _Goods:
    """What may be copied: only what is whole here, and a version only with what it brought in."""

    def __init__(self, store: DataStore, vault: Transport) -> None:
        """Learn what each pack must hash to; about 200 bytes of memory a pack."""
        self._store, self._vault = store, vault
        self._digests: dict[PackId, bytes] = {}
        self._given_back = given_back(store)
        self._brought: dict[str, list[PackId]] = {}
        self._spoilt: set[str] = set()
        for entry in store.transport.entries(layout.INDEX):
            if layout.is_known(entry.name):
                self._learn(entry.name)

    def copy(self, entry: Entry) -> Copied | None:
        """Copy one object; none if it is not yet time for it, or not needed."""
        try:
            data = _read(self._store.transport, entry.name)
            self._require_whole(entry.name, data)
        except _NotCommitted:
            return None
        except (Damaged, ObjectMissing) as cause:
            if self._does_without(entry.name, cause):
                return None
            self._spoilt.add(entry.name)
            return Copied(entry.name, 0, str(cause))
        if _has(self._vault, entry.name):
            self._vault.rename(entry.name, f"{layout.QUARANTINE}/{random_name()}")
        self._vault.create(entry.name, [data])
        return Copied(entry.name, len(data))

    def _does_without(self, name: str, cause: Damaged | ObjectMissing) -> bool:
        """Whether the vault lacks nothing although an object is not whole here.

        Either the vault has it whole, or it was given back, perhaps since it was listed.
        """
        if self._is_given_back(name):
            return True
        try:
            self._require_whole(name, _read(self._vault, name))
        except (Damaged, ObjectMissing):
            return False
        return True

    def _is_given_back(self, name: str) -> bool:
        """Whether other packs hold all that was in this one, as statements say, new ones too."""
        folder, _, pack = name.rpartition("/")
        if not folder.startswith(layout.PACKS):
            return False
        if PackId(pack) not in self._given_back:
            self._given_back = given_back(self._store)
        return PackId(pack) in self._given_back

    def _learn(self, segment: str) -> None:
        try:
            clear, _ = self._store.read(segment, Kind.INDEX, IndexClear)
        except (Damaged, ObjectMissing):
            return  # told of when it is to be copied
        self._brought[segment] = [PackId(pack.pack) for pack in clear.packs]
        self._digests.update((PackId(p.pack), bytes.fromhex(p.digest)) for p in clear.packs)

    def _require_whole(self, name: str, data: bytes) -> None:
        """Nothing damaged is vaulted.

        Raises:
            Damaged: It is not what was signed.
            _NotCommitted: A pack no index segment knows.
        """
        folder = name.partition("/")[0]
        if folder == layout.PACKS:
            expected = self._digests.get(PackId(name.rpartition("/")[2]))
            if expected is None:
                raise _NotCommitted
            if digest([data]) != expected:
                raise Damaged(name, "its bytes are not what its index segment signed for")
        elif folder == layout.MAPS or (folder == layout.CATALOG and "-" in name):
            check_blob(data, name=name)
        else:
            self._require_signed(name, data)

    def _require_signed(self, name: str, data: bytes) -> None:
        kind = _kind_of(name)
        signed_name = layout.FORMAT_COPIES[0] if kind is Kind.FORMAT else name
        frame = Frame.parse(data, name=signed_name)
        frame.require_signature(kind, self._store.verifier(frame))
        if kind is Kind.VERSION:
            self._require_complete(name, decode(frame.clear, VersionClear, name=name))

    def _require_complete(self, name: str, clear: VersionClear) -> None:
        for each in clear.objects:
            if each in self._spoilt or not _has(self._vault, each):
                raise Damaged(name, f"{each}, which it brought in, is not whole in this store")
            for pack in map(layout.pack, self._brought.get(each, ())):
                if pack in self._spoilt or not self._is_provided(pack):
                    raise Damaged(name, f"{pack}, which it brought in, is not whole in this store")

    def _is_provided(self, pack: str) -> bool:
        """Whether the vault has a pack, or what was in it, which other packs hold."""
        return _has(self._vault, pack) or self._is_given_back(pack)


def _kind_of(name: str) -> Kind:
    folder = name.partition("/")[0]
    if folder == layout.KEYS:
        return Kind.SLOT if "/slot-" in name else Kind.PUBLIC_KEYS
    return Kind.FORMAT if name in layout.FORMAT_COPIES else _KINDS[folder]


def _read(transport: Transport, name: str) -> bytes:
    """An object, or of one that is longer than any may be only so much that it is refused."""
    return transport.read(name, 0, _MOST_BYTES + 1)


def _has(transport: Transport, name: str) -> bool:
    try:
        transport.size(name)
    except ObjectMissing:
        return False
    return True

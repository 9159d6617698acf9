"""Salvaging: packs opened record by record, for when no index segment and no table tells of them.

Records name their own chunk and are bound to their session alone. So whatever still opens is what
was sealed, wherever it lies: in a pack that lost its end, under another's name, or in an inbox.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from likeness.codec.records import (
    RECORD_MAGIC,
    Opened,
    Opener,
    largest_record_bytes,
    record_length,
)
from likeness.errors import Damaged, LikenessError
from likeness.model.ids import PackId
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.locations import PackLocations
from likeness.store.format.observations import NOT_READ, UNREADABLE
from likeness.store.format.pack import (
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    PackHeader,
    table_at,
)
from likeness.transport.base import Entry
from likeness.transport.passing import CarefulTransport

Note = Callable[[str, LikenessError], None]
"""Told of each pack that cannot be read at the moment, and why."""


def records_in(
    data: bytes, openers: Sequence[Opener], name: str
) -> Iterator[tuple[int, int, Opened | None]]:
    """Everything that begins like a record: where it begins and ends, and what it opens to.

    Neither a table nor a trailer is needed.
    """
    offset = data.find(RECORD_MAGIC)
    while offset >= 0:
        opened, end = _try_record(data, offset, openers, name)
        yield offset, end, opened
        offset = data.find(RECORD_MAGIC, end)


def _try_record(
    data: bytes, offset: int, openers: Sequence[Opener], name: str
) -> tuple[Opened | None, int]:
    for opener in openers:
        longest = largest_record_bytes(opener.chunk_bytes, opener.suite)
        try:
            end = offset + record_length(data, offset, name=name)
            if end <= min(len(data), offset + longest):
                return opener.open(data[offset:end], name=name, offset=offset), end
        except Damaged:
            continue
    return None, offset + len(RECORD_MAGIC)


def read_table(store: DataStore, entry: Entry, *, scope: bytes | None = None) -> PackLocations:
    """A pack's own table, without reading the pack; with a scope, only if all of it is of that.

    Raises:
        Damaged: It has none that opens, or it is of another scope.
        ObjectMissing: The pack is not there any more.
        StoreTooNew: A later release wrote it.
    """
    name, size = entry.name, entry.size_bytes
    if size > MAX_PACK_BYTES:
        raise Damaged(name, f"{size} bytes cannot be a pack")
    head = store.transport.read(name, 0, PackHeader.max_bytes(sessions=8))
    header = PackHeader.parse(head, name=name, store=store.store_id)
    if header.pack != name.rpartition("/")[2]:
        raise Damaged(name, f"it is pack {header.pack} under another's name")
    if scope is not None and any(session.scope != scope for session in header.sessions):
        raise Damaged(name, "its chunks are named in another scope than its sender's")
    end = store.transport.read(name, max(size - TRAILER_BYTES, 0), TRAILER_BYTES)
    offset, length = table_at(end, size, name=name)
    return header.locations(store.transport.read(name, offset, length), store.keys)


class Salvager:
    """Opens what is left of packs, with the session keys of all of them if need be."""

    def __init__(self, store: DataStore, stop: StopToken, unread: Note) -> None:
        """Look into the packs of `store`; `unread` is told of those that cannot be read."""
        self._store, self._stop, self._unread = store, stop, unread
        self._sessions: tuple[Opener, ...] | None = None

    def records(self, name: str) -> Iterator[Opened]:
        """Every record of a pack that opens, whatever else is lost of it."""
        self._stop.check()
        try:
            data = self._store.transport.read(name, 0, MAX_PACK_BYTES)
            openers = self._openers(data, name)
        except NOT_READ as cause:
            self._unread(name, cause)
            return
        except UNREADABLE:
            return
        for _, _, opened in records_in(data, openers, name):
            if opened is not None:
                yield opened

    def _openers(self, data: bytes, name: str) -> Sequence[Opener]:
        store = self._store
        try:
            header = PackHeader.parse_any(data, name=name, store=store.store_id, suite=store.suite)
            return (self._opener(header),)
        except Damaged:
            return self._of_others()  # a run's packs share their session

    def _opener(self, header: PackHeader) -> Opener:
        store = self._store
        return header.opener(store.keys, chunk_bytes=store.chunk_bytes)

    def _of_others(self) -> tuple[Opener, ...]:
        if self._sessions is None:
            found: dict[tuple[bytes, ...], Opener] = {}
            for entry in _all_packs(self._store, lambda *_: None):
                try:
                    header = _header(self._store, entry.name)
                    boxes = tuple(session.boxed for session in header.sessions)
                    if boxes not in found:
                        found[boxes] = self._opener(header)
                except (*UNREADABLE, *NOT_READ):
                    continue
            self._sessions = tuple(found.values())
        return self._sessions


def tables(
    store: DataStore, indexed: Container[PackId], unread: Note
) -> Iterator[tuple[PackId, PackLocations]]:
    """What packs that no index segment knows say of themselves: the index, made again from packs.

    Args:
        store: Where.
        indexed: Packs that are left out.
        unread: Told of each pack that cannot be read.
    """
    for entry in _all_packs(store, unread):
        pack = PackId(entry.name.rpartition("/")[2])
        if pack in indexed:
            continue
        try:
            yield pack, read_table(store, entry)
        except NOT_READ as cause:
            unread(entry.name, cause)
        except UNREADABLE:
            continue  # it may be salvaged


def unindexed_packs(
    store: DataStore, indexed: Mapping[PackId, int], failed: Container[PackId], unread: Note
) -> Iterator[str]:
    """Names of packs that may hold what nothing says they hold.

    Those that no index segment knows, or knows in another length; those under another's name or
    without a beginning; those that failed; and whatever lies in inboxes.

    Args:
        store: Where.
        indexed: Length of each pack that the index knows.
        failed: Packs that did not give what the index says of them.
        unread: Told of packs that cannot be read.
    """
    for entry in _all_packs(store, unread):
        pack = PackId(entry.name.rpartition("/")[2])
        if indexed.get(pack) != entry.size_bytes or pack in failed:
            yield entry.name
            continue
        try:
            strange = _header(store, entry.name).pack != pack
        except NOT_READ as cause:
            unread(entry.name, cause)
            continue
        except UNREADABLE:
            strange = True
        if strange:
            yield entry.name
    for entry in _listed(store, layout.INBOX, unread):
        if layout.is_known(entry.name) and entry.size_bytes <= MAX_PACK_BYTES:
            yield entry.name


def _all_packs(store: DataStore, unread: Note) -> Iterator[Entry]:
    for entry in _listed(store, layout.PACKS, unread):
        if layout.is_known(entry.name):
            yield entry


def _listed(store: DataStore, folder: str, unread: Note) -> Iterator[Entry]:
    listing = CarefulTransport(store.transport)
    yield from listing.entries(folder)
    for closed, cause in listing.closed.items():
        unread(closed, cause)


def _header(store: DataStore, name: str) -> PackHeader:
    head = store.transport.read(name, 0, PackHeader.max_bytes(sessions=8))
    return PackHeader.parse(head, name=name, store=store.store_id)

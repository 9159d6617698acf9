"""Index segments: which chunk lies in which pack, and what each pack's bytes must hash to.

The clear part is signed with the packs' digests, so whoever has the public key can prove every
pack without opening one. The sealed part holds, for each pack in the same order and integers
little-endian: places x (chunk id 32 | offset u32 | length u32).
"""

import itertools
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from likeness.clock import Clock
from likeness.codec.documents import Kind
from likeness.errors import Damaged, LikenessError
from likeness.model.ids import PackId, RunId, random_name
from likeness.store.format import layout
from likeness.store.format.believing import LOST
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import HeadObject, IndexClear, IndexedPack
from likeness.store.format.locations import LOCATION_BYTES, PackLocations
from likeness.store.format.observations import UNKNOWN, UNREADABLE
from likeness.store.format.pack import MAX_PACK_BYTES, Pack, PackReceipt
from likeness.store.read.versions import clear_part, record_names, vms
from likeness.transport.base import Entry
from likeness.transport.passing import CarefulTransport

MAX_LOCATIONS = 1 << 17
"""Locations one segment holds before the next is begun: about 5 MiB."""
MAX_PACKS = 1 << 12


@dataclass(frozen=True, slots=True)
class KnownPack:
    """A pack as the store's index vouches for it.

    Attributes:
        pack: Its name.
        size_bytes: Length of the object.
        digest: BLAKE3 of the object, 32 bytes.
        run: The run that brought it.
        locations: Its chunks, by offset; only those that were asked for.
    """

    pack: PackId
    size_bytes: int
    digest: bytes
    run: RunId
    locations: PackLocations


def write_index(
    store: DataStore, receipts: Iterable[PackReceipt], *, run: RunId, clock: Clock
) -> Iterator[HeadObject]:
    """Write index segments for packs that lie in their final place.

    Yields:
        Name and digest of each segment, once it is durable.
    """
    batch: list[PackReceipt] = []
    locations = 0
    for receipt in receipts:
        if batch and (
            locations + len(receipt.locations) > MAX_LOCATIONS or len(batch) >= MAX_PACKS
        ):
            yield _write_segment(store, batch, run, clock)
            batch, locations = [], 0
        batch.append(receipt)
        locations += len(receipt.locations)
    if batch:
        yield _write_segment(store, batch, run, clock)


def _write_segment(
    store: DataStore, receipts: list[PackReceipt], run: RunId, clock: Clock
) -> HeadObject:
    packs = tuple(
        IndexedPack(
            pack=receipt.pack,
            size_bytes=receipt.size_bytes,
            digest=receipt.digest.hex(),
            checksum=receipt.checksum.hex(),
            chunks=len(receipt.locations),
        )
        for receipt in receipts
    )
    sealed = b"".join(receipt.locations.packed for receipt in receipts)
    name = layout.index_segment(random_name())
    clear = IndexClear(run=run, made_at=clock().isoformat(), packs=packs)
    digest, _ = store.write(name, Kind.INDEX, clear, sealed)
    return HeadObject(name=name, digest=digest)


def read_segment(
    store: DataStore,
    name: str,
    wanted: Container[PackId] | None = None,
    *,
    chunks: Container[bytes] | None = None,
) -> Iterator[KnownPack]:
    """The packs of one index segment, or those of them that are wanted.

    Args:
        store: Where.
        name: The segment.
        wanted: Which packs; all if none.
        chunks: Leave out the places of other chunks; several times as fast where few are wanted.

    Raises:
        Damaged: It is not whole, or not signed by this store.
    """
    clear, frame = store.read(name, Kind.INDEX, IndexClear)
    if not any(wanted is None or pack.pack in wanted for pack in clear.packs):
        return
    sealed = frame.unseal(store.keys)
    if len(sealed) != sum(pack.chunks for pack in clear.packs) * LOCATION_BYTES:
        raise Damaged(name, "its two parts do not fit together")
    at = 0
    for pack in clear.packs:
        start, at = at, at + pack.chunks * LOCATION_BYTES
        if wanted is not None and pack.pack not in wanted:
            continue
        locations = PackLocations(sealed[start:at])
        if chunks is not None:
            locations = locations.only(chunks)
        digest = bytes.fromhex(pack.digest)
        yield KnownPack(PackId(pack.pack), pack.size_bytes, digest, RunId(clear.run), locations)


def segments(
    store: DataStore, *, unread: Callable[[LikenessError], None] | None = None
) -> Iterator[str]:
    """Names of all index segments, in no order that means anything.

    Args:
        store: Where.
        unread: Told why they cannot be listed; those that versions brought are named all the
            same. Without it that raises.
    """
    closed: list[LikenessError] = []
    for entry in _listed(store, layout.INDEX, closed.append if unread else None):
        if layout.is_known(entry.name):
            yield entry.name
    if closed and unread:
        unread(closed[0])
        yield from _named_segments(store.over(CarefulTransport(store.transport)))


def _named_segments(store: DataStore) -> Iterator[str]:
    """Those that any version record speaks of."""
    for vm in vms(store):
        for name in record_names(store, vm):
            with suppress(*UNREADABLE):
                objects = clear_part(store, name, name).objects
                yield from (each for each in objects if each.startswith(f"{layout.INDEX}/"))


def _listed(
    store: DataStore, folder: str, unread: Callable[[LikenessError], None] | None
) -> Iterator[Entry]:
    """What can be listed of a folder."""
    if unread is None:
        yield from store.transport.entries(folder)
        return
    listing = CarefulTransport(store.transport)
    yield from listing.entries(folder)
    for cause in listing.closed.values():
        unread(cause)


def known_packs(
    store: DataStore,
    wanted: Collection[PackId] | None = None,
    *,
    first: Collection[str] = (),
    chunks: Container[bytes] | None = None,
    damaged: Callable[[LikenessError], None] | None = None,
) -> Iterator[KnownPack]:
    """All packs the index knows, or those `wanted`, until each of them was met.

    Args:
        store: Where.
        wanted: Which; all if none.
        first: Names of segments to look into before the others.
        chunks: Leave out the places of other chunks; all if none.
        damaged: Told of each segment that is lost, later than this release, or cannot be read at
            the moment: one of `UNREADABLE`; without it the first one raises.
    """
    left = None if wanted is None else set(wanted)
    others = (name for name in segments(store, unread=damaged) if name not in first)
    for name in itertools.chain(first, others):
        if left is not None and not left:
            return
        try:
            for pack in read_segment(store, name, left, chunks=chunks):
                yield pack
                if left is not None:
                    left.discard(pack.pack)
        except UNREADABLE as cause:
            if damaged is None:
                raise
            damaged(cause)


def unindexed_packs(
    store: DataStore,
    indexed: Container[PackId],
    *,
    unread: Callable[[LikenessError], None] | None = None,
) -> Iterator[tuple[PackId, PackLocations]]:
    """Packs that lie in their place and in no index segment, by their own tables.

    Slow, since every such pack is read whole; for when index segments are lost.

    Args:
        store: Where.
        indexed: Which are left out.
        unread: Told of each pack that cannot be read at the moment, or that a later release wrote;
            without it the first one raises.
    """
    for entry in _listed(store, layout.PACKS, unread):
        pack = PackId(entry.name.rpartition("/")[2])
        endless = entry.size_bytes > MAX_PACK_BYTES
        if pack in indexed or endless or not layout.is_known(entry.name):
            continue
        try:
            data = store.transport.read(entry.name)
            yield pack, Pack(data, name=entry.name, store=store.store_id).locations(store.keys)
        except LOST:
            continue
        except UNKNOWN as cause:
            if unread is None:
                raise
            unread(cause)

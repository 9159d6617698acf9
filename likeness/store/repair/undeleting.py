"""Undelete: a forgotten version is taken back, as long as all it needs is still there."""

from pathlib import Path

from likeness.clock import Clock
from likeness.errors import ObjectMissing, UnknownVersion
from likeness.model.ids import PackId, RunId
from likeness.model.sizes import readable_size
from likeness.stopping import StopToken
from likeness.store.check.needs import needs_of
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.ledger import Ledger
from likeness.store.read.index import KnownPack, known_packs
from likeness.store.read.packs_needed import packs_of
from likeness.store.read.versions import read_version_at
from likeness.store.write.condemning import owner_number, read_condemned, say_condemned
from likeness.store.write.forgetting import take_back


def forgotten_records(store: DataStore) -> list[str]:
    """Records of versions that may be taken back, as they were in `versions/`."""
    names = (entry.name for entry in store.transport.entries(layout.FORGOTTEN))
    return [layout.signed_name(name) for name in names if layout.is_known(name)]


def find_forgotten(store: DataStore, version: str) -> str:
    """The record of the forgotten version whose id begins so, at least four hex digits.

    Raises:
        UnknownVersion: None, or several.
    """
    found = [n for n in forgotten_records(store) if n.rpartition("-")[2].startswith(version)]
    if not found:
        raise UnknownVersion(
            f"no forgotten version begins with {version!r}; it was not forgotten, or is deleted"
            " already, and then only a vault may have it"
        )
    if len(found) != 1 or len(version) < 4:
        raise UnknownVersion(
            f"forgotten versions that begin with {version!r}: {len(found)}; give more of the id, at"
            " least four digits"
        )
    return found[0]


def undelete(
    store: DataStore, record: str, *, run: RunId, clock: Clock, scratch: Path, stop: StopToken
) -> list[KnownPack]:
    """Make a forgotten version one that exists again. The caller holds the gate.

    Args:
        store: Where.
        record: The name of its record, as it was in `versions/`.
        run: For statements.
        clock: The present.
        scratch: A folder for one block map at a time.
        stop: Looked at between maps.

    Returns:
        The packs it needs that were condemned, and are not any more.

    Raises:
        UnknownVersion: It was not forgotten, or some of it is deleted already.
        Damaged: Its record or a block map is.
    """
    lies_at = layout.forgotten_record(record)
    try:
        version = read_version_at(store, record, lies_at)
    except ObjectMissing as cause:
        raise UnknownVersion(f"there is no forgotten version {record}") from cause
    condemned = read_condemned(store)
    tainted = condemned.by_others(owner_number(store))
    sizes = {entry.name: entry.size_bytes for entry in store.transport.entries(layout.PACKS)}
    there = Ledger(scratch)
    for pack in known_packs(store):
        if sizes.get(layout.pack(pack.pack)) == pack.size_bytes and pack.pack not in tainted:
            there.add(pack.locations.chunks())
    needs = needs_of(store, {record: lies_at}, there, (), scratch=scratch, stop=stop)
    if record in needs.lacking:
        lost = readable_size(needs.lacking[record].lost_bytes)
        id_ = record.rpartition("-")[2][:8]
        raise UnknownVersion(
            f"version {id_} cannot be taken back: {lost} of its disks are deleted already, or may"
            " be at any moment; a vault may have it whole"
        )
    needed: set[PackId] = packs_of(store, version, scratch=scratch, stop=stop)
    mine = needed & condemned.packs.keys() - tainted
    if mine:
        say_condemned(store, mine, (), run=run, clock=clock, spared=True)
    take_back(store, record, reason="taken back", clock=clock)
    return list(known_packs(store, mine))

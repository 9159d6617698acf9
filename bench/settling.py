"""What follows a job in the product, without its catalog: proofs, the global pass, compaction.

Where each data block lies, the catalog's part, is read from the index and kept in a file between
the steps; all else is the product's own code. It differs in one thing: what is condemned goes at
once here, and a week later there.
"""

import pickle
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np

from likeness.agent.known_ids import KnownIds
from likeness.clock import system_clock
from likeness.model.ids import ChunkId, PackId, RunId, random_name
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_packs
from likeness.store.format import layout
from likeness.store.format.copies import Copies, Copy
from likeness.store.format.data_store import DataStore
from likeness.store.format.pack import PackReceipt
from likeness.store.prune.compacting import LIVE_SHARE, Compaction
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.prune.sweeping import Holders, delete_redundant_packs
from likeness.store.read.index import KnownPack, known_packs

Serving = dict[ChunkId, Copy]
"""The one pack that each data block is to be had from."""


def prove_all(store: DataStore, packs: list[PackId] | None = None) -> list[PackId]:
    """Read packs back, all that are there if none are named.

    Raises:
        SystemExit: One is not whole.
    """
    names = [pack.pack for pack in _kept_packs(store)] if packs is None else packs
    for proof in prove_packs(store, names, clock=system_clock, stop=StopToken()):
        if proof.finding is not Finding.PROVED:
            raise SystemExit(f"pack {proof.pack} that was just written does not prove: {proof}")
    return names


def _kept_packs(store: DataStore) -> list[KnownPack]:
    """What the index knows, less what was given back since."""
    left = {entry.name for entry in store.transport.entries(layout.PACKS)}
    return [pack for pack in known_packs(store) if layout.pack(pack.pack) in left]


def settle(store: DataStore, folder: Path) -> None:
    """Prove what is there, keep what several packs hold once, and note what may be relied on."""
    prove_all(store)
    packs = _kept_packs(store)
    serving = _serving(packs)
    held = _held_elsewhere(packs, serving)
    delete_redundant_packs(store, lambda: held, reason="held twice", clock=system_clock)
    _compact(store, folder, [pack for pack in packs if pack.pack not in held], serving)
    serving = _serving(_kept_packs(store))
    (folder / "copies").write_bytes(pickle.dumps(serving))
    keys = np.frombuffer(b"".join(chunk[:16] for chunk in serving), ">u8").reshape(-1, 2)
    keys = keys[np.lexsort((keys[:, 1], keys[:, 0]))].astype(np.uint64)
    (folder / "known ids").write_bytes(keys[:, 0].tobytes() + keys[:, 1].tobytes())


def _serving(packs: Iterable[KnownPack]) -> Serving:
    found: Serving = {}
    for pack in packs:
        copy = Copy(pack.pack, pack.size_bytes)
        for chunk in pack.locations.chunks():
            found.setdefault(chunk, copy)
    return found


def _held_elsewhere(packs: Iterable[KnownPack], serving: Serving) -> Holders:
    """Packs that serve nothing, with those that do it for them."""
    found = {}
    for pack in packs:
        copies_of_all = (serving[chunk] for chunk in pack.locations.chunks())
        holders = {copy.pack: copy.size_bytes for copy in copies_of_all}
        if pack.pack not in holders:
            found[pack.pack] = holders
    return found


def _compact(store: DataStore, folder: Path, packs: Iterable[KnownPack], serving: Serving) -> None:
    run = RunId(random_name())
    shares = {pack.pack: _live_share(pack, serving) for pack in packs}
    sparse = sorted((pack for pack in shares if shares[pack] < LIVE_SHARE), key=shares.__getitem__)

    def prove(receipts: Sequence[PackReceipt]) -> list[PackId]:
        for receipt in receipts:
            new = Copy(receipt.pack, receipt.size_bytes)
            serving.update(dict.fromkeys(receipt.locations.chunks(), new))
        return prove_all(store, [receipt.pack for receipt in receipts])

    Reclaim(
        store,
        run,
        system_clock,
        folder,
        copies=lambda chunks: {chunk: serving[chunk] for chunk in chunks},
        rewrite=Compaction(store, run, system_clock, StopToken(), prove).rewrite,
        wait=timedelta(0),
        runs=0,
        most_share=1.0,
    ).work([], sparse)


def _live_share(pack: KnownPack, serving: Serving) -> float:
    mine = (place.length for place in pack.locations if serving[place.chunk].pack == pack.pack)
    return sum(mine) / sum(place.length for place in pack.locations)


def known_ids(folder: Path) -> KnownIds | tuple[()]:
    """What need not be sent."""
    path = folder / "known ids"
    return KnownIds(path) if path.exists() else ()


def copies(folder: Path) -> Copies:
    """Where that is."""

    def told(chunks: Collection[ChunkId]) -> Mapping[ChunkId, Copy]:
        serving: Serving = pickle.loads((folder / "copies").read_bytes())  # our own
        return {chunk: serving[chunk] for chunk in chunks if chunk in serving}

    return told

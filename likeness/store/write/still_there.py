"""Still there: what a new version relies on must not have been given up while it was made."""

from collections.abc import Collection

from likeness.codec.documents import Kind
from likeness.errors import ObjectMissing, TransferBroken
from likeness.model.ids import PackId
from likeness.store.format import layout
from likeness.store.format.believing import exists_surely
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import SweptDocument
from likeness.store.read.versions import Version
from likeness.store.write.receipts import TransferReceipt
from likeness.transport.passing import CarefulTransport


def swept_statements(store: DataStore) -> frozenset[str] | None:
    """Names of all statements of what was deleted; none if they cannot be listed."""
    listing = CarefulTransport(store.transport)
    found = frozenset(entry.name for entry in listing.entries(layout.SWEPT))
    return None if listing.closed else found


def require_still_there(
    store: DataStore, receipt: TransferReceipt, last: Version | None, swept: Collection[str] | None
) -> None:
    """Return, if nothing that a new version relies on was given up while it was made.

    As long as the version it was compared with is there, so is all that one needs: whoever deletes
    packs asks the records first, through the same gate.

    Args:
        store: Where.
        receipt: What the transfer left.
        last: The version it builds on.
        swept: Statements of what was deleted that were there before its packs were looked for, as
            `swept_statements` gives them. Where they cannot be listed each pack is looked for.

    Raises:
        TransferBroken: That version was forgotten.
        ObjectMissing: A pack it brought was deleted.
    """
    base = receipt.last or last
    relies = any(disk.previous is not None for disk in receipt.disks)
    if base is not None and relies and not exists_surely(store, base.name):
        raise TransferBroken(
            f"VM {receipt.vm.name[:80]!r}: the version it was compared with was forgotten while it"
            " was backed up; run the job again, which compares it with another"
        )
    if not receipt.packs.packs:
        return
    now = swept_statements(store)
    if now is None or swept is None:
        for pack in receipt.packs:
            store.transport.size(layout.pack(pack.pack))
        return
    for name in sorted(filter(layout.is_known, now - set(swept))):
        gone, _ = store.read_surely(name, Kind.SWEPT, SweptDocument)
        mine = set(gone.packs) & {pack.pack for pack in receipt.packs}
        if mine:
            raise ObjectMissing(layout.pack(PackId(min(mine))))

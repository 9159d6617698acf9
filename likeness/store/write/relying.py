"""Relying: what a new version does not bring itself must be there when it is recorded.

A transfer sends no data block that the store has already, proved. Until the record is written
nobody else knows that it is needed: the pack that holds it may be given back, condemned or lost. So
each is asked for once more before anything of the version is written, and, behind the gate, whether
anything was deleted or condemned since.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from likeness.errors import ObjectMissing, SharedDataGone
from likeness.model.ids import ChunkId, PackId
from likeness.store.format import layout
from likeness.store.format.copies import Copies, Copy
from likeness.store.format.data_store import DataStore
from likeness.store.write.doomed import doomed_packs
from likeness.store.write.receipts import TransferReceipt

_AT_ONCE = 1 << 18
_FEW = 64
"""Packs that are asked for one by one; for more all are listed."""


@dataclass(frozen=True, slots=True)
class Relying:
    """What was found of what a version relies on.

    Attributes:
        statements: Of what is deleted or condemned, as far as they were considered.
    """

    statements: frozenset[str]


def look_for_shared(store: DataStore, receipt: TransferReceipt, copies: Copies) -> Relying:
    """Return, if every data block that was not sent is held by a pack that stays.

    Raises:
        SharedDataGone: Some are not; they must be read again.
    """
    if receipt.relied_on is None or not receipt.relied_on.chunks:
        return Relying(frozenset())
    statements = _statements(store)
    doomed, sizes = doomed_packs(store), _Sizes(store)
    gone: set[ChunkId] = set()
    chunks = iter(receipt.relied_on)
    while some := set(islice(chunks, _AT_ONCE)):
        found = copies(some)
        gone |= {chunk for chunk in some if not _stays(found.get(chunk), doomed, sizes)}
    if gone:
        raise SharedDataGone(
            f"VM {receipt.vm.name[:80]!r}: {len(gone)} data blocks that were in the store already"
            " are gone or damaged since; run the job again, which reads and sends them",
            chunks=gone,
        )
    return Relying(statements)


def look_again_for_shared(
    store: DataStore, receipt: TransferReceipt, copies: Copies, before: Relying
) -> None:
    """The same, behind the gate: only where something was deleted or condemned since.

    Raises:
        SharedDataGone: Some are not there any more.
    """
    relies = receipt.relied_on is not None and receipt.relied_on.chunks
    if relies and _statements(store) != before.statements:
        look_for_shared(store, receipt, copies)


def _statements(store: DataStore) -> frozenset[str]:
    return frozenset(
        entry.name
        for folder in (layout.SWEPT, layout.CONDEMNED)
        for entry in store.transport.entries(folder)
    )


def _stays(copy: Copy | None, doomed: Collection[PackId], sizes: "_Sizes") -> bool:
    """Whether a copy is there in its full length, and nobody deletes it."""
    return copy is not None and copy.pack not in doomed and sizes.of(copy.pack) == copy.size_bytes


class _Sizes:
    """How long packs are: the first few are asked for one by one, then all are listed."""

    def __init__(self, store: DataStore) -> None:
        self._transport, self._known, self._listed = store.transport, dict[str, int](), False

    def of(self, pack: PackId) -> int:
        """-1 for one that is not there."""
        name = layout.pack(pack)
        if name not in self._known and not self._listed:
            self._look(name)
        return self._known.get(name, -1)

    def _look(self, name: str) -> None:
        if len(self._known) >= _FEW:
            entries = self._transport.entries(layout.PACKS)
            self._known = {entry.name: entry.size_bytes for entry in entries}
            self._listed = True
            return
        try:
            self._known[name] = self._transport.size(name)
        except ObjectMissing:
            self._known[name] = -1

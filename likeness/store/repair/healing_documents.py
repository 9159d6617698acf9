"""Healing documents: what a version needs besides its packs, put back from where it is whole.

Documents are named by others that are signed, so they go back under their own names, as the very
bytes that were signed for. Nothing is overwritten: what lies there is set aside first, in
`quarantine/`. Whether a version is whole again is for the next proof to say.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from likeness.codec.documents import MAX_DOCUMENT_BYTES
from likeness.codec.hashing import digest
from likeness.errors import Damaged
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.believing import LOST, read_surely
from likeness.store.format.data_store import DataStore, set_aside
from likeness.store.format.documents import VersionRecord, decode
from likeness.store.format.observations import UNKNOWN, UNREADABLE
from likeness.store.prune.sweeping import deleted_objects
from likeness.store.write.heads import read_head_state
from likeness.store.write.history import Record, verified, verified_record
from likeness.transport.base import Transport

STATEMENTS = (layout.SWEPT, layout.FORGETS, layout.HOLDS)
"""Folders of statements that a vault has, in the order in which they are put back."""
_SAID_AGAIN = (layout.INDEX, *STATEMENTS)
Judge = Callable[[bytes], object]
"""Raises one of `LOST` for bytes that are not the object they should be."""


@dataclass
class DocumentHealer:
    """Puts documents of one store back from another one with the same keys.

    Attributes:
        store: Where they are damaged or missing.
        source: Where they may be whole: the vault.
        stop: Looked at before every object.
        problem: Told of each object that is of no use in the source either.
        healed: Names that were put back.
    """

    store: DataStore
    source: DataStore
    stop: StopToken
    problem: Callable[[str], None] = lambda _: None
    healed: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def heal_version(self, name: str) -> None:
        """Put back what is damaged or missing of one version: record, block maps, index segments.

        Safe to repeat. A crash leaves an object set aside and its name free or torn, and the next
        attempt goes on there.

        Args:
            name: Of its record.

        Raises:
            ShareUnreachable: One of the two stores does not answer; repeat.
            ShareFull: No room.
        """
        self.store.require_writable()
        self._heal(name, lambda data: verified_record(self.store, name, data))
        try:
            record = verified_record(self.store, name, _read(self.store.transport, name))
            maps = dict(self._maps(record))
        except UNREADABLE:
            return  # nobody has it, so nobody knows what else it needs
        for each, judge in (*maps.items(), *self._segments(record)):
            self._heal(each, judge)

    def heal_segment(self, name: str) -> None:
        """Put an index segment back; versions restore without it, slowly."""
        self.store.require_writable()
        self._heal(name, self._signed_judge(name, ""))

    def heal_statement(self, name: str) -> None:
        """Put a statement back, as the heads know it; the caller holds the gate.

        Where no head can be read nothing is put back: it could be another one of that number.
        """
        self.store.require_writable()
        try:
            known = read_head_state(self.store).objects.get(name, "")
        except UNREADABLE as cause:
            self.problem(f"{name} is left as it is: {cause}")
            return
        self._heal(name, self._signed_judge(name, known))

    def _maps(self, record: Record) -> Iterator[tuple[str, Judge]]:
        """Both copies of every part of its disks' maps, also of parts made in earlier versions."""
        opened = record.signed.frame.unseal(self.store.keys)
        for disk in decode(opened, VersionRecord, name=record.name).disks:
            for part in disk.parts:
                for copy, its_digest in zip(part.copies, part.digests, strict=True):
                    yield copy, _digest_judge(copy, its_digest)

    def _segments(self, record: Record) -> Iterator[tuple[str, Judge]]:
        told = record.clear.digests or ("",) * len(record.clear.objects)
        for name, its_digest in zip(record.clear.objects, told, strict=True):
            if name.startswith(f"{layout.INDEX}/"):
                yield name, self._signed_judge(name, its_digest)

    def _signed_judge(self, name: str, its_digest: str) -> Judge:
        def judge(data: bytes) -> None:
            verified(self.store, name, layout.kind_of(name), data)
            if its_digest:
                _digest_judge(name, its_digest)(data)

        return judge

    def _heal(self, name: str, judge: Judge) -> None:
        """Put one object back, unless it is whole where it is."""
        if name in self._seen:
            return
        self._seen.add(name)
        self.stop.check()
        try:
            if _whole(self.store, name, judge) is not None:
                return
        except UNKNOWN:
            return  # nobody knows that it is damaged
        if name.partition("/")[0] in _SAID_AGAIN and name in deleted_objects(self.store):
            return  # a later one says what it said
        try:
            data = _whole(self.source, name, judge)
        except UNKNOWN as cause:
            self.problem(str(cause))
            return
        if data is None:
            self.problem(f"{name} is not whole there")
            return
        set_aside(self.store, name)
        self.store.for_writing().create(name, [data])
        self.healed.append(name)


def _digest_judge(name: str, its_digest: str) -> Judge:
    def judge(data: bytes) -> None:
        if digest([data]).hex() != its_digest:
            raise Damaged(name, "it is not what its version record signed for")

    return judge


def _whole(store: DataStore, name: str, judge: Judge) -> bytes | None:
    """An object's bytes; none if it is surely lost.

    Raises:
        One of `UNKNOWN`: Nobody knows.
    """

    def judged(data: bytes) -> bytes:
        judge(data)
        return data

    try:
        return read_surely(store, name, judged)
    except LOST:
        return None


def _read(transport: Transport, name: str) -> bytes:
    return transport.read(name, 0, MAX_DOCUMENT_BYTES + 1)

"""Reading a vault back: what was copied there is read again and compared with what was signed.

It needs no secret: packs are compared with the digests that their index segments signed for,
version records and block maps with their signatures. Whoever has the store's key may have every
data block opened and hashed as well. Damage is believed when it was read twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from likeness.codec.documents import Kind
from likeness.codec.hashing import digest
from likeness.errors import BadInput, Damaged, LikenessError, ObjectUnreadable
from likeness.model.ids import PackId, VersionId, VmId
from likeness.pacing import BandwidthCap
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.check.proving import require_proved
from likeness.store.format import layout
from likeness.store.format.believing import LOST, read_surely, surely
from likeness.store.format.data_store import DataStore
from likeness.store.format.documents import IndexClear, MapPart, VersionClear
from likeness.store.format.needs_lists import NeededMap, NeedsList, lists_of, read_list
from likeness.store.format.observations import UNREADABLE, cause_of
from likeness.store.format.pack import MAX_PACK_BYTES
from likeness.store.format.public_view import SignedView
from likeness.store.read.versions import read_version

_READERS = 3


@dataclass(frozen=True, slots=True)
class ReadBack:
    """One object of a vault that was looked at.

    Attributes:
        name: Which.
        size_bytes: How much was read.
        problem: What is wrong with it, in words; empty if nothing is.
        lost: Whether it is surely not whole; otherwise it could not be read, and nothing is known.
        spoilt: Copies of block maps that are surely not whole; the other copy may be.
    """

    name: str
    size_bytes: int
    problem: str = ""
    lost: bool = False
    spoilt: tuple[str, ...] = ()


def read_back(
    vault: SignedView,
    names: Iterable[str],
    *,
    stop: StopToken,
    cap: BandwidthCap | None = None,
    prove: bool = False,
) -> Iterator[ReadBack]:
    """Read packs, version records and needs lists, in order.

    Args:
        vault: Where; seen without a key, needs lists in it say which block maps versions need.
        names: Which.
        stop: Looked at before every object.
        cap: How fast to read; as fast as it goes if none.
        prove: Open every data block with the store's key, too, and hash it.

    Raises:
        BadInput: Blocks are to be opened, and there is no key.
        ShareUnreachable: The vault does not answer.
        Stopped: On request.
    """
    if prove and not isinstance(vault, DataStore):
        raise BadInput("this machine holds no key, so it opens no data block; leave that out")
    reading = _Reading(vault, stop, cap, prove=prove)
    yield from bounded_map(reading.look, names, workers=_READERS, name="read-back")


class _Reading:
    def __init__(
        self, vault: SignedView, stop: StopToken, cap: BandwidthCap | None, *, prove: bool
    ) -> None:
        self._vault, self._stop, self._cap, self._prove = vault, stop, cap, prove
        self._digests: dict[PackId, bytes] | None = None
        self._maps: dict[str, LikenessError | None] = {}
        self._lists: dict[VmId, list[NeedsList]] = {}

    def look(self, name: str) -> ReadBack:
        self._stop.check()
        try:
            if name.startswith(f"{layout.PACKS}/"):
                return ReadBack(name, self._pack(name))
            if name.startswith(f"{layout.NEEDS}/"):
                read_list(self._vault, name)
                return ReadBack(name, self._paid(self._vault.transport.size(name)))
            return self._record(name)
        except UNREADABLE as cause:
            return ReadBack(name, 0, cause_of(cause), isinstance(cause, LOST))

    def _pack(self, name: str) -> int:
        expected = self._expected().get(PackId(name.rpartition("/")[2]))
        if expected is None:
            raise ObjectUnreadable("no index segment of the vault vouches for it yet")

        def judge(data: bytes) -> int:
            if digest([data]) != expected:
                raise Damaged(name, "its bytes are not what its index segment signed for")
            if self._prove and isinstance(self._vault, DataStore):
                require_proved(self._vault, data, name)
            return self._paid(len(data))

        return read_surely(self._vault, name, judge, max_bytes=MAX_PACK_BYTES)

    def _record(self, name: str) -> ReadBack:
        """A version's record, and both copies of each part of its block maps; one is enough."""
        parts = self._parts(name)
        read = self._paid(self._vault.transport.size(name))
        spoilt: list[str] = []
        problem: LikenessError | None = None
        for part in parts:
            for copy, size, signed in zip(part.copies, part.sizes, part.digests, strict=True):
                read += self._look_at_copy(copy, size, signed)
            found = {copy: self._maps[copy] for copy in part.copies}
            spoilt += [copy for copy, bad in found.items() if isinstance(bad, LOST)]
            if all(found.values()):
                problem = next(filter(None, found.values()))
        if problem is None:
            return ReadBack(name, read, spoilt=tuple(spoilt))
        said = f"a block map is {cause_of(problem)}"
        return ReadBack(name, 0, said, isinstance(problem, LOST), tuple(spoilt))

    def _parts(self, name: str) -> Sequence[MapPart | NeededMap]:
        """The block maps of a version, once its record was verified."""
        if isinstance(self._vault, DataStore):
            version = surely(lambda at: read_version(at, name), self._vault)
            return [part for disk in version.record.disks for part in disk.parts]
        clear, _ = self._vault.read_surely(name, Kind.VERSION, VersionClear)
        vm, version_id = VmId(clear.vm), VersionId(clear.version)
        if vm not in self._lists:
            self._lists[vm] = list(lists_of(self._vault, vm, []))
        for each in self._lists[vm]:
            if version_id in each:
                return each.needed(version_id).maps
        raise ObjectUnreadable("no needs list in the vault names it; run vault again")

    def _look_at_copy(self, copy: str, size: int, signed: str) -> int:
        """Copies are shared by versions, and read once."""
        if copy in self._maps:
            return 0
        judge = partial(_require, name=copy, signed=signed)
        try:
            read_surely(self._vault, copy, judge, max_bytes=size)
        except UNREADABLE as cause:
            self._maps[copy] = cause
            return 0
        self._maps[copy] = None
        return self._paid(size)

    def _paid(self, size: int) -> int:
        if self._cap is not None:
            self._cap.take(size, stop=self._stop)
        return size

    def _expected(self) -> dict[PackId, bytes]:
        if self._digests is None:
            found: dict[PackId, bytes] = {}
            for entry in self._vault.transport.entries(layout.INDEX):
                if not layout.is_known(name := entry.name):
                    continue
                try:
                    clear, _ = self._vault.read_surely(name, Kind.INDEX, IndexClear)
                except UNREADABLE:
                    continue  # its packs are told of
                found.update((PackId(p.pack), bytes.fromhex(p.digest)) for p in clear.packs)
            self._digests = found
        return self._digests


def _require(data: bytes, name: str, signed: str) -> None:
    if digest([data]).hex() != signed:
        raise Damaged(name, "it is not what its version record signed for")

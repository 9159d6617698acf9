"""Scrubs: every object read, without any secret.

A *frame scrub* checks lengths, magic numbers and XXH3 of every object: that needs nothing but the
share, and finds accidents. A *signed scrub* needs the public keys, and finds whatever was altered:
it checks every signature, the whole chain of heads, and every pack and block map against the digest
that a signed document gives.

Neither opens a chunk, so neither proves that a version restores; that is
`likeness.store.check.proving`. An object is called damaged only when two readings say so.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from likeness.codec.blobs import check_blob
from likeness.codec.documents import Frame, Kind
from likeness.codec.hashing import digest
from likeness.errors import (
    Damaged,
    ObjectMissing,
    ObjectUnreadable,
    ShareRefused,
    StoreTooNew,
    TransientError,
    WrittenLate,
)
from likeness.model.ids import PackId, StoreId
from likeness.pipelining import bounded_map
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.believing import LOST, differ, exists_surely, look_twice
from likeness.store.format.documents import IndexClear
from likeness.store.format.observations import (
    UNKNOWN,
    Observation,
    Weight,
    cause_of,
    late,
    notice,
    trouble,
    unchecked,
    with_closed,
)
from likeness.store.format.opening import claimed_store
from likeness.store.format.pack import MAX_PACK_BYTES, Pack
from likeness.store.format.public_view import SignedView, open_public
from likeness.store.write.forgetting import read_forgotten
from likeness.store.write.history import (
    History,
    Record,
    covered_records,
    everything,
    map_pairs,
    read_history,
    records_of,
    verified_record,
    vm_folders,
)
from likeness.transport.base import Entry, Transport
from likeness.transport.passing import CarefulTransport

MAX_SILENCE = 8
"""Objects in a row that could not be read before the store counts as gone."""
Progress = Callable[[int], None]
"""Told how many more bytes were read."""
_T = TypeVar("_T")
_Judge = Callable[[bytes], None]
"""Raises `Damaged` about bytes that are not as they should be."""


def scrub_frames(
    transport: Transport,
    *,
    stop: StopToken,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[Observation]:
    """Read everything, and check it as far as that goes without any key.

    What lies in inboxes is passed over: packs that are still being written end nowhere.

    Args:
        transport: Where the store is.
        stop: Looked at before every object.
        workers: Objects at once; as many as there are cores by default.
        progress: Told of bytes read.

    Yields:
        Objects that are damaged or could not be read.

    Raises:
        StoreMissing: There is no store.
        ShareUnreachable: The store does not answer any more.
        Stopped: On request.
    """
    store_id = _likely_store(transport)
    reader = _Reader(transport, stop, progress)

    def check(entry: Entry) -> Observation | None:
        if entry.size_bytes > MAX_PACK_BYTES:
            return trouble(
                entry.name, f"with {entry.size_bytes} bytes it is longer than any may be"
            )
        return reader.look(entry.name, lambda data: check_frame(entry.name, data, store_id))

    listing = CarefulTransport(transport)
    found = bounded_map(check, _ours(listing), workers=_count(workers), name="scrub")
    yield from with_closed((each for each in found if each is not None), listing)


def check_frame(name: str, data: bytes, store_id: StoreId) -> None:
    """Check one object's frame.

    Args:
        name: As the store names it.
        data: All of it.
        store_id: Whose it must be, where its frame says so.

    Raises:
        Damaged: It is not whole.
        StoreTooNew: A later release wrote it.
    """
    if name.startswith(f"{layout.PACKS}/"):
        for offset, whole in Pack(data, name=name, store=store_id).frames():
            if not whole:
                raise Damaged(name, f"the record at byte {offset} does not match its checksum")
    elif _is_blob(name):
        check_blob(data, name=name)
    else:
        Frame.parse(data, name=name)


def scrub_signatures(
    view: SignedView,
    *,
    stop: StopToken,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[Observation]:
    """Check every signature, and every byte that a signature speaks for.

    What is missing altogether is told by `likeness.store.check.auditing.audit_presence`.

    Args:
        view: A store with public keys that are trusted, or with all of its keys.
        stop: Looked at before every object.
        workers: Objects at once; as many as there are cores by default.
        progress: Told of bytes read.

    Yields:
        Objects that are damaged, forged or could not be read.

    Raises:
        ShareUnreachable: The store does not answer any more.
        Stopped: On request.
    """
    listing = CarefulTransport(view.transport)
    reader = _Reader(view.transport, stop, progress)
    yield from with_closed(_signed(view.over(listing), reader, _count(workers)), listing)


def _signed(view: SignedView, reader: "_Reader", workers: int) -> Iterator[Observation]:
    history = read_history(view, whole=True)
    yield from history.breaks
    scrub = _SignedScrub(view, history, reader, workers)
    yield from scrub.documents()
    yield from scrub.versions()
    yield from scrub.packs()


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is wrong with an object, and which bytes were read then; nothing if it is well."""

    cause: str = ""
    digest: bytes = b""


class _Reader:
    """Reads objects and judges them: twice before anything is called damaged."""

    def __init__(self, transport: Transport, stop: StopToken, progress: Progress) -> None:
        self._transport, self._stop, self._progress = transport, stop, progress
        self._silent = 0

    def look(self, name: str, judge: _Judge) -> Observation | None:
        """What is wrong with an object; nothing if it is well, or gone."""
        try:
            looks = look_twice(
                lambda at: self._judged(at, name, judge), self._transport, doubtful=_is_bad
            )
        except ObjectMissing:
            return None
        except WrittenLate as cause:
            return late(name, cause)
        except (ShareRefused, StoreTooNew) as cause:
            return unchecked(name, cause)
        except TransientError as cause:
            self._silent += not isinstance(cause, ObjectUnreadable)
            if self._silent >= MAX_SILENCE:
                raise
            return unchecked(name, cause)
        self._silent = 0
        if looks[0] != looks[-1]:
            return unchecked(name, differ(looks[0].cause, looks[-1].cause or "whole"))
        return trouble(name, looks[-1].cause) if _is_bad(looks[-1]) else None

    def _judged(self, at: Transport, name: str, judge: _Judge) -> _Judged:
        self._stop.check()
        data = at.read(name, 0, MAX_PACK_BYTES + 1)
        self._progress(len(data))
        try:
            judge(data)
        except WrittenLate:
            raise
        except Damaged as cause:
            return _Judged(cause_of(cause), digest([data]))
        return _Judged()


def _is_bad(seen: _Judged) -> bool:
    return bool(seen.cause)


@dataclass(frozen=True, slots=True)
class _Link:
    """What the chain of a VM's records needs of one record."""

    name: str
    sequence: int
    previous: str
    digest: str
    epoch: int


class _SignedScrub:
    def __init__(self, view: SignedView, history: History, reader: _Reader, workers: int) -> None:
        self._view, self._reader, self._workers = view, reader, workers
        self._transport = view.transport
        self._head_state = history.head_state
        self._told: set[str] = set()
        self._unindexed: dict[str, Observation] = {}

    def documents(self) -> Iterator[Observation]:
        """What is signed itself; version records and heads have their own turn."""
        apart = (layout.PACKS, layout.MAPS, layout.VERSIONS, layout.HEADS)
        names = (entry.name for entry in _ours(self._transport))
        ours = (name for name in names if name.partition("/")[0] not in apart)
        for found in self._each(ours, self._document):
            self._told.add(found.name)
            yield found

    def versions(self) -> Iterator[Observation]:
        """Version records, the chain of each VM's records, and the block maps they name."""
        forgotten = read_forgotten(self._view)
        for vm in vm_folders(self._transport):
            names = records_of(self._transport, vm)
            links: list[_Link] = []
            bad: dict[str, Observation] = {}
            void: set[str] = set()
            for name in names:
                records: list[Record] = []
                problem = self._reader.look(name, self._taken_into(records, name))
                if problem is not None and problem.weight is Weight.NOTICE:
                    void.add(name)
                    yield problem
                elif problem is not None:
                    bad[name] = problem
                elif records:
                    links.append(_link(records[-1]))
                    yield from self._maps(records[-1])
            names = [name for name in names if name not in void]
            as_told = forgotten.as_told(names, vm, self._head_state.objects)
            covered = covered_records(as_told, bad, self._head_state.vms.get(vm))
            for name, problem in bad.items():
                known = covered is None or name in covered or problem.weight is Weight.UNCHECKED
                yield problem if known else _uncommitted(problem)
            yield from _breaks(links)

    def _taken_into(self, records: list[Record], name: str) -> _Judge:
        return lambda data: records.append(verified_record(self._view, name, data))

    def packs(self) -> Iterator[Observation]:
        """Packs, each against the digest that its index segment signed for."""
        yield from self._each(self._indexed(), self._pack)
        yield from (each for name, each in self._unindexed.items() if name not in self._told)

    def _each(
        self, items: Iterable[_T], work: Callable[[_T], Observation | None]
    ) -> Iterator[Observation]:
        found = bounded_map(work, items, workers=self._workers, name="scrub")
        yield from (each for each in found if each is not None)

    def _document(self, name: str) -> Observation | None:
        def judge(data: bytes) -> None:
            if _is_blob(name):
                return check_blob(data, name=name)
            frame = Frame.parse(data, name=layout.signed_name(name))
            frame.require_signature(layout.kind_of(name), self._view.verifier(frame))
            known = self._head_state.objects.get(name)
            if known is not None and digest([data]).hex() != known:
                raise Damaged(name, "it is signed, but not the one that the heads know")
            return None

        return self._reader.look(name, judge)

    def _indexed(self) -> Iterator[tuple[str, str]]:
        """Name and digest of every pack that an index segment vouches for."""
        for entry in self._transport.entries(layout.INDEX):
            if layout.is_known(entry.name):
                try:
                    clear, _ = self._view.read_surely(entry.name, Kind.INDEX, IndexClear)
                except LOST:
                    continue  # told of among the documents
                except UNKNOWN as cause:
                    self._unindexed[entry.name] = unchecked(
                        entry.name, f"{cause}, so its packs were not checked"
                    )
                    continue
                yield from ((layout.pack(PackId(p.pack)), p.digest) for p in clear.packs)

    def _pack(self, pack: tuple[str, str]) -> Observation | None:
        name, expected = pack
        return self._reader.look(name, lambda data: _require_digest(name, data, expected))

    def _maps(self, record: Record) -> Iterator[Observation]:
        """Both copies of each block map a version brought in."""
        for pair, digests in map_pairs(record.clear):
            found = [self._map(n, d, record.name) for n, d in zip(pair, digests, strict=True)]
            told = [each for each in found if each is not None]
            bad = sum(each.weight is Weight.SPARE_LOST for each in told)
            gone = sum(self._is_gone(name) for name in pair) if bad else 0
            for each in told:
                alone = bad + gone == len(pair) and each.weight is Weight.SPARE_LOST
                yield _without_spare(each) if alone else each

    def _map(self, name: str, expected: str, version: str) -> Observation | None:
        def judge(data: bytes) -> None:
            check_blob(data, name=name)
            if expected:
                _require_digest(name, data, expected)

        found = self._reader.look(name, judge)
        return found and dataclasses.replace(found, versions=(version,))

    def _is_gone(self, name: str) -> bool:
        return not exists_surely(self._view, name)


def _link(record: Record) -> _Link:
    clear, signed = record.clear, record.signed
    return _Link(record.name, clear.sequence, clear.previous, signed.digest, signed.frame.epoch)


def _breaks(links: list[_Link]) -> Iterator[Observation]:
    """Where a VM's records, in order, do not follow each other.

    A record may follow an earlier one where the one between could not be read in those days, and
    was put back since.
    """
    earlier = {link.digest: link for link in links}
    for one, other in itertools.pairwise(links):
        followed = earlier.get(other.previous)
        if other.sequence == one.sequence:
            yield trouble(other.name, f"there is a second version {one.sequence}, {one.name}")
        elif followed is not None and followed.sequence < one.sequence:
            cause = f"the record after it, {other.name}, follows an earlier one"
            meaning = "it could not be read when that one was made; no version is lost"
            yield notice(one.name, cause, meaning)
        elif other.sequence == one.sequence + 1 and other.previous != one.digest:
            cause = f"the record after it, {other.name}, followed another one: it was replaced"
            yield trouble(one.name, cause)
        if other.epoch < one.epoch:
            yield trouble(other.name, "it was signed with keys that had been given up by then")


def _uncommitted(problem: Observation) -> Observation:
    return notice(
        problem.name,
        f"a record that no head covers: {problem.cause}",
        "the uncommitted tail of a job that died, or not of this store; no version is lost",
    )


def _without_spare(problem: Observation) -> Observation:
    meaning = "neither copy of this block map is whole, and its versions do not restore"
    return dataclasses.replace(problem, weight=Weight.DAMAGE, meaning=meaning)


def _require_digest(name: str, data: bytes, expected: str) -> None:
    if digest([data]).hex() != expected:
        raise Damaged(name, "its bytes are not what was signed for")


def _is_blob(name: str) -> bool:
    """Whether an object is sealed and unsigned: a block map, or part of a catalog copy."""
    folder = name.partition("/")[0]
    return folder == layout.MAPS or (folder == layout.CATALOG and "-" in name)


def _likely_store(transport: Transport) -> StoreId:
    """The store's id as its public keys and its format document agree on it."""
    try:
        return open_public(transport).store_id
    except (Damaged, *UNKNOWN):
        return claimed_store(transport)


def _ours(transport: Transport) -> Iterator[Entry]:
    """Everything of the store but inboxes and what was set aside."""
    for entry in everything(transport):
        apart = entry.name.startswith((f"{layout.INBOX}/", f"{layout.QUARANTINE}/"))
        if layout.is_known(entry.name) and not apart:
            yield entry


def _count(workers: int | None) -> int:
    return workers or os.cpu_count() or 1

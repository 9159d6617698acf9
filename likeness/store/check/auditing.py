"""Audit of presence: is everything there that signed documents speak of, in its right length?

Only names and lengths are looked at, and documents read; no pack is. So it takes minutes where a
scrub takes days, and finds what a thief, a clumsy hand or a torn write leaves: objects that are
missing, cut short, or nobody's. It needs no key; with the store's keys it also knows the lengths
of block maps, and which maps nobody needs.

Memory does not grow with the store: packs are compared in turns of half a million, versions VM by
VM.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from likeness.codec.documents import Kind
from likeness.errors import LikenessError
from likeness.model.ids import PackId, VmId
from likeness.stopping import StopToken
from likeness.store.check.stated import damaged_statements
from likeness.store.format import layout
from likeness.store.format.believing import look_twice
from likeness.store.format.data_store import DataStore, read_frame, signed_part
from likeness.store.format.documents import (
    CatalogCopyDocument,
    IndexClear,
    VersionClear,
    VersionRecord,
    decode,
)
from likeness.store.format.observations import (
    UNKNOWN,
    UNREADABLE,
    Observation,
    Weight,
    cause_of,
    notice,
    told,
    trouble,
    with_closed,
)
from likeness.store.format.public_view import SignedView
from likeness.store.prune.sweeping import deleted_objects, deleted_packs
from likeness.store.write.forgetting import Forgotten, read_forgotten
from likeness.store.write.heads import HeadState
from likeness.store.write.history import (
    Record,
    covered_records,
    everything,
    map_pairs,
    read_history,
    read_record,
    records_of,
    vm_folders,
)
from likeness.transport.base import Entry
from likeness.transport.passing import CarefulTransport

MAX_IN_MIND = 1 << 19
"""Packs compared in one turn: about 100 MB of memory."""
_PREFIXES = tuple(f"{number:02x}" for number in range(256))


def audit_presence(
    view: SignedView, *, stop: StopToken, most_in_mind: int = MAX_IN_MIND
) -> Iterator[Observation]:
    """Compare what is there with what must be there.

    Args:
        view: A store, with its keys or with its public keys alone.
        stop: Looked at between objects.
        most_in_mind: Packs to compare in one turn.

    Yields:
        Whatever is missing, in a wrong length, or not of this store, as two looks have seen it;
        what could not be read; nothing if all is well. What a commit under way has written, and no
        head covers yet, is no damage.

    Raises:
        ShareUnreachable: The store does not answer; nothing is known then.
        Stopped: On request.
    """
    notices: list[Observation] = []

    def look(at: SignedView) -> list[Observation]:
        listing = CarefulTransport(at.transport)
        found = list(with_closed(_look(at.over(listing), stop, most_in_mind), listing))
        notices[:] = [each for each in found if each.weight is Weight.NOTICE]
        return [each for each in found if each.weight is not Weight.NOTICE]

    looks = look_twice(look, view, doubtful=bool)
    seen_first = {each.name for each in looks[0]}
    yield from (each for each in looks[-1] if each.name in seen_first)
    yield from notices


def _look(view: SignedView, stop: StopToken, most_in_mind: int) -> Iterator[Observation]:
    history = read_history(view)
    yield from history.breaks
    yield from _format_copies(view)
    yield from _control_objects(view, history.head_state)
    yield from damaged_statements(view, history.head_state.objects)
    yield from _catalog_copies(view)
    index = _Index(view, most_in_mind)
    yield from index.damaged()
    yield from _everything_listed(view, index, stop)
    yield from _versions(view, history.head_state, stop)


def _format_copies(view: SignedView) -> Iterator[Observation]:
    for name in layout.FORMAT_COPIES:
        try:
            view.transport.size(name)
        except UNREADABLE as cause:
            yield told(name, cause)


def _control_objects(view: SignedView, head_state: HeadState) -> Iterator[Observation]:
    """Keys, owners, index segments and statements against what the newest head says."""
    present = {
        entry.name
        for folder in layout.CONTROL
        for entry in view.transport.entries(folder)
        if layout.is_known(entry.name) and not layout.is_turn(entry.name)
    }
    missing = set(head_state.objects) - present
    for name in sorted(missing - deleted_objects(view) if missing else ()):
        yield trouble(name, "missing, although the newest head knows it")
    slots = [name for name in present if "/slot-" in name]
    for name in sorted(set(slots) - set(head_state.objects)):
        if head_state.number:
            yield notice(
                name,
                "a key slot that no head knows yet",
                "if nobody has just added a key, somebody else did: see who can write to the share",
            )
    if not slots:
        meaning = (
            "whoever has the store open now must add a key slot before it is closed, or every"
            " version is lost"
        )
        yield Observation(Weight.DAMAGE, layout.KEYS, "no key slot is left", meaning)


def _catalog_copies(view: SignedView) -> Iterator[Observation]:
    names = {entry.name for entry in view.transport.entries(layout.CATALOG)}
    for name in sorted(names):
        if layout.is_known(name) and "-" not in name:
            try:
                copy, _ = view.read(name, Kind.CATALOG_COPY, CatalogCopyDocument)
            except UNREADABLE as cause:
                yield told(name, cause)
            else:
                yield from (trouble(p, "missing") for p in copy.parts if p not in names)


@dataclass(frozen=True, slots=True)
class _Expected:
    """A pack as an index segment speaks of it."""

    size_bytes: int
    segment: str


class _Index:
    """What the index segments say of packs, a share of all packs at a time."""

    def __init__(self, view: SignedView, most: int) -> None:
        self._view = view
        self._problems: dict[str, Observation] = {}
        self._all: dict[PackId, _Expected] = {}
        packs = 0
        for name, pack in self._packs(_PREFIXES):
            packs += 1
            if packs <= most:
                self._all[name] = pack
        turns = min(max(-(-packs // most), 1), len(_PREFIXES))
        self._turns = [_PREFIXES[at::turns] for at in range(turns)]

    def damaged(self) -> Iterator[Observation]:
        """Segments that are lost, or could not be read; of these, which versions brought them."""
        unknown = {n for n, each in self._problems.items() if each.weight is Weight.UNCHECKED}
        brought = _brought_by(self._view, unknown)
        for name, each in self._problems.items():
            yield replace(each, versions=tuple(brought[name])) if name in unknown else each

    def turns(self) -> Iterator[tuple[frozenset[str], dict[PackId, _Expected]]]:
        """First digits of pack ids, and all packs that begin with them."""
        if len(self._turns) == 1:
            yield frozenset(_PREFIXES), self._all
            return
        self._all.clear()
        for prefixes in self._turns:
            yield frozenset(prefixes), dict(self._packs(prefixes))

    def _packs(self, prefixes: tuple[str, ...]) -> Iterator[tuple[PackId, _Expected]]:
        wanted = frozenset(prefixes)
        for entry in self._view.transport.entries(layout.INDEX):
            if not layout.is_known(entry.name):
                continue
            try:
                clear, _ = self._view.read(entry.name, Kind.INDEX, IndexClear)
            except UNREADABLE as cause:
                self._problems[entry.name] = told(entry.name, cause)
                continue
            for pack in clear.packs:
                if pack.pack[:2] in wanted:
                    yield PackId(pack.pack), _Expected(pack.size_bytes, entry.name)


def _everything_listed(view: SignedView, index: _Index, stop: StopToken) -> Iterator[Observation]:
    """Walk the listing once for everything, and once more for each further share of the packs."""
    for turn, (prefixes, expected) in enumerate(index.turns()):
        strays = _Strays()
        if turn == 0:
            others = set(view.transport.folders("")) - set(layout.FOLDERS)
            yield from map(_strange, sorted(others))
        listed = everything(view.transport) if turn == 0 else _pack_folders(view, prefixes)
        for entry in listed:
            stop.check()
            if not layout.is_known(entry.name):
                yield _strange(entry.name)
            elif entry.name.startswith(f"{layout.PACKS}/"):
                if entry.name[len(layout.PACKS) + 1 :][:2] in prefixes:
                    yield from _one_pack(entry, expected, strays)
            elif entry.name.startswith(f"{layout.QUARANTINE}/"):
                yield notice(entry.name, "set aside", "look at it, then delete it by hand")
        yield from _missing_packs(view, expected)
        yield from strays.told()


def _strange(name: str) -> Observation:
    return notice(
        name, "not of this program", "it is never opened; see who else writes to the share"
    )


def _pack_folders(view: SignedView, prefixes: frozenset[str]) -> Iterator[Entry]:
    for prefix in sorted(prefixes):
        yield from view.transport.entries(f"{layout.PACKS}/{prefix}")


@dataclass(slots=True)
class _Strays:
    """Packs that no index segment speaks of."""

    count: int = 0
    first: str = ""

    def told(self) -> Iterator[Observation]:
        if self.count:
            yield notice(
                self.first,
                f"in no index segment, and {self.count - 1} more like it",
                "a commit is under way or never finished; its next attempt, or a sweep, sees to it",
            )


def _one_pack(
    entry: Entry, expected: dict[PackId, _Expected], strays: _Strays
) -> Iterator[Observation]:
    pack = expected.pop(PackId(entry.name.rpartition("/")[2]), None)
    if pack is None:
        strays.count += 1
        strays.first = strays.first or entry.name
    elif entry.size_bytes != pack.size_bytes:
        cause = f"it has {entry.size_bytes} bytes and was written with {pack.size_bytes}"
        yield trouble(entry.name, cause)


def _missing_packs(view: SignedView, missing: dict[PackId, _Expected]) -> Iterator[Observation]:
    """What was expected and not listed, unless a signed statement gave it back."""
    if not missing:
        return
    for pack_id in deleted_packs(view):
        missing.pop(pack_id, None)
    brought = _brought_by(view, {pack.segment for pack in missing.values()})
    for pack_id, pack in sorted(missing.items()):
        yield trouble(layout.pack(pack_id), "missing", tuple(brought[pack.segment]))


def _brought_by(view: SignedView, segments: set[str]) -> dict[str, list[str]]:
    """Which version records brought these index segments in."""
    brought: dict[str, list[str]] = defaultdict(list)
    for vm in vm_folders(view.transport) if segments else ():
        for name in records_of(view.transport, vm):
            try:
                clear = read_record(view, name).clear
            except UNREADABLE:
                continue
            for segment in segments.intersection(clear.objects):
                brought[segment].append(name)
    return brought


def _versions(view: SignedView, head_state: HeadState, stop: StopToken) -> Iterator[Observation]:
    maps = _Maps(view)
    folders = vm_folders(view.transport)
    forgotten = read_forgotten(view)
    for vm in sorted({*folders, *head_state.vms}):
        stop.check()
        yield from _one_vm(view, vm, head_state, forgotten, maps, stop)
    yield from maps.left_over()


def _one_vm(
    view: SignedView,
    vm: VmId,
    head_state: HeadState,
    forgotten: Forgotten,
    maps: "_Maps",
    stop: StopToken,
) -> Iterator[Observation]:
    names, said = records_of(view.transport, vm), head_state.vms.get(vm)
    bad: dict[str, LikenessError] = {}
    for name in names:
        stop.check()
        try:
            maps.need(read_record(view, name))
        except UNREADABLE as cause:
            bad[name] = cause
    covered = covered_records(forgotten.as_told(names, vm, head_state.objects), bad, said)
    if covered is None and said is not None:
        yield _gone(vm, names, said[0])
    for name, problem in bad.items():
        if covered is None or name in covered or isinstance(problem, UNKNOWN):
            yield told(name, problem)
        else:
            yield notice(
                name,
                f"a record that no head covers: {cause_of(problem)}",
                "the uncommitted tail of a job that died, or not of this store; no version is lost",
            )
    yield from maps.missing()


def _gone(vm: VmId, names: list[str], known: int) -> Observation:
    here = len(names)
    numbers = [layout.number_of(name) for name in names]
    between = range(numbers[0], numbers[-1]) if numbers else range(0)  # endless, if forged
    there = set(numbers)
    holes = list(itertools.islice((n for n in between if n not in there), 8))
    told = f" (perhaps numbers {', '.join(map(str, holes))})" if holes else ""
    return Observation(
        Weight.DAMAGE,
        layout.versions_of(vm),
        f"the newest head knows {known} versions of this VM; {here} are here, not the same{told}",
        "versions were deleted or replaced; those that are missing do not restore from here",
    )


_Pair = tuple[str, str]


@dataclass(slots=True)
class _Maps:
    """Block maps that version records speak of, VM by VM, against those that are there."""

    view: SignedView
    _lengths: dict[_Pair, tuple[int, int]] = field(default_factory=dict)
    _needed_by: dict[_Pair, list[str]] = field(default_factory=lambda: defaultdict(list))
    _unneeded: dict[str, set[str]] = field(default_factory=dict)

    def need(self, record: Record) -> None:
        """Take in the block maps of one version.

        Raises:
            Damaged: The record does not open.
            StoreTooNew: A later release wrote it.
        """
        if isinstance(self.view, DataStore):
            sealed = record.signed.frame.unseal(self.view.keys)
            opened = signed_part(sealed, VersionRecord, name=record.name)
            for disk in opened.disks:
                for part in disk.parts:
                    self._lengths[part.copies] = part.sizes
                    self._needed_by[part.copies].append(record.name)
            return
        for pair, _ in map_pairs(record.clear):
            self._needed_by[pair].append(record.name)

    def missing(self) -> Iterator[Observation]:
        """What is not there of all that was taken in since the last call."""
        folders = {name.rpartition("/")[0] for pair in self._needed_by for name in pair}
        there = {
            entry.name: entry.size_bytes
            for folder in sorted(folders)
            for entry in self.view.transport.entries(folder)
        }
        self._note_unneeded(folders, there)
        for pair, versions in self._needed_by.items():
            yield from self._pair(pair, tuple(versions), there)
        self._needed_by.clear()
        self._lengths.clear()

    def left_over(self) -> Iterator[Observation]:
        """Block maps in folders of known disks that no version needs; with keys only."""
        in_waiting = _maps_of_forgotten(self.view) if any(self._unneeded.values()) else set()
        for names in self._unneeded.values():
            for name in sorted(names - in_waiting):
                yield notice(
                    name,
                    "no version needs this block map",
                    "a commit is under way or never finished; a reclaim removes it",
                )

    def _pair(
        self, pair: _Pair, versions: tuple[str, ...], there: dict[str, int]
    ) -> Iterator[Observation]:
        lengths = self._lengths.get(pair, (None, None))
        causes = {
            name: cause
            for name, length in zip(pair, lengths, strict=True)
            if (cause := _map_trouble(there.get(name), length))
        }
        for name, cause in causes.items():
            if len(causes) < len(pair):
                yield trouble(name, cause, versions)
            else:
                meaning = "neither copy of this block map is whole, and its versions do not restore"
                yield Observation(Weight.DAMAGE, name, cause, meaning, versions)

    def _note_unneeded(self, folders: set[str], there: dict[str, int]) -> None:
        if not isinstance(self.view, DataStore):
            return
        needed = {name for pair in self._needed_by for name in pair}
        for folder in folders:
            here = {name for name in there if name.startswith(f"{folder}/")}
            left = self._unneeded.get(folder, here)
            self._unneeded[folder] = (left & here) - needed


def _maps_of_forgotten(view: SignedView) -> set[str]:
    """Block maps that came with versions which are forgotten, and may be taken back."""
    found: set[str] = set()
    for entry in view.transport.entries(layout.FORGOTTEN):
        with suppress(*UNREADABLE):
            clear = read_frame(view.transport, entry.name).clear
            found.update(decode(clear, VersionClear, name=entry.name).objects)
    return found


def _map_trouble(found: int | None, expected: int | None) -> str:
    if found is None:
        return "missing"
    if expected is not None and found != expected:
        return f"it has {found} bytes and was written with {expected}"
    return ""

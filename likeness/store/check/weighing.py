"""Weighing: what something that was found means for versions, before anybody calls it damage.

An audit or a scrub looks at one object after the other. Whether a version needs the object, or a
dead run left it, whether the record it misses lies under another name, only the whole store tells.
So that is asked here, of what was found, and of nothing else.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from likeness.codec.documents import Kind
from likeness.model.ids import PackId, is_name
from likeness.store.check.recorded import ReadableVersions, recorded_versions
from likeness.store.format import layout
from likeness.store.format.documents import IndexClear
from likeness.store.format.observations import NOT_READ, UNREADABLE, Observation, Weight
from likeness.store.format.public_view import SignedView
from likeness.store.prune.sweeping import deleted_objects
from likeness.store.read.versions import clear_part
from likeness.transport.passing import CarefulTransport

_BAD = (Weight.DAMAGE, Weight.SPARE_LOST, Weight.UNCHECKED)
_LEFT = "no version needs it: a commit under way, or one that died, left it"


class Weigher:
    """Weighs what was found in one store."""

    def __init__(self, view: SignedView) -> None:
        """Look into the store when something was found, and not before."""
        self._view = view
        self._segments: set[str] = set()
        self._bad_segments: set[str] = set()

    def weighed(self, found: Iterable[Observation]) -> Iterator[Observation]:
        """Pass on what was found, some of it as less than it seemed."""
        for each in found:
            folder = each.name.partition("/")[0]
            if each.weight not in _BAD or not layout.is_known(each.name):
                yield from self._instead(each) if self._is_explained(each) else (each,)
            elif folder == layout.PACKS:
                yield self._pack(each)
            elif folder == layout.MAPS and not each.versions:
                yield self._map(each)
            elif folder == layout.VERSIONS:
                yield self._record(each)
            else:
                yield each

    def _pack(self, found: Observation) -> Observation:
        named = self._packs.get(PackId(found.name.rpartition("/")[2]))
        if named or (named is not None and found.weight is Weight.UNCHECKED):
            return found
        if named is not None:
            meaning = "no version brought it: a dead job or healing did; `prove` tells who needs it"
            return replace(found, weight=Weight.SPARE_LOST, meaning=meaning)
        if self._whole_index:
            return replace(found, weight=Weight.NOTICE, meaning=_LEFT)
        meaning = "whether a version needs it is not known, as the index is damaged; run `prove`"
        return replace(found, weight=Weight.UNCHECKED, meaning=meaning)

    def _map(self, found: Observation) -> Observation:
        needed, whole = self._needed
        if found.name in needed or not whole:
            return found
        return replace(found, weight=Weight.NOTICE, meaning=_LEFT)

    def _record(self, found: Observation) -> Observation:
        told = self._records.get(found.name)
        return found if told is None else replace(told, cause=found.cause)

    def _is_explained(self, found: Observation) -> bool:
        """Whether a VM's versions seemed to be gone, and lie under other names."""
        vm = found.name.removeprefix(f"{layout.VERSIONS}/")
        about_vm = found.weight is Weight.DAMAGE and vm != found.name and is_name(vm)
        return about_vm and found.name not in self._records

    def _instead(self, gone: Observation) -> Iterator[Observation]:
        """The records of a VM that lie under other names."""
        for each in self._recorded.told:
            if each.name.startswith(f"{gone.name}/") and each.weight is Weight.SPARE_LOST:
                yield each

    @cached_property
    def _recorded(self) -> ReadableVersions:
        return recorded_versions(self._view)

    @cached_property
    def _records(self) -> dict[str, Observation]:
        return {each.name: each for each in self._recorded.told}

    @cached_property
    def _needed(self) -> tuple[frozenset[str], bool]:
        """Names that whole version records speak of, and whether all records are whole."""
        needed: set[str] = set()
        for name, lies_at in self._recorded.versions.items():
            needed.update(clear_part(self._view, name, lies_at).objects)
        whole = all(
            each.weight not in (Weight.DAMAGE, Weight.UNCHECKED) for each in self._recorded.told
        )
        return frozenset(needed), whole

    @cached_property
    def _whole_index(self) -> bool:
        """Whether every segment that versions brought is whole; asked for once all were read."""
        needed, whole = self._needed
        named = {name for name in needed if name.startswith(f"{layout.INDEX}/")}
        unknown = named - self._segments
        if unknown:  # of which later ones say what they said
            unknown -= deleted_objects(self._view)
        return whole and not self._bad_segments and not unknown

    @cached_property
    def _packs(self) -> dict[PackId, bool]:
        """Packs that index segments know, and whether a version brought one of those."""
        found: dict[PackId, bool] = {}
        needed, _ = self._needed
        listing = CarefulTransport(self._view.transport)
        for entry in listing.entries(layout.INDEX):
            if not layout.is_known(entry.name):
                continue
            try:
                clear, _ = self._view.read(entry.name, Kind.INDEX, IndexClear)
            except (*NOT_READ, *UNREADABLE):
                self._bad_segments.add(entry.name)
                continue
            self._segments.add(entry.name)
            for pack in clear.packs:
                pack_id = PackId(pack.pack)
                found[pack_id] = found.get(pack_id, False) or entry.name in needed
        self._bad_segments.update(listing.closed)
        return found

"""What versions need that a vault lacks, as signed needs lists say; learnt without any secret."""

from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from likeness.codec.documents import Kind
from likeness.errors import LikenessError
from likeness.model.ids import PackId, VersionId, VmId
from likeness.store.format import layout
from likeness.store.format.documents import IndexClear
from likeness.store.format.needs_lists import Needed, NeededMap, NeedsList, lists_of, remove_list
from likeness.store.format.observations import UNREADABLE
from likeness.store.format.public_view import PublicStore
from likeness.store.repair.copying import Manner, lacking
from likeness.store.repair.vault_mending import in_words
from likeness.transport.base import Entry

_STALE = (
    "what it needs moved in the data store since its needs list was written; the next vaulting"
    " after a job's end goes on"
)
_UNLISTED = (
    "no needs list of the data store names it yet; each job's end writes them, and the next"
    " vaulting goes on"
)


@dataclass
class Plan:
    """What is to be copied, and what is known of it."""

    lists: dict[VmId, list[NeedsList]] = field(default_factory=dict)
    packs: set[PackId] = field(default_factory=set)
    maps: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, needed: Needed) -> None:
        """One version more."""
        self.packs |= needed.packs
        for part in needed.maps:
            self.maps.update(
                zip(part.copies, zip(part.digests, part.sizes, strict=True), strict=True)
            )


class NeededObjects:
    """What a vault is to have for its versions, and what of that it has.

    Attributes:
        plan: What the versions need that are looked at.
        digests: What packs must hash to, and how long they are; of those that are not the same in
            both places.
        why: Why an object could not be copied, or the list of a VM not be read.
    """

    def __init__(self, store: PublicStore, vault: PublicStore, manner: Manner) -> None:
        """Know nothing yet."""
        self._store, self._vault, self._manner = store, vault, manner
        self.plan = Plan()
        self.digests: dict[PackId, tuple[bytes, int]] = {}
        self.why: dict[str, str] = {}
        self._differ: set[PackId] = set()
        self._maps_there: set[str] = set()
        self._their_lists: set[str] = set()
        self._read: set[str] = set()
        self._sizes: dict[str, int] = {}

    def make_plan(self, versions: list[Entry]) -> set[str]:
        """Read the lists of VMs to be looked at; names of those that the store has."""
        plan = self.plan = Plan()
        mine, theirs = (
            {e.name for e in each.transport.entries(layout.NEEDS) if layout.is_known(e.name)}
            for each in (self._store, self._vault)
        )
        vms = {vm_of(entry.name) for entry in versions}
        every = {vm_of(name) for name in (*mine, *theirs)}
        vms |= {vm_of(name) for name in mine - theirs} if self._manner.trusted else every
        names: set[str] = set()
        for vm in sorted(vms):
            problems: list[LikenessError] = []
            found = list(lists_of(self._store, vm, problems))
            names |= {each.name for each in found}
            if problems:
                self.why[vm] = f"the needs list of its VM is {in_words(problems[0])}"
            copied = list(lists_of(self._vault, vm, []))
            self._their_lists |= {each.name for each in copied}
            plan.lists[vm] = found + copied
            for each in found[:1]:
                for version in each.versions:
                    if self._manner.only is None or version in self._manner.only:
                        plan.add(each.needed(version))
        return names

    def lacking_packs(self) -> list[Entry]:
        """Packs to be copied: all that are committed, as heads are copied too, or those needed.

        What those must be like that are not the same in both places, is learnt.
        """
        entries = self._store.transport.entries(layout.PACKS)
        mine = {each.name: each for each in entries if layout.is_known(each.name)}
        self.look()
        alike = {n for n, each in mine.items() if each.size_bytes == self._sizes.get(n)}
        wanted = set() if self._manner.only is not None else {pack_of(n) for n in mine}
        self._differ = {p for p in self.plan.packs | wanted if layout.pack(p) not in alike}
        self._learn(self._differ)
        todo = self._differ & (self.digests.keys() | self.plan.packs)
        return [mine[name] for name in sorted(map(layout.pack, todo)) if name in mine]

    def look(self) -> None:
        """What packs the vault has, by their length."""
        entries = self._vault.transport.entries(layout.PACKS)
        self._sizes = {each.name: each.size_bytes for each in entries}

    def _learn(self, wanted: set[PackId]) -> None:
        """What packs must hash to, by the index: what is new of it first.

        The rest of it only knows more where something was left out, or moved.
        """
        there = {e.name for e in self._vault.transport.entries(layout.INDEX)}
        mine = [e.name for e in self._store.transport.entries(layout.INDEX)]
        for name in dict.fromkeys((*(n for n in mine if n not in there), *mine, *sorted(there))):
            if name in there and self._manner.trusted:
                wanted = wanted & self.plan.packs
            if not wanted - self.digests.keys():
                return
            if layout.is_known(name) and name not in self._read:
                self._learn_from(name)

    def _learn_from(self, name: str) -> None:
        for view in (self._store, self._vault):
            with suppress(*UNREADABLE):
                clear, _ = view.read_surely(name, Kind.INDEX, IndexClear)
                self._read.add(name)
                for pack in clear.packs:
                    self.digests[PackId(pack.pack)] = bytes.fromhex(pack.digest), pack.size_bytes
                return

    def segments_to_copy(self) -> Iterator[Entry]:
        """Those that the vault lacks; of some versions alone, those that speak of their packs."""
        for entry in lacking(self._store.transport, self._vault.transport, layout.INDEX):
            if self._manner.only is None:
                yield entry
                continue
            with suppress(*UNREADABLE):
                clear, _ = self._store.read_surely(entry.name, Kind.INDEX, IndexClear)
                if any(PackId(pack.pack) in self.plan.packs for pack in clear.packs):
                    yield entry

    def has_pack(self, pack: PackId) -> bool:
        """In the length it should have; its bytes were compared when they were copied."""
        size = self._sizes.get(layout.pack(pack))
        if pack in self._differ:
            return pack in self.digests and self.digests[pack][1] == size
        return size is not None

    def _has_map(self, part: NeededMap) -> bool:
        for copy, size in zip(part.copies, part.sizes, strict=True):
            if copy in self._maps_there:
                return True
            with suppress(*UNREADABLE):
                if self._vault.transport.size(copy) == size:
                    self._maps_there.add(copy)
                    return True
        return False

    def what_lacks(self, vm: VmId, version: VersionId) -> str:
        """Why the vault could not restore a version; empty if it can. One list is enough."""
        why = ""
        for each in self.plan.lists.get(vm, ()):
            if version in each:
                needed = each.needed(version)
                lacks = self._lacks(needed)
                if not lacks:
                    return ""
                why = why or lacks
        return why or self.why.get(vm, _UNLISTED)

    def _lacks(self, needed: Needed) -> str:
        for part in needed.maps:
            if not self._has_map(part):
                return self.why.get(part.copies[0], _STALE)
        for pack in sorted(needed.packs):
            if not self.has_pack(pack):
                return self.why.get(layout.pack(pack), _STALE)
        return ""

    def new_lists(self, names: set[str]) -> set[str]:
        """Those that the vault does not have whole."""
        return names - self._their_lists

    def packs_of_versions(self) -> Iterator[tuple[VmId, dict[VersionId, frozenset[PackId]]]]:
        """By VM what each version needs, by a list of which the vault has all, or the newest."""
        for vm, lists in self.plan.lists.items():
            found: dict[VersionId, frozenset[PackId]] = {}
            whole: set[VersionId] = set()
            for each in lists:
                for version in each.versions:
                    if version in whole:
                        continue
                    needed = each.needed(version)
                    if not self._lacks(needed):
                        whole.add(version)
                        found[version] = needed.packs
                    found.setdefault(version, needed.packs)
            yield vm, found

    def remove_old_lists(self, vm: VmId, there: Container[VersionId]) -> None:
        """Lists go whose versions are named by others of which the vault has all, too."""
        kept = {e.name: e for e in sorted(self.plan.lists[vm], key=lambda each: each.made_at)}
        for old in list(reversed(kept.values()))[1:]:
            others = [each for each in kept.values() if each is not old]
            if all(self._is_whole(v, others) for v in old.versions if v in there):
                del kept[old.name]
                remove_list(self._vault, old.name)

    def _is_whole(self, version: VersionId, lists: list[NeedsList]) -> bool:
        return any(version in e and not self._lacks(e.needed(version)) for e in lists)


def vm_of(name: str) -> VmId:
    """Whose a record or a needs list is."""
    return VmId(name.split("/")[1])


def pack_of(name: str) -> PackId:
    """Which pack lies under a name."""
    return PackId(name.rpartition("/")[2])

"""Catch up: what the store has and what the catalog knows, brought together, VM by VM.

A process may die after a version is in the store and before it is in the catalog; either of the
two may be set back, or newer than the other. The store is the truth. What is gone from it was
looked for twice, over two connections; and what is the matter with one VM stays that VM's.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial

from blocks import Site
from catalog import audits, reconciling, space
from catalog.audits import OF_THE_CATALOG, AuditTrouble
from catalog.chunks import unreferenced_packs
from catalog.dedup import packs_condemned, record_deleted_packs
from catalog.mending import is_in_doubt
from catalog.reconciling import KnownRecord
from catalog.recording_packs import record_packs
from likeness.clock import system_clock
from likeness.errors import (
    CatalogBusy,
    Damaged,
    ObjectUnreadable,
    ShareUnreachable,
    Stopped,
    StoreMissing,
    WrittenLate,
    WrongKey,
)
from likeness.model.ids import PackId, VersionId, VmId
from likeness.model.sizes import counted
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.observations import Weight
from likeness.store.prune.sweeping import deleted_objects
from likeness.store.read.index import known_packs
from likeness.store.read.versions import read_version, record_names, vms
from likeness.store.write.condemning import read_condemned
from likeness.store.write.forgetting import whole_forgotten
from likeness.store.write.torn_records import torn_records
from tasks.logs import step_logger
from tasks.mend_catalog import ready_catalog, require_catalog_of
from tasks.remember import remember_version
from tasks.remember_many import remember_new_vms
from tasks.retries import STEP, task

_SHOWN_FOR = timedelta(days=7)
_LEFT_OUT = "its versions that are not listed are left out until this is over; other VMs go on"
_OF_ALL = (CatalogBusy, Stopped, StoreMissing, WrongKey)
"""What is the matter with everything, and not with one VM."""


@dataclass(frozen=True, slots=True)
class ListedStore:
    """What a store was seen to have, for who looks at it right afterwards.

    Attributes:
        packs: Lengths of packs, by name.
        records: Names of version records.
    """

    packs: Mapping[str, int]
    records: frozenset[str]


@task(task_run_name="catch up with the store", **STEP)
def catch_up(*, site: Site) -> int:
    """Bring the catalog to what the store has; how many versions there were to record.

    Versions that only the store has are recorded, unchecked. Versions that only the catalog has
    were forgotten, as a signed statement says, or else expire: red, told once. One that is in the
    store again is unchecked again.

    Raises:
        StoreMissing: There is no store.
        WrongKey: The key file opens another store.
        ShareUnreachable: The store does not answer; tried again.
        CatalogBusy: Another process holds the catalog; tried again.
    """
    return _caught_up(site).recorded


@task(task_run_name="catch up with the store", **STEP)
def catch_up_and_list(*, site: Site) -> ListedStore | None:
    """The same; what the store has, if all of it could be listed.

    Raises:
        StoreMissing, WrongKey, ShareUnreachable, CatalogBusy: See `catch_up`.
    """
    work = _caught_up(site)
    if work.troubles or work.packs is None:
        return None
    return ListedStore(work.packs, frozenset(work.records))


def _caught_up(site: Site) -> "_CatchUp":
    try:
        return _opened_and_caught_up(site)
    except Damaged:
        if not is_in_doubt(site.catalog.file):
            raise
        return _opened_and_caught_up(site)  # what shows in the middle is mended at the beginning


def _opened_and_caught_up(site: Site) -> "_CatchUp":
    ready_catalog(site)
    with site.data_store.open() as store:
        return _brought_together(site, store)


def bring_together(site: Site, store: DataStore) -> tuple[int, tuple[str, ...]]:
    """See `catch_up`; the catalog is ready, the store is open, with whatever key.

    Returns:
        How many versions there were to record, and what was left out, in words.
    """
    work = _brought_together(site, store)
    left_out = (f"{each.name}: {each.cause}" for each in work.troubles.values())
    return work.recorded, tuple(left_out)


def _brought_together(site: Site, store: DataStore) -> "_CatchUp":
    require_catalog_of(site, store)
    work = _CatchUp(site, store)
    work.versions()
    work.packs_apart()
    work.write_troubles()
    if work.recorded:
        step_logger().info("recorded %d versions that only the store knew", work.recorded)
    return work


@dataclass
class _CatchUp:
    site: Site
    store: DataStore
    recorded: int = 0
    lost: int = 0
    troubles: dict[str, AuditTrouble] = field(default_factory=dict)
    packs: dict[str, int] | None = None
    records: set[str] = field(default_factory=set)

    def versions(self) -> None:
        """Go through all VMs that either side knows; new ones first in bulk."""
        there = vms(self.store)
        known = self._known()
        if new := [vm for vm in sorted(there) if vm not in known]:
            self._in_bulk(new)
            known = self._known()
            self.recorded += sum(len(known[vm]) for vm in new if vm in known)
        for vm in sorted({*known, *there}):
            name = known[vm][-1].vm_name if known[vm] else vm[:8]
            self._apart(f"VM {name}", partial(self._versions_of, vm, name, known[vm]))

    def _known(self) -> dict[VmId, list[KnownRecord]]:
        known: dict[VmId, list[KnownRecord]] = defaultdict(list)
        for each in reconciling.known_records(self.site.catalog.file):
            known[each.vm].append(each)
        return known

    def _in_bulk(self, new: Sequence[VmId]) -> None:
        """Whatever goes wrong here, what is left is recorded, or told of, one by one."""
        try:
            remember_new_vms(self.site, self.store, new)
        except _OF_ALL:
            raise
        except Exception as cause:
            if isinstance(cause, ShareUnreachable) and not isinstance(cause, ObjectUnreadable):
                raise
            step_logger().warning("new VMs are recorded version by version: %s", cause)

    def _apart(self, what: str, step: Callable[[], None]) -> None:
        """Do something for one VM; what goes wrong with it is written down, and stops no other."""
        try:
            step()
        except _OF_ALL:
            raise
        except Exception as cause:
            if isinstance(cause, ShareUnreachable) and not isinstance(cause, ObjectUnreadable):
                raise
            step_logger().warning("%s: %s; %s", what, cause, _LEFT_OUT)
            name = f"{OF_THE_CATALOG}{what}"
            self.troubles[name] = AuditTrouble(
                name, Weight.UNCHECKED.value, str(cause), _LEFT_OUT, system_clock()
            )

    def _versions_of(self, vm: VmId, who: str, known: Collection[KnownRecord]) -> None:
        there = record_names(self.store, vm)
        self.records.update(there)
        ids = {_version_in(name) for name in there}
        missing = [each for each in known if not each.expired and each.version not in ids]
        if missing:
            ids |= {_version_in(name) for name in self._listed_again(vm)}
            gone = [each for each in missing if each.version not in ids]
            on_purpose = whole_forgotten(self.store).now if gone else frozenset()
            forgotten = [each.version for each in gone if each.record in on_purpose]
            space.forget_versions(self.site.catalog.file, forgotten, system_clock())
            self._expire([e.version for e in gone if e.record not in on_purpose], who)
        back = [each.version for each in known if each.expired and each.version in ids]
        if back:
            reconciling.versions_are_back(self.site.catalog.file, back, system_clock())
        known_ids = {each.version for each in known}
        for name in there:
            if _version_in(name) not in known_ids:
                label = f"VM {who}, version {layout.number_of(name)}"
                self._apart(label, partial(self._remember, name, vm, there))

    def _expire(self, gone: Collection[VersionId], who: str) -> None:
        count = reconciling.expire_versions(self.site.catalog.file, gone, system_clock())
        if count:
            self.lost += count
            said = f"{counted(count, 'version')} expired: {reconciling.LOST}"
            step_logger().error("VM %s: %s", who, said)

    def _remember(self, name: str, vm: VmId, there: list[str]) -> None:
        try:
            version = read_version(self.store, name)
        except Damaged:
            if name in torn_records(self.store, vm, there):
                return  # a job was killed over it; the VM's next backup moves it away
            raise
        except WrittenLate as cause:
            step_logger().warning("%s; it is left out", cause)
            return
        remember_version(self.site, self.store, version, replaced=lambda: self._replaced)
        self.recorded += 1

    @cached_property
    def _replaced(self) -> set[str]:
        return deleted_objects(self.store)

    def _listed_again(self, vm: VmId) -> list[str]:
        with self.store.again() as again:
            return record_names(again, vm)

    def packs_apart(self) -> None:
        """Look at packs; whatever is the matter with the index stops nothing either."""
        self._apart("packs", self._packs)

    def _packs(self) -> None:
        """Packs that are in the store again serve again; what only lost versions needed goes."""
        catalog = self.site.catalog.file
        states = reconciling.known_packs_by_state(catalog)  # before the listing, never after
        condemned = read_condemned(self.store).packs
        self.packs = self._pack_sizes(self.store)
        there = {_pack_in(name) for name in self.packs}
        back = {pack for pack in there if states.get(pack) in ("gone", "condemned")}
        back -= condemned.keys()
        unknown = there - states.keys() if self.recorded or back else set()
        if back or unknown:
            found = {
                pack.pack: pack
                for pack in known_packs(self.store, back | unknown, damaged=self._unread)
            }
            reconciling.packs_are_back(
                catalog, [found[each] for each in back if each in found], system_clock()
            )
            record_packs(
                catalog, [found[each] for each in unknown if each in found], system_clock()
            )
        self._condemned(condemned, there)
        if self.lost:
            self._forget_what_only_lost_versions_needed(states, there)

    def _condemned(self, condemned: Collection[PackId], there: Collection[PackId]) -> None:
        """Nobody relies on packs that wait to be deleted, whoever condemned them."""
        catalog = self.site.catalog.file
        states = reconciling.known_packs_by_state(catalog)
        usable = ("live", "redundant")
        if new := [pack for pack in condemned if states.get(pack) in usable]:
            packs_condemned(catalog, new, system_clock())
        gone = [p for p, state in states.items() if state == "condemned" and p not in there]
        if gone:
            record_deleted_packs(catalog, gone, system_clock())

    def _forget_what_only_lost_versions_needed(
        self, states: Mapping[PackId, str], there: Collection[PackId]
    ) -> None:
        """Packs that nobody needs and that are not there either are no damage."""
        now = system_clock()
        spare = {each.pack for each in unreferenced_packs(self.site.catalog.file, now)}
        missing = {pack for pack in spare & states.keys() if pack not in there}
        if missing:
            with self.store.again() as again:
                missing -= {_pack_in(name) for name in self._pack_sizes(again)}
            record_deleted_packs(self.site.catalog.file, missing, now)

    @staticmethod
    def _pack_sizes(store: DataStore) -> dict[str, int]:
        entries = store.transport.entries(layout.PACKS)
        return {each.name: each.size_bytes for each in entries if layout.is_known(each.name)}

    def _unread(self, cause: Exception) -> None:
        step_logger().warning("%s; its packs are left out", cause)

    def write_troubles(self) -> None:
        """What is the matter stands on the page until it is over."""
        audits.record_catalog_troubles(
            self.site.catalog.file, self.troubles.values(), system_clock(), keep=_SHOWN_FOR
        )


def _pack_in(name: str) -> PackId:
    return PackId(name.rpartition("/")[2])


def _version_in(name: str) -> VersionId:
    return VersionId(name.rpartition("-")[2])

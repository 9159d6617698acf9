"""A small store, its catalog and its vault, with a clock that goes where a test wants it."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from blocks import CatalogFile, DataStoreShare, Site, Vault, XenPool
from blocks.site import ROLES
from catalog import planning
from catalog.chunks import damaged_ids
from catalog.planning import ReadingPlan
from catalog.recording import record_version
from catalog.session import catalog_session
from catalog.values import DiskMap, Verdict, VersionRow
from catalog.versions import list_versions
from likeness.model.ids import DiskId, PackId, VersionId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.index import known_packs, read_segment
from likeness.store.read.versions import Version, load_map, map_runs
from likeness.store.repair.copying import copy_to_vault
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from likeness.transport.metered import MeteredTransport
from tasks.ages import AgeLimit
from tasks.auditing import look_at_everything, look_at_packs_and_records
from tasks.proving import Prover, Validated
from tests.catalog.scenes import put_empty
from tests.support.memory import MemoryTransport
from tests.unit.workshop import Workshop

DAY = timedelta(days=1)
MONTH = timedelta(days=30)
BEGIN = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Moment:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = BEGIN) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class House:
    """A data store with a catalog and an empty vault; VMs are names, disks are bytes.

    Attributes:
        site: Blocks for the same places, not saved anywhere; only with a store in a folder.
        reads: The store's transport, counting.
    """

    def __init__(
        self, folder: Path, *, transport: Transport | None = None, age: timedelta | None = MONTH
    ) -> None:
        self.folder = folder
        for name in ("store", "vault", "here", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.place: Transport = transport or LocalTransport(folder / "store")
        self.workshop = Workshop(folder / "work", transport=self.place)
        self.clock = Moment()
        self.workshop.clock = self.clock  # type: ignore[assignment]  # any clock will do
        self.limit = AgeLimit(age, age)
        self.stop = StopToken()
        self.site = Site(**blocks_in(folder, self.workshop.key_file))
        self.catalog = self.site.catalog.file
        put_empty(self.catalog)
        self.reads = MeteredTransport(self.place, folder=layout.PACKS)
        self.vms: dict[str, VmId] = {}
        self.disks: dict[str, dict[VersionId, tuple[bytes, ...]]] = {}

    def copied(self, folder: Path) -> "House":
        """The same house at another place, as if everything had happened there."""
        shutil.copytree(self.folder, folder)
        made = copy(self)
        made.folder, made.place = folder, LocalTransport(folder / "store")
        made.workshop = self.workshop.copied(folder / "work", made.place)
        made.clock = Moment(self.clock.now)
        made.workshop.clock = made.clock  # type: ignore[assignment]  # any clock will do
        made.stop = StopToken()
        made.site = settings_of(self.site, **blocks_in(folder, made.workshop.key_file))
        made.catalog = made.site.catalog.file
        made.reads = MeteredTransport(made.place, folder=layout.PACKS)
        made.vms = dict(self.vms)
        made.disks = {vm: dict(versions) for vm, versions in self.disks.items()}
        return made

    # -- what people do --------------------------------------------------------------------------

    def back_up(self, vm: str, *disks: bytes, heal: bool = True) -> Version:
        """Back up a VM as it is now, and record it; damaged chunks are sent again."""
        vm_id = self.vms.setdefault(vm, VmId(random_name()))
        with catalog_session(self.catalog):
            distrusted = frozenset(damaged_ids(self.catalog)) if heal else frozenset()
            version = self.workshop.back_up(*disks, vm=vm_id, vm_name=vm, distrusted=distrusted)
            self.record(version)
        self.disks.setdefault(vm, {})[version.version] = disks
        return version

    def record(self, version: Version) -> None:
        """Tell the catalog of a version, as a commit does."""
        store = self.workshop.store
        maps = [
            DiskMap(
                DiskId(disk.disk),
                disk.deltas == 0,
                map_runs(store, disk, only=None if disk.deltas == 0 else version.version),
            )
            for disk in version.record.disks
        ]
        packs = [
            pack
            for name in version.clear.objects
            if name.startswith("index/")
            for pack in read_segment(store, name)
        ]
        record_version(self.catalog, version, maps, packs, self.clock())

    def validate(
        self, *versions: Version, pause: timedelta = DAY, budget: int | None = None
    ) -> Validated:
        """Validate some versions, or whatever is new or due, as the flow does."""
        with catalog_session(self.catalog), self.prover() as prover:
            report = self.look(prover)
            plan = self.plan(*versions, pause=pause, budget=budget)
            report = report.and_then(prover.prove([pack.pack for pack in plan.packs]))
            ids = [version.version for version in versions]
            wanted = ids or [row.version for row in self.rows()]
            checks = prover.documents(ids or None, self.folder / "work")
            return report.and_then(prover.judge(wanted, checks))

    def look(self, prover: Prover, *, everything: bool = False) -> Validated:
        """Look whether everything is there, and prove what is in doubt."""
        doubts = (look_at_everything if everything else look_at_packs_and_records)(prover)
        found = prover.prove(doubts.packs)
        if not doubts.versions:
            return found
        checks = prover.documents(doubts.versions, self.folder / "work", all_of_them=True)
        return found.and_then(prover.judge(doubts.versions, checks))

    def plan(
        self, *versions: Version, pause: timedelta = DAY, budget: int | None = None
    ) -> ReadingPlan:
        """What would be read."""
        now, age = self.clock(), self.limit.due_after
        if versions:
            ids = [version.version for version in versions]
            return planning.plan_new(self.catalog, now, age, versions=ids)
        return planning.plan_revalidation(self.catalog, now, age, pause=pause, budget_bytes=budget)

    def vault(self) -> None:
        """Copy everything to the vault."""
        vault = LocalTransport(self.folder / "vault")
        problems = [
            copied.problem
            for copied in copy_to_vault(self.workshop.store, vault, stop=self.stop)
            if copied.problem
        ]
        assert problems == []

    @contextmanager
    def prover(self) -> Generator[Prover, None, None]:
        """What reads back, over a connection of its own, and counts."""
        store = self.opened(self.reads)
        yield Prover(
            self.catalog,
            store,
            self.limit,
            self.clock,
            self.stop,
        )

    def opened(self, transport: Transport) -> DataStore:
        """The store, opened afresh."""
        return open_store_with_key_file(transport, self.workshop.key_file)

    # -- what is true ----------------------------------------------------------------------------

    def rows(self, vm: str = "") -> list[VersionRow]:
        """Versions as the catalog has them, newest first."""
        rows = list_versions(self.catalog, self.clock(), self.limit.green_for)
        return [row for row in rows if vm in ("", row.vm_name)]

    def verdicts(self) -> dict[str, list[Verdict]]:
        """The verdicts of each VM's versions, oldest first."""
        found: dict[str, list[Verdict]] = {}
        for row in reversed(self.rows()):
            found.setdefault(row.vm_name, []).append(row.verdict)
        return found

    def whole(self, version: Version) -> bool:
        """Whether every disk of a version restores bit for bit."""
        wanted = next(d[version.version] for d in self.disks.values() if version.version in d)
        return all(
            self.workshop.restore(version, at) == content for at, content in enumerate(wanted)
        )

    # -- what goes wrong -------------------------------------------------------------------------

    def pack_of(self, version: Version, position: int = 0) -> PackId:
        """The pack that holds what lies at a position of a version's first disk."""
        disk = version.record.disks[0]
        path = self.folder / "work" / f"{random_name()}.map"
        with load_map(self.workshop.store, disk, path) as chunk_map:
            chunk = next(
                chunk
                for run in chunk_map.runs_unlike(None, 0, chunk_map.positions)
                for at, chunk in run.each()
                if at == position
            )
        return next(
            pack.pack
            for pack in known_packs(self.workshop.store)
            if any(place.chunk == chunk for place in pack.locations)
        )

    def all_packs(self) -> set[PackId]:
        """Every pack the index knows."""
        return {pack.pack for pack in known_packs(self.workshop.store)}

    def spoil(self, pack: PackId, at: int | None = None) -> None:
        """Flip one byte of a pack; by default in its middle."""
        data = bytearray(self.read(pack))
        data[len(data) // 2 if at is None else at] ^= 0xFF
        self.write(pack, bytes(data))

    def read(self, pack: PackId) -> bytes:
        """What lies there."""
        return self.place.read(layout.pack(pack))

    def write(self, pack: PackId, data: bytes) -> None:
        """Put something else there, behind everybody's back."""
        if isinstance(self.place, MemoryTransport):
            self.place.objects[layout.pack(pack)] = data
        else:
            (self.folder / "store" / layout.pack(pack)).write_bytes(data)

    def lose(self, pack: PackId) -> None:
        """A pack is gone."""
        self.place.delete(layout.pack(pack))


def blocks_in(folder: Path, key_file: Path) -> dict[str, Any]:
    """A site's blocks for places under a folder."""
    return {
        "xen_pool": XenPool(url="https://pool.invalid", password=SecretStr("none")),
        "data_store": DataStoreShare(place=str(folder / "store"), key_file=str(key_file)),
        "catalog": CatalogFile(folder=str(folder / "here")),
        "vault": Vault(place=str(folder / "vault")),
    }


def settings_of(site: Site, **changes: Any) -> Site:
    """The same site with other blocks or settings."""
    fields = {name: getattr(site, name) for name in (*Site.model_fields, *ROLES)}
    return Site(**{**fields, **changes})

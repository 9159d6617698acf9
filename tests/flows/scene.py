"""A pool of the lab and the site that protects it: what a test of the flows holds in its hand."""

import hashlib
import random
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from pydantic import SecretStr

from blocks import DataStoreShare, Site, Vault, XenPool
from catalog import schema
from catalog.values import Verdict, VersionRow
from catalog.versions import list_versions
from flows.backup import backup_job
from flows.restore import restore_disks
from flows.set_up import set_up_site
from flows.settings import change_settings
from flows.validate import validate
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from likeness.clock import system_clock
from likeness.model.ids import random_name
from likeness.model.job import BackupJob
from likeness.model.outcome import VmOutcome
from likeness.stopping import StopToken
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.unfinished import is_unfinished
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import Version, read_version, record_names, vms
from tasks.outcomes import JobHadErrors
from tests.catalog.scenes import put_empty

MIB = 1 << 20
NOTHING_LEFT = {"snapshots": 0, "frozen disks": 0}
Vms = Mapping[str, Sequence[bytes | int | Path]]
"""Names of VMs to their disks: the content, an image, or the bytes that an empty one has."""

QUICK: Mapping[str, Any] = {
    "wrong_password_seconds": 0.05,
    "detach_seconds": 0.02,
    "coalesce_seconds": 0.05,
    "data_destroy_seconds": 0.1,
    "conflict_seconds": 0.2,
}


def left_in(pool: Pool) -> dict[str, int]:
    """What a backup must not leave: snapshots, and frozen disks with data."""
    db = pool.db
    frozen = db.where("VDI", is_a_snapshot=True, managed=True)
    return {
        "snapshots": len(db.where("VM", is_a_snapshot=True)),
        "frozen disks": sum(db.get("VDI", each, "type") != "cbt_metadata" for each in frozen),
    }


def noise(seed: int | str, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def two_vms() -> Vms:
    """A VM with two disks, one with a disk whose size is no multiple of a chunk."""
    return {
        "web": [noise("web", 3 * MIB) + bytes(MIB), noise("logs", 2 * MIB)],
        "db": [noise("db", 3 * MIB + 512)],
    }


def sha256(content: bytes) -> str:
    """To compare disks without printing them."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Scene:
    """A pool, and a site whose blocks are saved.

    Attributes:
        name: Of the site; what flows are given.
        site: Its blocks.
        lab: The pool that it protects.
        folder: Holds `store`, `vault`, `here` (catalog and key) and what is restored.
        recovery_words: Of the store.
    """

    name: str
    site: Site
    lab: LabServer
    folder: Path
    recovery_words: str = field(repr=False)

    # -- what people do --------------------------------------------------------------------------

    def job(self, *names: str, **more: Any) -> BackupJob:
        """A job of some VMs, called `nightly`."""
        return BackupJob.model_validate({"name": "nightly", "vms": list(names), **more})

    def back_up(self, *names: str, validated: bool = False, **more: Any) -> State[Any]:
        """Run a job; how it ended."""
        when = "in this run" if validated else "in the background"
        ended: State[Any] = backup_job(
            self.job(*names, **more), site=self.name, validation=when, return_state=True
        )
        return ended

    def validate(self, **more: Any) -> State[Any]:
        """Validate what is new or due; how it ended."""
        ended: State[Any] = validate(site=self.name, return_state=True, **more)
        return ended

    def restore(self, version: str, *, from_vault: bool = False) -> list[str]:
        """Restore the disks of a version by the flow; the SHA-256 of each."""
        folder = self.folder / f"restored-{random_name()[:8]}"
        disks: Any = restore_disks(version, str(folder), site=self.name, from_vault=from_vault)
        return [sha256(disk.path.read_bytes()) for disk in disks]

    # -- what is true ----------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        """The pool itself."""
        return self.lab.pool

    def disks(self, vm: str) -> list[str]:
        """The SHA-256 of what each disk of a VM holds at this moment."""
        found: list[str] = []
        while True:
            try:
                disk = self.pool.disk_of(vm, len(found))
            except LookupError:
                return found
            found.append(sha256(disk.read(0, disk.size)))

    def left_in_the_pool(self) -> dict[str, int]:
        """What a backup must not leave: snapshots, and frozen disks with data."""
        return left_in(self.pool)

    def records_of_changes(self) -> int:
        """Frozen disks without data, which the next run compares with."""
        return len(self.pool.db.where("VDI", type="cbt_metadata"))

    @contextmanager
    def lost_catalog(self) -> Generator[None, None, None]:
        """Without what its catalog knows, while it lasts."""
        kept = self.folder / f"kept-{random_name()[:8]}"
        shutil.copytree(self.catalog_file.parent, kept)
        self.forget_catalog()
        try:
            yield
        finally:
            self.forget_catalog()
            shutil.copytree(kept, self.catalog_file.parent, dirs_exist_ok=True)

    def forget_catalog(self) -> None:
        """Lose the catalog, as when its disk broke."""
        for path in self.catalog_file.parent.glob("catalog.duckdb*"):
            if path.is_file():
                path.unlink()

    # -- what is kept ----------------------------------------------------------------------------

    @property
    def place(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    @property
    def catalog_file(self) -> Path:
        """The catalog's file."""
        return self.site.catalog.file.path

    def listed(self, vm: str = "") -> list[VersionRow]:
        """Versions as the catalog knows them, newest first."""
        rows = list_versions(self.site.catalog.file, system_clock(), timedelta(days=30))
        return [row for row in rows if vm in ("", row.vm_name)]

    def newest(self, vm: str) -> VersionRow:
        """A VM's newest version."""
        return self.listed(vm)[0]

    def verdicts(self) -> list[Verdict]:
        """The verdict on each version, newest first."""
        return [row.verdict for row in self.listed()]

    @contextmanager
    def store(self) -> Generator[DataStore, None, None]:
        """The store, opened without Prefect and catalog."""
        with self.site.data_store.open() as store:
            yield store

    def stored(self, *, but_begun: bool = False) -> list[Version]:
        """Versions as the store has them; on request without records that are only begun."""
        with self.store() as store:
            return [
                read_version(store, name)
                for vm in vms(store)
                for name in record_names(store, vm)
                if not (but_begun and is_unfinished(name, store.transport.read(name)))
            ]

    def record_names(self) -> list[str]:
        """Names of the versions' records, of which the last may still be under way."""
        with self.store() as store:
            return [name for vm in vms(store) for name in record_names(store, vm)]

    def read_back(self, version: Version, *, place: Path | None = None) -> list[str]:
        """Restore a version by the engine alone; the SHA-256 of each disk."""
        found = []
        folder = self.folder / f"read-back-{random_name()}"
        (folder / "scratch").mkdir(parents=True)
        share = DataStoreShare(
            place=str(place or self.place), key_file=self.site.data_store.key_file
        )
        transport = share.connect()
        try:
            store = open_store_with_key_file(transport, Path(share.key_file))
            for number, disk in enumerate(version.record.disks):
                target = folder / f"{number}.raw"
                writer = FileDiskWriter(target, disk.size_bytes)
                restore_disk(store, disk, writer, scratch=folder / "scratch", stop=StopToken())
                found.append(sha256(target.read_bytes()))
        finally:
            transport.close()
        return found

    def packs(self) -> list[Path]:
        """Files of packs, by name."""
        return sorted(path for path in (self.place / "packs").rglob("*") if path.is_file())

    def objects(self) -> dict[str, int]:
        """Every file of the store, with its size."""
        return sizes(self.place)

    def save(self, **changes: Any) -> None:
        """Change fields of the site's blocks, given as `role={field: value}`, for flows to see."""
        for role, fields in changes.items():
            block = getattr(self.site, role)
            for name, value in fields.items():
                setattr(block, name, value)
            block.save(f"{self.name}-{role.replace('_', '-')}", overwrite=True)

    def revalidate_always(self) -> None:
        """Let every validation read everything."""
        self.set(revalidate_after="always")

    def set(self, **settings: Any) -> None:
        """Change settings of the site, for flows to see."""
        change_settings(self.name, **settings)
        self.site = Site.named(self.name)


def sizes(folder: Path) -> dict[str, int]:
    """Every file below a folder, with its size."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def outcomes(ended: State[Any]) -> dict[str, VmOutcome]:
    """What became of each VM of a job, by name."""
    try:
        found = ended.result()
    except JobHadErrors as problem:
        found = problem.outcomes
    return {each.name: each for each in found}


def image(folder: Path, name: str, content: bytes) -> Path:
    """A raw image for the lab to serve."""
    path = folder / f"{name}.raw"
    path.write_bytes(content)
    return path


@contextmanager
def open_scene(
    folder: Path, vms: Vms | None = None, *, hosts: int = 1, **settings: Any
) -> Generator[Scene, None, None]:
    """A pool of the lab with some VMs, and a site that protects it, for as long as `with` lasts.

    Args:
        folder: A new folder for everything.
        vms: See `Vms`; two VMs if none are given.
        hosts: Of the pool.
        settings: Of the lab, see `lab.settings.Settings`.
    """
    for name in ("images", "store", "vault", "here"):
        (folder / name).mkdir(parents=True)
    pool = Pool(Settings(**{**QUICK, **settings}), hosts=hosts)
    for name, disks in (two_vms() if vms is None else vms).items():
        pool.add_vm(name, [_disk(folder / "images", name, n, d) for n, d in enumerate(disks)])
    with LabServer(pool) as lab:
        yield new_scene(folder, lab)


def _disk(folder: Path, vm: str, number: int, disk: bytes | int | Path) -> Path | int:
    return image(folder, f"{vm}-{number}", disk) if isinstance(disk, bytes) else disk


def new_scene(folder: Path, lab: LabServer) -> Scene:
    """A site for a pool that runs already; `folder` holds `store`, `vault` and `here`."""
    name = f"site-{random_name()[:12]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "create", lambda catalog, _now: put_empty(catalog))
        made = set_up_site(
            name,
            pool=XenPool(url=lab.url, username=lab.username, password=SecretStr(lab.password)),
            data_store=DataStoreShare(
                place=str(folder / "store"), key_file=str(folder / "here" / "store.key")
            ),
            vault=Vault(place=str(folder / "vault")),
            folder=folder / "here",
        )
    return Scene(name, made.site, lab, folder, made.recovery_words)

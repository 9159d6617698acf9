"""A store in a real folder, with history: two VMs, four versions, heads, a copy of the catalog."""

import tempfile
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from likeness.model.ids import VmId, random_name
from likeness.stopping import StopToken
from likeness.store.check.auditing import audit_presence
from likeness.store.check.scrubbing import scrub_frames, scrub_signatures
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.observations import Observation, Weight
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.format.public_view import PublicStore, open_public
from likeness.store.read.versions import Version
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.transport.local import LocalTransport
from tests.unit.workshop import KIB, Workshop, changed, noise

SIZE = 512 * KIB


@dataclass
class Filled:
    """The store, and what is in it."""

    root: Path
    workshop: Workshop
    versions: list[Version]

    @property
    def store(self) -> DataStore:
        return self.workshop.store

    @property
    def public(self) -> PublicStore:
        fingerprint = self.store.keys.public().fingerprint
        return open_public(self.workshop.transport, fingerprint=fingerprint)

    def path(self, name: str) -> Path:
        return self.root / name

    def names(self, folder: str) -> list[str]:
        return self.workshop.names(folder)

    def audited(self, *, with_key: bool = True, **options: int) -> list[Observation]:
        view = self.store if with_key else self.public
        return list(audit_presence(view, stop=StopToken(), **options))

    def scrubbed(self) -> list[Observation]:
        return list(scrub_frames(self.workshop.transport, stop=StopToken()))

    def verified(self) -> list[Observation]:
        return list(scrub_signatures(self.public, stop=StopToken()))


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def fill(tmp_path: Path) -> Filled:
    """Lay the store out below a folder: a copy of the one that this process made."""
    made = _made_once()
    for name, content in made.kept.items():
        path = tmp_path / name
        if content is None:
            path.mkdir(mode=0o700)
        else:
            path.write_bytes(content)
            path.chmod(0o600)
    workshop = copy(made.filled.workshop)
    workshop.folder, workshop.key_file = tmp_path, tmp_path / workshop.key_file.name
    workshop.clock, workshop.disk_ids = copy(workshop.clock), copy(workshop.disk_ids)
    workshop.transport = LocalTransport(tmp_path / "store")
    workshop.store = open_store_with_key_file(workshop.transport, workshop.key_file)
    return Filled(tmp_path / "store", workshop, list(made.filled.versions))


@dataclass
class _Made:
    """A store, its key file and what a copy of the catalog was made of; a folder has no content."""

    filled: Filled
    kept: dict[str, bytes | None]


@cache
def _made_once() -> _Made:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled = _make(folder)
        wanted = [filled.workshop.key_file]
        for top in (folder / "store", folder / "catalog"):
            wanted += [top, *sorted(top.rglob("*"))]
        return _Made(
            filled,
            {
                str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
                for path in wanted
            },
        )


def _make(tmp_path: Path) -> Filled:
    root = tmp_path / "store"
    workshop = Workshop(tmp_path, transport=LocalTransport(root, make=True))
    other = VmId(random_name())
    disk = noise("disk", SIZE)
    versions = [workshop.back_up(disk)]
    write_head(workshop.store, clock=workshop.clock)
    versions.append(workshop.back_up(noise("other", SIZE), vm=other))
    versions.append(workshop.back_up(changed(disk, (100 * KIB, b"changed"))))
    write_head(workshop.store, clock=workshop.clock)
    versions.append(workshop.back_up(changed(disk, (300 * KIB, b"again"))))
    memory = tmp_path / "catalog"
    memory.mkdir()
    (memory / "catalog.txt").write_text("what the installation knows")
    put_copy(workshop.store, memory, clock=workshop.clock)
    write_head(workshop.store, clock=workshop.clock)
    return Filled(root, workshop, versions)


def bad(observations: list[Observation]) -> dict[str, Weight]:
    """Object to weight, of whatever is more than a notice."""
    return {each.name: each.weight for each in observations if each.weight is not Weight.NOTICE}


OBJECTS: dict[str, Callable[[Filled], str]] = {
    "pack": lambda filled: filled.names(layout.PACKS)[0],
    "block map": lambda filled: filled.names(layout.MAPS)[0],
    "version record": lambda filled: filled.versions[0].name,
    "newest version record": lambda filled: filled.versions[-1].name,
    "index segment": lambda filled: filled.names(layout.INDEX)[0],
    "head": lambda filled: filled.names(layout.HEADS)[0],
    "newest head": lambda filled: filled.names(layout.HEADS)[-1],
    "key slot": lambda filled: next(n for n in filled.names(layout.KEYS) if "/slot-" in n),
    "public keys": lambda _: layout.public_keys(1),
    "owner": lambda filled: filled.names(layout.OWNER)[0],
    "format copy": lambda _: layout.FORMAT_COPIES[1],
    "catalog copy": lambda filled: filled.names(layout.CATALOG)[0],
    "part of a catalog copy": lambda filled: filled.names(layout.CATALOG)[1],
}
"""Every kind of object, and how to name one of it."""

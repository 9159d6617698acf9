"""A store that the product made, with all that happens to one in a month; spoilt by others."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from likeness.model.ids import VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format import layout
from likeness.store.keys.keyring import begin_epoch
from likeness.store.read.index import known_packs
from likeness.store.read.versions import Version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.transport.local import LocalTransport
from tests.faults.black_box_faults import Objects, Place, readable_by_all
from tests.unit.workshop import CHUNK, Workshop, changed, noise, text

NOBODY = 65534
_BOX_BYTES = 112


@dataclass(frozen=True)
class Known:
    """A version as it was taken.

    Attributes:
        version: As the product recorded it.
        digests: SHA-256 of each disk.
        records: For each data block the sealed records that hold it, each with its session's box.
    """

    version: Version
    digests: tuple[str, ...]
    records: tuple[tuple[tuple[bytes, bytes], ...], ...]


class House:
    """A data store and its vault, with several VMs, versions, epochs and leftovers of dead runs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="likeness-black-box-"))
        self.folder.chmod(0o755)
        self._workshop = Workshop(
            self.folder, transport=LocalTransport(self.folder / "ads", make=True)
        )
        self._stages: list[Objects] = []
        self._disks: list[tuple[Version, tuple[bytes, ...]]] = []
        self._fill(seed)
        before = set(_objects(self.folder / "ads"))
        self._leave_behind()
        self.leftovers = set(_objects(self.folder / "ads")) - before
        self.known_leftovers = {
            *(layout.pack(pack.pack) for pack in known_packs(self._workshop.store)),
            *self._workshop.names(layout.INDEX),
        }
        self.head = self._head()
        self._vault()
        self.known = self._facts()
        readable_by_all(self.folder / "ads")
        readable_by_all(self.folder / "vault")
        self.places = [self._place("ads"), self._place("ads"), self._place("vault")]
        self.key_file, self.words_file = self._openers()

    def close(self) -> None:
        for place in self.places:
            place.mend()
        shutil.rmtree(self.folder, ignore_errors=True)

    # making

    def _fill(self, seed: int) -> None:
        shop = self._workshop
        base = noise(seed, 4 * CHUNK) + bytes(CHUNK) + text(seed, 3 * CHUNK + 77)
        small = text("small", 900)
        web, mail, twin = (VmId(random_name()) for _ in range(3))
        catalog = self.folder / "catalog"
        catalog.mkdir()
        (catalog / "rows").write_bytes(noise(seed, 3000))
        second = changed(base, (0, noise("x", 2 * CHUNK)))
        for vm, name, disks in (
            (web, "web", (base, small)),
            (mail, "mail", (changed(noise("mail", 5 * CHUNK), (CHUNK, b"another")),)),
            (web, "web", (second, small)),
            (twin, "twin", (base,)),
            (mail, "mail", (changed(noise("mail", 5 * CHUNK), (2 * CHUNK, noise("m", CHUNK))),)),
            (web, "web", (changed(second, (5 * CHUNK, noise("y", 700))), b"")),
            (twin, "twin", (changed(base, (CHUNK, noise("z", 3 * CHUNK))),)),
        ):
            self._stages.append(_objects(self.folder / "ads"))
            self._disks.append((shop.back_up(*disks, vm=vm, vm_name=name), disks))
            if len(self._disks) == 4:
                self._give_back()
                shop.store = begin_epoch(shop.store, clock=shop.clock)
            put_copy(shop.store, catalog, clock=shop.clock)
            write_head(shop.store, clock=shop.clock)

    def _give_back(self) -> None:
        """The twin's packs hold what others hold too."""
        twin = self._disks[-1][0].record.run
        packs = {pack.pack for pack in known_packs(self._workshop.store) if pack.run == twin}
        given = self._workshop.delete_redundant(packs)
        assert given.packs, "nothing was deduplicated"

    def _leave_behind(self) -> None:
        """What runs leave that died in the middle of a transfer and of two commits."""
        shop = self._workshop
        for at, moment in enumerate(("", "packs admitted", "index written")):
            died = shop.transfer(noise(f"died {at}", 3 * CHUNK), vm_name="died")
            if moment:
                with contextlib.suppress(InterruptedError):
                    shop.commit(died, _dies_at(moment))

    def _vault(self) -> None:
        vault = LocalTransport(self.folder / "vault", make=True)
        for copied in copy_to_vault(self._workshop.store, vault, stop=StopToken()):
            assert not copied.problem, copied

    def _head(self) -> tuple[str, str]:
        head_state = write_head(self._workshop.store, clock=self._workshop.clock)
        return str(head_state.number), head_state.digest[:8]

    def _facts(self) -> list[Known]:
        """The sealed records of every data block, while everything is whole."""
        shop, records = self._workshop, dict[bytes, list[tuple[bytes, bytes]]]()
        for pack in known_packs(shop.store):
            path = self.folder / "ads" / layout.pack(pack.pack)
            data = path.read_bytes() if path.exists() else b""
            for place in pack.locations if data else ():
                record = data[place.offset : place.offset + place.length]
                records.setdefault(place.chunk, []).append((record, data[44 : 44 + _BOX_BYTES]))
        return [
            Known(
                version,
                tuple(hashlib.sha256(disk).hexdigest() for disk in disks),
                tuple(tuple(records[chunk]) for chunk in shop.chunks_of(version)),
            )
            for version, disks in self._disks
        ]

    def _place(self, name: str) -> Place:
        root = self.folder / name
        return Place(root, _objects(root), self._stages)

    def _openers(self) -> tuple[Path, Path]:
        words = self.folder / "words"
        words.write_text(self._workshop.words)
        words.chmod(0o600)
        for path in (self._workshop.key_file, words):
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        return self._workshop.key_file, words


def _dies_at(moment: str) -> Callable[[str], None]:
    def step(reached: str) -> None:
        if reached == moment:
            raise InterruptedError

    return step


def _objects(root: Path) -> Objects:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}

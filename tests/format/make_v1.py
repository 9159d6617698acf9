"""Makes the golden stores of format 1; run once, never again: ``python -m tests.format.make_v1``.

What it made is committed below `v1/`. A store that differs belongs into a new folder beside it.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from likeness.codec.aead import Suite
from likeness.model.ids import VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format.owning import take_over
from likeness.store.format.vaults import vault_at
from likeness.store.keys.keyring import begin_epoch
from likeness.store.read.versions import Version
from likeness.store.repair.copying import copy_to_vault
from likeness.store.write.catalog_copies import put_copy
from likeness.store.write.heads import write_head
from likeness.store.write.holding import pin
from likeness.transport.local import LocalTransport
from tests.unit.workshop import CHUNK, Disk, Workshop, changed, noise, text

V1 = Path(__file__).parent / "v1"
PASSPHRASE = "four lambs in a thunderstorm"


def told(version: Version, disks: tuple[bytes, ...]) -> dict[str, object]:
    """What a version must restore to."""
    return {
        "record": version.name,
        "vm": version.vm,
        "sequence": version.sequence,
        "vm_name": version.record.vm_name,
        "deltas": [disk.deltas for disk in version.record.disks],
        "disks": [
            {"size": len(disk), "sha256": hashlib.sha256(disk).hexdigest()} for disk in disks
        ],
    }


def fill(workshop: Workshop) -> list[dict[str, object]]:
    """Versions of two VMs: full and delta maps, two epochs, two scopes, sizes of every kind."""
    versions: list[dict[str, object]] = []

    def back_up(vm: VmId, name: str, *disks: bytes, apart: bool = False) -> None:
        given: tuple[Disk, ...] = disks
        bundle = workshop.guest_bundle(vm) if apart else workshop.bundle()
        version = workshop.back_up(*given, vm=vm, vm_name=name, bundle=bundle)
        versions.append(told(version, disks))
        write_head(workshop.store, clock=workshop.clock)

    web, files = VmId(random_name()), VmId(random_name())
    first = text("first", 3 * CHUNK) + bytes(2 * CHUNK) + text("tail", 700) + noise("n", 3000)
    second = text("first", CHUNK) + text("a", CHUNK)
    back_up(web, "web", first, second)
    grown = changed(first, (CHUNK + 7, b"what the guest wrote"), (4 * CHUNK, noise("m", 900)))
    back_up(web, "web", grown, second)
    emptied = changed(grown, (0, bytes(CHUNK)))
    back_up(web, "web", emptied, second + text("more", 5000))
    back_up(files, "Dateien №2", b"", bytes(3 * CHUNK), text("a", CHUNK), apart=True)
    workshop.store = begin_epoch(workshop.store, clock=workshop.clock)
    take_over(workshop.store, random_name(), host="new.example", clock=workshop.clock)
    back_up(web, "web", changed(emptied, (2 * CHUNK, b"in the second epoch")), second)
    return versions


def vaulted(workshop: Workshop, place: LocalTransport) -> None:
    """A vault with copies, and an index segment, a hold and a head that it signed itself."""
    segment = workshop.names("index")[0]
    data = workshop.transport.read(segment)
    workshop.transport.delete(segment)
    for _ in range(2):
        list(copy_to_vault(workshop.store, place, stop=StopToken(), clock=workshop.clock))
        if segment not in workshop.names("index"):
            workshop.transport.create(segment, [data])
    vault = vault_at(workshop.store, place)
    pin(vault, workshop.names("versions")[0], note="a year's end", until=None, clock=workshop.clock)
    write_head(vault, clock=workshop.clock)


def make(name: str, suite: Suite, passphrase: str | None, *, vault: bool = False) -> None:
    """Make one store below `v1/`."""
    folder = V1 / name
    if folder.exists():
        sys.exit(f"{folder} is there already; golden stores are never made again")
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(
            Path(scratch),
            transport=LocalTransport(
                Path(scratch) / "store" if vault else folder / "store", make=True
            ),
            suite=suite,
            passphrase=passphrase,
        )
        versions = fill(workshop)
        catalog = Path(scratch) / "catalog"
        catalog.mkdir()
        (catalog / "versions.txt").write_text("what the catalog remembers\n")
        put_copy(workshop.store, catalog, clock=workshop.clock)
        if vault:
            vaulted(workshop, LocalTransport(folder / "store", make=True))
        shutil.copyfile(workshop.key_file, folder / "key")
    expected = {
        "suite": suite.value,
        "words": workshop.words,
        "passphrase": passphrase,
        "versions": versions,
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    make("suite-1", Suite.XCHACHA20_POLY1305, PASSPHRASE)
    make("suite-2", Suite.AEGIS_256, None)
    make("vault", Suite.AEGIS_256, None, vault=True)

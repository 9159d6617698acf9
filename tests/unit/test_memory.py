"""Memory stays the same whatever the size of the disk: measured in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.workshop import MIB, noise, text

COMMON = """
import sys
from pathlib import Path
from likeness.stopping import StopToken
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.check.proving import Finding, prove_packs
from likeness.store.read.versions import last_version
from likeness.transport.local import LocalTransport
from tests.unit.workshop import TickingClock, Workshop
folder, image = Path(sys.argv[1]), Path(sys.argv[2])
def open_store():
    return open_store_with_key_file(LocalTransport(folder / "store"), folder / "key")
def told(*words):
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's, too
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024, *words)
"""

BACKUP = f"""{COMMON}
workshop = Workshop(folder, transport=LocalTransport(folder / "store", make=True),
                    chunk_bytes=256 << 10)
workshop.key_file.rename(folder / "key")
version = workshop.back_up(image, bundle=workshop.bundle(pack_bytes=16 << 20))
(folder / "vm").write_text(workshop.vm)
told(version.record.counts.read_bytes >> 20)
"""

RESTORE = f"""{COMMON}
from likeness.store.read.disk_writers import FileDiskWriter
from likeness.store.read.restoring import restore_disk
store = open_store()
disk = last_version(store, (folder / "vm").read_text()).record.disks[0]
target = FileDiskWriter(folder / "restored", disk.size_bytes)
restore_disk(store, disk, target, scratch=folder, stop=StopToken())
told()
"""

PROVE = f"""{COMMON}
from likeness.store.read.index import known_packs
store = open_store()
packs = [pack.pack for pack in known_packs(store)]
findings = [p.finding for p in prove_packs(store, packs, clock=TickingClock(), stop=StopToken())]
assert findings == [Finding.PROVED] * len(packs), findings
told(len(packs))
"""

LARGE_MAP = """
import os, sys
from pathlib import Path
import numpy as np
from likeness.store.format.maps import FlatMap
from likeness.store.read.locating import DiskChunks
def most():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024
chunk_map = FlatMap(Path(sys.argv[1]) / "large-map", 1 << 21)
for at in range(0, 1 << 21, 1 << 16):
    chunk_map.write(at, b"".join(os.urandom(32) + bytes(15 * 32) for _ in range(1 << 12)))
before = most()
chunks = DiskChunks(chunk_map)
numbers = range(0, chunks.count, 7)
assert all(chunks.numbers_of(np.frombuffer(chunks.chunk(at), "<u8").reshape(1, 4))[1] == [at]
           for at in numbers[:500])
assert len({chunks.chunk(at) for at in numbers}) == len(numbers)
chunk_map.close()
print(most() - before, chunks.count)
"""

DENSE_AT = [(at * 16_000 * MIB // 24, at) for at in range(24)]  # spread over 16 GB


def megabytes(script: str, *arguments: Path) -> int:
    """Run a script; the most memory it ever had, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    """A disk of 16 GB with 768 MB of data on it, a third of them incompressible."""
    path = folder / "disk.raw"
    random_part = noise(1, 16 * MIB)
    with path.open("wb") as file:
        file.truncate(16_000 * MIB)
        for offset, at in DENSE_AT:
            file.seek(offset)
            piece = random_part if at % 3 == 0 else text(0, 16 * MIB)
            for part in range(2):
                file.write(b"%d %d" % (at, part) + piece[:-16] + b"%016d" % at)
    return path


@pytest.fixture(scope="module")
def backup_megabytes(folder: Path, image: Path) -> int:
    return megabytes(BACKUP, folder, image)


def test_a_backup_stays_under_500_megabytes(backup_megabytes: int) -> None:
    assert backup_megabytes < 500


def test_a_restore_stays_under_500_megabytes(
    backup_megabytes: int, folder: Path, image: Path
) -> None:
    assert backup_megabytes

    assert megabytes(RESTORE, folder, image) < 500

    with (folder / "restored").open("rb") as restored, image.open("rb") as original:
        for offset, _ in DENSE_AT:
            restored.seek(offset)
            original.seek(offset)
            assert restored.read(33 * MIB) == original.read(33 * MIB)
    (folder / "restored").unlink()


def test_proving_stays_under_300_megabytes(
    backup_megabytes: int, folder: Path, image: Path
) -> None:
    assert backup_megabytes

    assert megabytes(PROVE, folder, image) < 300


def test_the_map_of_a_large_disk_is_not_held_in_memory(folder: Path) -> None:
    """One of 512 GiB has 64 MiB, which would count as memory of whoever looks at all of it."""
    assert megabytes(LARGE_MAP, folder) < 45

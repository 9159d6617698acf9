"""A backup takes the same memory whatever the size of the disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.killing import ended_well, start
from tests.flows.scene import MIB, QUICK, new_scene

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
DISK_BYTES = 8 << 30
DATA_BYTES = 512 * MIB
MAX_BYTES = 500 * 1000 * 1000  # less than there is data


def large_disk(path: Path) -> Path:
    """8 GiB, of which 512 MiB in four places are data that does not compress."""
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
        for quarter in range(4):
            file.seek(quarter * DISK_BYTES // 4 + MIB)
            for _ in range(DATA_BYTES // 4 // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
    return path


def peak_bytes(pid: int) -> int:
    """The most memory that a living process has had, in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def watched(pid: int, alive: Callable[[], bool], pause: Callable[[], object]) -> int:
    peak = 0
    while alive():
        peak = max(peak, peak_bytes(pid))
        pause()
    return peak


def test_a_backup_of_a_large_disk_stays_small(tmp_path: Path) -> None:
    for name in ("store", "vault", "here"):
        (tmp_path / name).mkdir()
    pool = Pool(Settings(**QUICK))
    pool.add_vm("large", [large_disk(tmp_path / "large.raw")])
    with LabServer(pool) as lab:
        site = new_scene(tmp_path, lab)
        process = start("backup", job=site.job("large").model_dump(), site=site.name)
        assert process.pid
        peak = watched(process.pid, process.is_alive, lambda: process.join(timeout=0.1))
        ended_well(process)

        (version,) = site.stored()
        assert version.record.counts.new_bytes == DATA_BYTES
        assert 50 * MIB < peak < MAX_BYTES

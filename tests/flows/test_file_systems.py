"""A file system that lives on: every version of it is whole, and its files are what they were."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.restore import restore_disks
from lab.demo_disks import (
    PARTITION_START,
    add_file,
    differences,
    make_disk,
    read_file,
    some_noise,
    some_text,
)
from tests.flows.scene import MIB, Scene, sha256

pytestmark = [pytest.mark.prefect, pytest.mark.lab]
DISK_BYTES = 64 * MIB


def is_clean(disk: Path) -> bool:
    """What e2fsck says of the ext4 in a disk; it would only read."""
    partition = disk.with_suffix(".ext4")
    with disk.open("rb") as whole, partition.open("wb") as part:
        whole.seek(PARTITION_START)
        shutil.copyfileobj(whole, part, MIB)
        part.truncate(DISK_BYTES - 2 * PARTITION_START)
    e2fsck = shutil.which("e2fsck", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "e2fsck"
    done = subprocess.run([e2fsck, "-f", "-n", partition], capture_output=True, check=False)
    return done.returncode == 0


def restored(site: Scene, version: str) -> Path:
    folder = site.folder / f"restored-{version[:8]}"
    done: Any = restore_disks(version, str(folder), site=site.name)
    (disk,) = done
    return Path(disk.path)


def test_both_versions_of_a_file_system_are_clean_and_hold_their_files(
    new_site: Callable[..., Scene], tmp_path: Path
) -> None:
    before, after = tmp_path / "before.raw", tmp_path / "after.raw"
    old, new = some_noise(1, 3 * MIB), some_text(2, 2 * MIB)
    make_disk(before, DISK_BYTES, {"etc/motd": b"hello\n", "srv/data": old})
    shutil.copyfile(before, after)
    add_file(after, "/srv/news", new)
    site = new_site({"linux": [before.read_bytes()]})

    site.back_up("linux")
    first = site.newest("linux").version
    for offset, data in differences(before, after):
        site.pool.write("linux", disk=0, offset=offset, data=data)
    site.back_up("linux")
    second = site.newest("linux")

    for version, truth in ((first, before), (second.version, after)):
        disk = restored(site, version)
        assert sha256(disk.read_bytes()) == sha256(truth.read_bytes())
        assert is_clean(disk)
        assert read_file(disk, "/srv/data") == old
        assert read_file(disk, "/etc/motd") == b"hello\n"
    assert read_file(disk, "/srv/news") == new
    assert second.counts.read_bytes < DISK_BYTES // 4

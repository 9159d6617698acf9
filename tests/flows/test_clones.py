"""Three servers of one template, in one job: no more is kept of them than restic keeps."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.clones import make_clones
from bench.data_path import differ
from catalog.values import Verdict
from flows.reclaim import reclaim
from flows.restore import restore_disks
from tests.figures import FIGURES
from tests.flows.scene import Scene

pytestmark = [
    pytest.mark.torture,
    pytest.mark.prefect,
    pytest.mark.lab,
    pytest.mark.needs("restic", "mke2fs", "debootstrap"),
    pytest.mark.skipif(os.geteuid() != 0, reason="clones are mounted by root"),
    pytest.mark.timeout(3600),
]
DISK_MIB = 4096


@pytest.fixture
def disks(tmp_path: Path) -> Mapping[str, Path]:
    """Debian three times: copies of a template, each with packages of its own."""
    (tmp_path / "disks").mkdir()
    return make_clones(tmp_path / "disks", DISK_MIB)


def test_of_three_clones_no_more_is_kept_than_restic_keeps(
    disks: Mapping[str, Path],
    new_site: Callable[..., Scene],
    later: Callable[[int], None],
    tmp_path: Path,
) -> None:
    theirs = kept_by_restic(tmp_path, disks)
    site = new_site({name: [disk] for name, disk in disks.items()})

    assert site.back_up(*disks).name == "Completed"
    sent = kept(site)
    assert site.validate().name == "Completed"
    for days in (0, 1, 8):
        later(days)
        assert reclaim(site=site.name, most_percent=100, return_state=True).is_completed()

    ours = kept(site)
    FIGURES.append(
        f"three clones, in MiB: sent {sent >> 20}, kept {ours >> 20},"
        f" restic {theirs >> 20}: {ours / theirs:.3f} of it"
    )
    assert ours <= theirs
    assert site.validate().name == "Completed"
    assert site.verdicts() == [Verdict.GOOD] * len(disks)
    for name, disk in disks.items():
        folder = tmp_path / f"restored {name}"
        restored: Any = restore_disks(site.newest(name).version, str(folder), site=site.name)
        assert not differ(disk, restored[0].path)


def kept(site: Scene) -> int:
    """All bytes of the store."""
    return sum(site.objects().values())


def kept_by_restic(folder: Path, disks: Mapping[str, Path]) -> int:
    """The same by restic, of the same disks."""
    place = folder / "restic"
    env = {
        **os.environ,
        "RESTIC_REPOSITORY": str(place),
        "RESTIC_PASSWORD": "of this run alone",
        "RESTIC_CACHE_DIR": str(folder / "restic cache"),
    }
    for words in (["init"], ["backup", *map(str, disks.values())]):
        subprocess.run(["restic", *words], check=True, env=env, stdout=subprocess.DEVNULL)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())

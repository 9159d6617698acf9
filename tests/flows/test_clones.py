"""Three servers of one template, in one job: no more is kept of them than restic keeps."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bench.data_path import differ
from bench.images import CLONES, servers
from catalog.values import Verdict
from flows.reclaim import reclaim
from flows.restore import restore_disks
from tests.figures import FIGURES
from tests.flows.scene import Scene

pytestmark = [
    pytest.mark.torture,
    pytest.mark.prefect,
    pytest.mark.lab,
    pytest.mark.needs("restic", "mke2fs"),
    pytest.mark.timeout(3600),
]
DISK_MIB = 4096


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Mapping[str, Path], str]:
    """Debian three times, each with packages of its own; where there is no mirror, the like."""
    folder = tmp_path / "disks"
    folder.mkdir()
    with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
        debian = servers(folder, CLONES, Path(scratch), DISK_MIB, own=False)
    made = "Debian" if debian else "programs of this machine"
    return {name: folder / f"{name}.raw" for name in CLONES}, made


def test_of_three_clones_no_more_is_kept_than_restic_keeps(
    disks: tuple[Mapping[str, Path], str],
    new_site: Callable[..., Scene],
    later: Callable[[int], None],
    tmp_path: Path,
) -> None:
    images, made = disks
    theirs = kept_by_restic(tmp_path, images)
    site = new_site({name: [image] for name, image in images.items()})

    assert site.back_up(*CLONES).name == "Completed"
    sent = kept(site)
    assert site.validate().name == "Completed"
    for days in (0, 1, 8):
        later(days)
        assert reclaim(site=site.name, most_percent=100, return_state=True).is_completed()

    ours = kept(site)
    FIGURES.append(
        f"three clones ({made}), in MiB: sent {sent >> 20}, kept {ours >> 20},"
        f" restic {theirs >> 20}: {ours / theirs:.3f} of it"
    )
    assert ours <= theirs
    assert site.validate().name == "Completed"
    assert site.verdicts() == [Verdict.GOOD] * len(CLONES)
    for name, image in images.items():
        folder = tmp_path / f"restored {name}"
        (disk,) = restore_disks(site.newest(name).version, str(folder), site=site.name)
        assert not differ(image, disk.path)


def kept(site: Scene) -> int:
    """All bytes of the store."""
    return sum(site.objects().values())


def kept_by_restic(folder: Path, images: Mapping[str, Path]) -> int:
    """The same by restic, of the same disks."""
    place = folder / "restic"
    env = {
        **os.environ,
        "RESTIC_REPOSITORY": str(place),
        "RESTIC_PASSWORD": "of this run alone",
        "RESTIC_CACHE_DIR": str(folder / "restic cache"),
    }
    for words in (["init"], ["backup", *map(str, images.values())]):
        subprocess.run(["restic", *words], check=True, env=env, stdout=subprocess.DEVNULL)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())

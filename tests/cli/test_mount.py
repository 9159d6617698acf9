"""Versions as folders: what is in an image is what was backed up, and nothing can be written."""

import os
from pathlib import Path

import pytest

from likeness.errors import BadInput
from likeness.serving.mounting import Mounted, VersionTree
from tests.audit.conftest import Filled
from tests.unit.workshop import flipped

pytestmark = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs FUSE")


def test_a_version_is_a_folder_of_images(filled: Filled, tmp_path: Path) -> None:
    pytest.importorskip("mfusepy")
    version, folder = filled.versions[-1], tmp_path / "mounted"
    folder.mkdir()
    said: list[str] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tree = VersionTree(filled.workshop.store, filled.versions, scratch, said.append)
    with Mounted(tree, folder):
        (image,) = folder.glob(f"*/*{version.version[:8]}/disk0.raw")
        assert image.read_bytes() == filled.workshop.restore(version)
        assert image.stat().st_mtime == int(version.taken_at.timestamp())
        assert len(list(folder.glob("*/*/*.raw"))) == len(filled.versions)
        with pytest.raises(OSError, match="Read-only"):
            image.write_bytes(b"x")
        with pytest.raises(OSError, match="No such file"):
            (folder / "nobody").read_bytes()
        with pytest.raises(BadInput, match="is not empty"):
            Mounted(tree, folder)
        for pack in (filled.root / "packs").rglob("*"):
            if pack.is_file():
                pack.write_bytes(flipped(pack.read_bytes(), pack.stat().st_size // 2))
        damaged = [each for each in folder.glob("*/*/*.raw") if not readable(each)]
        assert damaged
    assert any("whole pack" in each for each in said)
    assert not os.path.ismount(folder)
    assert list(scratch.iterdir()) == []


def readable(image: Path) -> bool:
    try:
        with image.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    except OSError:
        return False
    return True

"""`restore`: images of several formats, and images of what is not whole any more."""

import json
import subprocess
from pathlib import Path

import pytest

from likeness.store.format import layout
from tests.audit.conftest import SIZE, Filled
from tests.cli.conftest import Shell
from tests.cli.test_commands import key


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize(("image_format", "known_as"), [("qcow2", "qcow2"), ("vhd", "vpc")])
def test_an_image_of_another_format_is_the_disk(
    filled: Filled, shell: Shell, tmp_path: Path, image_format: str, known_as: str
) -> None:
    version = filled.versions[-1]
    raw = tmp_path / "was.raw"
    raw.write_bytes(filled.workshop.restore(version))
    image = shell.folder / f"disk.{image_format}"

    done = shell.run(
        "restore", version.version[:10], "--format", image_format, "--to", image, *key(filled)
    )

    assert done.returncode == 0, done.stderr
    assert "is whole" in done.stderr
    compared = subprocess.run(
        ["qemu-img", "compare", "-s", "-f", "raw", "-F", known_as, str(raw), str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert image.stat().st_mode & 0o077 == 0
    assert [path.name for path in shell.folder.iterdir()] == [image.name]

    again = shell.run(
        "restore", version.version, "--format", image_format, "--to", image, *key(filled)
    )
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vhd"])
def test_data_that_is_lost_leaves_no_image_of_any_format(
    filled: Filled, shell: Shell, image_format: str
) -> None:
    for name in filled.names(layout.PACKS):
        filled.path(name).unlink()
    words = ["restore", filled.versions[0].version, "--format", image_format, *key(filled)]

    done = shell.run(*words, "--to", shell.folder)

    assert done.returncode == 1
    assert f"{SIZE} bytes in 1 ranges, the first at byte 0" in done.stderr
    assert list(shell.folder.iterdir()) == []


def test_damage_is_accepted_only_when_asked_for_and_mapped(filled: Filled, shell: Shell) -> None:
    for name in filled.names(layout.PACKS):
        filled.path(name).unlink()
    words = ["restore", filled.versions[0].version, "--accept-damage", *key(filled)]

    done = shell.run(*words, "--to", shell.folder / "disk.raw")

    assert done.returncode == 1
    assert "is NOT whole" in done.stderr
    assert (shell.folder / "disk.raw").read_bytes() == bytes(SIZE)
    told = json.loads((shell.folder / "disk.raw.damage.json").read_text())
    assert told["lost"] == [{"offset": 0, "length": SIZE}]

    other = shell.run(*words, "--to", shell.folder / "disk.qcow2", "--format", "qcow2")
    assert other.returncode == 2
    assert "with the format raw" in other.stderr or "qemu-img is not installed" in other.stderr


def test_without_the_converter_only_raw_is_written_and_said(filled: Filled, shell: Shell) -> None:
    empty = shell.folder / "nothing"
    empty.mkdir()
    shell.environment["PATH"] = str(empty)
    words = ["restore", filled.versions[0].version, "--format", "vhd", *key(filled)]

    done = shell.run(*words, "--to", shell.folder / "disk.vhd")

    assert done.returncode == 2
    assert "qemu-img is not installed" in done.stderr

"""`files`: what lies in a version's disks, from a real store to files on this machine."""

from pathlib import Path

import pytest

from tests.audit.conftest import Filled
from tests.cli.conftest import Shell
from tests.cli.test_commands import key
from tests.files import images
from tests.unit.workshop import noise


@pytest.fixture
def backed_up(filled: Filled, tmp_path: Path) -> str:
    """A version of a VM whose one disk has a file system."""
    tree, image = tmp_path / "tree", tmp_path / "guest.raw"
    tree.mkdir()
    images.full_tree(tree)
    images.ext4(image, tree)
    images.run("debugfs", "-w", "-R", "feature needs_recovery", image)
    return filled.workshop.back_up(image, vm_name="Berlin").version


@pytest.mark.needs("mke2fs")
def test_files_are_listed_found_and_taken_out(filled: Filled, backed_up: str, shell: Shell) -> None:
    def files(*words: object) -> str:
        done = shell.run("files", backed_up, *words, *key(filled))
        assert done.returncode == 0, done.stderr
        assert ("0: it was in use" in done.stderr) == bool(words)
        return done.stdout

    assert files().split()[0] == "ext"
    assert "it was in use" in files()
    listing = files("0")
    assert "a.txt" in listing
    assert "0/line\\nbreak" in listing
    assert files("--find", "big.bin").split()[-1] == "deeper/big.bin"
    files("0/deep/er", "--to", "out")
    every = shell.run("files", "Berlin", "--every-version", "--find", "big.bin", *key(filled))
    assert every.stdout.splitlines()[0].startswith(f"version {backed_up[:12]} of")
    assert every.stdout.count("deeper/big.bin") == 1
    taken = shell.folder / "out" / "er" / "and deeper" / "big.bin"
    assert taken.read_bytes() == noise("big", 3 * images.MIB + 17)


@pytest.mark.needs("mke2fs")
@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("0/nothing",), "no such file or folder"),
        (("7",), "no volume '7' in this version; it has 0"),
        (("--to", "out"), "name the one file or folder"),
        (("--disk", "9"), "has no disk '9'"),
    ],
)
def test_what_is_not_there_is_said(
    filled: Filled, backed_up: str, shell: Shell, words: tuple[str, ...], cause: str
) -> None:
    done = shell.run("files", backed_up, *words, *key(filled))
    assert done.returncode == 2
    assert cause in done.stderr


def test_a_missing_library_is_said_in_one_sentence(
    filled: Filled, shell: Shell, tmp_path: Path
) -> None:
    """Where another package of that name comes first, the library is as good as not there."""
    (tmp_path / "dissect").mkdir()
    (tmp_path / "dissect" / "__init__.py").touch()
    root = Path(__file__).parents[2]
    shell.environment["PYTHONPATH"] = f"{tmp_path}:{root}"
    done = shell.run("files", filled.versions[0].version, *key(filled))
    assert done.returncode == 2
    assert "requirements/files.txt" in done.stderr
    assert "Traceback" not in done.stderr

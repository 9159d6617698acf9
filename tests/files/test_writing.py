"""Names and links that a hostile guest makes cannot lead out of the target."""

import os
from pathlib import Path

import pytest

from likeness.files.messages import Data, FileEntry, FromReader, Hole, Trouble
from likeness.files.writing import TreeWriter, stays_inside


def entry(*path: bytes, kind: str = "file", size: int = 0, target: bytes = b"") -> FileEntry:
    return FileEntry(path, kind, size, 0o4755, 1_700_000_000 * 10**9, 2**62 - 1, target)


def written(folder: Path, *told: FromReader) -> tuple[TreeWriter, list[str]]:
    said: list[str] = []
    writer = TreeWriter(folder / "out", 0, lambda path, what: said.append(what))
    writer.take([entry(kind="folder"), *told], b"top")
    return writer, said


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "path",
    [
        (b"..", b"escaped"),
        (b"..",),
        (b".",),
        (b"",),
        (b"../escaped",),
        (b"/escaped",),
        (b"a\0b",),
        (b"nowhere", b"escaped"),
        (b"folder", b"..", b"..", b"..", b"escaped"),
    ],
)
def test_no_path_leads_out(tmp_path: Path, path: tuple[bytes, ...]) -> None:
    told: list[FromReader] = [entry(b"folder", kind="folder"), entry(*path, size=3), Data(b"bad")]
    writer, said = written(tmp_path, *told)
    assert everything(tmp_path) == {"out", "out/top", "out/top/folder"}
    assert not writer.whole
    assert len(said) == 1


def test_a_link_is_never_gone_through(tmp_path: Path) -> None:
    """A guest may say that one name is a link and then a folder, with files in it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "out").mkdir()
    told: list[FromReader] = [
        entry(b"l", kind="link", target=b"here"),
        entry(b"l", kind="folder"),
        entry(b"l", b"file", size=3),
        Data(b"bad"),
        entry(b"l", size=3),
        Data(b"bad"),
    ]
    writer, said = written(tmp_path, *told)
    assert everything(tmp_path) == {"victim", "out", "out/top", "out/top/l"}
    assert not writer.whole
    assert len(said) == 3


@pytest.mark.parametrize(
    ("target", "depth", "inside"),
    [
        (b"a", 0, True),
        (b"../a", 1, True),
        (b"../a", 0, False),
        (b"../../a", 1, False),
        (b"a/../b", 5, False),
        (b"/etc/passwd", 5, False),
        (b"", 5, False),
        (b".././../x", 1, False),
    ],
)
def test_links_stay_inside(target: bytes, depth: int, *, inside: bool) -> None:
    assert stays_inside(target, depth) is inside


def test_links_over_links_cannot_lead_out(tmp_path: Path) -> None:
    told: list[FromReader] = [
        entry(b"d", kind="folder"),
        entry(b"d", b"up", kind="link", target=b".."),
        entry(b"x", kind="link", target=b"d/up/../.."),
        entry(b"y", kind="link", target=b"d/up"),
    ]
    written(tmp_path, *told)
    top = tmp_path / "out" / "top"
    assert (top / "d" / "up").resolve() == top
    assert (top / "y").resolve() == top
    assert not (top / "x").is_symlink()


def test_odd_names_are_kept_and_long_ones_shortened(tmp_path: Path) -> None:
    told: list[FromReader] = []
    odd = {b"line\nbreak", b"\x1b[31mred", b"\xff\xfe", b"CON", b"-rf"}
    for name in (*odd, b"n" * 400, b"n" * 401):
        told += [entry(name, size=2), Data(b"ok")]
    writer, said = written(tmp_path, *told)
    names = [os.fsencode(path.name) for path in (tmp_path / "out" / "top").iterdir()]
    assert writer.files == len(set(names)) == 7
    assert odd < set(names)
    assert len(said) == 2


def test_devices_are_left_out_and_rights_of_others_not_given(tmp_path: Path) -> None:
    _, said = written(tmp_path, entry(b"sda", kind="other"), entry(b"su", size=1), Data(b"x"))
    assert said == ["left out: a device, pipe or socket"]
    assert (tmp_path / "out" / "top" / "su").stat().st_mode & 0o7777 == 0o755


def test_what_is_not_whole_is_not_left(tmp_path: Path) -> None:
    told: list[FromReader] = [
        entry(b"broken", size=10),
        Data(b"half"),
        Trouble((b"broken",), "OSError"),
        entry(b"short", size=10),
        Hole(4),
        entry(b"fine", size=4),
        Hole(4),
    ]
    writer, said = written(tmp_path, *told)
    assert everything(tmp_path / "out" / "top") == {"fine"}
    assert not writer.whole
    assert len(said) == 2


@pytest.mark.parametrize("size", [-1, 2**62, 2**64 - 1])
def test_a_size_that_cannot_be_costs_that_file_alone(tmp_path: Path, size: int) -> None:
    told: list[FromReader] = [entry(b"odd", size=size), Hole(max(size, 0)), entry(b"fine")]
    writer, _ = written(tmp_path, *told)
    assert (tmp_path / "out" / "top" / "fine").is_file()
    if size < 0:
        assert not writer.whole


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out" / "top").mkdir(parents=True)
    (tmp_path / "out" / "top" / "mine").write_text("mine")
    writer, _ = written(tmp_path, entry(b"mine", size=3), Data(b"bad"))
    assert (tmp_path / "out" / "top" / "mine").read_text() == "mine"
    assert not writer.whole

"""The agent inside a guest: what it freezes, what it says of it, what it runs before and after."""

import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from likeness.agent.freezing import Freezing, find_disks
from likeness.agent.patched import PatchedReader
from likeness.agent.protocol import GuestOrder
from likeness.errors import BadInput, TransferBroken
from likeness.stopping import StopToken
from tests.unit.workshop import MIB, noise

EXTENT = MIB
FIRST = 2 * MIB
# Stands for LVM: one volume of four extents on one disk, whose snapshot is a copy in a file.
TOOLS = {
    "pvs": """
print(json.dumps({"report": [{"pv": [{"pv_name": DISK, "pe_start": str(2 << 20),
    "vg_name": "vg", "vg_extent_size": str(1 << 20), "vg_free": str(1 << 30)}]}]}))
""",
    "lvs": """
rows = [{"vg_name": "vg", "lv_name": "root", "lv_path": HERE + "/root", "lv_size": str(4 << 20),
    "lv_active": "active", "segtype": "linear", "seg_start": str(at << 20), "lv_tags": "",
    "seg_pe_ranges": f"{DISK}:{first}-{first + 1}", "seg_size": str(2 << 20),
    "lv_attr": "owi-aos---"} for at, first in ((0, 4), (2, 1))]
for path in glob.glob(HERE + "/likeness-*"):
    full = os.path.exists(HERE + "/full")
    rows.append(rows[0] | {"lv_name": os.path.basename(path), "lv_path": path, "lv_tags": "mine",
        "lv_active": "active", "segtype": "linear", "seg_pe_ranges": "",
        "lv_attr": "swi-I-s---" if full else "swi-a-s---"})
print(json.dumps({"report": [{"lv": rows}]}))
""",
    "lvcreate": """
disk = open(DISK, "rb").read()
first = 2 << 20
name = sys.argv[sys.argv.index("--name") + 1]
open(f"{HERE}/{name}", "wb").write(disk[first + (4 << 20):first + (6 << 20)]
    + disk[first + (1 << 20):first + (3 << 20)])
open(DISK, "r+b").write(b"metadata that knows of the snapshot")
""",
    "lvremove": """
os.unlink(HERE + "/" + sys.argv[-1].split("/")[1])
""",
}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(noise("disk", FIRST + 8 * EXTENT))
    tools = tmp_path / "tools"
    tools.mkdir()
    head = "#!/usr/bin/python3\nimport glob, json, os, sys\n"
    head += f"DISK, HERE = {str(path)!r}, {str(tmp_path)!r}\n"
    for name, body in TOOLS.items():
        (tools / name).write_text(head + body)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return path


def frozen(disk: Path, **order: object) -> Freezing:
    wish = GuestOrder(**({"mark": "mine"} | order))  # type: ignore[arg-type]
    return Freezing([str(disk)], wish, StopToken(), lambda _: None)


def read(disk: Path, freezing: Freezing, segment: int) -> bytes:
    reader = PatchedReader(disk, freezing.patches[0])
    try:
        return b"".join(each.data for each in reader.segments(segment))
    finally:
        reader.close()


@pytest.mark.parametrize("segment", [3 * MIB, 64 << 10])
def test_a_volume_is_read_from_its_snapshot_and_lvm_s_own_words_from_before_it(
    disk: Path, segment: int
) -> None:
    before = disk.read_bytes()
    with frozen(disk) as freezing:
        assert disk.read_bytes() != before
        with disk.open("r+b") as file:
            for extent in range(8):
                file.seek(FIRST + extent * EXTENT)
                file.write(b"written meanwhile")
        found = read(disk, freezing, segment)
        said = freezing.result()
    now = disk.read_bytes()
    assert found[:FIRST] == before[:FIRST]
    for extent in range(8):
        at = slice(FIRST + extent * EXTENT, FIRST + (extent + 1) * EXTENT)
        assert found[at] == (before if extent in (1, 2, 4, 5) else now)[at], extent
    assert said.consistency == "standard"
    assert "in LVM snapshots: vg/root" in said.note
    assert list(disk.parent.glob("likeness-*")) == []


def test_a_snapshot_that_ran_full_makes_no_version(disk: Path) -> None:
    with frozen(disk) as freezing:
        (disk.parent / "full").touch()
        with pytest.raises(TransferBroken, match="ran full; leave more room"):
            freezing.result()
    assert list(disk.parent.glob("likeness-*")) == []


def test_what_a_dead_agent_left_is_removed_first(disk: Path) -> None:
    (disk.parent / "likeness-dead").write_bytes(b"")
    with frozen(disk):
        assert not (disk.parent / "likeness-dead").exists()


def test_scripts_run_before_and_after_the_freeze_and_their_ends_are_told(disk: Path) -> None:
    log = disk.parent / "log"
    order = {
        "before": f"ls {disk.parent} >{log}; true",
        "after": f"ls {disk.parent} >>{log}; exit 4",
    }
    with frozen(disk, **order) as freezing:
        assert log.read_text().count("likeness-") == 1
        note = freezing.result().note
    assert "script before the snapshot: exit code 0" in note
    assert "script after the snapshot: exit code 4" in note


def test_a_script_that_fails_or_hangs_stops_it_and_the_other_still_runs(disk: Path) -> None:
    after = disk.parent / "after"
    for before, said in (("echo no; exit 3", r"exit code 3, .* \(no\)"), ("sleep 60", "too long")):
        with pytest.raises(BadInput, match=said):
            frozen(disk, before=before, after=f"touch {after}", script_seconds=1).__enter__()
        assert after.exists()
        after.unlink()
    assert list(disk.parent.glob("likeness-*")) == []


def test_disks_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="disk /dev/nothing cannot be read"):
        find_disks(["/dev/nothing"])
    (tmp_path / "a").write_bytes(bytes(4096))
    (found,) = find_disks([str(tmp_path / "a")])
    assert (found.size_bytes, found.position) == (4096, "0")


@pytest.fixture
def on_a_disk() -> Generator[tuple[Path, Path], None, None]:
    """A folder, and the block device that it lies on."""
    for place in (tempfile.gettempdir(), "/var/tmp", Path(__file__).parents[2]):
        number = Path(place).stat().st_dev
        device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        if device.exists():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder), Path("/dev") / device.resolve().name
            return
    pytest.skip("no folder lies on a block device of this machine")


def test_what_is_written_to_while_it_is_read_is_told(
    on_a_disk: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, disk = on_a_disk
    monkeypatch.setenv("PATH", "/nowhere")
    with frozen(disk) as freezing:
        with (folder / "written").open("wb") as file:
            file.write(noise(1, MIB))
            os.fsync(file.fileno())
        said = freezing.result()
    assert said.consistency == "unfrozen"
    assert "read while it was written to, so not of one moment" in said.note

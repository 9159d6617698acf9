"""Every file of real file systems comes out as it went in."""

import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest

from likeness.errors import BadInput
from likeness.files.journals import IN_THE_JOURNAL
from likeness.files.messages import Ask, Data, FileEntry, Hole, Trouble
from likeness.files.opening import GuestFiles, open_files
from likeness.files.writing import TreeWriter
from tests.files import images
from tests.files.images import MAKERS, MIB
from tests.unit.workshop import noise


class ImageFile:
    """A disk as a version's view gives it."""

    def __init__(self, path: Path) -> None:
        self._path, self.size_bytes = path, path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def disks_of(*paths: Path) -> list[tuple[str, ImageFile]]:
    return [(str(number), ImageFile(path)) for number, path in enumerate(paths)]


def hashes(guest: GuestFiles, volume: bytes, kind: str = "") -> dict[str, str]:
    """Path to SHA-256, of every file; on FAT in small letters, as short names have no case."""
    found: dict[str, hashlib._Hash] = {}
    path = ""
    for told in guest.asked(Ask("take", volume)):
        assert not isinstance(told, Trouble), told
        if isinstance(told, FileEntry) and told.kind == "file":
            path = b"/".join(told.path).decode()
            path = path.casefold() if kind.startswith("fat") else path
            found[path] = hashlib.sha256()
        elif isinstance(told, Data):
            found[path].update(told.data)
        elif isinstance(told, Hole):
            found[path].update(bytes(told.length))
    return {path: digest.hexdigest() for path, digest in found.items()}


def notes(image: Path) -> list[str]:
    with open_files(disks_of(image)) as guest:
        return [each.note for each in guest.volumes()]


def expected(tree: Path) -> dict[str, str]:
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def made(kind: str, folder: Path) -> tuple[Path, dict[str, str]]:
    tree = folder / f"tree-{kind}"
    tree.mkdir()
    (images.full_tree if kind in ("ext4", "ext3", "btrfs") else images.plain_tree)(tree)
    image = folder / f"{kind}.raw"
    MAKERS[kind][0](image, tree)
    wanted = expected(tree)
    if kind.startswith("fat"):
        wanted = {path.casefold(): digest for path, digest in wanted.items()}
    if kind == "ntfs":
        wanted = {Path(path).name: digest for path, digest in wanted.items()}
    return image, wanted


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.needs(*programs)) for k, (_, programs) in MAKERS.items()],
)
def test_every_file_has_the_hash_of_the_original(kind: str, tmp_path: Path) -> None:
    image, wanted = made(kind, tmp_path)
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
        assert volume.name == b"0"
        assert volume.kind.startswith(kind[:3])
        assert hashes(guest, volume.name, volume.kind) == wanted
        assert len(wanted) >= 3


@pytest.mark.needs("mke2fs", "sfdisk", "mkfs.vfat", "mcopy")
@pytest.mark.needs("mkntfs", "ntfs-3g", "umount")
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs FUSE")
def test_what_windows_keeps_elsewhere_is_told_and_never_read_as_zeros(tmp_path: Path) -> None:
    image, mounted = tmp_path / "ntfs.raw", tmp_path / "mounted"
    mounted.mkdir()
    images.run("mkntfs", "-q", "-F", "-Q", images.blank(image, 32))
    images.run("ntfs-3g", image, mounted)
    tags = {"packed": 0x80000017, "deduplicated": 0x80000013, "in a cloud": 0x9000101A}
    try:
        for name, tag in {**tags, "fetched": 0x9000001A}.items():
            with (mounted / name).open("wb") as file:
                file.write(b"stale") if name == "fetched" else file.truncate(50_000)
            point = struct.pack("<IHH", tag, 16, 0) + bytes(16)
            os.setxattr(mounted / name, "system.ntfs_reparse_data", point)
    finally:
        images.run("umount", mounted)
    told: dict[bytes, str] = {}
    read: list[bytes] = []
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
        for each in guest.asked(Ask("take", volume.name)):
            if isinstance(each, Trouble):
                told[each.path[-1]] = each.cause
            elif isinstance(each, Data):
                read.append(bytes(each.data))
    assert {name.decode() for name in told} == set(tags)
    assert all("not under its name" in cause for cause in told.values())
    assert read == [b"stale"]


@pytest.mark.needs("mke2fs", "debugfs")
def test_what_a_guest_has_encrypted_is_told(tmp_path: Path) -> None:
    image, _ = made("ext4", tmp_path)
    for path in ("/a.txt", "/deep/er"):
        images.run("debugfs", "-w", "-R", f"set_inode_field {path} flags 0x80800", image)
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
        told = [t for t in guest.asked(Ask("take", volume.name)) if isinstance(t, Trouble)]
    assert {(t.path[-1], t.cause) for t in told} == {
        (b"a.txt", "ValueError: it is encrypted in the guest"),
        (b"er", "ValueError: it is encrypted in the guest"),
        (b"hard link", "ValueError: it is encrypted in the guest"),
    }
    with open_files(disks_of(image)) as guest:
        with pytest.raises(BadInput, match="encrypted in the guest"):
            list(guest.asked(Ask("list", b"0", (b"deep", b"er"))))
        assert list(guest.asked(Ask("list", b"0", (b"deep",))))


@pytest.mark.needs("mkfs.btrfs", "mount")
@pytest.mark.parametrize("method", ["zstd", "lzo", "zlib"])
def test_what_btrfs_has_compressed_comes_out_as_it_went_in(method: str, tmp_path: Path) -> None:
    if method == "zstd":
        pytest.importorskip("backports.zstd")
    image, mounted = tmp_path / "btrfs.raw", tmp_path / "mounted"
    mounted.mkdir()
    images.run("mkfs.btrfs", "-q", images.blank(image, 120))
    options = f"loop,compress-force={method}"
    done = subprocess.run(
        ["mount", "-o", options, image, mounted], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("this machine does not let us mount btrfs")
    log = b"".join(b"line %d of a log that repeats itself\n" % (n % 500) for n in range(20_000))
    try:
        (mounted / "log").write_bytes(log)
        (mounted / "mixed").write_bytes(log[:90_000] + noise("m", 70_000) + bytes(200_000) + b"end")
        (mounted / "tiny").write_bytes(log[:300])
        wanted = expected(mounted)
    finally:
        images.run("umount", mounted)
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
        assert hashes(guest, volume.name) == wanted


@pytest.mark.needs("mkfs.btrfs", "btrfs", "mount")
def test_btrfs_is_read_from_its_top_and_a_snapshot_holds_no_subvolume(tmp_path: Path) -> None:
    """Whichever subvolume the guest begins with; what is in a snapshot's own folders is there."""
    image, mounted = tmp_path / "btrfs.raw", tmp_path / "mounted"
    mounted.mkdir()
    images.run("mkfs.btrfs", "-q", images.blank(image, 120))
    done = subprocess.run(["mount", "-o", "loop", image, mounted], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this machine does not let us mount btrfs")
    try:
        for name in ("root", "root/home", "root/gone", "root/snapshots"):
            images.run("btrfs", "-q", "subvolume", "create", mounted / name)
            (mounted / name / "file").write_text(name)
        home = images.run("btrfs", "inspect-internal", "rootid", mounted / "root" / "home")
        images.run("btrfs", "-q", "subvolume", "set-default", home.strip(), mounted)
        taken = mounted / "root" / "snapshots" / "1"
        images.run("btrfs", "-q", "subvolume", "snapshot", mounted / "root", taken)
        images.run("btrfs", "-q", "subvolume", "delete", mounted / "root" / "gone")
        wanted = expected(mounted)
    finally:
        images.run("umount", mounted)
    assert wanted.keys() == {
        f"root/{name}" for name in ("file", "home/file", "snapshots/file", "snapshots/1/file")
    }
    with open_files(disks_of(image)) as guest:
        assert hashes(guest, b"0") == wanted


@pytest.mark.needs("mkntfs", "ntfs-3g", "umount")
@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs FUSE")
def test_what_ntfs_has_compressed_comes_out_as_it_went_in(tmp_path: Path) -> None:
    image, folder, mounted = tmp_path / "ntfs.raw", Path("packed"), tmp_path / "mounted"
    mounted.mkdir()
    images.run("mkntfs", "-q", "-F", "-Q", images.blank(image, 32))
    images.run("ntfs-3g", "-o", "compression", image, mounted)
    log = b"".join(b"line %d of a log that repeats itself\n" % (n % 500) for n in range(20_000))
    files = {
        "log": log,
        "noise": noise("n", 100_000),
        "mixed": log[:90_000] + noise("m", 70_000) + bytes(200_000) + b"end",
        "zeros": bytes(300_000) + b"x",
        "sparse": b"",
    }
    try:
        packed = mounted / folder
        packed.mkdir()
        os.setxattr(packed, "system.ntfs_attrib_be", (0x830).to_bytes(4, "big"))
        for name, data in files.items():
            (packed / name).write_bytes(data)
        assert (packed / "log").stat().st_blocks * 512 < len(log) // 2
        with (mounted / "sparse").open("wb") as file:
            file.seek(5 * MIB)
            file.write(b"at the end")
    finally:
        images.run("umount", mounted)
    wanted = {f"packed/{name}": hashlib.sha256(data).hexdigest() for name, data in files.items()}
    wanted["sparse"] = hashlib.sha256(bytes(5 * MIB) + b"at the end").hexdigest()
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
        assert hashes(guest, volume.name) == wanted


@pytest.mark.needs("mke2fs")
def test_ext4_without_a_free_inode_is_read_to_its_last_file(tmp_path: Path) -> None:
    image, tree = images.blank(tmp_path / "image", 8), tmp_path / "tree"
    tree.mkdir()
    for number in range(5):
        (tree / str(number)).write_text(f"{number}")
    images.run("mke2fs", "-q", "-F", "-t", "ext4", "-N", 16, "-d", tree, image)
    with open_files(disks_of(image)) as guest:
        assert hashes(guest, b"0") == expected(tree)


def on_noise(image: Path, mib: int) -> Path:
    """A disk that was in use before: what is only set aside on it holds what was there."""
    with images.blank(image, mib).open("r+b") as file:
        file.write(noise("before", 24 * MIB))
    return image


@pytest.mark.needs("mkntfs", "ntfscp")
def test_what_ntfs_has_only_set_aside_is_zeros(tmp_path: Path) -> None:
    image, file = tmp_path / "ntfs.raw", tmp_path / "begun"
    file.write_bytes(noise("begun", 100_000))
    images.run("mkntfs", "-q", "-F", "-Q", on_noise(image, 24))
    images.run("ntfscp", "-q", image, file, file.name)
    images.run("ntfsfallocate", "-f", "-l", 3_000_000, image, file.name)
    wanted = hashlib.sha256(file.read_bytes() + bytes(2_900_000)).hexdigest()
    with open_files(disks_of(image)) as guest:
        assert hashes(guest, b"0") == {"begun": wanted}


def test_what_exfat_has_only_set_aside_is_zeros(tmp_path: Path) -> None:
    image, content = tmp_path / "exfat.raw", noise("begun", 100_000)
    images.exfat(image, "begun", content, 70_001)
    with open_files(disks_of(image)) as guest:
        wanted = hashlib.sha256(content[:70_001] + bytes(29_999)).hexdigest()
        assert hashes(guest, b"0") == {"begun": wanted}


def test_a_folder_of_exfat_that_is_longer_than_a_cluster_is_read_whole(tmp_path: Path) -> None:
    image, names = tmp_path / "exfat.raw", [f"file {number}" for number in range(100)]
    images.exfat_with_a_large_folder(image, names, b"the same")
    with open_files(disks_of(image)) as guest:
        wanted = hashlib.sha256(b"the same").hexdigest()
        assert hashes(guest, b"0") == {f"many/{name}": wanted for name in names}


@pytest.mark.needs("mkfs.xfs", "mount")
def test_what_xfs_has_only_set_aside_is_zeros(tmp_path: Path) -> None:
    image, mounted = tmp_path / "xfs.raw", tmp_path / "mounted"
    mounted.mkdir()
    images.run("mkfs.xfs", "-q", "-f", "-K", on_noise(image, 320))
    done = subprocess.run(["mount", "-o", "loop", image, mounted], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this machine does not let us mount XFS")
    try:
        for name in ("nothing", "begun"):
            with (mounted / name).open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 3_000_000)
        with (mounted / "begun").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"in its middle")
        wanted = expected(mounted)
        os.sync()
        images.run("cp", "--sparse=always", image, tmp_path / "in use")
    finally:
        images.run("umount", mounted)
    with open_files(disks_of(image)) as guest:
        assert hashes(guest, b"0") == wanted
    assert wanted["nothing"] == hashlib.sha256(bytes(3_000_000)).hexdigest()
    assert notes(image) == [""]
    assert notes(tmp_path / "in use") == [IN_THE_JOURNAL]


@pytest.mark.needs("mke2fs", "debugfs", "mkntfs", "ntfscp")
def test_a_journal_that_was_not_played_back_is_told(tmp_path: Path) -> None:
    image, restart = tmp_path / "image", tmp_path / "restart"
    images.run("mke2fs", "-q", "-F", "-t", "ext4", images.blank(image, 16))
    assert notes(image) == [""]
    images.run("debugfs", "-w", "-R", "feature needs_recovery", image)
    assert notes(image) == [IN_THE_JOURNAL]
    images.run("mkntfs", "-q", "-F", "-Q", images.blank(image, 16))
    assert notes(image) == [""]
    for newer_clean in (False, True):
        pages = b""
        for number, clean in ((1, False), (2, newer_clean)):
            area = struct.pack("<QHHHH", number, 1, 0xFFFF, 0, 2 if clean else 0)
            page = b"RSTR" + bytes(20) + (0x30).to_bytes(2, "little")
            pages += (page.ljust(0x30, b"\0") + area).ljust(4096, b"\0")
        restart.write_bytes(pages)
        images.run("ntfscp", "-q", "-f", image, restart, "$LogFile")
        assert notes(image) == ["" if newer_clean else IN_THE_JOURNAL]


@pytest.mark.needs("mkfs.xfs", "mke2fs")
@pytest.mark.parametrize(
    "words",
    [
        ("mkfs.xfs", "-q", "-f", "-n", "size=8192"),
        ("mke2fs", "-q", "-F", "-t", "ext4", "-O", "meta_bg,^resize_inode"),
    ],
)
def test_what_would_be_read_in_part_is_told(words: tuple[str, ...], tmp_path: Path) -> None:
    image = images.blank(tmp_path / "image", 320)
    images.run(*words, image)
    with open_files(disks_of(image)) as guest:
        (volume,) = guest.volumes()
    assert volume.kind == ""
    assert "cannot be read here" in volume.note


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_partitions_are_found(label: str, tmp_path: Path) -> None:
    (one, first), (two, second) = made("fat", tmp_path), made("ext4", tmp_path)
    disk = tmp_path / "disk.raw"
    images.partitioned(disk, [one, two], label)
    with open_files(disks_of(disk)) as guest:
        volumes = guest.volumes()
        assert [(v.name, v.kind) for v in volumes] == [(b"0-1", "fat"), (b"0-2", "ext")]
        assert [hashes(guest, v.name, v.kind) for v in volumes] == [first, second]


@pytest.mark.needs("sfdisk")
def test_logical_partitions_have_the_numbers_that_linux_gives_them(tmp_path: Path) -> None:
    disk = images.blank(tmp_path / "disk.raw", 32)
    sizes = ("size=4MiB", "size=12MiB, type=5", "size=4MiB", *["size=2MiB"] * 3)
    images.partition(disk, "label: dos\n" + "\n".join(sizes) + "\n")
    device = f"{disk}"
    told = images.run("sfdisk", "-q", "-l", "-o", "Device,Id", disk)
    wanted = [line.split() for line in told.splitlines() if line.startswith(device)]
    numbers = {part[len(device) :] for part, kind in wanted if kind != "5"}
    assert {"1", "5", "6"} <= numbers
    with open_files(disks_of(disk)) as guest:
        found = [each.name.decode() for each in guest.volumes()]
    assert sorted(found) == sorted(f"0-{number}" for number in numbers)


def loop_devices_work(folder: Path) -> bool:
    image = images.blank(folder / "loop", 1)
    done = subprocess.run(
        ["losetup", "-f", "--show", str(image)],
        env={**os.environ, "PATH": images.PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        images.run("losetup", "-d", done.stdout.strip())
    return done.returncode == 0


@pytest.mark.needs("mke2fs", "lvcreate", "losetup")
def test_a_logical_volume_over_two_disks_is_read_and_half_of_it_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not loop_devices_work(tmp_path):
        pytest.skip("no loop devices here, which the tools of LVM need to make a volume")
    image, wanted = made("ext4", tmp_path)
    with image.open("r+b") as file:
        file.truncate(120 * MIB)
    images.run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "tree-ext4", image)
    disks = images.lvm(tmp_path, image)
    with open_files(disks_of(*disks)) as guest:
        (volume,) = guest.volumes()
        assert (volume.name, volume.disks) == (b"vg--0-root", (0, 1))
        assert hashes(guest, volume.name) == wanted
    with open_files(disks_of(disks[0])) as guest:
        (volume,) = guest.volumes()
        assert volume.kind == ""
        assert "not whole here" in volume.note
    with open_files(disks_of(*images.lvm(tmp_path, image, "-i", "2", "-I", "64k"))) as guest:
        (volume,) = guest.volumes()
        assert (volume.name, volume.kind) == (b"vg--0-root", "")
        assert "striped over several disks" in volume.note


def test_of_lvm_only_what_the_guest_sees_is_offered_and_only_what_is_whole_is_read(
    tmp_path: Path,
) -> None:
    image, content, disk = tmp_path / "exfat.raw", noise("a file", 100_000), tmp_path / "pv.raw"
    images.exfat(image, "file", content, len(content))
    linear = ('type = "striped"', "stripe_count = 1", 'stripes = [\n"pv0", 0\n]')
    volumes = {
        "root": linear,
        "fast": ('type = "cache"', 'cache_pool = "quick"', 'origin = "fast_corig"'),
        "r0": ('type = "raid0"', "device_count = 1", 'raid0_lvs = [\n"r0_rimage_0"\n]'),
        "r1": ('type = "raid1"', "device_count = 1", 'raids = [\n"r1_rmeta_0", "r1_rimage_0"\n]'),
        "cow": linear,
        "goes_back": linear,
        "moved": (*linear[:2], 'stripes = [\n"pvmove0", 0\n]'),
        "on_top": (
            *('type = "thin"', 'thin_pool = "pool"', "transaction_id = 0"),
            *("device_id = 1", 'external_origin = "root"'),
        ),
    }
    hidden = {
        **dict.fromkeys(("fast_corig", "r0_rimage_0", "r1_rimage_0", "r1_rmeta_0"), linear),
        "snapshot0": ('type = "snapshot"', 'origin = "root"', 'cow_store = "cow"'),
        "snapshot1": ('type = "snapshot"', 'origin = "goes_back"', 'merging_store = "back"'),
        "back": linear,
        "pvmove0": ('type = "mirror"', "mirror_count = 1", 'mirrors = [\n"pv0", 0\n]'),
    }
    written = [images.lvm_volume(name, *lines) for name, lines in volumes.items()]
    written += [images.lvm_volume(name, *lines, visible=False) for name, lines in hidden.items()]
    images.lvm_by_hand(disk, image.read_bytes(), "".join(written))
    with open_files(disks_of(disk)) as guest:
        told = {each.name.decode(): (each.kind, each.note) for each in guest.volumes()}
        assert hashes(guest, b"vg-root") == {"file": hashlib.sha256(content).hexdigest()}
    assert told.pop("vg-root") == ("exfat", "")
    assert told.keys() == {f"vg-{name}" for name in volumes if name != "root"}
    said = {name: note.split(":")[0] for name, (kind, note) in told.items() if not kind}
    assert said == {
        "vg-fast": "an LVM volume of the type cache",
        "vg-r0": "an LVM volume of the type raid0",
        "vg-r1": "an LVM volume of the type raid1",
        "vg-cow": "a snapshot that LVM keeps of another volume",
        "vg-goes_back": "an LVM volume that was going back to a snapshot",
        "vg-moved": "an LVM volume that was being moved from disk to disk",
        "vg-on_top": "a thin LVM volume on top of another volume",
    }


@pytest.mark.needs("mke2fs")
def test_a_folder_comes_out_with_times_modes_holes_and_safe_links(tmp_path: Path) -> None:
    image, _ = made("ext4", tmp_path)
    told: list[str] = []
    with open_files(disks_of(image)) as guest:
        writer = TreeWriter(tmp_path / "out", 0, lambda path, what: told.append(what))
        writer.take(guest.asked(Ask("take", b"0")), b"root")
    out, tree = tmp_path / "out" / "root", tmp_path / "tree-ext4"
    assert writer.whole
    assert expected(out) == expected(tree)
    assert (out / "a.txt").stat().st_mtime_ns == 1_700_000_000_000_000_000
    assert (out / "a.txt").stat().st_mode & 0o7777 == 0o640
    assert (out / "sparse").stat().st_blocks * 512 < MIB
    assert (out / "deep" / "in").readlink() == Path("../a.txt")
    assert not (out / "deep" / "out").is_symlink()
    assert told == ["left out: a link out of what is taken, to /etc/passwd"]
    assert (out / "deep").stat().st_mtime_ns // 10**9 == (tree / "deep").stat().st_mtime_ns // 10**9


@pytest.mark.needs("mke2fs")
def test_what_is_looked_for_is_found_by_any_part_of_its_name(tmp_path: Path) -> None:
    image, _ = made("ext4", tmp_path)
    with open_files(disks_of(image)) as guest:
        for wanted in ("BIG", "big.*"):
            (told,) = list(guest.asked(Ask("find", b"0", (), wanted)))
            assert isinstance(told, FileEntry)
            assert told.path == (b"deep", b"er", b"and deeper", b"big.bin")


def test_a_disk_of_noise_has_no_file_system_and_breaks_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "noise.raw"
    disk.write_bytes(noise("noise", 4 * MIB))
    with open_files(disks_of(disk)) as guest:
        (volume,) = guest.volumes()
        assert volume.note == "no file system that is known here"


@pytest.mark.needs("mke2fs")
def children() -> set[str]:
    """Processes that any thread of this one has started and that are still there."""
    return {
        child
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def test_the_reader_has_no_secret_no_file_and_no_other_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_SECRET", "hunter2")
    image, _ = made("ext4", tmp_path)
    before = children()
    with open_files(disks_of(image)) as guest:
        guest.volumes()
        (reader,) = children() - before
        facts = Path(f"/proc/{reader}/status").read_text()
        assert b"hunter2" not in Path(f"/proc/{reader}/environ").read_bytes()
        assert "NoNewPrivs:\t1" in facts
        if os.geteuid() == 0:
            assert "Uid:\t65534\t65534\t65534\t65534" in facts
        handles = [handle.readlink() for handle in Path(f"/proc/{reader}/fd").iterdir()]
        kinds = {str(handle).split(":")[0] for handle in handles}
        assert kinds <= {"/dev/null", "socket"}

"""Disks made by the real tools, and a tree of files that is hard to keep."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.unit.workshop import noise

MIB = 1 << 20
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, "PATH": PATH, "LVM_SUPPRESS_FD_WARNINGS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=60,
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def blank(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        file.truncate(mib * MIB)
    return path


def plain_tree(folder: Path) -> dict[str, bytes]:
    """Files that every file system can hold, by their paths."""
    files = {
        "a.txt": b"hello\n",
        "empty": b"",
        "deep/er/and deeper/big.bin": noise("big", 3 * MIB + 17),
        "deep/zeros.bin": bytes(300_000) + b"end",
        f"deep/{'long' * 50}.txt": b"a long name",
        "ümläut-日本.txt": b"not ASCII",
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(1_600_000_000_000_000_000, 1_700_000_000_000_000_000))
    return files


def full_tree(folder: Path) -> dict[str, bytes]:
    """The same, and what only a file system of Unix holds."""
    files = plain_tree(folder)
    with (folder / "sparse").open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"at the end")
    (folder / "ends in a hole").write_bytes(b"begun")
    os.truncate(folder / "ends in a hole", 100_000)
    os.link(folder / "a.txt", folder / "deep" / "hard link")
    (folder / "deep" / "in").symlink_to("../a.txt")
    (folder / "deep" / "out").symlink_to("/etc/passwd")
    (folder / "line\nbreak").write_bytes(b"a name of two lines")
    (folder / "ends in a blank ").write_bytes(b"a name that looks like another")
    (folder / "a.txt").chmod(0o640)
    files |= {"sparse": bytes(40 * MIB) + b"at the end", "deep/hard link": files["a.txt"]}
    files["ends in a hole"] = b"begun".ljust(100_000, b"\0")
    files["ends in a blank "] = b"a name that looks like another"
    return {**files, "line\nbreak": b"a name of two lines"}


def ext4(image: Path, tree: Path) -> None:
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, blank(image, 128))


def ext3(image: Path, tree: Path) -> None:
    run("mke2fs", "-q", "-F", "-t", "ext3", "-b", 4096, "-d", tree, blank(image, 128))


def btrfs(image: Path, tree: Path) -> None:
    run("mkfs.btrfs", "-q", "--rootdir", tree, blank(image, 256))


def xfs(image: Path, tree: Path) -> None:
    """By a prototype file, which has no names with blanks."""

    def lines(folder: Path) -> list[str]:
        told = []
        for each in sorted(folder.iterdir()):
            if " " in each.name:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            elif each.is_dir():
                told += [f"{each.name} d--755 0 0", *lines(each), "$"]
            else:
                told.append(f"{each.name} ---644 0 0 {each}")
        return told

    prototype = image.with_suffix(".proto")
    prototype.write_text("\n".join(["/", "0 0", "d--755 0 0", *lines(tree), "$", ""]))
    run("mkfs.xfs", "-q", "-f", "-p", prototype, blank(image, 320))


def fat(image: Path, tree: Path, bits: int = 32) -> None:
    run("mkfs.vfat", "-F", bits, blank(image, 64))
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": PATH}
    words = ["mcopy", "-s", "-m", "-i", str(image), *map(str, tree.iterdir()), "::/"]
    subprocess.run(words, env=environment, check=True, capture_output=True)


def fat_without_a_root(image: Path, tree: Path) -> None:
    """As small ones are made: what is at the top lies in no cluster, and so has no number."""
    fat(image, tree, 16)


def ntfs(image: Path, tree: Path) -> None:
    """Files at the top alone: the tool that copies makes no folders."""
    run("mkntfs", "-q", "-F", "-Q", blank(image, 64))
    for file in sorted(f for f in tree.rglob("*") if f.is_file()):
        run("ntfscp", "-q", image, file, file.name)


def exfat(image: Path, name: str, content: bytes, written: int) -> None:
    """One file, of whose room no more was written; by hand, since few machines make such disks."""
    _exfat(image, [_exfat_entry(name, 0x20, 3, written, len(content))], content)


def exfat_with_a_large_folder(image: Path, names: list[str], content: bytes) -> None:
    """A folder in one piece of three clusters, and files in it that all have this content."""
    inside = b"".join(_exfat_entry(name, 0x20, 6, len(content), len(content)) for name in names)
    room = 3 * _EXFAT_CLUSTER
    assert room - _EXFAT_CLUSTER < len(inside) <= room
    folder = _exfat_entry("many", 0x10, 3, room, room)
    _exfat(image, [folder], inside.ljust(room, b"\0") + content)


_EXFAT_CLUSTER = 4096


def _exfat_entry(name: str, kind: int, first: int, written: int, length: int) -> bytes:
    noon = (46 << 25 | 1 << 21 | 1 << 16 | 12 << 11).to_bytes(4, "little")
    return b"".join(
        (
            struct.pack("<BBxxHxx", 0x85, 2, kind) + noon * 3 + bytes(12),
            struct.pack("<BBxBxxxxQxxxxIQ", 0xC0, 3, len(name), written, first, length),
            b"\xc1\0" + name.encode("utf-16-le").ljust(30, b"\0"),
        )
    )


def _exfat(image: Path, top: list[bytes], clusters: bytes) -> None:
    """The table of clusters begins at sector 8, the clusters of 8 sectors at 16.

    At the top are the label, which clusters are in use, small letters to capitals, and the entries
    given; what follows in the clusters has no chains.
    """
    boot = bytearray(512)
    boot[3:11], boot[510:] = b"EXFAT   ", b"\x55\xaa"
    struct.pack_into("<5I", boot, 0x50, 8, 1, 16, 1 << 11, 2)
    struct.pack_into("<3B", boot, 0x6C, 9, 3, 1)
    entries = [*(bytes([kind]).ljust(32, b"\0") for kind in (0x83, 0x81, 0x82)), *top]
    with blank(image, 16).open("r+b") as file:
        for sector, data in {
            0: bytes(boot),
            8: b"\xff" * 12,
            16: b"".join(entries),
            24: clusters,
        }.items():
            file.seek(512 * sector)
            file.write(data)


MAKERS: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...]]] = {
    "ext4": (ext4, ("mke2fs",)),
    "ext3": (ext3, ("mke2fs",)),
    "xfs": (xfs, ("mkfs.xfs",)),
    "btrfs": (btrfs, ("mkfs.btrfs",)),
    "fat": (fat, ("mkfs.vfat", "mcopy")),
    "fat16": (fat_without_a_root, ("mkfs.vfat", "mcopy")),
    "ntfs": (ntfs, ("mkntfs", "ntfscp")),
}


def partitioned(image: Path, parts: list[Path], label: str) -> None:
    """A disk with a table of that kind, and an image in each partition."""
    sizes = [part.stat().st_size // MIB for part in parts]
    blank(image, sum(sizes) + 4)
    partition(image, f"label: {label}\n" + "".join(f"size={size}MiB\n" for size in sizes))
    at = 1
    for part, size in zip(parts, sizes, strict=True):
        put(image, at * MIB, part.read_bytes())
        at += size


def partition(image: Path, script: str) -> None:
    """Give a disk the table that a script for sfdisk says."""
    subprocess.run(
        ["sfdisk", "-q", str(image)],
        input=script,
        env={**os.environ, "PATH": PATH},
        check=True,
        text=True,
        capture_output=True,
    )


def put(image: Path, offset: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _every_other(data: bytes, number: int, stripe: int = 64 << 10) -> bytes:
    """What of a volume that is striped over two disks lies on one of them."""
    return b"".join(data[at : at + stripe] for at in range(number * stripe, len(data), 2 * stripe))


def lvm_by_hand(image: Path, content: bytes, volumes: str) -> None:
    """One disk of a group with these volumes, as the tools of LVM write them down.

    Its extents of 4 MiB begin at 1 MiB; the content is in the first ones.
    """
    name = "A" * 32
    text = (
        'vg {\nid = "B"\nseqno = 1\nstatus = ["READ"]\nflags = []\nextent_size = 8192\n'
        "max_lv = 0\nmax_pv = 0\n"
        f'physical_volumes {{\npv0 {{\nid = "{name}"\nstatus = []\nflags = []\n'
        f"pe_start = 2048\npe_count = 8\n}}\n}}\nlogical_volumes {{\n{volumes}}}\n}}\n"
        'contents = "Text Format Volume Group"\nversion = 1\n'
    ).encode()
    size = blank(image, 40).stat().st_size
    areas = struct.pack("<8Q", MIB, 0, 0, 0, 4096, MIB - 4096, 0, 0)
    label = struct.pack("<8sQII8s32sQ", b"LABELONE", 1, 0, 32, b"LVM2 001", name.encode(), size)
    put(image, 512, label + areas)
    magic, long = b" LVM2 x[5A%r0N*>", len(text) + 1
    where = struct.pack("<I16sI4QII", 0, magic, 1, 4096, MIB, 512, long, 0, 0)
    put(image, 4096, where)
    put(image, 4096 + 512, text + b"\0")
    put(image, MIB, content)


def lvm_volume(name: str, *segment: str, visible: bool = True) -> str:
    """A volume of four extents, as it is written down."""
    status = '["READ", "VISIBLE"]' if visible else '["READ"]'
    lines = ["start_extent = 0", "extent_count = 4", *segment]
    return (
        f'{name} {{\nid = "{name}"\nstatus = {status}\nflags = []\nsegment_count = 1\n'
        "segment1 {\n" + "\n".join(lines) + "\n}\n}\n"
    )


def lvm(folder: Path, content: Path, *kind: str) -> list[Path]:
    """Two disks, and one logical volume over both with this content (120 MiB).

    Written by the real tools on loop devices, without the kernel's device mapper: its extents are
    filled by hand, where the tools say that they are.
    """
    disks = [blank(folder / f"pv{n}.raw", 64) for n in (0, 1)]
    loops: list[str] = []
    try:
        loops += [run("losetup", "-f", "--show", disk).strip() for disk in disks]
        accept = ",".join(f'"a|^{loop}$|"' for loop in loops)
        settings = (
            f'devices {{ filter=[{accept},"r|.*|"] use_devicesfile=0 }}'
            f' global {{ locking_dir="{folder}" }} backup {{ backup=0 archive=0 }}'
        )
        options = ("-q", "--driverloaded", "n", "--config", settings)
        run("pvcreate", *options, *loops)
        run("vgcreate", *options, "vg-0", *loops)
        inactive = (*kind, "-an", "-Zn", "-Wn", "-l", "100%FREE", "-n", "root")
        run("lvcreate", *options, *inactive, "vg-0")
    finally:
        for loop in loops:
            run("losetup", "-d", loop)
    data = content.read_bytes()
    for number, disk in enumerate(disks):
        half = data[number * 60 * MIB : (number + 1) * 60 * MIB]
        put(disk, MIB, _every_other(data, number) if kind else half)
    return disks

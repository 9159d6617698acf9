"""Disks as VMs have them, to measure on: two servers with much in common, and a disk of files.

Where root, debootstrap and a mirror are there, both servers are Debian with packages of their own;
elsewhere they are made of this machine's own programs. Either way by `mke2fs -d`, and the files are
on NTFS where its tools are there: nothing is mounted. What becomes of them in a day (`age`) is
written straight into the images: pages of the database, and stretches of the others, half of which
compress.

    python -m bench.images [--folder bench/out/images] [--mib 8192] [--day 2] [--own]
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.demo_disks import some_noise, some_text

FOLDER = Path(__file__).parent / "out" / "images"
NAMES = ("web01", "db01", "files01")
MIB = 1 << 20
_PAGE = 8 << 10
SUITE = "bookworm"
TEMPLATE = "openssh-server,python3-minimal,ca-certificates"
_PACKAGES = {"web01": "nginx,php-cli,git,gcc", "db01": "postgresql,default-jre-headless"}
_OWN = {"web01": ("python3", "git-core", "gcc"), "db01": ("postgresql", "jvm", "llvm-14")}
_EVERYWHERE = ("python3.11", "systemd", "x86_64-linux-gnu", "locale", "perl")


def main() -> int:
    """Make the images, or let a day pass."""
    parser = argparse.ArgumentParser(prog="python -m bench.images")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--mib", type=int, default=8192, help="size of each disk")
    parser.add_argument("--day", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--own", action="store_true", help="no debootstrap: this machine's programs"
    )
    asked = parser.parse_args()
    if asked.day == 2:
        age(asked.folder)
    else:
        print(make(asked.folder, asked.mib, own=asked.own))
    return 0


def make(folder: Path, mib: int, *, own: bool = False) -> str:
    """Make all images anew; how they were made, in words."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="likeness-images-", dir=folder) as made:
        scratch = Path(made)
        debian = not own
        for name in ("web01", "db01"):
            tree = scratch / name
            debian = debian and _debian(tree, name)
            if not debian:
                _of_this_machine(tree, name, room=mib * MIB // 2)
            _fill(tree, name, mib)
            _make_disk(folder / f"{name}.raw", tree, mib)
            shutil.rmtree(tree)
        _files(scratch / "files01", mib)
        ntfs = _make_ntfs(folder / "files01.raw", scratch / "files01", mib)
        if not ntfs:
            _make_disk(folder / "files01.raw", scratch / "files01", mib)
    how = "debootstrap" if debian else "this machine's own programs, by mke2fs -d"
    how += "; files on NTFS" if ntfs else "; files on ext4"
    (folder / "how").write_text(how)
    return how


def age(folder: Path) -> None:
    """A day: about 2.5 % of the data of each image is other data, the same every time."""
    for name in NAMES:
        chance = random.Random(name)
        path = folder / f"{name}.raw"
        with path.open("r+b") as disk:
            stretches = [each for each in _data(disk.fileno()) if each[1] - each[0] >= MIB]
            left = sum(end - start for start, end in stretches) * 25 // 1000
            while left > 0:
                start, end = chance.choice(stretches)
                at = chance.randrange(start, end - MIB + 1) // _PAGE * _PAGE
                length = _PAGE * chance.choice((1, 2, 8)) if name == "db01" else 256 << 10
                disk.seek(at)
                disk.write(_new(chance, at, length))
                left -= length


def _new(chance: random.Random, at: int, length: int) -> bytes:
    """Half of it compresses well, half does not."""
    if chance.random() < 0.5:
        return some_text(at, length)
    return chance.randbytes(length)


def _data(handle: int) -> Iterator[tuple[int, int]]:
    end, at = os.lseek(handle, 0, os.SEEK_END), 0
    while at < end:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, at


def _debian(tree: Path, name: str) -> bool:
    """Whether a Debian with the packages of a VM could be made there."""
    if os.geteuid() or shutil.which("debootstrap") is None:
        return False
    options = ["--variant=minbase", f"--include={TEMPLATE},{_PACKAGES[name]}"]
    words: list[str | Path] = ["debootstrap", *options, SUITE, tree]
    done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode:
        print("debootstrap did not work here; this machine's own programs do", file=sys.stderr)
        shutil.rmtree(tree, ignore_errors=True)
    return done.returncode == 0


def _of_this_machine(tree: Path, name: str, room: int) -> None:
    """What every VM has, then what this one has, as far as there is room."""
    for part in (*_EVERYWHERE, *_OWN[name]):
        source = Path("/usr/lib") / part
        if not source.is_dir():
            continue
        for file in sorted(source.rglob("*")):
            if file.is_symlink() or not file.is_file():
                continue
            room -= file.stat().st_size
            if room < 0:
                return
            target = tree / "usr/lib" / file.relative_to("/usr/lib")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _fill(tree: Path, name: str, mib: int) -> None:
    """Logs, and for the database server a file of pages."""
    (tree / "var/log").mkdir(parents=True, exist_ok=True)
    (tree / "var/log/access.log").write_bytes(some_text(len(name), mib // 40 * MIB))
    if name == "db01":
        (tree / "var/lib").mkdir(parents=True, exist_ok=True)
        with (tree / "var/lib/base.db").open("wb") as file:
            chance = random.Random(name)
            for at in range(mib // 16 * MIB // _PAGE):
                half = chance.randbytes(_PAGE * 3 // 8)
                file.write(at.to_bytes(8, "big") + half + bytes(_PAGE - len(half) - 8))


def _files(tree: Path, mib: int) -> None:
    """Archives that do not compress, documents that do, a folder twice, and written zeros.

    Of lengths as files have them, so that the second copy of one lies wherever it comes to lie.
    """
    size = mib // 16 * MIB
    for folder in ("archives", "documents", "copy of archives", "zeros"):
        (tree / folder).mkdir(parents=True)
    for at in range(4):
        noise = b"".join(some_noise(at * 1000 + part, MIB) for part in range(size // 4 // MIB))
        noise = noise[: -(at + 1) * 123_457]
        (tree / "archives" / f"{at}.deb").write_bytes(noise)
        if at % 2:
            (tree / "copy of archives" / f"{at}.deb").write_bytes(noise)
        (tree / "documents" / f"{at}.txt").write_bytes(some_text(at, size // 4))
    (tree / "zeros" / "old").write_bytes(bytes(size))


def _make_disk(image: Path, tree: Path, mib: int) -> None:
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    path = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    options = ["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1", "-d"]
    subprocess.run(["mke2fs", *options, tree, image], check=True, env=path)


def _make_ntfs(image: Path, tree: Path, mib: int) -> bool:
    """The files of a tree on NTFS, side by side; whether the tools for that are there."""
    path = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    if any(shutil.which(tool, path=path["PATH"]) is None for tool in ("mkntfs", "ntfscp")):
        return False
    with image.open("wb") as file:
        file.truncate(mib * MIB)
    words: list[list[str | Path]] = [["mkntfs", "-q", "-F", "-Q", image]]
    for file_path in sorted(each for each in tree.rglob("*") if each.is_file()):
        name = str(file_path.relative_to(tree)).replace("/", " - ")
        words.append(["ntfscp", "-q", image, file_path, name])
    for each in words:
        subprocess.run(each, check=True, env=path, stdout=subprocess.DEVNULL)
    return True


if __name__ == "__main__":
    sys.exit(main())

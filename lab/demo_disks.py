"""Small real disks for the demo and for tests: GPT, one ext4 partition, real files. No root."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

PARTITION_START = 1 << 20
_TOOLS = "/usr/local/sbin:/usr/sbin:/sbin"


def make_disk(path: Path, size_bytes: int, files: Mapping[str, bytes]) -> None:
    """Make a raw image with a GPT and an ext4 file system that holds `files`.

    Args:
        path: A new file; sparse.
        size_bytes: Its size, a multiple of 1 MiB and at least 16 MiB.
        files: Path inside the file system to content.
    """
    with path.open("xb") as image:
        image.truncate(size_bytes)
    table = f"label: gpt\nstart={PARTITION_START // 512}, type=linux\n"
    _run("sfdisk", "--quiet", str(path), text=table)
    folder = path.with_suffix(".files")
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        room = (size_bytes - 2 * PARTITION_START) >> 10
        offset = f"offset={PARTITION_START}"
        _run("mke2fs", "-q", "-t", "ext4", "-E", offset, "-d", str(folder), str(path), f"{room}k")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add_file(path: Path, name: str, content: bytes) -> None:
    """Write a file into a disk that `make_disk` made, as its guest would."""
    source = path.with_suffix(".content")
    source.write_bytes(content)
    try:
        _run("debugfs", "-w", "-R", f"write {source} {name}", f"{path}?offset={PARTITION_START}")
    finally:
        source.unlink()


def read_file(path: Path, name: str) -> bytes:
    """The content of a file inside a disk."""
    return _run("debugfs", "-R", f"cat {name}", f"{path}?offset={PARTITION_START}")


def differences(before: Path, after: Path, step: int = 64 << 10) -> Iterator[tuple[int, bytes]]:
    """Where two images of one size differ, and what the second holds there; runs joined."""
    start, run = 0, b""
    with before.open("rb") as old, after.open("rb") as new:
        offset = 0
        while mine := new.read(step):
            if mine != old.read(step):
                start, run = (start, run + mine) if run else (offset, mine)
            elif run:
                yield start, run
                run = b""
            offset += len(mine)
    if run:
        yield start, run


def some_text(seed: int, size_bytes: int) -> bytes:
    """Text that compresses about as well as logs do."""
    chance = random.Random(seed)
    words = [f"{chance.randrange(1 << 24):x}" for _ in range(4000)]
    return " ".join(chance.choices(words, k=size_bytes // 6)).encode()[:size_bytes]


def some_noise(seed: int, size_bytes: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size_bytes)


def _run(tool: str, *arguments: str, text: str = "") -> bytes:
    path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{_TOOLS}")
    if path is None:
        raise SystemExit(f"{tool} is missing: apt-get install e2fsprogs fdisk, then try again")
    done = subprocess.run([path, *arguments], input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout

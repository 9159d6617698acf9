"""Three servers of one template, as people make them: the disk is copied, then packages installed.

For root only, with debootstrap, a mirror and loop devices; services are not started.
"""

import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.images import MIB, SUITE, TEMPLATE

PACKAGES = {
    "web01": ("nginx", "php-cli", "git", "gcc"),
    "db01": ("postgresql", "default-jre-headless"),
    "mail01": ("postfix", "dovecot-imapd", "git"),
}


def make_clones(folder: Path, mib: int) -> dict[str, Path]:
    """Make a template and its clones in a folder; the disks of the clones by name.

    Raises:
        subprocess.CalledProcessError: This machine cannot; what the program said is shown.
    """
    template = folder / "template.raw"
    with template.open("wb") as file:
        file.truncate(mib * MIB)
    _run(["mke2fs", "-q", "-t", "ext4", "-F", template])
    with _mounted(template) as root:
        _run(["debootstrap", "--variant=minbase", f"--include={TEMPLATE}", SUITE, root])
    disks = {name: folder / f"{name}.raw" for name in PACKAGES}
    for name, disk in disks.items():
        _run(["cp", "--sparse=always", template, disk])
        with _mounted(disk) as root:
            _install(root, PACKAGES[name])
    return disks


def _install(root: Path, packages: Sequence[str]) -> None:
    no_services = root / "usr/sbin/policy-rc.d"
    no_services.write_text("#!/bin/sh\nexit 101\n")
    no_services.chmod(0o755)
    _run(["mount", "-t", "proc", "proc", root / "proc"])
    try:
        _install_with_apt(root, packages)
    finally:
        _run(["umount", root / "proc"])


def _install_with_apt(root: Path, packages: Sequence[str]) -> None:
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    apt: list[str | Path] = ["chroot", root, *quiet, "apt-get", "-q"]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--no-install-recommends", *packages])


@contextmanager
def _mounted(disk: Path) -> Generator[Path, None, None]:
    place = disk.with_suffix(".mounted")
    place.mkdir()
    _run(["mount", "-o", "loop", disk, place])
    try:
        yield place
    finally:
        _run(["umount", place])
        place.rmdir()


def _run(words: Sequence[str | Path]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

"""A Debian that was backed up boots: restored to a raw image, and served over NBD with an overlay.

The disk is made here by debootstrap, and its guest is qemu's software emulation: minutes each.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from likeness.serving.exports import Overlay
from likeness.serving.nbd import NbdServer
from likeness.store.read.disk_view import open_disk
from likeness.transport.local import LocalTransport
from tests.unit.workshop import Workshop

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
KERNEL = "linux-image-cloud-amd64"
BOOT_SECONDS = 600

pytestmark = [
    pytest.mark.torture,
    pytest.mark.timeout(3600),
    pytest.mark.needs("debootstrap", "qemu-system-x86_64", "mke2fs"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for debootstrap"),
]


def run(*words: object, **more: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, **more)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A disk with one file system, and the kernel and the initrd that lie on it too."""
    folder = tmp_path_factory.mktemp("debian")
    root, disk = folder / "root", folder / "disk.raw"
    packages = f"--include={KERNEL},systemd-sysv,udev"
    run("debootstrap", "--variant=minbase", packages, "bookworm", root, MIRROR)
    (root / "etc" / "fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc" / "hostname").write_text("likeness-guest\n")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (initrd,) = (root / "boot").glob("initrd.img-*")
    for each in (kernel, initrd):
        shutil.copy(each, folder / each.name)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, disk, "2G")
    shutil.rmtree(root)
    return disk, folder / kernel.name, folder / initrd.name


def boots(drive: str, kernel: Path, initrd: Path, log: Path) -> bool:
    """Whether a login is asked for on the serial line."""
    words = [
        "qemu-system-x86_64", "-accel", "tcg", "-m", "768", "-smp", "2", "-nographic", "-no-reboot",
        "-kernel", kernel, "-initrd", initrd,
        "-append", "root=/dev/vda rw console=ttyS0 panic=1",
        "-drive", f"file={drive},format=raw,if=virtio",
        "-nic", "none",
    ]  # fmt: skip
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as guest,
    ):
        try:
            deadline = time.monotonic() + BOOT_SECONDS
            while time.monotonic() < deadline and guest.poll() is None:
                if b"likeness-guest login:" in log.read_bytes():
                    return True
                time.sleep(0.5)
            return False
        finally:
            guest.kill()


def test_what_was_backed_up_boots(debian: tuple[Path, Path, Path], tmp_path: Path) -> None:
    disk, kernel, initrd = debian
    workshop = Workshop(tmp_path, transport=LocalTransport(tmp_path / "store", make=True))
    version = workshop.back_up(disk)

    restored = workshop.restore_file(version)
    run("cmp", disk, restored)
    assert boots(str(restored), kernel, initrd, tmp_path / "raw.log"), tail(tmp_path / "raw.log")
    restored.unlink()

    with open_disk([workshop.store], version.record.disks[0], tmp_path) as view:
        overlay = Overlay(view, tmp_path / "overlay")
        with NbdServer({"disk": overlay}, socket_path=tmp_path / "nbd") as server:
            log = tmp_path / "nbd.log"
            assert boots(server.uri("disk"), kernel, initrd, log), tail(log)
        overlay.close()
    run("cmp", disk, workshop.restore_file(version))  # the overlay took what the guest wrote


def tail(log: Path) -> str:
    return log.read_bytes()[-2000:].decode(errors="replace")

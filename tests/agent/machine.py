"""A machine in software: the image of delegates under QEMU's emulation, never /dev/kvm."""

import re
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from likeness.agent.remote import Address

BOOT_SECONDS = 400.0
HOST = "10.0.2.2"
"""What the machine calls this one."""
_TOLD = re.compile(r"likeness-abd: assigned-ip=(\S+) ssh-port=22 devices=(\S+) host-key=(.+)")


@dataclass(frozen=True)
class Machine:
    """One that has booted.

    Attributes:
        address: Where it is logged in to.
        devices: Where its disks are.
        told: The address it has, as it says.
    """

    address: Address
    devices: str
    told: str
    folder: Path

    def run(self, command: str) -> str:
        """What a command there prints."""
        key = self.folder / "key"
        key.write_text(self.address.private_key)
        key.chmod(0o600)
        known = self.folder / "known"
        known.write_text(f"[127.0.0.1]:{self.address.port} {self.address.host_key}\n")
        return subprocess.run(
            [
                *("ssh", "-i", str(key), "-o", f"UserKnownHostsFile={known}"),
                *("-o", "BatchMode=yes", "-p", str(self.address.port), "root@127.0.0.1"),
                command,
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout


@contextmanager
def booted(image: Path, folder: Path, disks: Sequence[Path]) -> Generator[Machine, None, None]:
    """Boot the image with more disks; what is written to its own is forgotten."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    (folder / "key.pub").write_text(key.export_public_key().decode())
    console = folder / "console"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    drives = [f"file={image},if=virtio,format=raw,snapshot=on"]
    drives += [f"file={disk},if=virtio,format=raw" for disk in disks]
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512"),
        *("-display", "none", "-no-reboot", "-serial", f"file:{console}"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net"),
        *("-fw_cfg", f"name=opt/likeness/authorized-key,file={folder / 'key.pub'}"),
    ]
    for drive in drives:
        command += ["-drive", drive]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        address, devices, host_key = _awaited(console, process)
        private = key.export_private_key().decode()
        at = Address("127.0.0.1", port, host_key.strip(), private)
        yield Machine(at, devices, address, folder)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _awaited(console: Path, process: "subprocess.Popen[bytes]") -> tuple[str, str, str]:
    begun = time.monotonic()
    while time.monotonic() - begun < BOOT_SECONDS:
        said = console.read_text(errors="replace") if console.exists() else ""
        if found := _TOLD.search(said):
            print(f"booted in {time.monotonic() - begun:.0f} s")
            return found[1], found[2], found[3]
        assert process.poll() is None, f"QEMU ended: {said[-2000:]}"
        time.sleep(0.5)
    raise AssertionError(f"no address within {BOOT_SECONDS:.0f} s: {said[-2000:]}")

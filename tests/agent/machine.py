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

    @contextmanager
    def cut_off(self) -> Generator[None, None, None]:
        """Without its network while the `with` lasts, and without a word to whoever talks to it."""
        self._tell_qemu("set_link net off")
        try:
            yield
        finally:
            self._tell_qemu("set_link net on")

    def _tell_qemu(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile("rwb", 0) as talk:
            monitor.settimeout(60)
            monitor.connect(str(self.folder / "monitor"))
            for said in (b"", f"{command}\n".encode()):
                talk.write(said)
                seen = b""
                while not seen.endswith(b"(qemu) "):
                    more = talk.read(4096)
                    assert more, f"QEMU's monitor ended after {seen!r}"
                    seen += more

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
def booted(
    image: Path, folder: Path, disks: Sequence[Path], **told: str
) -> Generator[Machine, None, None]:
    """Boot the image with more disks; what is written to its own is forgotten.

    Args:
        image: Of its own disk.
        folder: A new one.
        disks: The others.
        told: Settings besides the key that may log in.
    """
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
        *("-monitor", f"unix:{folder / 'monitor'},server=on,wait=off"),
        *("-fw_cfg", f"name=opt/likeness/authorized-key,file={folder / 'key.pub'}"),
    ]
    for name, value in told.items():
        command += ["-fw_cfg", f"name=opt/likeness/{name},string={value}"]
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

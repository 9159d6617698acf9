"""Guests that are there: a VM with a certain tag has an SSH server in a process of its own.

All other guests are whoever calls `Pool.write`. A guest that is there finds the disks of its VBDs
as files, reports its address and its host key, and ends with its VM.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Protocol

from lab.database import Database
from lab.settings import Settings
from lab.storage.disk import Disk
from lab.wire.values import is_null

STEP_BYTES = 4 << 20
FIRST_ADDRESS = int(IPv4Address("127.64.0.0"))
ADDRESSES = 1 << 22


class Reports(Protocol):
    """What guests need of the machines."""

    guest_store: dict[str, dict[str, str]]

    def guest_reports(self, vm: str, networks: dict[str, str]) -> None:
        """Let the guest's tools report addresses."""

    def guest_writes_store(self, vm: str, key: str, value: str) -> None:
        """Let the guest write a key of xenstore."""


class HasDisks(Protocol):
    """What guests need of the storage."""

    disks: dict[str, Disk]
    folder: Path


@dataclass
class GuestFaults:
    """What goes wrong in guests that start from now on.

    Attributes:
        boot_seconds: How long they take until they listen.
        no_address: They get no answer from DHCP and report nothing.
        refuse_ssh: They report an address where nobody listens.
        blocked_ports: Ports they cannot reach, such as 445.
        kill_after_seconds: Their commands are killed after so long; 0 for never.
        vms_called: Only in guests whose VM's name has this in it.
    """

    boot_seconds: float = 0.0
    no_address: bool = False
    refuse_ssh: bool = False
    blocked_ports: list[int] = field(default_factory=list)
    kill_after_seconds: float = 0.0
    vms_called: str = ""


class Guest:
    """One guest: its process, once it has booted, and its home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices = folder / "dev"
        self.devices.mkdir()
        self.halted = threading.Event()
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None

    def halt(self) -> None:
        """End it with all it runs, and forget its home."""
        self.halted.set()
        with self.lock:
            if self.process is not None and self.process.stdin and self.process.stdout:
                with suppress(OSError):
                    self.process.stdin.close()  # lets it end its commands
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=30)
                self.process.kill()  # as when the power is cut; nothing to one that has ended
                self.process.wait()
                self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Guests:
    """The guests of one pool that are there.

    Attributes:
        faults: What goes wrong in those that start from now on.
        running: By VM reference.
    """

    def __init__(
        self, db: Database, settings: Settings, storage: HasDisks, machines: Reports
    ) -> None:
        self._db = db
        self._settings = settings
        self._storage = storage
        self._machines = machines
        self._addresses = count(random.randrange(ADDRESSES))  # another pool has others
        self.faults = GuestFaults()
        self.running: dict[str, Guest] = {}

    def started(self, vm: str) -> None:
        """Boot the guest of a VM that has the tag."""
        if not any(t.startswith(self._settings.guest_tag) for t in self._db.get("VM", vm, "tags")):
            return
        guest = Guest(Path(tempfile.mkdtemp(prefix="guest-", dir=self._storage.folder)))
        self.running[vm] = guest
        for vbd in self._db.get("VM", vm, "VBDs"):
            self.plugged(vbd)
        meant = self.faults.vms_called in self._db.get("VM", vm, "name_label")
        faults = self.faults if meant else GuestFaults()
        threading.Thread(target=self._boot, args=(vm, guest, faults), daemon=True).start()

    def stopped(self, vm: str) -> None:
        """End the guest of a VM."""
        if guest := self.running.pop(vm, None):
            guest.halt()

    def close(self) -> None:
        """End all guests."""
        for vm in list(self.running):
            self.stopped(vm)

    # -- drives ----------------------------------------------------------------------------------

    def plugged(self, vbd: str) -> None:
        """Let a guest see a disk: as a file that holds what the disk holds now."""
        record = self._db.record("VBD", vbd)
        guest = self.running.get(record["VM"])
        if guest is None or is_null(record["VDI"]) or not record["device"]:
            return
        disk, path = self._storage.disks[record["VDI"]], guest.folder / str(record["uuid"])
        with path.open("wb") as file:
            file.truncate(disk.size)
            for segment in disk.segments(0, disk.size):
                if segment.file is None:
                    continue
                for low, high in segment.file.data_ranges(segment.start, segment.end):
                    for start in range(low, high, STEP_BYTES):
                        file.seek(start)
                        file.write(segment.file.read(start, min(STEP_BYTES, high - start)))
        (guest.devices / str(record["device"])).symlink_to(path)

    def unplugged(self, vbd: str) -> None:
        """Take a disk away from a guest."""
        record = self._db.record("VBD", vbd)
        if guest := self.running.get(record["VM"]):
            (guest.devices / str(record["device"])).unlink(missing_ok=True)
            (guest.folder / str(record["uuid"])).unlink(missing_ok=True)

    # -- booting ---------------------------------------------------------------------------------

    def _boot(self, vm: str, guest: Guest, faults: GuestFaults) -> None:
        if guest.halted.wait(faults.boot_seconds) or faults.no_address:
            return
        told = dict(self._machines.guest_store.get(vm, {}))
        number = FIRST_ADDRESS + next(self._addresses) % ADDRESSES
        address = told.get("vm-data/ip") or str(IPv4Address(number))
        configuration = {
            "address": address,
            "folder": str(guest.folder),
            "authorized_key": told.get("vm-data/authorized-key", ""),
            "blocked_ports": faults.blocked_ports,
            "kill_after_seconds": faults.kill_after_seconds,
        }
        with guest.lock:
            if guest.halted.is_set():
                return
            guest.process = subprocess.Popen(
                # asyncssh leaves a coroutine of its own behind when a guest ends
                [sys.executable, "-W", "ignore::RuntimeWarning", "-m", "lab.guest_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        said = self._exchange(guest.process, configuration)
        if faults.refuse_ssh:
            guest.process.kill()
            guest.process.wait(timeout=30)  # until nobody listens any more
        if said and not guest.halted.is_set():
            self._report(vm, guest, address, said)

    @staticmethod
    def _exchange(process: subprocess.Popen[str], configuration: dict[str, object]) -> str:
        """Configure a guest; returns its answer, or nothing if it ends first."""
        with suppress(OSError, ValueError):
            if process.stdin and process.stdout:
                process.stdin.write(json.dumps(configuration) + "\n")
                process.stdin.flush()
                return process.stdout.readline()
        return ""

    def _report(self, vm: str, guest: Guest, address: str, said: str) -> None:
        answer = json.loads(said)
        with self._db.lock:
            if self.running.get(vm) is not guest:
                return
            for key, value in (
                ("host-key", answer["host_key"]),
                ("ssh-port", str(answer["port"])),
                ("devices", str(guest.devices)),
                ("assigned-ip", address),
            ):
                self._machines.guest_writes_store(vm, f"vm-data/{key}", value)
            self._machines.guest_reports(vm, {"0/ip": address, "0/ipv4/0": address})

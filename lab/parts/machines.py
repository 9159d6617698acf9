"""The machines of a pool: VM records, domains, guests."""

import json
import secrets
from typing import Any, Protocol

from lab.database import Database
from lab.settings import Settings
from lab.wire.values import EPOCH, NULL, Value, date_of, is_null

MAX_METADATA_BYTES = 1 << 16


class RemovesDisks(Protocol):
    """What machines need of the storage."""

    def drop_vdi(self, vdi: str) -> None:
        """Remove a disk with its record."""


def random_mac() -> str:
    """Make up a locally administered MAC address."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


class Machines:
    """VMs, their domains, and what their guests report.

    Attributes:
        guest_store: What each running guest sees of xenstore, by VM reference.
    """

    def __init__(self, db: Database, settings: Settings, storage: RemovesDisks) -> None:
        self.db = db
        self.settings = settings
        self.guest_store: dict[str, dict[str, str]] = {}
        self._storage = storage
        self._domains_begun = 0

    # -- records ---------------------------------------------------------------------------------

    def add_vm_record(self, **fields: Value) -> str:
        """Make a VM's record with its metrics."""
        with self.db.lock:
            metrics = self.db.create(
                "VM_metrics",
                memory_actual=0,
                VCPUs_number=fields.get("VCPUs_at_startup", 1),
                install_time=date_of(self.settings.now()),
                start_time=EPOCH,
                last_updated=date_of(self.settings.now()),
            )
            given: dict[str, Value] = {
                "metrics": metrics,
                "domid": -1,
                "power_state": "Halted",
            } | fields
            return self.db.create("VM", **given)

    def drop_vm(self, vm: str) -> None:
        """Remove a VM with its devices and metrics; its disks stay, children move up."""
        with self.db.lock:
            record = self.db.record("VM", vm)
            self.drop_devices(vm, with_disks=False)
            for child in record["children"]:
                self.db.put("VM", child, parent=record["parent"])
            for class_name, field in (
                ("VM_metrics", "metrics"),
                ("VM_guest_metrics", "guest_metrics"),
            ):
                if self.db.exists(class_name, record[field]):
                    self.db.destroy(class_name, record[field])
            for console in record["consoles"]:
                self.db.destroy("console", console)
            self.db.destroy("VM", vm)

    def drop_devices(self, vm: str, *, with_disks: bool) -> None:
        """Remove a VM's VBDs, VIFs and VTPMs, and if asked the disks."""
        with self.db.lock:
            record = self.db.record("VM", vm)
            disks = []
            for vbd in record["VBDs"]:
                drive = self.db.record("VBD", vbd)
                if drive["type"] == "Disk" and not is_null(drive["VDI"]):
                    disks.append(drive["VDI"])
                self.db.destroy("VBD", vbd)
                self.db.touch("VDI", drive["VDI"])
            for vif in record["VIFs"]:
                self.db.destroy("VIF", vif)
            for vtpm in record["VTPMs"]:
                self.db.destroy("VTPM", vtpm)
            for disk in disks if with_disks else ():
                if not self.db.get("VDI", disk, "VBDs"):
                    self._storage.drop_vdi(disk)

    def describe_vm(self, vm: str) -> str:
        """Write a VM's record as text, as snapshots keep it."""
        return json.dumps(self.db.record("VM", vm), sort_keys=True)[:MAX_METADATA_BYTES]

    # -- domains ---------------------------------------------------------------------------------

    def begin_domain(self, vm: str, host: str) -> None:
        """Let a VM reside on a host."""
        with self.db.lock:
            self._domains_begun += 1
            record = self.db.record("VM", vm)
            self.db.put("VM", vm, resident_on=host, domid=self._domains_begun)
            self.db.put(
                "VM_metrics",
                record["metrics"],
                start_time=date_of(self.settings.now()),
                memory_actual=record["memory_dynamic_max"],
                hvm=bool(record["HVM_boot_policy"]),
            )

    def end_domain(self, vm: str) -> None:
        """Let a VM reside nowhere."""
        self.db.put("VM", vm, resident_on=NULL, domid=-1)

    # -- guests ----------------------------------------------------------------------------------

    def guest_started(self, vm: str) -> None:
        """Let the guest's tools report, unless the guest has none."""
        self.publish_to_guest(vm)
        if self.db.get("VM", vm, "other_config").get("lab:no-tools") == "true":
            return
        with self.db.lock:
            metrics = self.db.create(
                "VM_guest_metrics",
                os_version={"name": "Lab Linux", "distro": "lab", "major": "1", "minor": "0"},
                PV_drivers_version={"major": "8", "minor": "4", "micro": "0", "build": "1"},
                PV_drivers_up_to_date=True,
                PV_drivers_detected=True,
                can_use_hotplug_vbd="yes",
                can_use_hotplug_vif="yes",
                live=True,
                last_updated=date_of(self.settings.now()),
            )
            self.db.put("VM", vm, guest_metrics=metrics)

    def guest_stopped(self, vm: str) -> None:
        """Forget what the guest reported."""
        with self.db.lock:
            metrics = self.db.get("VM", vm, "guest_metrics")
            if self.db.exists("VM_guest_metrics", metrics):
                self.db.destroy("VM_guest_metrics", metrics)
            self.db.put("VM", vm, guest_metrics=NULL)
            self.guest_store.pop(vm, None)

    def guest_reports(self, vm: str, networks: dict[str, str]) -> None:
        """Let the guest's tools report addresses.

        Args:
            vm: Reference of a running VM.
            networks: Such as `{"0/ip": "192.0.2.4", "0/ipv4/0": "192.0.2.4"}`.
        """
        with self.db.lock:
            self.db.put(
                "VM_guest_metrics",
                self.db.get("VM", vm, "guest_metrics"),
                networks=networks,
                last_updated=date_of(self.settings.now()),
            )

    def copy_guest_metrics(self, vm: str, new: str) -> None:
        """Give a snapshot what the guest had reported."""
        with self.db.lock:
            metrics = self.db.get("VM", vm, "guest_metrics")
            if self.db.exists("VM_guest_metrics", metrics):
                record: dict[str, Any] = self.db.record("VM_guest_metrics", metrics)
                copied = self.db.create("VM_guest_metrics", **record | {"uuid": "", "live": False})
                self.db.put("VM", new, guest_metrics=copied)

    def publish_to_guest(self, vm: str) -> None:
        """Write the `vm-data/` keys of the record where the guest reads them."""
        with self.db.lock:
            data = self.db.get("VM", vm, "xenstore_data")
            seen = {k: v for k, v in data.items() if k.startswith(("vm-data/", "FIST/"))}
            self.guest_store[vm] = {"vm": self.db.get("VM", vm, "uuid"), **seen}

    def guest_writes_store(self, vm: str, key: str, value: str) -> None:
        """Let the guest write a key; `vm-data/` keys come back into the record."""
        with self.db.lock:
            self.guest_store.setdefault(vm, {})[key] = value
            if key.startswith("vm-data/"):
                self.db.set_pair("VM", vm, "xenstore_data", key, value)

"""A VM's way to another pool: its disks one by one, then its metadata, then its domain."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from lab.archive import Description, write_archive
from lab.behaviours.common import disk_vbds
from lab.behaviours.vm_power import bring_down
from lab.calls import Call
from lab.failures import XapiFailure
from lab.remote import RemotePool

if TYPE_CHECKING:
    from lab.storage.disk import Disk

STEP_BYTES = 4 << 20
CLEAN_UP_SECONDS = 10.0


class Journey:
    """One VM on its way.

    Args:
        call: The call that sends it.
        vm: The VM.
        dest: What `host.migrate_receive` of the other pool answered.
        vdi_map: For disks, the SR there; the default SR for the others.
        vif_map: For every card, the network there.
    """

    def __init__(
        self,
        call: Call,
        vm: str,
        dest: dict[str, str],
        vdi_map: dict[str, str],
        vif_map: dict[str, str],
    ) -> None:
        if "master" not in dest or "session_id" not in dest:
            raise XapiFailure("INVALID_VALUE", "dest", str(sorted(dest)))
        self._call, self._vm, self._host = call, vm, dest["host"]
        self._vdi_map, self._vif_map = vdi_map, vif_map
        self._there = RemotePool(dest["master"], dest["session_id"])
        self._disks: dict[str, str] = {}

    def run(self, *, keep: bool) -> str:
        """Go; returns the reference of the VM in the other pool.

        Args:
            keep: Leave the VM here too: a copy with its own uuid and MAC addresses.
        """
        try:
            self._send_disks()
            arrived = self._send_metadata(keep=keep)
            self._connect(arrived)
        except XapiFailure:
            self._clean_up()
            raise
        running = self._call.db.get("VM", self._vm, "power_state") == "Running"
        if not keep:
            self._leave()
            if running:
                self._there.call("VM.start_on", arrived, self._host, False, False)  # noqa: FBT003
        return arrived

    def _send_disks(self) -> None:
        db = self._call.db
        for vbd in disk_vbds(db, self._vm):
            vdi = db.get("VBD", vbd, "VDI")
            record, disk = db.record("VDI", vdi), self._call.pool.disk(vdi)
            fields = ("name_label", "name_description", "type", "sharable", "read_only")
            given = {name: record[name] for name in (*fields, "other_config", "tags")}
            given |= {"SR": self._storage(vdi), "virtual_size": disk.size}
            made = str(self._there.call("VDI.create", given))
            self._disks[str(record["uuid"])] = made
            self._there.put("/import_raw_vdi", self._parts(disk), disk.size, vdi=made)

    def _parts(self, disk: "Disk") -> Iterator[bytes]:
        for start in range(0, disk.size, STEP_BYTES):
            self._call.check()
            yield disk.read(start, min(STEP_BYTES, disk.size - start))

    def _storage(self, vdi: str) -> str:
        if vdi in self._vdi_map:
            return self._vdi_map[vdi]
        (pool,) = self._there.call("pool.get_all")
        return str(self._there.call("pool.get_default_SR", pool))

    def _send_metadata(self, *, keep: bool) -> str:
        pool = self._call.pool
        body = b"".join(write_archive(pool, Description(pool, [self._vm]), data=False))
        found = {
            f"vdi:{old}": str(self._there.call("VDI.get_uuid", new))
            for old, new in self._disks.items()
        }
        options = {"restore": "false" if keep else "true"}
        (arrived,) = self._there.put("/import_metadata", [body], len(body), **options, **found)
        return arrived

    def _connect(self, arrived: str) -> None:
        """Put the cards on the networks the caller chose, by their device numbers."""
        db = self._call.db
        wanted = {db.get("VIF", vif, "device"): net for vif, net in self._vif_map.items()}
        for vif in self._there.call("VM.get_VIFs", arrived):
            device = self._there.call("VIF.get_device", vif)
            if device in wanted:
                self._there.call("VIF.move", vif, wanted[device])

    def _leave(self) -> None:
        call = self._call
        with call.db.lock:
            if call.db.get("VM", self._vm, "power_state") != "Halted":
                bring_down(call, self._vm)
            call.pool.drop_devices(self._vm, with_disks=True)
            call.pool.drop_vm(self._vm)

    def _clean_up(self) -> None:
        """Remove the disks made there; the other pool may hold them a moment longer, or be gone."""
        end = time.monotonic() + CLEAN_UP_SECONDS
        while self._disks and time.monotonic() < end:
            for uuid, made in list(self._disks.items()):
                with suppress(XapiFailure):
                    self._there.call("VDI.destroy", made)
                    del self._disks[uuid]
            time.sleep(0.05)

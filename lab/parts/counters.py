"""What a pool counts: bytes and requests by disk, calls, objects, snapshots."""

import threading
import time
from collections.abc import Callable
from typing import Any

from lab.database import Database
from lab.journal import Journal

BY_DISK = ("exported_bytes", "imported_bytes", "nbd_reads")


class Counters:
    """The counters of one pool.

    Attributes:
        max_snapshots_at_once: The highest number of snapshot VMs there ever was at one time.
    """

    def __init__(self, db: Database, journal: Callable[[], Journal]) -> None:
        self._db = db
        self._journal = journal
        self._lock = threading.Lock()
        self._by_disk: dict[str, dict[str, int]] = {name: {} for name in BY_DISK}
        self.max_snapshots_at_once = 0

    def count_snapshots(self) -> None:
        """Remember how many snapshot VMs there are if there never were more."""
        now = len(self._db.where("VM", is_a_snapshot=True))
        self.max_snapshots_at_once = max(self.max_snapshots_at_once, now)

    def _add(self, name: str, vdi: str, amount: int) -> None:
        with self._lock:
            self._by_disk[name][vdi] = self._by_disk[name].get(vdi, 0) + amount

    def count_exported(self, vdi: str, length: int) -> None:
        """Add to what left a disk, by HTTP or NBD."""
        self._add("exported_bytes", vdi, length)

    def count_imported(self, vdi: str, length: int) -> None:
        """Add to what a transfer wrote to a disk."""
        self._add("imported_bytes", vdi, length)

    def count_nbd_read(self, vdi: str, length: int) -> None:
        """Add one answered NBD read."""
        self.count_exported(vdi, length)
        self._add("nbd_reads", vdi, 1)

    def values(self) -> dict[str, Any]:
        """Everything counted so far, as plain values.

        Returns:
            `exported_bytes`, `imported_bytes` and `nbd_reads` (requests) by VDI uuid, also of VDIs
            that are gone; `calls` by method, `objects` by class, `snapshots` and
            `max_snapshots_at_once` in VMs, `time`.
        """
        with self._lock:
            by_disk = {name: dict(counts) for name, counts in self._by_disk.items()}
        return {
            **by_disk,
            "calls": self._journal().counts(),
            "objects": {name: self._db.count(name) for name in self._db.facts.classes},
            "snapshots": len(self._db.where("VM", is_a_snapshot=True)),
            "snapshot_disks": len(self._db.where("VDI", is_a_snapshot=True)),
            "max_snapshots_at_once": self.max_snapshots_at_once,
            "time": time.time(),
        }

"""The storage of a pool: SRs, VDIs and the data behind them."""

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.database import Database, Record
from lab.failures import XapiFailure, storage_failure
from lab.settings import Settings
from lab.storage.disk import Disk
from lab.storage.layers import Layer
from lab.wire.values import NULL, Value

THICK_TYPES = frozenset({"lvm", "lvmoiscsi", "lvmohba"})
PARENT_KEY = "vhd-parent"


class Storage:
    """SRs, VDIs, coalescing, and attachments to the control domain.

    Attributes:
        disks: Data of the VDIs, by reference.
        folder: Where overlays live; removed on `close` if it was made here.
        closed: Set when the pool ends.
    """

    def __init__(self, db: Database, settings: Settings, folder: Path | None) -> None:
        self.db = db
        self.settings = settings
        self.disks: dict[str, Disk] = {}
        self.hidden: dict[Layer, str] = {}
        self.closed = threading.Event()
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="lab-"))
        db.derive("VDI", "physical_utilisation", self._vdi_utilisation)
        db.derive("SR", "physical_utilisation", self._sr_utilisation)
        db.derive("SR", "virtual_allocation", _sr_allocation)

    def close(self) -> None:
        """Let nothing coalesce any more and remove what was made on disk."""
        self.closed.set()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- SRs -------------------------------------------------------------------------------------

    def add_sr(self, **fields: Value) -> str:
        """Make an SR's record."""
        return self.db.create("SR", **fields)

    def connect(self, sr: str, host: str, device_config: dict[str, str] | None = None) -> str:
        """Attach an SR to a host."""
        config = device_config or {}
        return self.db.create(
            "PBD", SR=sr, host=host, device_config=config, currently_attached=True
        )

    def default_sr(self) -> str:
        """The pool's default SR."""
        return str(self.db.get("pool", self.db.refs("pool")[0], "default_SR"))

    def srs_seen_by(self, host: str) -> set[str]:
        """The SRs attached to a host."""
        with self.db.lock:
            pbds = [self.db.record("PBD", pbd) for pbd in self.db.get("host", host, "PBDs")]
            return {pbd["SR"] for pbd in pbds if pbd["currently_attached"]}

    def sr_can(self, sr: str, feature: str) -> bool:
        """Whether the driver of an SR has a feature."""
        drivers = self.db.where("SM", type=self.db.get("SR", sr, "type"))
        return any(feature in self.db.get("SM", sm, "features") for sm in drivers)

    def require_storage(self, sr: str) -> None:
        """Fail unless the SR is attached somewhere."""
        pbds = self.db.get("SR", sr, "PBDs")
        if not pbds:
            raise XapiFailure("SR_HAS_NO_PBDS", sr)
        if not any(self.db.get("PBD", pbd, "currently_attached") for pbd in pbds):
            raise XapiFailure("SR_NOT_ATTACHED", sr)

    def require_snapshots(self, sr: str) -> None:
        """Fail unless the SR's driver takes snapshots."""
        if not self.sr_can(sr, "VDI_SNAPSHOT"):
            raise XapiFailure("SR_OPERATION_NOT_SUPPORTED", sr)

    def require_space(self, sr: str, size: int) -> None:
        """Fail when a new leaf of `size` bytes has no room; on thin storage it needs hardly any."""
        with self.db.lock:
            thick = self.db.get("SR", sr, "type") in THICK_TYPES
            used = int(self.db.get("SR", sr, "physical_utilisation"))
            limit = int(self.db.get("SR", sr, "physical_size"))
        if used + (size if thick else 1) > limit:
            raise storage_failure(44, "There is insufficient space")

    # -- VDIs ------------------------------------------------------------------------------------

    def empty_disk(self, size: int) -> Disk:
        """Make a disk of zeros, without a record."""
        return Disk.empty(size, self.folder)

    def disk(self, vdi: str) -> Disk:
        """The data behind a VDI.

        Raises:
            XapiFailure: HANDLE_INVALID.
        """
        self.db.row("VDI", vdi)
        return self.disks[vdi]

    def add_vdi(self, disk: Disk, **fields: Value) -> str:
        """Make the record of a disk; SR is needed, the rest has its defaults."""
        with self.db.lock:
            given: dict[str, Value] = {"type": "user", "managed": True} | fields
            ref = self.db.create("VDI", virtual_size=disk.size, **given)
            self.db.put("VDI", ref, location=self.db.get("VDI", ref, "uuid"))
            self.disks[ref] = disk
            return ref

    def drop_vdi(self, vdi: str) -> None:
        """Remove a disk with its record; its storage is tidied up a little later."""
        with self.db.lock:
            sr = self.db.get("VDI", vdi, "SR")
            self.db.destroy("VDI", vdi)
            disk = self.disks.pop(vdi, None)
        if disk is not None:
            disk.drop()
        self.coalesce_soon(sr)

    def drop_vdi_data(self, vdi: str) -> None:
        """Turn a snapshot into one that holds its change log only."""
        self.disk(vdi).drop_data()
        self.db.put("VDI", vdi, type="cbt_metadata")
        self.coalesce_soon(self.db.get("VDI", vdi, "SR"))

    # -- layers the storage keeps for itself -----------------------------------------------------

    def show_hidden(self, sr: str) -> None:
        """Keep a record for every frozen layer, and `vhd-parent` in all that have a parent."""
        with self.db.lock:
            tops = {v: self.disks[v].top for v in self.db.get("SR", sr, "VDIs") if v in self.disks}
            frozen = _ancestors(tops.values())
            shown = [k for k, ref in self.hidden.items() if self.db.get("VDI", ref, "SR") == sr]
            for layer in shown:
                if layer not in frozen:
                    self.db.destroy("VDI", self.hidden.pop(layer))
            for layer in frozen - self.hidden.keys():
                size = max(self.disks[v].size for v, top in tops.items() if layer in top.chain())
                self.hidden[layer] = self.db.create(
                    "VDI", SR=sr, name_label="base copy", virtual_size=size, type="user"
                )
            nodes = {**tops, **{self.hidden[layer]: layer for layer in frozen}}
            for ref, layer in nodes.items():
                self._show_parent(ref, layer)

    def _show_parent(self, ref: str, layer: Layer) -> None:
        config = dict(self.db.get("VDI", ref, "sm_config"))
        shown = {key: text for key, text in config.items() if key != PARENT_KEY}
        if layer.parent is not None:
            shown[PARENT_KEY] = self.db.get("VDI", self.hidden[layer.parent], "uuid")
        if shown != config:
            self.db.put("VDI", ref, sm_config=shown)

    def coalesce_soon(self, sr: str) -> None:
        """Fold hidden parents with one child into it, after the time that takes."""
        if self.closed.is_set():
            return
        timer = threading.Timer(self.settings.coalesce_seconds, self.coalesce, [sr])
        timer.daemon = True
        timer.start()

    def coalesce(self, sr: str) -> None:
        """Fold now."""
        with self.db.lock:
            if self.closed.is_set() or not self.db.exists("SR", sr):
                return
            for vdi in self.db.get("SR", sr, "VDIs"):
                layer: Layer | None = self.disks[vdi].top if vdi in self.disks else None
                while layer is not None:
                    while layer.fold_parent():
                        pass
                    layer = layer.parent
            self.show_hidden(sr)

    # -- the control domain ----------------------------------------------------------------------

    @contextmanager
    def attached_to_dom0(self, vdi: str, *, writing: bool) -> Iterator[None]:
        """Give dom0 a VBD of a disk for as long as a transfer lasts, and a moment longer."""
        vbd = self._attach_to_dom0(vdi, writing=writing)
        try:
            yield
        finally:
            timer = threading.Timer(self.settings.detach_seconds, self._detach_from_dom0, [vbd])
            timer.daemon = True
            timer.start()

    def _attach_to_dom0(self, vdi: str, *, writing: bool) -> str:
        with self.db.lock:
            dom0 = self.db.where("VM", is_control_domain=True)[0]
            held = {self.db.get("VBD", v, "userdevice") for v in self.db.get("VM", dom0, "VBDs")}
            device = next(str(n) for n in range(len(held) + 1) if str(n) not in held)
            vbd = self.db.create(
                "VBD",
                VM=dom0,
                VDI=vdi,
                userdevice=device,
                device=f"sm/{device}",
                mode="RW" if writing else "RO",
                type="Disk",
                currently_attached=True,
            )
            self.db.touch("VDI", vdi)
            return vbd

    def _detach_from_dom0(self, vbd: str) -> None:
        with self.db.lock:
            if self.db.exists("VBD", vbd):
                vdi = self.db.get("VBD", vbd, "VDI")
                self.db.destroy("VBD", vbd)
                self.db.touch("VDI", vdi)

    # -- derived fields --------------------------------------------------------------------------

    def _vdi_utilisation(self, database: Database, vdi: str, record: Record) -> int:
        disk = self.disks.get(vdi)
        if disk is None:
            layer = next((known for known, ref in self.hidden.items() if ref == vdi), None)
            return layer.allocated_bytes() if layer else 0
        kind = database.row("SR", record["SR"]).record["type"]
        if kind in THICK_TYPES and not record["is_a_snapshot"]:
            return disk.size
        return disk.top.allocated_bytes()

    def _sr_utilisation(self, database: Database, sr: str, record: Record) -> int:
        del sr
        rows = [(v, database.row("VDI", v).record) for v in record["VDIs"]]
        return sum(self._vdi_utilisation(database, vdi, fields) for vdi, fields in rows)


def _sr_allocation(database: Database, sr: str, record: Record) -> int:
    del sr
    rows = [database.row("VDI", vdi).record for vdi in record["VDIs"]]
    return sum(row["virtual_size"] for row in rows if row["managed"] and row["SR"] != NULL)


def _ancestors(tops: Iterable[Layer]) -> set[Layer]:
    found: set[Layer] = set()
    for top in tops:
        found.update(top.chain()[1:])
    return found

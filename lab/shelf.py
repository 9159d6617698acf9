"""What a pool forgot and its storage did not: disks that a scan or an introduction brings back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.database import Database, Record
from lab.storage.disk import Disk
from lab.wire.values import NULL, Value

KEPT = (
    "uuid", "name_label", "name_description", "type", "read_only", "sharable", "location",
    "is_a_snapshot", "snapshot_time", "cbt_enabled",
)  # fmt: skip
AddVdi = Callable[..., str]


@dataclass(frozen=True)
class ShelvedDisk:
    """A disk without a record: what its storage knows of it, and its data.

    `ref` and `snapshot_of` are references of before.
    """

    ref: str
    snapshot_of: str
    fields: dict[str, Value]
    disk: Disk


@dataclass(frozen=True)
class ShelvedStorage:
    """An SR without a record: how it was reached."""

    uuid: str
    kind: str
    device_config: dict[str, str]


class Shelf:
    """The forgotten disks of one pool, by the uuid of their SR, and the forgotten SRs."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._disks: dict[str, dict[str, ShelvedDisk]] = {}
        self._storage: dict[str, ShelvedStorage] = {}
        self._now: dict[str, str] = {}

    def put_disk(self, vdi: str, record: Record, disk: Disk) -> None:
        """Keep a disk whose record goes."""
        kept = {name: record[name] for name in KEPT}
        shelved = ShelvedDisk(vdi, record["snapshot_of"], kept, disk)
        sr = self._db.get("SR", record["SR"], "uuid")
        self._disks.setdefault(sr, {})[record["uuid"]] = shelved

    def put_storage(self, sr: str) -> None:
        """Keep how an SR was reached whose record goes."""
        record = self._db.record("SR", sr)
        configs = [self._db.get("PBD", pbd, "device_config") for pbd in record["PBDs"]]
        config = configs[0] if configs else {}
        self._storage[record["uuid"]] = ShelvedStorage(record["uuid"], record["type"], config)

    def found_at(self, kind: str, device_config: dict[str, str]) -> list[str]:
        """The uuids of the forgotten SRs of a kind that lie at a device."""
        wanted = (kind, device_config)
        return [s.uuid for s in self._storage.values() if (s.kind, s.device_config) == wanted]

    def take_storage(self, uuid: str) -> None:
        """Note that an SR has a record again."""
        self._storage.pop(uuid, None)

    def bring_back(self, sr: str, add_vdi: AddVdi, *, only: str = "", **changes: Any) -> list[str]:
        """Make records for the disks of an SR that have none, or for one of them.

        Args:
            sr: Its reference.
            add_vdi: Makes the record of a disk.
            only: A uuid; empty for all.
            changes: Fields to set in another way than the storage knows them.

        Returns:
            The references of the disks.
        """
        with self._db.lock:
            shelved = self._disks.get(self._db.get("SR", sr, "uuid"), {})
            taken = [shelved.pop(uuid) for uuid in list(shelved) if only in ("", uuid)]
            made = [add_vdi(each.disk, SR=sr, **each.fields | changes) for each in taken]
            self._now |= dict(zip((each.ref for each in taken), made, strict=True))
            for each, vdi in zip(taken, made, strict=True):
                of = self._now.get(each.snapshot_of, each.snapshot_of)
                self._db.put("VDI", vdi, snapshot_of=of if self._db.exists("VDI", of) else NULL)
                for snapshot in self._db.where("VDI", snapshot_of=each.ref):
                    self._db.put("VDI", snapshot, snapshot_of=vdi)
            return made

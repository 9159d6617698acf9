"""What a transfer hands to the commit."""

from dataclasses import dataclass
from datetime import datetime

from likeness.codec.keys import STORE_SCOPE
from likeness.model.disk import DiskFacts, VmFacts
from likeness.model.ids import RunId
from likeness.store.format.documents import Counts
from likeness.store.format.maps import FlatMap
from likeness.store.format.pack_log import PackLog
from likeness.store.format.relied_on import ReliedOn
from likeness.store.read.versions import ListedRecords, Version


@dataclass(frozen=True, slots=True)
class DiskReceipt:
    """One disk as it was transferred.

    Attributes:
        facts: Which disk.
        chunk_map: Its block map now.
        previous: Its block map in the VM's last version, if it had one.
    """

    facts: DiskFacts
    chunk_map: FlatMap
    previous: FlatMap | None


@dataclass(frozen=True, slots=True)
class TransferReceipt:
    """Everything the commit needs to make a version of what a transfer brought.

    Attributes:
        from_agent: Whether another machine says so: then every pack's own table is asked too.
        scope: Whose chunk ids its packs must have, if it comes from there.
        keep: What the job says of how many versions to keep; see `VersionRecord`.
        locked_until: Before then nobody may forget the version; ISO 8601, or empty.
        read_by: Who read the disks, in words.
        cpu_seconds: What reading, sealing and sending has cost there.
        relied_on: Chunks that were not sent, since the store had them already.
        last: The VM's last version as the transfer read it, if it had one; see `last_version`.
        listed: The VM's records as the transfer found them.
    """

    run: RunId
    job: str
    vm: VmFacts
    taken_at: datetime
    consistency: str
    consistency_asked: str
    note: str
    disks: tuple[DiskReceipt, ...]
    packs: PackLog
    counts: Counts
    from_agent: bool = False
    scope: bytes = STORE_SCOPE
    read_by: str = ""
    cpu_seconds: float = 0.0
    relied_on: ReliedOn | None = None
    last: Version | None = None
    keep: str = ""
    locked_until: str = ""
    listed: ListedRecords | None = None

    def discard(self) -> None:
        """Let go of the maps once the version is recorded; safe to repeat."""
        for disk in self.disks:
            disk.chunk_map.close()
            if disk.previous is not None:
                disk.previous.close()

"""What came of a vaulting so far."""

from dataclasses import dataclass, field

from prefect import get_run_logger

from likeness.model.ids import VersionId
from likeness.store.format import layout
from likeness.store.repair.vault_mending import Copied


@dataclass
class VaultTally:
    """What came of a vaulting so far, all attempts together."""

    objects: int = 0
    copied_bytes: int = 0
    pack_bytes: int = 0
    planned_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    versions: list[VersionId] = field(default_factory=list)
    waiting: set[VersionId] = field(default_factory=set)

    def begin(self) -> None:
        """Another attempt: what it finds wrong is told anew, what was copied stays counted."""
        self.problems, self.waiting = [], set()

    def plan(self, lacking_bytes: int) -> None:
        """How many bytes of packs the vault lacks now."""
        self.planned_bytes = self.pack_bytes + lacking_bytes

    def add(self, copied: Copied) -> None:
        """One object more."""
        version = VersionId(copied.name.rpartition("-")[2])
        is_version = copied.name.startswith(f"{layout.VERSIONS}/")
        if copied.problem:
            get_run_logger().warning("%s (%s)", copied.problem, copied.name)
            self.problems.append(copied.problem)
            self.waiting.update([version] if is_version else [])
            return
        self.objects += 1
        self.copied_bytes += copied.size_bytes
        if copied.name.startswith(f"{layout.PACKS}/"):
            self.pack_bytes += copied.size_bytes
        self.versions += [version] if is_version else []

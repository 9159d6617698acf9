"""Makes an archive that a XenServer imports of the image's disk: the lab exports it.

Of the same image it is the same archive again: what a pool draws by lot is named after its place.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from lab.archive import ArchiveContents, write_archive
from lab.pool import Pool
from lab.settings import Settings
from lab.wire.values import Value
from likeness.agent.protocol import PROTOCOL
from likeness.xen.delegates import AGENT_TAG, DEFAULT_TAG

MEMORY = 512 << 20
MAC = "02:6c:69:6b:65:00"
"""An import gives each VM others."""


def main(raw: Path, target: Path) -> None:
    """Write the archive of a halted VM with this disk and one network card."""
    pool = Pool(Settings(now=lambda: datetime.fromtimestamp(0, UTC)))
    given: dict[str, Any] = {
        f"memory_{which}": MEMORY for which in ("static_max", "dynamic_max", "dynamic_min")
    }
    uuid = pool.add_vm(
        "likeness-abd",
        [raw],
        power_state="Halted",
        name_description="Template of delegates (ABDs) for Likeness",
        tags=[DEFAULT_TAG, f"{AGENT_TAG}{PROTOCOL}"],
        HVM_boot_policy="BIOS order",
        HVM_boot_params={"order": "c"},
        VCPUs_max=2,
        VCPUs_at_startup=2,
        **given,
    )
    vm = pool.vm(uuid)
    _draw_nothing(pool, vm)
    with target.open("wb") as file:
        for piece in write_archive(pool, vm):
            file.write(piece)


def _draw_nothing(pool: Pool, vm: str) -> None:
    given: dict[str, dict[str, Value]] = {
        "VIF": {"MAC": MAC},
        "VM": {"other_config": {"base_template_name": "Other install media"}},
    }
    for number, (kind, ref) in enumerate(ArchiveContents(pool, vm).objects):
        uuid = str(uuid5(NAMESPACE_DNS, f"{number}.abd.likeness"))
        where: dict[str, Value] = {"location": uuid} if kind == "VDI" else {}
        pool.db.put(kind, ref, uuid=uuid, **where, **given.get(kind, {}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Makes an archive that a XenServer imports of the image's disk: the lab exports it."""

import sys
from pathlib import Path

from lab.archive import write_archive
from lab.pool import Pool
from likeness.agent.protocol import PROTOCOL
from likeness.xen.delegates import AGENT_TAG, DEFAULT_TAG

MEMORY = 512 << 20


def main(raw: Path, target: Path) -> None:
    """Write the archive of a halted VM with this disk and one network card."""
    pool = Pool()
    memory = {f"memory_{which}": MEMORY for which in ("static_max", "dynamic_max", "dynamic_min")}
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
        **memory,
    )
    with target.open("wb") as file:
        for piece in write_archive(pool, pool.vm(uuid)):
            file.write(piece)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

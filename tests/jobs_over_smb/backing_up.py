"""What `test_killed_jobs` kills: backs up to a share for as long as it lives.

What it needs comes line by line over standard input; then it says `ready`, waits for one more line,
and names each version record, and which disk it holds, once it is committed.
"""

import random
import sys
from collections import defaultdict
from pathlib import Path

from likeness.model.ids import DiskId, VmId
from likeness.store.format.opening import open_store_with_key_file
from likeness.transport.smb import SmbTransport
from tests.jobs_over_smb.walk import ALL, PACK_BYTES
from tests.unit.workshop import TickingClock, Workshop


class Joined(Workshop):
    """A store that somebody else made."""

    def __init__(self, folder: Path, transport: SmbTransport, key_file: Path) -> None:
        self.folder, self.transport, self.key_file = folder, transport, key_file
        self.clock = TickingClock()
        self.store = open_store_with_key_file(transport, key_file)


def main() -> None:
    port, username, password, path, folder, key_file, vm, disk, seed = (
        sys.stdin.readline().strip() for _ in range(9)
    )
    transport = SmbTransport(
        "127.0.0.1", "ads", path, username=username, password=password, port=int(port)
    )
    workshop = Joined(Path(folder), transport, Path(key_file))
    workshop.vm = VmId(vm)
    workshop.disk_ids = defaultdict(lambda: DiskId(disk))
    dice = random.Random(seed)
    print("ready", flush=True)
    sys.stdin.readline()
    print("gone", flush=True)
    while True:
        which = dice.randrange(len(ALL))
        bundle = workshop.bundle(pack_bytes=PACK_BYTES)
        print(workshop.back_up(ALL[which], bundle=bundle).name, which, flush=True)


if __name__ == "__main__":
    main()

"""One process that backs a VM up, or one that forgets and reclaims, until it is killed."""

import contextlib
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path

from likeness.claims import Claimed, claim, is_claimed
from likeness.clock import system_clock
from likeness.errors import LikenessError
from likeness.model.ids import DiskId, PackId, RunId, VmId, random_name
from likeness.store.format import layout
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.prune.reclaiming import Reclaim
from likeness.store.read.versions import last_version, record_names
from likeness.store.write.commit import commit_version
from likeness.store.write.forgetting import forget_versions
from likeness.transport.local import LocalTransport
from tests.unit.workshop import CHUNK, Workshop, sha256_of

VM = VmId("1" * 32)
DISK = DiskId("2" * 32)
CHUNKS = 8


class Attached(Workshop):
    """A workshop on a store that is there already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work" / random_name()
        self.folder.mkdir(parents=True)
        self.transport = LocalTransport(folder / "store")
        self.store = open_store_with_key_file(self.transport, folder / "key")
        self.clock = system_clock  # type: ignore[assignment]  # any clock will do
        self.vm = VM
        self.disk_ids = defaultdict(lambda: DISK)


@contextlib.contextmanager
def gate(folder: Path) -> Generator[None, None, None]:
    """As the product does it: a lock of the kernel's, gone with its process."""
    while True:
        with contextlib.suppress(Claimed), claim(folder / "claims", f"gate-{'0' * 32}"):
            yield
            return


def back_up(folder: Path, seed: str) -> None:
    """Versions of one VM, one after the other; what each holds stands in the journal before."""
    here, dice = Attached(folder), random.Random(seed)
    disk = here.folder / "disk.raw"
    last = last_version(here.store, VM)
    disk.write_bytes(here.restore(last) if last else dice.randbytes(CHUNKS * CHUNK))
    while True:
        with disk.open("r+b") as file:
            file.seek(dice.randrange(CHUNKS) * CHUNK)
            file.write(dice.randbytes(CHUNK))
        run = RunId(random_name())
        with (folder / "journal").open("a") as journal:
            journal.write(f"{run} {sha256_of(disk)}\n")
        with claim(folder / "claims", f"run-{run}"), contextlib.suppress(LikenessError):
            receipt = here.transfer(disk, run=run)
            made = commit_version(
                here.store, receipt, clock=system_clock, gate=partial(gate, folder)
            )
            receipt.discard()
            with (folder / "acknowledged").open("a") as acknowledged:
                acknowledged.write(f"{made.name}\n")


def reclaim(folder: Path, _seed: str) -> None:
    """Forget all but two versions, and delete at once what nothing needs."""
    here = Attached(folder)

    def alone() -> AbstractContextManager[object]:
        return gate(folder)

    while True:
        with contextlib.suppress(LikenessError), alone():
            old = record_names(here.store, VM)[:-2]
            forget_versions(here.store, old, reason="", clock=system_clock)
        work = Reclaim(
            here.store,
            RunId(random_name()),
            system_clock,
            here.folder,
            gate=alone,
            is_live=lambda run: is_claimed(folder / "claims", f"run-{run}"),
            wait=timedelta(),
            runs=0,
            most_share=1.0,
        )
        names = (entry.name for entry in here.transport.entries(layout.PACKS))
        with contextlib.suppress(LikenessError):
            work.work([PackId(name.rpartition("/")[2]) for name in names])
        with (folder / "deleted").open("a") as deleted:
            deleted.write("".join(f"{pack}\n" for pack in work.done.deleted))


WORK: dict[str, Callable[[Path, str], None]] = {"back up": back_up, "reclaim": reclaim}

if __name__ == "__main__":
    WORK[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])

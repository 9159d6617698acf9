"""How long a lost installation takes to come back, by the number of its versions.

Makes a store of small versions, and its catalog once of a copy in the store and once of the store
alone, as a recovery does::

    python -m bench.recovery [--versions 10000] [--vms 100]

The first must stay below two minutes for 10,000 versions, the second grow with the store and not
faster. Versions are as small as they can be: what is measured is their number.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from bench.results import keep
from blocks import CatalogFile, DataStoreShare, Site
from catalog.connection import make_room
from catalog.copies import export_copy
from catalog.reconciling import doubt_everything
from catalog.session import catalog_session
from catalog.staging import private_folder
from catalog.versions import list_versions
from likeness.clock import system_clock
from likeness.model.ids import VmId, random_name
from likeness.store.write.catalog_copies import put_copy
from likeness.transport.local import LocalTransport
from tasks.catch_up import bring_together
from tasks.mend_catalog import newest_copy
from tests.unit.workshop import CHUNK, Workshop

_STEPS = (100, 10, 1)
"""How many times fewer versions than all the store has at each step."""
_MAX_SECONDS = 120.0


def main() -> None:
    """Measure, and keep the table."""
    parser = argparse.ArgumentParser(description="Recovery by number of versions.")
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--vms", type=int, default=100)
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        rows = measured(folder, arguments.versions, arguments.vms)
    finally:
        shutil.rmtree(folder)
    table = [
        "| versions | of a copy, s | of the store alone, s | ms a version |",
        "|---|---|---|---|",
    ]
    table += [f"| {n} | {a:.1f} | {b:.1f} | {1000 * b / n:.2f} |" for n, a, b in rows]
    print("\n".join(table))
    keep("recovery", f"{arguments.vms} VMs, a store in memory.", "\n".join(table))
    if rows[-1][1] > _MAX_SECONDS:
        raise SystemExit("a recovery of a copy takes longer than two minutes")


def measured(folder: Path, versions: int, vms: int) -> list[tuple[int, float, float]]:
    """Number of versions, seconds of a copy, seconds of the store alone."""
    workshop = Workshop(folder, transport=LocalTransport(folder / "store", make=True))
    share = DataStoreShare(place=str(folder / "store"), key_file=str(workshop.key_file))
    machines = [VmId(random_name()) for _ in range(vms)]
    rows = []
    made = 0
    for step in _STEPS:
        wanted = versions // step
        while made < wanted:
            workshop.back_up(bytes(CHUNK), vm=machines[made % vms], incremental=False)
            made += 1
            for left in folder.glob("*.*"):
                if left.suffix in (".map", ".raw", ".packs", ".relied"):
                    left.unlink()
        alone, live = _seconds(folder / f"alone-{step}", share, workshop, with_copy=False)
        export_copy(live.file, folder / f"copy-{step}", system_clock())
        put_copy(workshop.store, folder / f"copy-{step}", clock=system_clock)
        of_copy, back = _seconds(folder / f"back-{step}", share, workshop, with_copy=True)
        assert len(list_versions(back.file, system_clock(), None)) == wanted
        rows.append((wanted, of_copy, alone))
        print(rows[-1], flush=True)
    return rows


def _seconds(
    folder: Path, share: DataStoreShare, workshop: Workshop, *, with_copy: bool
) -> tuple[float, CatalogFile]:
    began = time.monotonic()
    catalog = CatalogFile(folder=str(folder))
    make_room(catalog.file)
    if with_copy:
        with private_folder(catalog.file) as scratch:
            assert newest_copy(workshop.store, scratch, catalog.file)
    catalog.ready(system_clock)
    doubt_everything(catalog.file, system_clock())
    with catalog_session(catalog.file):
        bring_together(Site(xen_pool="none", data_store=share, catalog=catalog), workshop.store)
    return time.monotonic() - began, catalog


if __name__ == "__main__":
    main()

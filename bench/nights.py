"""What a night costs after so many: one VM, 365 versions, a little of its disk changed each time.

The engine alone, on a folder. Each night is a whole backup: the last version's block map is put
together, the disk is read and compared, what is new is sent, a version is committed.

    python -m bench nights [--nights 365]
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.data_path import VM, backup
from bench.restoring import restore, store_in
from bench.results import keep, kind_of_place
from lab.demo_disks import some_noise
from likeness.transport.tuning import keep_large_buffers

DISK_BYTES, DATA_BYTES, CHUNK = 1 << 30, 64 << 20, 256 << 10
CHANGED = 8
AROUND = 10
"""Of so many nights the middle one counts."""


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.nights")
    parser.add_argument("--nights", type=int, default=365)
    nights: int = parser.parse_args().nights
    load = os.getloadavg()[0]
    keep_large_buffers()
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        taken = [_night(folder, number) for number in range(nights)]
        begun = time.monotonic()
        restore(store_in(folder), folder, vm=VM)
        restored = time.monotonic() - begun
    finally:
        shutil.rmtree(folder)
    ends = sorted({AROUND + 1, nights // 4, nights // 2, nights})
    rows = ["| nights before | a night, s | CPU s |", "|---|---|---|"]
    for end in ends:
        some = taken[max(end - AROUND, 1) : end]
        wall, cpu = (statistics.median(each[at] for each in some) for at in (0, 1))
        rows.append(f"| {end - 1} | {wall:.3f} | {cpu:.3f} |")
    rows.append(f"\nRestoring the last one takes {restored:.2f} s.")
    text = "\n".join(rows)
    print(text)
    keep(
        "nights",
        f"a disk of 1 GiB with 64 MiB of data, 2 MiB of it other each night, on {kind_of_place()};"
        f" the machine's load was {load:.1f} before.",
        text,
    )


def _night(folder: Path, number: int) -> tuple[float, float]:
    """Wall seconds and processor seconds of a night."""
    dice = random.Random(number)
    with (folder / "disk.raw").open("r+b" if number else "wb") as disk:
        if not number:
            disk.truncate(DISK_BYTES)
            disk.write(some_noise(0, DATA_BYTES))
        for _ in range(CHANGED):
            disk.seek(dice.randrange(DATA_BYTES // CHUNK) * CHUNK)
            disk.write(dice.randbytes(CHUNK))
    begun, cpu = time.monotonic(), time.process_time()
    backup(store_in(folder), folder)
    return time.monotonic() - begun, time.process_time() - cpu


if __name__ == "__main__":
    main()

"""What grows with a disk: time and memory of each step, from 8 GiB to 1 TiB and a million chunks.

Sparse disks of which one chunk in four has data, 4 KiB that no other chunk has and zeros; so a
chunk costs its reading, hashing and sealing, and neither zstd nor the disk hides what Python does
for it. Each step is a process of its own. Restoring writes nothing (the disk would take 256 GiB),
but proves all.

    python -m bench growth [--gib 8 64 1024]        exit 1 above 300 MB
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.chart import lines
from bench.data_path import VM, backup
from bench.restoring import store_in
from bench.results import keep, kind_of_place, peak_bytes
from bench.settling import prove_all
from likeness.model.disk import Extent
from likeness.stopping import StopToken
from likeness.store.read.restoring import restore_disk
from likeness.store.read.versions import last_version
from likeness.transport.tuning import keep_large_buffers

FIRST, SAME, VALIDATE, RESTORE = "first backup", "unchanged", "validate", "restore"
STEPS = (FIRST, SAME, VALIDATE, RESTORE)
CHART = Path(__file__).parent / "growth.svg"
MAX_MB = 300.0
_EVERY, _BLOCK = 1 << 20, 4 << 10


class Nowhere:
    """A disk that nobody keeps."""

    def reserve(self, extents: Iterable[Extent], total_bytes: int) -> None:
        for _ in extents:
            pass

    def write(self, offset: int, data: bytes) -> None: ...

    def mark_lost(self, extents: Sequence[Extent], cause: str) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


def main() -> int:
    """Measure, print and keep; whether memory stays where it should."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth")
    parser.add_argument("--gib", type=int, nargs="+", default=[8, 64, 1024])
    sizes = parser.parse_args().gib
    found = {gib: _measured(gib) for gib in sizes}
    rows = [f"| step | {' | '.join(f'{gib} GiB, {gib << 10:,} chunks' for gib in sizes)} |"]
    rows.append(f"|---|{'---|' * len(sizes)}")
    for step in STEPS:
        cells = [
            f"{each['wall']:.1f} s, {each['cpu']:.1f} CPU, {each['peak_mb']:.0f} MB"
            for each in (found[gib][step] for gib in sizes)
        ]
        rows.append(f"| {step} | {' | '.join(cells)} |")
    text = "\n".join(rows)
    print(text)
    seconds = {step: [found[gib][step]["cpu"] for gib in sizes] for step in STEPS}
    axis = [gib << 10 for gib in sizes]
    CHART.write_text(lines("Processor seconds by chunks of the disk", axis, seconds))
    most = max(each["peak_mb"] for steps in found.values() for each in steps.values())
    keep(
        "growth",
        f"sparse disks on {kind_of_place()}, one chunk of 256 KiB in four with data.",
        f"{text}\n\nMost memory {most:.0f} MB (at most {MAX_MB:.0f}).\n\n![as lines](growth.svg)",
    )
    return 0 if most <= MAX_MB else 1


def _measured(gib: int) -> dict[str, dict[str, float]]:
    folder = Path(tempfile.mkdtemp(prefix="likeness-growth-"))
    try:
        _make_disk(folder / "disk.raw", gib << 30)
        return {step: _step(folder, step) for step in STEPS}
    finally:
        shutil.rmtree(folder)


def _make_disk(path: Path, size: int) -> None:
    noise = random.Random(size).randbytes(_BLOCK - 8)
    with path.open("wb", buffering=0) as disk:
        disk.truncate(size)
        for at in range(0, size, _EVERY):
            disk.seek(at)
            disk.write(at.to_bytes(8, "big") + noise)


def _step(folder: Path, step: str) -> dict[str, float]:
    words = [sys.executable, "-m", "bench.growth", "--step", str(folder), step]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    print(folder, step, done.stdout.strip(), file=sys.stderr)
    return dict(json.loads(done.stdout))


def _run(folder: Path, step: str) -> None:
    keep_large_buffers()
    begun = time.monotonic()
    store = store_in(folder)
    if step == VALIDATE:
        prove_all(store)
    elif step == RESTORE:
        last = last_version(store, VM)
        if last is None:
            raise SystemExit("there is no version to restore")
        disk = last.record.disks[0]
        restore_disk(store, disk, Nowhere(), scratch=folder, stop=StopToken())
    else:
        backup(store, folder)
    taken = {
        "wall": time.monotonic() - begun,
        "cpu": time.process_time(),
        "peak_mb": peak_bytes() / 1e6,
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        _run(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())

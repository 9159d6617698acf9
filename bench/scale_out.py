"""Two workers beside one: the same packs proved by processes that are each pinned to a core.

The catalog's host hands packs out, some at a time, to whoever is idle, and takes findings back, as
a validation does with runs of `prove-packs`. A worker is told the store and has a copy of the key
file in a folder of its own, which is its scratch; there is no catalog. What it takes to begin a
process is left out: a run of `prove-packs` has up to 512 packs, and 8 GiB outweigh that. Beside the
time that passed stands how long the busiest worker kept its core busy: so long it would take on a
core that nobody else uses, so that decides.

    python -m bench.scale_out             exit 1 if two need more than 0.6 of the time of one
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

from bench.data_path import backup
from bench.restoring import store_in
from bench.results import keep
from bench.validate_speed import DISK_BYTES, _make_disk
from likeness.clock import system_clock
from likeness.model.ids import PackId
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_packs
from likeness.store.format.opening import open_store_with_key_file
from likeness.store.read.index import known_packs
from likeness.transport.local import LocalTransport
from likeness.transport.tuning import keep_large_buffers

ROUNDS = 3
TIMES = 12
"""So often each pack is handed out in one round."""
AT_ONCE = 8
MOST_OF_ONE = 0.6


class Worker:
    """A process on one core, with a folder of its own."""

    def __init__(self, store: Path, key: Path, folder: Path, core: int) -> None:
        """Start it, and wait until it could begin."""
        folder.mkdir()
        shutil.copy(key, folder / "key")
        pinned = ["taskset", "--cpu-list", str(core)]
        self._process = subprocess.Popen(
            [*pinned, sys.executable, "-m", "bench.scale_out", str(store), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask([])

    def ask(self, packs: Sequence[str]) -> tuple[int, float]:
        """Hand packs out; how many came back proved, and its seconds on a processor so far."""
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the worker has no pipes")
        self._process.stdin.write(json.dumps(list(packs)) + "\n")
        self._process.stdin.flush()
        proved, seconds = json.loads(self._process.stdout.readline())
        return int(proved), float(seconds)

    def end(self) -> None:
        """No more comes."""
        self._process.communicate()


def main() -> int:
    """Measure, print the ratio, and say by the exit code whether it is good enough."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    try:
        _make_disk(folder / "disk.raw")
        store = store_in(folder)
        backup(store, folder)
        packs = [pack.pack for pack in known_packs(store)]
        for number in range(ROUNDS):
            for count in ((1, 2), (2, 1))[number % 2]:
                own = folder / f"round-{number}-{count}"
                own.mkdir()
                seconds[count].append(_proved_by(count, packs, folder, own))
    finally:
        shutil.rmtree(folder)
    wall, cpu = ({n: statistics.median(e[i] for e in seconds[n]) for n in (1, 2)} for i in (0, 1))
    size = TIMES * DISK_BYTES / 1e6
    lines = ["| workers, each on one core | s | MB/s of disk | s on a core |", "|---|---|---|---|"]
    lines += [f"| {n} | {wall[n]:.2f} | {size / wall[n]:.0f} | {cpu[n]:.2f} |" for n in (1, 2)]
    ratio, of_cores = wall[2] / wall[1], cpu[2] / cpu[1]
    lines.append(
        f"\nTwo take {ratio:.2f} of the time of one, {of_cores:.2f} of it on a core (at most"
        f" {MOST_OF_ONE})."
    )
    text = "\n".join(lines)
    print(text)
    print(seconds)
    how = (
        f"packs of a disk of {DISK_BYTES >> 20} MiB, each proved {TIMES} times, page cache warm,"
        f" medians of {ROUNDS} rounds, one and two in turn."
    )
    keep("scale_out", how, text)
    return 0 if of_cores <= MOST_OF_ONE else 1


def _proved_by(count: int, packs: Sequence[PackId], folder: Path, own: Path) -> tuple[float, float]:
    """Seconds that so many workers take, and those that the busiest one is on its core."""
    store, key = folder / "store", folder / "key"
    workers = [Worker(store, key, own / str(core), core) for core in range(count)]
    waiting: SimpleQueue[Sequence[PackId]] = SimpleQueue()
    for _ in range(TIMES):
        for at in range(0, len(packs), AT_ONCE):
            waiting.put(packs[at : at + AT_ONCE])

    def serve(worker: Worker) -> tuple[int, float]:
        proved, (_, before), now = 0, worker.ask([]), 0.0
        while True:
            try:
                some = waiting.get_nowait()
            except Empty:
                return proved, now - before
            more, now = worker.ask(some)
            proved += more

    begun = time.monotonic()
    with ThreadPoolExecutor(count) as threads:
        done = list(threads.map(serve, workers))
    took, proved = time.monotonic() - begun, sum(each for each, _ in done)
    for worker in workers:
        worker.end()
    if proved != TIMES * len(packs):
        raise SystemExit("packs that were just written do not prove")
    return took, max(seconds for _, seconds in done)


def _work(place: Path, folder: Path) -> None:
    """What a worker does: prove what it is handed, and hand back how much of it is proved."""
    keep_large_buffers()
    store = open_store_with_key_file(LocalTransport(place), folder / "key")
    stop, cores = StopToken(), len(os.sched_getaffinity(0))
    for line in sys.stdin:
        packs = [PackId(each) for each in json.loads(line)]
        found = prove_packs(store, packs, clock=system_clock, stop=stop, workers=cores)
        proved = sum(each.finding is Finding.PROVED for each in found)
        print(json.dumps([proved, time.process_time()]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _work(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        sys.exit(main())

"""Where the time of each step goes: by source, by place of the store, and stage by stage.

One disk, whole processes, every way the product has: from a file, or frozen in a pool and read as
one stream (HTTP) or range by range (NBD in TLS); into a folder, or a share of a real smbd that
encrypts (needs samba). Processor time is the kernel's own figure for each thread, taken every few
milliseconds and booked on the stage whose code the thread is in; the pool's and the share's own
processes run on the same machine, so their seconds are shown, too.

    python -m bench stages [--disk bench/out/images/web01.raw]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bench.data_path import VM, backup
from bench.restoring import restore
from bench.results import keep, kind_of_place
from bench.settling import prove_all
from lab.demo_disks import some_noise, some_text
from lab.demo_share import demo_share
from likeness.agent.reader import FileDiskReader
from likeness.clock import system_clock
from likeness.model.disk import DiskReader
from likeness.model.ids import RunId, random_name
from likeness.store.format.data_store import DataStore
from likeness.store.format.opening import create_store, open_store_with_key_file
from likeness.transport.base import Transport
from likeness.transport.local import LocalTransport
from likeness.transport.place import open_place
from likeness.transport.tuning import keep_large_buffers
from likeness.xen.dropping import drop_snapshot
from likeness.xen.inventory import find_vm
from likeness.xen.owner import Owner
from likeness.xen.reading import Way, open_reader
from likeness.xen.session import XenSession
from likeness.xen.snapshots import take_snapshot

ROUNDS = 3
FIRST, SAME, VALIDATE, RESTORE = "first backup", "unchanged", "validate", "restore"
FILE, HTTP, NBD = "file", "HTTP", "NBD in TLS"
FOLDER, SHARE = "folder", "SMB"
WALKS = ((FILE, FOLDER), (FILE, SHARE), (HTTP, SHARE), (NBD, SHARE))
_EVERY_SECONDS = 0.004
_BUSY = 0.85
READING, WRITING = "read the source", "write the image"
STORE = "exchange with the store"
REST = "all else in Python"
CHECK = "check before sending"
_STAGES = (
    ("likeness/codec/compression.py", "zstd"),
    ("likeness/codec/hashing.py", "ids of chunks"),
    ("likeness/codec/records.py", "seal and open"),
    ("likeness/codec/aead.py", "seal and open"),
    ("likeness/xen/", READING),
    ("likeness/agent/reader.py", READING),
    ("likeness/store/read/disk_writers.py", WRITING),
    ("likeness/store/read/direct_writing.py", WRITING),
    ("likeness/transport/", STORE),
    ("/smbprotocol/", STORE),
)
"""Files and what is done there."""
STAGES = (*dict.fromkeys(stage for _, stage in _STAGES), CHECK, REST)


class Booked:
    """Processor seconds of this process, by stage."""

    def __init__(self) -> None:
        """Begin to look."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._before = {
            each.native_id: _nanoseconds(each.native_id)
            for each in threading.enumerate()
            if each.native_id is not None
        }
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="booking", daemon=True)
        self._thread.start()

    def end(self) -> dict[str, float]:
        """Look no more; what was booked."""
        self._over.set()
        self._thread.join()
        return dict(self.seconds)

    def _look(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            spent = {}
            for thread in threading.enumerate():
                number = thread.native_id
                if thread is not self._thread and number is not None and thread.ident is not None:
                    used = _nanoseconds(number)
                    spent[thread.ident] = used - self._before.get(number, 0)
                    self._before[number] = used
            for thread_id, stage in _stages_now().items():  # frames are let go of at once
                self.seconds[stage] += max(spent.get(thread_id, 0), 0) / 1e9


def _stages_now() -> dict[int, str]:
    return {thread: _stage(frame) for thread, frame in sys._current_frames().items()}


def _nanoseconds(thread: int) -> int:
    try:
        return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
    except (OSError, IndexError):
        return 0


def _stage(frame: FrameType | None) -> str:
    """What the innermost code that is known does; the check opens and decompresses, too."""
    found = REST
    while frame is not None:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "_prove" and file.endswith("likeness/codec/records.py"):
            return CHECK
        if found is REST:
            found = next((stage for part, stage in _STAGES if part in file), REST)
        frame = frame.f_back
    return found


# -- one step, in a process of its own -----------------------------------------------------------


def _step(folder: Path, step: str, source: str) -> None:
    keep_large_buffers()
    told = json.loads((folder / "told").read_text())
    place = _place(told)
    booked, begun = Booked(), time.monotonic()
    store = _store(place, folder)
    if step == VALIDATE:
        prove_all(store)
    elif step == RESTORE:
        restore(store, folder, vm=VM)
    else:
        with _opened(source, told, folder) as reader:
            backup(store, folder, reader=reader)
    wall = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    print(json.dumps({"wall": wall, "cpu": cpu, "stages": booked.end()}))
    place.close()
    (folder / "restored.raw").unlink(missing_ok=True)


def _place(told: dict[str, Any]) -> Transport:
    if "share" not in told:
        return LocalTransport(Path(told["folder"]), make=True)
    return open_place(**told["share"], encrypt=True)


def _store(place: Transport, folder: Path) -> DataStore:
    key = folder / "key"
    if key.exists():
        return open_store_with_key_file(place, key)
    return create_store(place, key_file=key, clock=system_clock).store


@contextmanager
def _opened(source: str, told: dict[str, Any], folder: Path) -> Generator[DiskReader, None, None]:
    if source == FILE:
        yield FileDiskReader(folder / "disk.raw")
        return
    pool, owner = told["pool"], Owner(random_name(), RunId(random_name()))
    xen = XenSession.login(pool["url"], username=pool["username"], password=pool["password"])
    try:
        snapshot = take_snapshot(xen, find_vm(xen, "vm"), owner=owner, label="bench")
        way = Way.NBD if source == NBD else Way.HTTP
        yield open_reader(xen, snapshot.disks[0], way=way).reader
        drop_snapshot(xen, snapshot)
    finally:
        xen.close()


# -- all of them ---------------------------------------------------------------------------------


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages")
    parser.add_argument("--disk", type=Path, help="an image instead of text and noise")
    disk: Path | None = parser.parse_args().disk
    load = os.getloadavg()[0]
    lines = [
        "| step | source | store | wall s | MB/s of data | CPU s | pool's | share's | bottleneck |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shares = [f"| step | source | store | {' | '.join(STAGES)} |", f"|{'---|' * (3 + len(STAGES))}"]
    data = 0
    for source, place in WALKS:
        rounds, data = _rounds(source, place, disk)
        for step in rounds[0]:
            if step in (VALIDATE, RESTORE) and source not in (FILE,):
                continue  # they do not read the source
            each = [one[step] for one in rounds]
            head = f"| {step} | {source if step in (FIRST, SAME) else '–'} | {place} |"
            lines.append(f"{head} {_row(each, data)} |")
            shares.append(f"{head} {' | '.join(_shares(each))} |")
    text = "\n".join([*lines, "", "Processor time by stage:", "", *shares])
    print(text)
    what = disk.name if disk else "a made disk"
    keep(
        "stages",
        f"{what} with {data >> 20} MiB of data on {kind_of_place()}, page cache warm, medians of"
        f" {ROUNDS} rounds; pool, share and what is measured run on the same cores; the machine's"
        f" load was {load:.1f} before.",
        text,
    )
    return 0


def _rounds(
    source: str, place: str, disk: Path | None
) -> tuple[list[dict[str, dict[str, Any]]], int]:
    rounds = []
    for _ in range(ROUNDS):
        folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
        try:
            _make_disk(folder / "disk.raw", disk)
            data = (folder / "disk.raw").stat().st_blocks << 9
            rounds.append(_round(folder, source, place))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rounds, data


def _make_disk(path: Path, image: Path | None) -> None:
    if image is not None:
        subprocess.run(["cp", "--sparse=always", image, path], check=True)
        return
    with path.open("wb") as disk:
        disk.truncate(2 << 30)
        for at in range(0, 1 << 30, 64 << 20):
            disk.seek(2 * at)
            disk.write(some_text(at, 40 << 20) + some_noise(at, 24 << 20))


def _round(folder: Path, source: str, place: str) -> dict[str, dict[str, Any]]:
    with _services(folder, source, place) as pool:
        found = {}
        for step in (FIRST, SAME, VALIDATE, RESTORE):
            subprocess.run(["sync"], check=True)
            before = _used_by_others(pool)
            done = subprocess.run(
                [sys.executable, "-m", "bench.stages", folder, step, source],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            after = _used_by_others(pool)
            found[step] = {
                **json.loads(done.stdout),
                "pool": after[0] - before[0],
                "share": after[1] - before[1],
            }
            print(f"{step}, {source}, {place}: {found[step]['wall']:.2f} s", file=sys.stderr)
        return found


@contextmanager
def _services(folder: Path, source: str, place: str) -> Generator[int, None, None]:
    """A pool and a share, as far as they are needed; the pool's process."""
    told: dict[str, Any] = {"folder": str(folder / "store")}
    with _pool(folder, source, told) as pool, _share(folder, place, told):
        (folder / "told").touch(mode=0o600)
        (folder / "told").write_text(json.dumps(told))
        yield pool


@contextmanager
def _pool(folder: Path, source: str, told: dict[str, Any]) -> Generator[int, None, None]:
    if source == FILE:
        yield 0
        return
    words = [sys.executable, "-m", "lab", "serve", "--nbd", "nbd", "--vm", f"vm={folder}/disk.raw"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            told["pool"] = json.loads(process.stdout.readline() if process.stdout else "")
            yield process.pid
        finally:
            process.terminate()


@contextmanager
def _share(folder: Path, place: str, told: dict[str, Any]) -> Generator[None, None, None]:
    if place == FOLDER:
        yield
        return
    (folder / "share").mkdir()
    with demo_share(folder / "samba", folder / "share") as share:
        told["share"] = {
            "place": share.place,
            "username": share.username,
            "password": share.password,
        }
        yield


def _used_by_others(pool: int) -> tuple[float, float]:
    """Processor seconds of the pool, and of all else that this process has started."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(words[1])
        used[pid] = sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    ours.discard(os.getpid())
    return used.get(pool, 0.0), sum(used[pid] for pid in ours if pid != pool)


def _row(rounds: Sequence[dict[str, Any]], data: int) -> str:
    wall, cpu, pool, share = (
        statistics.median(each[key] for each in rounds) for key in ("wall", "cpu", "pool", "share")
    )
    speed = data / 1e6 / wall
    cells = [f"{wall:.2f}", f"{speed:.0f}", f"{cpu:.2f}", f"{pool:.2f}", f"{share:.2f}"]
    return " | ".join([*cells, _bottleneck(rounds, wall, cpu, pool, share)])


def _bottleneck(
    rounds: Sequence[dict[str, Any]], wall: float, cpu: float, pool: float, share: float
) -> str:
    """What there would have to be more of."""
    cores = os.cpu_count() or 1
    most = max(STAGES, key=lambda stage: _share_of(rounds, stage))
    if cpu + pool + share >= _BUSY * wall * cores:
        who = {"pool": pool, "share": share, "ours": cpu}
        largest = max(who, key=lambda name: who[name])
        return "all cores: " + (most if largest == "ours" else f"the {largest}'s")
    if pool >= _BUSY * wall:
        return "the pool's one core"
    busy = (cpu + pool + share) / wall / cores
    return f"waiting; cores {busy:.0%} busy, most with: {most}"


def _share_of(rounds: Sequence[dict[str, Any]], stage: str) -> float:
    shares = [each["stages"].get(stage, 0.0) / sum(each["stages"].values()) for each in rounds]
    return float(statistics.median(shares))


def _shares(rounds: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{_share_of(rounds, stage):.0%}" for stage in STAGES]


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _step(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        sys.exit(main())

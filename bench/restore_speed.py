"""How near a restore comes to the sum of its parts: read, open, decompress, hash, write, fsync.

The parts are timed alone, on every record of the same packs with as many threads as there are
cores; right after them the restore of the same disk, in a process of its own. Each round gives one
ratio; the median counts. Then sparse disks of 8 and 256 GiB for memory, and a version over NBD: the
first byte, and random 4 KiB.

    python -m bench.restore_speed [--disk bench/out/images/web01.raw]

Exit 1 below 80 %, above 400 MB, or later than a second.
"""

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.data_path import VM, backup
from bench.restoring import restore, store_in
from bench.results import keep, kind_of_place, peak_bytes
from bench.validate_speed import timed_parts
from lab.demo_disks import some_noise, some_text
from likeness.model.ids import VmId
from likeness.serving.nbd import NbdServer
from likeness.store.read.disk_view import open_disk
from likeness.store.read.index import known_packs
from likeness.store.read.versions import last_version
from likeness.transport.tuning import keep_large_buffers

DISK_BYTES = 1 << 30
ROUNDS = 5
LEAST_RATIO, MAX_MB, MAX_FIRST_SECONDS = 0.80, 400.0, 1.0
READS = 3000


def main() -> int:
    """Measure, print, and say by the exit code whether it is good enough."""
    parser = argparse.ArgumentParser(prog="python -m bench.restore_speed")
    parser.add_argument("--disk", type=Path, help="an image instead of text and noise")
    disk: Path | None = parser.parse_args().disk
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        if disk is None:
            _make_disk(folder / "disk.raw", DISK_BYTES, every=1)
        else:
            subprocess.run(["cp", "--sparse=always", disk, folder / "disk.raw"], check=True)
        data = (folder / "disk.raw").stat().st_blocks >> 11
        backup(store_in(folder), folder)
        (folder / "disk.raw").unlink()
        rounds = [(_step(folder, "parts"), _step(folder, "restore")) for _ in range(ROUNDS)]
        served = _step(folder, "serve")
        peaks = {gib: _sparse(gib) for gib in (8, 256)}
    finally:
        shutil.rmtree(folder)
    return _told(rounds, served, peaks, f"{disk.name if disk else 'a made disk'} with {data} MiB")


def _told(
    rounds: list[tuple[dict[str, Any], dict[str, Any]]],
    served: dict[str, Any],
    peaks: dict[int, float],
    what: str,
) -> int:
    ratios = [sum(parts["parts"].values()) / done["wall"] for parts, done in rounds]
    ratio = statistics.median(ratios)
    lines = ["| part | s |", "|---|---|"]
    for part in rounds[0][0]["parts"]:
        lines.append(f"| {part} | {statistics.median(p['parts'][part] for p, _ in rounds):.3f} |")
    lines.append(f"| restore | {statistics.median(d['wall'] for _, d in rounds):.3f} |")
    span = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    lines.append(f"\nRatio {ratio:.2f}, {span} (at least {LEAST_RATIO}).")
    lines += [f"Peak restoring {gib} GiB, sparse: {mb:.0f} MB." for gib, mb in peaks.items()]
    lines.append(
        f"Over NBD: first byte after {served['first']:.3f} s, {served['reads']:.0f} random reads of"
        " 4 KiB a second over one connection, one after the other."
    )
    text = "\n".join(lines)
    print(text)
    load = os.getloadavg()[2]
    how = f"{what} of data, on {kind_of_place()}, page cache warm, pairs; the load was {load:.1f}."
    keep("restore_speed", how, text)
    well = ratio >= LEAST_RATIO and max(peaks.values()) <= MAX_MB
    return 0 if well and served["first"] < MAX_FIRST_SECONDS else 1


def _sparse(gib: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        _make_disk(folder / "disk.raw", gib << 30, every=gib * 4)
        backup(store_in(folder), folder)
        return float(_step(folder, "restore")["peak_mb"])
    finally:
        shutil.rmtree(folder)


def _make_disk(path: Path, size: int, *, every: int) -> None:
    """Logs that compress well and noise that does not, in one of `every` stretches of 64 MiB."""
    with path.open("wb") as disk:
        disk.truncate(size)
        for at in range(0, size, (64 << 20) * every):
            disk.seek(at)
            disk.write(some_text(at, 40 << 20))
            disk.write(some_noise(at, 24 << 20))


def _step(folder: Path, step: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.restore_speed", str(folder), step],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def _run(folder: Path, step: str) -> None:
    keep_large_buffers()
    begun = time.monotonic()
    store = store_in(folder)
    if step == "parts":
        with (folder / "bare.raw").open("wb") as bare:
            result: dict[str, Any] = {"parts": timed_parts(store, list(known_packs(store)), bare)}
        (folder / "bare.raw").unlink()
    elif step == "restore":
        restore(store, folder, vm=VM)
        result = {"wall": time.monotonic() - begun}
        (folder / "restored.raw").unlink()
    else:
        last = last_version(store, VmId("a" * 32))
        if last is None:
            raise SystemExit("there is no version")
        with (
            open_disk([store], last.record.disks[0], folder) as view,
            NbdServer({"disk": view}) as server,
        ):
            result = _over_nbd(server.port, begun)
    result["peak_mb"] = peak_bytes() / 1e6
    print(json.dumps(result))


def _over_nbd(port: int, begun: float) -> dict[str, float]:
    """A client that asks, waits, and asks again."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _exactly(client, 18)
        client.sendall(struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454F5054, 1, 0))
        (size,) = struct.unpack(">Q", _exactly(client, 10)[:8])
        _read(client, 0)
        first = time.monotonic() - begun
        dice, start = random.Random(1), time.monotonic()
        for _ in range(READS):
            _read(client, dice.randrange(size >> 12) << 12)
        return {"first": first, "reads": READS / (time.monotonic() - start)}


def _read(client: socket.socket, offset: int) -> None:
    client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, offset, 4096))
    _exactly(client, 16 + 4096)


def _exactly(client: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        data += client.recv(length - len(data))
    return bytes(data)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] != "--disk":
        _run(Path(sys.argv[1]), sys.argv[2])
    else:
        sys.exit(main())

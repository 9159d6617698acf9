"""How near validation comes to the sum of its parts: read, open, decompress, hash, on all cores.

The parts are timed alone, one after the other, on every record of the same packs with as many
threads as there are cores; their seconds together are the limit. Then `prove_packs` does the same
packs in a process of its own, where memory is measured too. Median of three.

    python -m bench.validate_speed        exit 1 below 70 % or above 300 MB
"""

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from bench.data_path import backup
from bench.restoring import store_in
from bench.results import keep, peak_bytes
from lab.demo_disks import some_noise, some_text
from likeness.clock import system_clock
from likeness.codec import aead
from likeness.codec.compression import decompress
from likeness.codec.hashing import chunk_id
from likeness.codec.records import CHECKSUM_BYTES, HEADER_BYTES
from likeness.stopping import StopToken
from likeness.store.check.proving import Finding, prove_packs
from likeness.store.format import layout
from likeness.store.format.data_store import DataStore
from likeness.store.format.pack import PackHeader
from likeness.store.read.index import KnownPack, known_packs
from likeness.transport.tuning import keep_large_buffers

DISK_BYTES = 768 << 20
ROUNDS = 3
LEAST_RATIO = 0.70
MAX_MB = 300.0
_INNER = struct.Struct("<32sIIB")
"""As in `likeness.codec.records`."""


def main() -> int:
    """Measure, print the ratio, and say by the exit code whether it is good enough."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        _make_disk(folder / "disk.raw")
        backup(store_in(folder), folder)
        (folder / "disk.raw").unlink()
        limits = [_step(folder, "parts") for _ in range(ROUNDS)]
        proofs = [_step(folder, "prove") for _ in range(ROUNDS)]
    finally:
        shutil.rmtree(folder)
    limit = statistics.median(sum(each["parts"].values()) for each in limits)
    wall = statistics.median(each["wall"] for each in proofs)
    peak = max(each["peak_mb"] for each in proofs)
    size = proofs[0]["bytes"]
    ratio = limit / wall
    lines = ["| part | s | MB/s of packs |", "|---|---|---|"]
    for part in limits[0]["parts"]:
        seconds = statistics.median(each["parts"][part] for each in limits)
        lines.append(f"| {part} | {seconds:.3f} | {size / 1e6 / seconds:.0f} |")
    lines.append(f"| their sum | {limit:.3f} | {size / 1e6 / limit:.0f} |")
    lines.append(f"| validate | {wall:.3f} | {size / 1e6 / wall:.0f} |")
    lines.append(
        f"\nRatio {ratio:.2f} (at least {LEAST_RATIO}), peak {peak:.0f} MB (at most {MAX_MB:.0f})."
    )
    text = "\n".join(lines)
    print(text)
    how = f"packs of a disk of {DISK_BYTES >> 20} MiB, page cache warm, medians of {ROUNDS} rounds."
    keep("validate_speed", how, text)
    return 0 if ratio >= LEAST_RATIO and peak <= MAX_MB else 1


def _make_disk(path: Path) -> None:
    """768 MiB: logs that compress well, and noise that does not."""
    with path.open("wb") as disk:
        for at in range(0, DISK_BYTES, 64 << 20):
            disk.write(some_text(at, 40 << 20))
            disk.write(some_noise(at, 24 << 20))


def _step(folder: Path, step: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.validate_speed", str(folder), step],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def _run(folder: Path, step: str) -> None:
    keep_large_buffers()
    store = store_in(folder)
    packs = list(known_packs(store))
    result: dict[str, Any] = (
        {"parts": timed_parts(store, packs)} if step == "parts" else _prove(store, packs)
    )
    result["bytes"] = sum(pack.size_bytes for pack in packs)
    result["peak_mb"] = peak_bytes() / 1e6
    print(json.dumps(result))


def _prove(store: DataStore, packs: list[KnownPack]) -> dict[str, Any]:
    begun = time.monotonic()
    wanted = [pack.pack for pack in packs]
    for proof in prove_packs(store, wanted, clock=system_clock, stop=StopToken()):
        if proof.finding is not Finding.PROVED:
            raise SystemExit("a pack that was just written does not prove")
    return {"wall": time.monotonic() - begun}


def timed_parts(
    store: DataStore, packs: list[KnownPack], target: BinaryIO | None = None
) -> dict[str, float]:
    """Seconds of each part, some packs for each core in turn, so that no core waits long.

    With a target, what comes out is written there too, and made durable at the end.
    """
    seconds: dict[str, float] = {}
    cores = os.cpu_count() or 1
    group = 2 * cores
    with ThreadPoolExecutor(cores) as threads:

        def timed(part: str, work: Callable[[Any], Any], items: list[Any]) -> list[Any]:
            begun = time.monotonic()
            done = list(threads.map(work, items))
            seconds[part] = seconds.get(part, 0.0) + time.monotonic() - begun
            return done

        key = store.keys.chunk_id_key
        for at in range(0, len(packs), group):
            some = packs[at : at + group]
            datas = timed("read", lambda pack: store.transport.read(layout.pack(pack.pack)), some)
            sealed = [_sealed(store, *pair) for pair in zip(some, datas, strict=True)]
            timed("open", lambda records: _each(_unseal, records), sealed)
            inner = [[_payload(_unseal(*each)) for each in records] for records in sealed]
            timed("decompress", lambda parts: _each(_unpack, parts), inner)
            plain = [[(_unpack(*each), key) for each in parts] for parts in inner]
            timed("hash", lambda chunks: _each(_hash, chunks), plain)
            if target is not None:
                timed("write", lambda chunks: target.writelines(c for c, _ in chunks), plain)
        if target is not None:
            target.flush()
            timed("fsync", os.fsync, [target.fileno()])
    return seconds


def _each(work: Callable[..., object], items: list[Any]) -> None:
    """Do it, and keep nothing: what comes out is as short-lived as in a validation."""
    for item in items:
        work(*item)


_Sealed = tuple[bytes, bytes, bytes, bytes, aead.Suite]


def _sealed(store: DataStore, pack: KnownPack, data: bytes) -> list[_Sealed]:
    """What libsodium is given for each record of a pack."""
    header = PackHeader.parse(data, name=layout.pack(pack.pack), store=store.store_id)
    opener = header.opener(store.keys, chunk_bytes=store.chunk_bytes)
    (session, *_) = opener.sessions
    key, place = session.key, session.place
    split = HEADER_BYTES + aead.nonce_bytes(opener.suite)
    found = []
    for each in pack.locations:
        record = data[each.offset : each.offset + each.length]
        sealed, nonce = record[split:-CHECKSUM_BYTES], record[HEADER_BYTES:split]
        found.append((sealed, key, place, nonce, opener.suite))
    return found


def _unseal(sealed: bytes, key: bytes, place: bytes, nonce: bytes, suite: aead.Suite) -> bytes:
    return aead.unseal(sealed, key=key, place=place, nonce=nonce, suite=suite)


def _hash(plaintext: bytes, key: bytes) -> bytes:
    return chunk_id(plaintext, id_key=key)


def _payload(inner: bytes) -> tuple[int, memoryview, int]:
    _, raw, length, encoding = _INNER.unpack_from(inner)
    return encoding, memoryview(inner)[_INNER.size : _INNER.size + length], raw


def _unpack(encoding: int, payload: memoryview, raw: int) -> bytes:
    return decompress(encoding, payload, raw_bytes=raw)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _run(Path(sys.argv[1]), sys.argv[2])
    else:
        sys.exit(main())

"""How fast a disk goes into the store, is proved, and comes back; the engine alone, no Prefect.

One raw image of 2 GiB with 1.25 GiB of data: logs (compress well), binaries (compress a little),
noise (not at all) and holes. Each step is a process of its own, so that seconds of CPU and the
peak of memory are the step's. Median of three by wall time; MB are 10^6 bytes of disk.

    python -m bench data_path
"""

import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Container
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from bench.restoring import restore, store_in
from bench.results import keep, peak_bytes
from bench.settling import prove_all
from lab.demo_disks import some_noise, some_text
from likeness.agent.reader import FileDiskReader
from likeness.agent.transfer import Bundle, DiskJob, transfer
from likeness.clock import system_clock
from likeness.codec.records import Check
from likeness.model.disk import DiskFacts, DiskReader, VmFacts
from likeness.model.ids import DiskId, RunId, VmId, random_name
from likeness.stopping import StopToken
from likeness.store.format.copies import Copies, no_copies
from likeness.store.format.data_store import DataStore
from likeness.store.format.maps import FlatMap, positions_of
from likeness.store.format.pack_log import PackLog
from likeness.store.format.relied_on import ReliedOn
from likeness.store.read.versions import last_version, load_map
from likeness.store.write.commit import commit_version
from likeness.store.write.receipts import DiskReceipt, TransferReceipt
from likeness.transport.tuning import keep_large_buffers

DISK_BYTES = 2 << 30
ROUNDS = 3
VM, _DISK = VmId("a" * 32), DiskId("b" * 32)
_HOW = (
    "local ext4, page cache warm, AEGIS-256, zstd 1, chunks of 256 KiB, packs of 16 MiB, one"
    " record of 16 opened again before it is sent."
)


def main() -> None:
    """Run all steps, print them, and write the first column of RESULTS.md."""
    rounds = [_round(number) for number in range(ROUNDS)]
    table = ["| step | wall s | CPU s | MB/s of disk | peak MiB |", "|---|---|---|---|---|"]
    for at, step in enumerate(rounds[0]):
        taken = [each[at] for each in rounds]
        wall = statistics.median(each["wall"] for each in taken)
        cpu = statistics.median(each["cpu"] for each in taken)
        peak = max(each["peak_mib"] for each in taken)
        speed = DISK_BYTES / 1e6 / wall
        table.append(f"| {step['step']} | {wall:.2f} | {cpu:.2f} | {speed:.0f} | {peak:.0f} |")
    text = "\n".join(table)
    print(text)
    keep("data_path", _HOW, text)


def _round(number: int) -> list[dict[str, float]]:
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        make_disk(folder / "disk.raw")
        results = [_step(folder, "first backup")]
        results.append(_step(folder, "unchanged, all read again"))
        change(folder / "disk.raw", percent=2)
        results.append(_step(folder, "2 % changed"))
        results.append(_step(folder, "validate all"))
        results.append(_step(folder, "restore"))
        if differ(folder / "disk.raw", folder / "restored.raw"):
            raise SystemExit("the restored disk differs from the disk that was backed up")
    finally:
        shutil.rmtree(folder)
    print(f"round {number + 1} of {ROUNDS} done", file=sys.stderr)
    return results


def _step(folder: Path, step: str) -> dict[str, float]:
    subprocess.run(["sync"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "bench.data_path", str(folder), step],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(done.stdout))


def _run_step(folder: Path, step: str) -> None:
    keep_large_buffers()
    begun = time.monotonic()
    store = store_in(folder)
    if step == "validate all":
        prove_all(store)
    elif step == "restore":
        restore(store, folder, vm=VM)
    else:
        backup(store, folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result = {
        "step": step,
        "wall": time.monotonic() - begun,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mib": peak_bytes() / (1 << 20),
    }
    print(json.dumps(result))


def backup(
    store: DataStore,
    folder: Path,
    *,
    disk: str = "disk.raw",
    vm: VmId = VM,
    check: Check = Check.SAMPLED,
    known: Container[bytes] = (),
    copies: Copies = no_copies,
    reader: DiskReader | None = None,
) -> None:
    run = RunId(random_name())
    scratch = folder / run
    scratch.mkdir()
    last = last_version(store, vm)
    with closing(reader or FileDiskReader(folder / disk)) as reader:
        facts = DiskFacts(_DISK, "disk", "0", reader.size_bytes)
        chunk_map = FlatMap(scratch / "map", positions_of(reader.size_bytes, store.chunk_bytes))
        previous = load_map(store, last.record.disks[0], scratch / "previous") if last else None
        log, relied_on = PackLog(scratch / "packs"), ReliedOn(scratch / "relied on")
        bundle = Bundle(
            store=store.store_id,
            box=store.keys.public().box,
            chunk_id_key=store.keys.chunk_id_key,
            chunk_bytes=store.chunk_bytes,
            suite=store.suite,
            check=check,
        )
        counts = transfer(
            [DiskJob(facts, reader, chunk_map, previous)],
            run=run,
            bundle=bundle,
            inbox=store.transport,
            log=log,
            stop=StopToken(),
            known=known,
            relied_on=relied_on,
        )
    receipt = TransferReceipt(
        run=run,
        job="bench",
        vm=VmFacts(vm, "bench", "{}"),
        taken_at=datetime.now(UTC),
        consistency="standard",
        consistency_asked="standard",
        note="",
        disks=(DiskReceipt(facts, chunk_map, previous),),
        packs=log,
        counts=counts,
        relied_on=relied_on,
    )
    commit_version(store, receipt, clock=system_clock, copies=copies)
    receipt.discard()


def make_disk(path: Path) -> None:
    """A disk of `DISK_BYTES` with text, noise, what compresses a little, and holes."""
    with path.open("wb") as disk:
        disk.truncate(DISK_BYTES)
        for at in range(0, DISK_BYTES, 64 << 20):
            disk.seek(at)
            disk.write(some_text(at, 24 << 20))
            disk.write(some_noise(at, 8 << 20))
            disk.write(bytes(byte | 0x5A for byte in some_noise(-at, 16 << 10)) * 512)


def change(path: Path, *, percent: int) -> None:
    """Write noise to random 64 KiB of a disk."""
    chance = random.Random(percent)
    with path.open("r+b") as disk:
        for _ in range(DISK_BYTES * percent // 100 // (64 << 10)):
            disk.seek(chance.randrange(DISK_BYTES >> 16) << 16)
            disk.write(chance.randbytes(64 << 10))


def differ(one: Path, other: Path) -> bool:
    """Whether two files are not the same."""
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode != 0


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _run_step(Path(sys.argv[1]), sys.argv[2])
    else:
        main()

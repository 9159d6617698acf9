"""What a job and a VM cost beside their data: Prefect with a running server, pool, store, catalog.

A Prefect server in a process of its own, a pool of the lab, and VMs so small and so unchanged that
nearly nothing is read: jobs of one and of eleven VMs in turn. The difference by ten is a VM's, what
is left of the short job is the job's; both hold the engine's own part as well, so that Prefect's is
less. One job of fifty shows whether it grows.

    python -m bench orchestration        exit 1 above 3 s a job or 0.5 s a VM
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.results import keep
from lab.demo_disks import some_noise
from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.installation import Installation

MANY, MOST = 11, 50
ROUNDS = 5
MAX_JOB, MAX_VM = 3.0, 0.5


def main() -> int:
    """Measure, print, keep; whether it is little enough."""
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    try:
        found, most = _measured(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    per_vm = [(many - one) / (MANY - 1) for one, many in found]
    per_job = [one - vm for (one, _), vm in zip(found, per_vm, strict=True)]
    job, vm = statistics.median(per_job), statistics.median(per_vm)
    text = (
        f"{_told('A job', per_job, MAX_JOB)}; {_told('each VM', per_vm, MAX_VM)} more: medians, the"
        f" least and the most. In a job of {MOST} VMs each of the last {MOST - MANY} took"
        f" {(most - statistics.median(many for _, many in found)) / (MOST - MANY):.2f} s."
    )
    print(text)
    keep(
        "orchestration",
        f"jobs of 1 and {MANY} unchanged VMs of 1 MiB, one at a time, {ROUNDS} of each in turn, a"
        f" Prefect server of its own; the machine's load was {load:.1f} before.",
        text,
    )
    return 0 if job <= MAX_JOB and vm <= MAX_VM else 1


def _told(what: str, seconds: list[float], most: float) -> str:
    middle = statistics.median(seconds)
    return f"{what} {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}, at most {most:g})"


def _measured(folder: Path) -> tuple[list[tuple[float, float]], float]:
    for name in ("owner", "store"):
        (folder / name).mkdir()
    pool = Pool(Settings())
    for number in range(MOST):
        image = folder / f"{number}.raw"
        image.write_bytes(some_noise(number, 1 << 20))
        pool.add_vm(f"vm{number}", [image])
    server = Installation(folder / "owner")
    try:
        server.start()
        with LabServer(pool) as lab:
            login = {"url": lab.url, "username": lab.username, "password": lab.password}
            done = subprocess.run(
                [sys.executable, "-m", "bench.orchestration", folder],
                input=json.dumps(login),
                env=server.environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
    finally:
        server.stop()
    told = json.loads(done.stdout.splitlines()[-1])
    return [(one, many) for one, many in told["pairs"]], told["most"]


def _run(folder: Path) -> None:
    from pydantic import SecretStr

    from blocks import DataStoreShare, XenPool
    from flows.backup import backup_job
    from flows.set_up import set_up_site
    from likeness.model.job import BackupJob

    login = json.loads(sys.stdin.read())
    set_up_site(
        "main",
        pool=XenPool(**{**login, "password": SecretStr(login["password"])}),
        data_store=DataStoreShare(place=str(folder / "store"), key_file=str(folder / "store.key")),
        folder=folder / "here",
    )

    def seconds(vms: int) -> float:
        job = BackupJob(name="bench", vms=[f"vm{number}" for number in range(vms)])
        begun = time.monotonic()
        ended: Any = backup_job(job, return_state=True)
        if not ended.is_completed():
            raise SystemExit(f"the job ended as {ended.name}: {ended.message}")
        return time.monotonic() - begun

    seconds(MOST)
    pairs = [(seconds(1), seconds(MANY)) for _ in range(ROUNDS)]
    print(json.dumps({"pairs": pairs, "most": seconds(MOST)}))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _run(Path(sys.argv[1]))
    else:
        sys.exit(main())

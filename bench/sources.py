"""What a backup costs where it is done: the same VM read from here, and through a delegate.

Whole jobs, with Prefect, a pool of the lab in a process of its own, and a real smbd (needs samba).
The controller's CPU is this process's; what Prefect's own server takes is not in it.

    python -m bench sources
"""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.results import keep
from lab.demo_disks import some_noise, some_text
from lab.demo_share import DemoShare, demo_share

DISK_BYTES = 1 << 30
SPARSE = {"8 GiB": 8 << 30, "256 GiB": 256 << 30}
TEMPLATE = "abd"
_HOW = (
    "a VM of 1 GiB, half of it text and noise, and sparse ones with 64 MiB of data; a real smbd on"
    " loopback, encrypted; one round, whole jobs with Prefect. Wall seconds include the delegate's"
    " start, and the agent's CPU is in the column of whoever sent."
)


class Seen(logging.Handler):
    """What is said of each delegate: processor time and memory."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = "–"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the memory of the last one."""
        if "its delegate took" in str(record.msg) and isinstance(record.args, tuple):
            self.peak = str(record.args[2])


def main() -> None:
    """Run all of it, print the table and keep it."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-bench-"))
    _prepare_prefect(folder)
    try:
        _make_disks(folder)
        (folder / "share").mkdir()
        with demo_share(folder / "samba", folder / "share") as share, _pool(folder) as pool:
            text = "\n".join(_rows(folder, share, pool))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(text)
    keep("sources", _HOW, text)


def _rows(folder: Path, share: DemoShare, pool: dict[str, Any]) -> Generator[str, None, None]:
    yield "| VM | source | wall s | controller, CPU s | reading and sending, CPU s | agent, peak |"
    yield "|---|---|---|---|---|---|"
    for source in ("direct", "enhanced"):
        _set_up(folder / source, share, pool, source)
        for vm in ("full", "full again", *SPARSE):
            if vm in SPARSE and source == "direct":
                continue
            yield _row(vm, source)


def _row(vm: str, source: Any) -> str:
    from flows.backup import backup_job
    from likeness.model.job import BackupJob

    seen = Seen()
    logging.getLogger("prefect.task_runs").addHandler(seen)
    before, begun = _cpu(), time.monotonic()
    job = BackupJob(name="bench", vms=[vm.removesuffix(" again")], source=source)
    outcomes: Any = backup_job(job, site=source)
    wall, cpu = time.monotonic() - begun, _cpu() - before
    logging.getLogger("prefect.task_runs").removeHandler(seen)
    (outcome,) = outcomes
    return f"| {vm} | {source} | {wall:.1f} | {cpu:.1f} | {outcome.cpu_seconds:.1f} | {seen.peak} |"


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _make_disks(folder: Path) -> None:
    with (folder / "full.raw").open("wb") as disk:
        disk.truncate(DISK_BYTES)
        for at in range(0, DISK_BYTES, 64 << 20):
            disk.seek(at)
            disk.write(some_text(at, 16 << 20) + some_noise(at, 16 << 20))
    for name, size in SPARSE.items():
        with (folder / f"{name}.raw").open("wb") as disk:
            disk.truncate(size)
            for part in range(8):
                disk.seek(size // 8 * part)
                disk.write(some_noise(part, 8 << 20))


@contextmanager
def _pool(folder: Path) -> Generator[dict[str, Any], None, None]:
    command = [sys.executable, "-m", "lab", "serve", "--state", str(folder / "lab")]
    command += ["--template", TEMPLATE]
    for name in ("full", *SPARSE):
        command += ["--vm", f"{name}={folder / name}.raw"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline() if process.stdout else "")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _set_up(folder: Path, share: DemoShare, pool: dict[str, Any], name: str) -> None:
    from pydantic import SecretStr

    from blocks import DataStoreShare, XenPool
    from flows.set_up import set_up_site

    password = SecretStr(share.password)
    set_up_site(
        name,
        pool=XenPool(
            url=pool["url"],
            username=pool["username"],
            password=SecretStr(pool["password"]),
            delegate_template=TEMPLATE,
        ),
        data_store=DataStoreShare(
            place=f"{share.place}-{name}",
            username=share.username,
            password=password,
            key_file=str(folder / "store.key"),
            drop_box_username=share.username,
            drop_box_password=password,
        ),
        folder=folder,
    )


def _prepare_prefect(folder: Path) -> None:
    """A Prefect of the benchmark's own; nobody is called."""
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.update(
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_EPHEMERAL_ENABLED="true",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
        DO_NOT_TRACK="1",
    )


if __name__ == "__main__":
    main()

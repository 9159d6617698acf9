"""What a backup costs where it is done: the same VM read from here, by a delegate, from inside.

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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from bench.results import keep
from lab.demo_disks import some_noise, some_text
from lab.demo_share import DemoShare, demo_share

DISK_BYTES = 1 << 30
SPARSE = {"8 GiB": 8 << 30, "256 GiB": 256 << 30}
TEMPLATE = "abd"
_HOW = (
    "a VM of 1 GiB, half of it text and noise, and sparse ones with 64 MiB of data; a real smbd on"
    " loopback, encrypted; one round, whole jobs with Prefect. Wall seconds include the delegate's"
    " start: here a process, elsewhere a boot. CPU of reading and sending is the agent's; with"
    " direct it is part of the controller's"
)


class Seen(logging.Handler):
    """What is said of each agent: processor time and memory."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = "–"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the memory of the last one."""
        if "of CPU and" in str(record.msg) and isinstance(record.args, tuple):
            self.peak = str(record.args[-1])


def main() -> None:
    """Run all of it, print the table and keep it."""
    load = os.getloadavg()[0]
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
    said = f"{_HOW}; holes of sparse disks are not read. Other work ran beside it: the machine's"
    keep("sources", f"{said} load was {load:.1f} when it began.", text)


def _rows(folder: Path, share: DemoShare, pool: dict[str, Any]) -> Generator[str, None, None]:
    yield "| VM | source | wall s | controller, CPU s | reading and sending, CPU s | agent, peak |"
    yield "|---|---|---|---|---|---|"
    for source in ("direct", "enhanced", "qhybrid"):
        _set_up(folder / source, share, pool, source)
        with _guests(folder) if source == "qhybrid" else nullcontext():
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
    named = "guests" if source == "qhybrid" else "vms"
    given = {"name": "bench", "source": source, named: [_block(vm.removesuffix(" again"), source)]}
    outcomes: Any = backup_job(BackupJob.model_validate(given), site=source)
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


def _block(vm: str, source: str) -> str:
    """What a job calls a VM: the pool's name, or the Guest block's."""
    return f"bench-{vm.replace(' ', '-').lower()}" if source == "qhybrid" else vm


@contextmanager
def _guests(folder: Path) -> Generator[None, None, None]:
    """The same disks inside a machine with an SSH server, and a Guest block for each."""
    import asyncssh
    from pydantic import SecretStr

    from blocks import Guest

    (folder / "guest").mkdir()
    agent = folder / "agent"
    agent.write_text('#!/bin/sh\nexec python3 -m likeness.agent "$@"\n')
    key = asyncssh.generate_private_key("ssh-ed25519")
    told = {
        "address": "127.0.0.1",
        "folder": str(folder / "guest"),
        "authorized_key": key.export_public_key().decode(),
        "blocked_ports": [],
        "kill_after_seconds": 0,
    }
    command = [sys.executable, "-m", "lab.guest_process"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as machine:
        if machine.stdin is None or machine.stdout is None:
            raise SystemExit("the guest did not start")
        machine.stdin.write(json.dumps(told) + "\n")
        machine.stdin.flush()
        listening = json.loads(machine.stdout.readline())
        for vm in ("full", *SPARSE):
            Guest(
                vm=str(uuid4()),
                vm_name=vm,
                address="127.0.0.1",
                port=listening["port"],
                host_key=listening["host_key"],
                private_key=SecretStr(key.export_private_key().decode()),
                agent_file=str(agent),
                folder=str(folder / "guest"),
                disks=[str(folder / f"{vm}.raw")],
            ).save(_block(vm, "qhybrid"), overwrite=True)
        yield
        machine.stdin.close()


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

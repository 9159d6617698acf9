"""`python -m lab.demo`: the whole walk on real disks, with a simulated pool, in under a minute."""

import argparse
import filecmp
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from lab.demo_disks import add_file, differences, make_disk, read_file, some_noise, some_text
from lab.demo_prefect import start_server
from lab.demo_share import DemoShare, demo_share
from lab.web.control import TOKEN_HEADER

FOLDER = Path(".demo").absolute()
JOB: dict[str, Any] = {"name": "demo", "vms": ["web", "db"]}
TEMPLATE = "abd"


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk through the house, and say what is seen on the way."""
    given = _parser().parse_args(arguments)
    with ExitStack() as held:
        return _walk(held, enhanced=given.source == "enhanced")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument(
        "--source",
        choices=("direct", "enhanced"),
        default="direct",
        help="direct: this machine reads the disks; enhanced: a delegate VM (ABD) for each VM"
        " reads them, and sends them to a real share",
    )
    return parser


def _walk(held: ExitStack, *, enhanced: bool) -> int:
    begun = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    _prepare_prefect()
    _say("Making two disks: GPT, ext4, real files")
    _make_disks()
    share = _share(held) if enhanced else None
    with _pool() as pool:
        _say(f"A simulated XenServer pool answers at {pool['url']}; starting Prefect")
        _set_up(pool, share)
        first = _back_up("First backup of both VMs: everything that is not empty is sent")
        truth = _guests_write(pool)
        second = _back_up("Second backup: only what changed is read and sent")
        _require_less(first, second)
        _show_versions()
        good = _restore_and_compare(truth)
        if share:
            _say_who_sent(pool, [*first, *second])
    _say(f"Done in {time.monotonic() - begun:.0f} s")
    print(_WHERE_NEXT.format(list_it="" if share else _LIST_IT))
    return 0 if good else 1


_WHERE_NEXT = """
Where to look next
  the runs with their logs, the tables of versions:
    PREFECT_HOME=.demo/prefect .venv/bin/prefect server start      then http://127.0.0.1:4200
    Artifacts: http://127.0.0.1:4200/v2/artifacts  (dashboard, versions, job-demo)
{list_it}  a pool of your own disks:      .venv/bin/python -m lab serve --vm web=disk.raw
  a site of your own:            README.md, "Run it for real"
"""
_LIST_IT = """\
  the store without Prefect and without catalog:
    .venv/bin/python -m likeness list --store .demo/store --key-file .demo/site/store.key
"""


def _share(held: ExitStack) -> DemoShare:
    (FOLDER / "share").mkdir()
    share = held.enter_context(demo_share(FOLDER / "samba", FOLDER / "share"))
    JOB.update(source="enhanced", concurrency=2)
    _say(f"A real Samba serves the data store at {share.place}")
    print("  Delegates have its one account here; docs/operating.md: one that may only add files")
    return share


def _say_who_sent(pool: dict[str, Any], outcomes: Sequence[Any]) -> None:
    """From the pool's own counters: who read the disks."""
    exported = sum(_asked(pool, "counters")["exported_bytes"].values())
    sent = sum(each.sent_bytes for each in outcomes)
    _say(f"Source enhanced: {len(outcomes)} backups of 2 VMs, each through a delegate (ABD) of its")
    print("  own, started over SSH, which read the snapshot and sent it to the share;")
    print(f"  this machine's Python was given {exported} bytes of disks by the pool, and the")
    print(f"  delegates sent {sent >> 20} MiB")


def _asked(pool: dict[str, Any], what: str, data: bytes | None = None) -> dict[str, Any]:
    """What the lab answers to whoever may control it; with data it is told something."""
    request = Request(f"{pool['control']}/{what}", data)
    request.add_header(TOKEN_HEADER, pool["control_token"])
    with urlopen(request) as answer:
        said: dict[str, Any] = json.load(answer)
    return said


class Steps(logging.Handler):
    """Shows what the tasks of a run say, as they say it, and what went wrong anywhere."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        said = record.getMessage()
        step = record.name == "prefect.task_runs" and not said.startswith("Finished in state")
        if step or record.levelno >= logging.ERROR:
            print(f"  · {said}", flush=True)


def _say(what: str) -> None:
    print(f"\n▶ {what}", flush=True)


def _prepare_prefect() -> None:
    """A Prefect of the demo's own; nothing of the user's is touched, nobody is called."""
    os.environ.update(
        PREFECT_LOGGING_LEVEL="INFO",
        PREFECT_SERVER_REGISTER_BLOCKS_ON_START="false",  # ours alone are used
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE="100",  # as docs/install.md says
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL="1",
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED="false",  # its server asks for none
        DO_NOT_TRACK="1",
    )
    steps = Steps()
    steps.setFormatter(logging.Formatter())  # Prefect leaves a root handler alone that has one
    logging.getLogger().addHandler(steps)
    start_server(FOLDER / "prefect")


def _make_disks() -> None:
    """Both VMs come from one template, as VMs do."""
    template = FOLDER / "template.raw"
    system = {f"usr/lib/lib{n}.so": some_noise(n, 8 << 20) for n in range(4)}
    make_disk(template, 160 << 20, {**system, "usr/share/words": some_text(1, 8 << 20)})
    for name, files in (
        ("web", {"/access.log": some_text(2, 16 << 20), "/photos": some_noise(9, 8 << 20)}),
        ("db", {"/table": some_text(3, 16 << 20)}),
    ):
        shutil.copyfile(template, FOLDER / f"{name}.raw")
        for file, content in files.items():
            add_file(FOLDER / f"{name}.raw", file, content)


@contextmanager
def _pool() -> Generator[dict[str, Any], None, None]:
    """The lab as a process of its own."""
    command = [sys.executable, "-m", "lab", "serve", "--state", str(FOLDER / "lab")]
    command += ["--template", TEMPLATE]
    for name in JOB["vms"]:
        command += ["--vm", f"{name}={FOLDER / name}.raw"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise SystemExit("the simulated pool did not start; its message is above")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _set_up(pool: dict[str, Any], share: DemoShare | None) -> None:
    from pydantic import SecretStr

    from blocks import DataStoreShare, Vault, XenPool
    from flows.set_up import set_up_site

    for place in ("store", "vault"):
        (FOLDER / place).mkdir()
    account: dict[str, Any] = {}
    if share:
        password = SecretStr(share.password)
        account = {"username": share.username, "password": password}
        account |= {"drop_box_username": share.username, "drop_box_password": password}
    set_up_site(
        "main",
        pool=XenPool(
            url=pool["url"],
            username=pool["username"],
            password=SecretStr(pool["password"]),
            delegate_template=TEMPLATE,
        ),
        data_store=DataStoreShare(
            place=share.place if share else str(FOLDER / "store"),
            key_file=str(FOLDER / "site" / "store.key"),
            **account,
        ),
        vault=Vault(place=str(FOLDER / "vault")),
        folder=FOLDER / "site",
    )


def _back_up(what: str) -> Sequence[Any]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.backup import backup_job
    from likeness.model.job import BackupJob
    from likeness.model.sizes import readable_size

    _say(what)
    begun = time.monotonic()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        outcomes: Any = backup_job(BackupJob.model_validate(JOB), validation="in this run")
    for outcome in outcomes:
        print(
            f"  {outcome.name:4} disks {readable_size(outcome.disk_bytes):>8}"
            f"   read {readable_size(outcome.read_bytes):>8}"
            f"   sent {readable_size(outcome.sent_bytes):>8}"
            f"   of which another VM had {readable_size(outcome.dropped_bytes):>8}"
        )
    print(f"  backed up and validated in {time.monotonic() - begun:.1f} s")
    return list(outcomes)


def _guests_write(pool: dict[str, Any]) -> Path:
    """Let the guests change their disks; give back web's disk as it is afterwards."""
    _say("The guests write: a new file on web, a changed table on db")
    for name, seed in (("web", 11), ("db", 12)):
        before, after = FOLDER / f"{name}.raw", FOLDER / f"{name}-changed.raw"
        shutil.copyfile(before, after)
        add_file(after, "/news", some_text(seed, 1 << 20))
        changed = 0
        for offset, data in differences(before, after):
            where = urlencode({"vm": name, "disk": 0, "offset": offset})
            _asked(pool, f"write?{where}", data)
            changed += len(data)
        print(f"  {name:4} {changed >> 10} KiB written in place")
    return FOLDER / "web-changed.raw"


def _require_less(first: Sequence[Any], second: Sequence[Any]) -> None:
    for before, after in zip(first, second, strict=True):
        if after.sent_bytes * 4 > before.sent_bytes:
            raise SystemExit(f"{after.name}: the second backup sent almost as much as the first")


def _show_versions() -> None:
    from blocks import Site
    from catalog.versions import list_versions
    from likeness.clock import system_clock
    from tasks.reporting import version_row

    _say("Every version, read back and proved")
    now = system_clock()
    rows = list_versions(Site.named("main").catalog.file, now, None)
    for row in (version_row(row, now) for row in reversed(rows)):
        print(
            f"  {row['verdict']} {row['VM']:4} {row['version']}  {row['taken']}"
            f"  read {row['read']:>8}  sent {row['sent']:>8}  kept {row['kept']:>8}"
            f"  checked {row['oldest check']}"
        )


def _restore_and_compare(truth: Path) -> bool:
    from blocks import Site
    from catalog.versions import list_versions
    from flows.restore import restore_disks
    from likeness.clock import system_clock

    rows = list_versions(Site.named("main").catalog.file, system_clock(), None)
    newest = next(row for row in rows if row.vm_name == "web")
    _say(f"Restoring version {newest.version[:8]} of web, every data block proved on its way")
    restored: Any = restore_disks(newest.version, str(FOLDER / "restored"))
    (disk,) = restored
    same = filecmp.cmp(disk.path, truth, shallow=False)
    found = read_file(disk.path, "/news") == some_text(11, 1 << 20)
    verdict = "is bit for bit what web's disk held" if same and found else "DIFFERS from web's disk"
    print(f"  {disk.path.relative_to(Path.cwd())} {verdict} when its snapshot was taken")
    return same and found


if __name__ == "__main__":
    sys.exit(main())

"""The same disk through Likeness, borg and restic, all with encryption and zstd, side by side.

    python -m bench peers

Every step is one process of each, timed from outside, start-up included: Likeness's is its engine
without Prefect and catalog. The peers are Debian's; one that is not installed is left out, and the
table says so. borg has chunks of 1 MiB, as its manual advises for disks of VMs, and restic its own.
Rounds alternate between the three, figures are medians of three, and a ratio is the peer's time by
ours: above 1 we are faster.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data_path import change, differ, make_disk
from bench.results import keep

ROUNDS = 3
STEPS = ("first backup", "unchanged, all read again", "2 % changed", "validate all", "restore")
Command = tuple[Sequence[str | Path], Path]
"""What to run, and in which folder."""


@dataclass(frozen=True)
class Taken:
    """What one step cost.

    Attributes:
        seconds: By the clock on the wall.
        peak_mib: Most memory at any time.
    """

    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Tool:
    """A program that backs a file up.

    Attributes:
        name: With its version.
        command: The command of a step, given the folder that all of it lies in.
        begin: What comes once before the first step.
        store: Where its data lies, inside the folder.
    """

    name: str
    command: Callable[[Path, str], Command]
    begin: Callable[[Path], Command | None]
    store: str


def main() -> None:
    """Run all steps with all tools, print the table, and keep it."""
    tools = [likeness(), *(made for made in (borg(), restic()) if made is not None)]
    rounds = [{tool.name: series(tool) for tool in tools} for _ in range(ROUNDS)]
    text = table([tool.name for tool in tools], rounds)
    print(text)
    missing = [name for name in ("borg", "restic") if shutil.which(name) is None]
    left_out = f" Not installed, so not measured: {', '.join(missing)}." if missing else ""
    how = "local ext4, page cache warm, 2 GiB of disk, medians of three rounds, wall seconds."
    keep("peers", how + left_out, text)


def series(tool: Tool) -> dict[str, Taken]:
    """All steps of one tool, from a fresh disk to the restored one."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-peers-"))
    try:
        disk = folder / "disk.raw"
        make_disk(disk)
        if (begin := tool.begin(folder)) is not None:
            run(begin, folder)
        found = {}
        for step in STEPS:
            if step == "2 % changed":
                change(disk, percent=2)
            os.sync()
            found[step] = run(tool.command(folder, step), folder)
        if differ(disk, folder / "restored.raw"):
            raise SystemExit(f"{tool.name} restored another disk than it backed up")
        size = sum(path.stat().st_size for path in (folder / tool.store).rglob("*"))
        found["kept"] = Taken(size / (1 << 20), 0)
    finally:
        shutil.rmtree(folder)
    print(f"{tool.name} done", file=sys.stderr)
    return found


def run(command: Command, folder: Path) -> Taken:
    """Run a command to its end.

    Raises:
        SystemExit: It failed.
    """
    words, where = command
    with (folder / "said").open("w+b") as said:
        begun = time.monotonic()
        process = subprocess.Popen(
            list(words), cwd=where, env=environment(folder), stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{words[0]} failed: {said.read().decode(errors='replace')}")
    return Taken(seconds, usage.ru_maxrss / 1024)


def environment(folder: Path) -> Mapping[str, str]:
    """What the tools find around them: a home of their own, and the password of this run."""
    return {
        **os.environ,
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "BORG_BASE_DIR": str(folder / "borg-home"),
        "BORG_PASSPHRASE": "of this run alone",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "RESTIC_PASSWORD": "of this run alone",
        "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
    }


def likeness() -> Tool:
    """Our own engine, as `bench.data_path` runs it."""

    def command(folder: Path, step: str) -> Command:
        return [sys.executable, "-m", "bench.data_path", folder, step], folder

    return Tool("Likeness", command, lambda _: None, "store")


def borg() -> Tool | None:
    """Debian's borgbackup, if it is installed."""
    if shutil.which("borg") is None:
        return None
    chunks = "--chunker-params=fixed,1048576"

    def command(folder: Path, step: str) -> Command:
        place = folder / "borg"
        if step == "validate all":
            return ["borg", "check", "--verify-data", place], folder
        if step == "restore":
            words = f"borg extract --sparse '{place}::2 % changed' && mv disk.raw ../restored.raw"
            (folder / "out").mkdir()
            return ["sh", "-c", words], folder / "out"
        options = [chunks, "--compression=zstd,1", "--sparse", "--files-cache=disabled"]
        return ["borg", "create", *options, f"{place}::{step}", "disk.raw"], folder

    def begin(folder: Path) -> Command:
        return ["borg", "init", "--encryption=repokey-blake2", folder / "borg"], folder

    return Tool(f"borg {_version('borg')}", command, begin, "borg")


def restic() -> Tool | None:
    """Debian's restic, if it is installed."""
    if shutil.which("restic") is None:
        return None

    def command(folder: Path, step: str) -> Command:
        place: list[str | Path] = ["restic", "--repo", folder / "restic"]
        if step == "validate all":
            return [*place, "check", "--read-data"], folder
        if step == "restore":
            out = folder / "restic-out"
            words = f"restic --repo '{folder}/restic' restore latest --target '{out}'"
            return ["sh", "-c", f"{words} && mv '{out}/disk.raw' restored.raw"], folder
        return [*place, "backup", "--force", "disk.raw"], folder

    def begin(folder: Path) -> Command:
        return ["restic", "--repo", folder / "restic", "init"], folder

    return Tool(f"restic {_version('restic')}", command, begin, "restic")


def _version(program: str) -> str:
    asked = ["--version"] if program == "borg" else ["version"]
    told = subprocess.run([program, *asked], capture_output=True, text=True, check=True)
    return told.stdout.split()[1]


def table(names: Sequence[str], rounds: Sequence[Mapping[str, Mapping[str, Taken]]]) -> str:
    """One line a step; for each peer its figure and how often ours goes into it."""
    ours, *others = names
    lines = [f"| step | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for step in (*STEPS, "kept"):
        middle = {
            name: statistics.median(each[name][step].seconds for each in rounds) for name in names
        }
        unit = "MiB" if step == "kept" else "s"
        cells = [f"{middle[ours]:.2f} {unit}"]
        cells += [f"{middle[n]:.2f} {unit} ({middle[n] / middle[ours]:.1f} x)" for n in others]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    peaks = {
        name: max(each[name][step].peak_mib for each in rounds for step in STEPS) for name in names
    }
    lines.append(f"| peak memory | {' | '.join(f'{peaks[n]:.0f} MiB' for n in names)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The same disks through Likeness, borg and restic, all with encryption and zstd, side by side.

    python -m bench.peers [--images bench/out/images] [--rounds 3]

The images are those of `bench.images`; without any they are made. Every step is one process of each
over all of them, timed from outside, start-up included: Likeness's is its engine without Prefect
and catalog, VM after VM. What a job's validation does afterwards in the product is a step of its
own (`bench.settling`): what is new is proved, what two VMs share is kept once, and packs of little
use are rewritten; from then on sources are told what the store has. The peers have no such step.
One that is not installed is left out, and the table says so. borg has chunks of 1 MiB, as its
manual advises for disks of VMs, and restic its own; what they restore is flushed, as ours is, and
sparse where they can. *Bare* is the same work without a program around it (`bench.vms`). Every step
is done by one program right after the other, so that what else the machine does hits all of them;
figures are medians, and a ratio is the other's time by ours: above 1 we are faster.
"""

import argparse
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

from bench import images
from bench.chart import bars
from bench.data_path import differ
from bench.results import keep, kind_of_place

FIRST, SAME, DAY_2 = "first backup", "unchanged, all read again", "day 2 (2.5 % changed)"
SETTLE = "prove, keep once what VMs share"
VERIFY, RESTORE = "verify everything", "restore web01"
STEPS = (FIRST, SETTLE, SAME, DAY_2, VERIFY, RESTORE)
RESTORES = 3
"""Of so many the middle one counts: it is short, and a disk is not always equally fast."""
CHART = Path(__file__).parent / "peers.svg"
Command = tuple[Sequence[str | Path], Path]
"""What to run, and in which folder."""


@dataclass(frozen=True)
class Taken:
    """What one step cost.

    Attributes:
        seconds: By the clock on the wall; of what is kept, MiB.
        cpu_seconds: Of all its processors.
        peak_mib: Most memory at any time.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Tool:
    """A program that backs a file up.

    Attributes:
        name: With its version.
        command: The command of a step, if it has that, given the folder that all of it lies in.
        begin: What comes once before the first step.
        store: Where its data lies, inside the folder.
    """

    name: str
    command: Callable[[Path, str], Command | None]
    begin: Callable[[Path], Command | None]
    store: str


def main() -> None:
    """Run all steps with all tools, print the table, and keep it with its chart."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--images", type=Path, default=images.FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if not (asked.images / "how").exists():
        images.make(asked.images, 8192)
    made = [likeness("sampled"), likeness("all"), borg(), restic(), bare()]
    tools = [tool for tool in made if tool is not None]
    load = os.getloadavg()[0]
    rounds = [one_round(tools, asked.images) for _ in range(asked.rounds)]
    text = table([tool.name for tool in tools], rounds)
    print(text)
    CHART.write_text(chart([tool.name for tool in tools], rounds))
    keep(
        "peers", _how(asked.images, asked.rounds, load), f"{text}\n\n![the same as bars](peers.svg)"
    )


def _how(folder: Path, rounds: int, load: float) -> str:
    size = sum((folder / f"{name}.raw").stat().st_size for name in images.NAMES) >> 30
    data = sum((folder / f"{name}.raw").stat().st_blocks for name in images.NAMES) >> 11
    missing = [name for name in ("borg", "restic") if shutil.which(name) is None]
    left_out = f" Not installed, so not measured: {', '.join(missing)}." if missing else ""
    made = (folder / "how").read_text()
    return (
        f"{len(images.NAMES)} disks of {size} GiB in all with {data} MiB of data"
        f" ({made}), on {kind_of_place()}, page cache warm, medians of {rounds}"
        f" rounds, whole processes in turn, wall seconds and processor seconds, and how often ours"
        f" go into them; the machine's load was {load:.1f} before, {os.getloadavg()[2]:.1f} at the"
        f" end.{left_out}"
    )


def one_round(tools: Sequence[Tool], source: Path) -> dict[str, dict[str, Taken]]:
    """Every step by one tool after the other, from fresh disks to the restored one."""
    folder = Path(tempfile.mkdtemp(prefix="likeness-peers-"))
    found: dict[str, dict[str, Taken]] = {tool.name: {} for tool in tools}
    try:
        (folder / "disks").mkdir()
        for name in images.NAMES:
            words: list[str | Path] = ["cp", "--sparse=always", source / f"{name}.raw"]
            subprocess.run([*words, folder / "disks"], check=True)
        for at, tool in enumerate(tools):
            _begin(tool, folder / str(at), folder / "disks")
        for step in STEPS:
            if step == DAY_2:
                images.age(folder / "disks")
            times = RESTORES if step == RESTORE else 1
            taken = [_in_turn(tools, step, folder) for _ in range(times)]
            for tool in tools:
                if each := [turn[tool.name] for turn in taken if tool.name in turn]:
                    found[tool.name][step] = sorted(each, key=_seconds)[len(each) // 2]
        for at, tool in enumerate(tools):
            kept = sum(path.stat().st_size for path in (folder / str(at) / tool.store).rglob("*"))
            found[tool.name]["kept"] = Taken(kept / (1 << 20), 0, 0)
    finally:
        shutil.rmtree(folder)
    return found


def _begin(tool: Tool, folder: Path, disks: Path) -> None:
    """A folder of its own, with the same disks as all others have."""
    folder.mkdir()
    for disk in disks.iterdir():
        (folder / disk.name).hardlink_to(disk)
    if (begin := tool.begin(folder)) is not None:
        run(begin, folder)


def _seconds(taken: Taken) -> float:
    return taken.seconds


def _in_turn(tools: Sequence[Tool], step: str, folder: Path) -> dict[str, Taken]:
    """One step by each tool that has it; what each has taken."""
    taken: dict[str, Taken] = {}
    for at, tool in enumerate(tools):
        if (command := tool.command(folder / str(at), step)) is None:
            continue
        os.sync()
        taken[tool.name] = run(command, folder / str(at))
        if step == RESTORE:
            _require_whole(tool, folder / str(at))
        print(f"{tool.name}: {step} {taken[tool.name].seconds:.2f} s", file=sys.stderr)
    return taken


def _require_whole(tool: Tool, folder: Path) -> None:
    if differ(folder / "web01.raw", folder / "restored.raw"):
        raise SystemExit(f"{tool.name} restored another disk than it backed up")
    (folder / "restored.raw").unlink()


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
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def environment(folder: Path) -> Mapping[str, str]:
    """What the tools find around them: a home of their own, and the password of this run.

    Python may keep what it compiles, as it has it of an installed package.
    """
    return {
        **{name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "HOME": str(folder),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "BORG_BASE_DIR": str(folder / "borg-home"),
        "BORG_PASSPHRASE": "of this run alone",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "RESTIC_PASSWORD": "of this run alone",
        "RESTIC_CACHE_DIR": str(folder / "restic-cache"),
    }


def likeness(check: str) -> Tool:
    """Our own engine, as `bench.vms` runs it."""

    def command(folder: Path, step: str) -> Command:
        if step == RESTORE:
            return [sys.executable, "-m", "bench.restoring", folder, f"{1:032x}"], folder
        asked = "settle" if step == SETTLE else step
        return [sys.executable, "-m", "bench.vms", folder, asked, check], folder

    return Tool(f"Likeness, {check} checked", command, lambda _: None, "store")


def bare() -> Tool:
    """Nothing but the work."""

    def command(folder: Path, step: str) -> Command | None:
        if step in (SETTLE, VERIFY, RESTORE):
            return None
        return [sys.executable, "-m", "bench.vms", folder, step, "bare"], folder

    return Tool("bare", command, lambda _: None, "bare")


def borg() -> Tool | None:
    """Debian's borgbackup, if it is installed."""
    if shutil.which("borg") is None:
        return None
    options = ["--chunker-params=fixed,1048576", "--compression=zstd,1", "--sparse"]

    def command(folder: Path, step: str) -> Command | None:
        place = folder / "borg"
        if step == SETTLE:
            return None
        if step == VERIFY:
            return ["borg", "check", "--verify-data", place], folder
        if step == RESTORE:
            words = f"borg extract --sparse '{place}::{DAY_2[:5]}' web01.raw"
            (folder / "out").mkdir(exist_ok=True)
            return ["sh", "-c", f"{words} && sync -d web01.raw && mv web01.raw ../restored.raw"], (
                folder / "out"
            )
        create = ["borg", "create", *options, "--files-cache=disabled"]
        return [*create, f"{place}::{step[:5]}", *_files()], folder

    def begin(folder: Path) -> Command:
        return ["borg", "init", "--encryption=repokey-blake2", folder / "borg"], folder

    return Tool(f"borg {_version('borg')}", command, begin, "borg")


def restic() -> Tool | None:
    """Debian's restic, if it is installed."""
    if shutil.which("restic") is None:
        return None

    told = subprocess.run(
        ["restic", "restore", "--help"], capture_output=True, text=True, check=True
    )
    sparse = "--sparse" if "--sparse" in told.stdout else ""  # older ones write every hole

    def command(folder: Path, step: str) -> Command | None:
        place: list[str | Path] = ["restic", "--repo", folder / "restic"]
        if step == SETTLE:
            return None
        if step == VERIFY:
            return [*place, "check", "--read-data"], folder
        if step == RESTORE:
            out = f"{folder}/restic-out"
            words = f"restic --repo '{folder}/restic' restore latest --target '{out}'"
            moved = f"sync -d '{out}/web01.raw' && mv '{out}/web01.raw' restored.raw"
            return ["sh", "-c", f"{words} {sparse} --include web01.raw && {moved}"], folder
        return [*place, "backup", "--force", *_files()], folder

    def begin(folder: Path) -> Command:
        return ["restic", "--repo", folder / "restic", "init"], folder

    return Tool(f"restic {_version('restic')}", command, begin, "restic")


def _files() -> list[str]:
    return [f"{name}.raw" for name in images.NAMES]


def _version(program: str) -> str:
    asked = ["--version"] if program == "borg" else ["version"]
    told = subprocess.run([program, *asked], capture_output=True, text=True, check=True)
    return told.stdout.split()[1]


def table(names: Sequence[str], rounds: Sequence[Mapping[str, Mapping[str, Taken]]]) -> str:
    """One line a step; for each other its figure and how often ours goes into it."""
    lines = [f"| step | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    ours, *others = names
    for step in (*STEPS, "kept"):
        base = middle(rounds, ours, step)
        found = [base, *(middle(rounds, name, step) for name in others)]
        cells = [_cell(each, base, step) for each in found]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    peaks = [
        max(taken.peak_mib for each in rounds for taken in each[name].values()) for name in names
    ]
    lines.append(f"| peak memory | {' | '.join(f'{peak:.0f} MiB' for peak in peaks)} |")
    return "\n".join(lines)


def middle(
    rounds: Sequence[Mapping[str, Mapping[str, Taken]]], name: str, step: str
) -> tuple[float, float] | None:
    """Medians of seconds and of processor seconds, if the tool has the step."""
    taken = [each[name][step] for each in rounds if step in each[name]]
    if not taken:
        return None
    return (
        statistics.median(each.seconds for each in taken),
        statistics.median(each.cpu_seconds for each in taken),
    )


def _cell(found: tuple[float, float] | None, base: tuple[float, float] | None, step: str) -> str:
    if found is None or base is None:
        return "–"
    ratio = "" if found is base else f" ({found[0] / base[0]:.2f} x"
    if step == "kept":
        return f"{found[0]:.0f} MiB{ratio and f'{ratio})'}"
    of_both = ratio and f"{ratio}, {found[1] / base[1]:.2f} x)"
    return f"{found[0]:.2f} s, {found[1]:.2f} CPU{of_both}"


def chart(names: Sequence[str], rounds: Sequence[Mapping[str, Mapping[str, Taken]]]) -> str:
    """Wall seconds as bars."""
    found = {step: [middle(rounds, name, step) for name in names] for step in STEPS}
    groups = {step: [each and each[0] for each in row] for step, row in found.items()}
    return bars("Wall seconds, less is better", names, groups)


if __name__ == "__main__":
    main()

"""RESULTS.md: one section for each benchmark, replaced when it is run again."""

import os
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

_PLACE = Path(__file__).parent / "RESULTS.md"
_HEAD = """\
# Results

Each section says how it was made; ratios count, absolute figures are a machine's own.
"""


def keep(name: str, how: str, table: str) -> None:
    """Put a benchmark's table into RESULTS.md.

    Args:
        name: Of the benchmark, and of its section.
        how: The rest of the sentence that says how it was made; date and machine are given.
        table: Markdown.
    """
    section = (
        f"\n## {name}\n\n`python -m bench {name}`, {datetime.now(UTC):%Y-%m-%d},"
        f" {os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}, {how}\n\n"
        f"{table}\n"
    )
    old = _PLACE.read_text() if _PLACE.exists() else _HEAD
    before, _, rest = old.partition(f"\n## {name}\n")
    _, mark, after = rest.partition("\n## ")
    _PLACE.write_text(before + section + mark + after)


def kind_of_place() -> str:
    """The file system that benchmarks work on."""
    asking = ["df", "--output=fstype", tempfile.gettempdir()]
    told = subprocess.run(asking, capture_output=True, text=True, check=True).stdout
    return told.split()[-1]


def peak_bytes() -> int:
    """The most memory this process had; `getrusage` tells that of whoever started it, if more."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()

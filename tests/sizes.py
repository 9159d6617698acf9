"""``python -m tests.sizes``: how large the rooms of the house are."""

import ast
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("flows", "tasks", "blocks", "catalog", "likeness", "lab", "bench", "tests")
_ROW = "{:<12}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}"


def our_files(folder: str) -> list[Path]:
    """The Python files of a folder that Git knows."""
    listed = subprocess.run(
        ["git", "ls-files", f"{folder}/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()]


def function_lengths(path: Path) -> list[int]:
    """Lines of each function of a file, its docstring included."""
    tree = ast.parse(path.read_text())
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def share(numbers: Sequence[int], percent: int) -> int:
    """The number below which so many of a hundred lie."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0


def main() -> None:
    """Print a row for each folder; the last one is production code as a whole."""
    print(_ROW.format("", "lines", "files", "p50", "p95", "fn p50", "fn p95"))
    production: dict[str, list[int]] = defaultdict(list)
    for folder in FOLDERS:
        files = our_files(folder)
        lines = [len(path.read_text().splitlines()) for path in files]
        functions = [length for path in files for length in function_lengths(path)]
        if folder not in ("lab", "bench", "tests"):
            production["lines"] += lines
            production["functions"] += functions
        print(_row(folder, lines, functions))
    print(_row("production", production["lines"], production["functions"]))


def _row(name: str, lines: Sequence[int], functions: Sequence[int]) -> str:
    return _ROW.format(
        name,
        sum(lines),
        len(lines),
        share(lines, 50),
        share(lines, 95),
        share(functions, 50),
        share(functions, 95),
    )


if __name__ == "__main__":
    main()

"""The command line, run as a person runs it: in a process of its own, with its own input."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.audit.conftest import Filled, fill

ROOT = Path(__file__).parents[2]


@dataclass
class Shell:
    """Somebody at a prompt."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: object, typed: Iterable[str] = ()) -> "subprocess.CompletedProcess[str]":
        """``python -m likeness …``, with lines typed one after the other."""
        return subprocess.run(
            [sys.executable, "-m", "likeness", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            input="".join(f"{line}\n" for line in typed),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    folder = tmp_path / "somewhere else"
    folder.mkdir()
    return Shell(folder)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)

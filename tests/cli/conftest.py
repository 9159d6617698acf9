"""The command line, run as a person runs it: in a process of its own, with its own input."""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.audit.conftest import Filled, fill
from tests.support.warm import run_warm

ROOT = Path(__file__).parents[2]


@dataclass
class Shell:
    """Somebody at a prompt."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: object, typed: Iterable[str] = ()) -> "subprocess.CompletedProcess[str]":
        """``python -m likeness …``, with lines typed one after the other."""
        given = "".join(f"{line}\n" for line in typed)
        done = self.given(given.encode(), *words)
        out, err = (text.decode() for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def given(self, data: bytes, *words: object) -> "subprocess.CompletedProcess[bytes]":
        """The same, with bytes on its standard input."""
        environment = {"PYTHONPATH": str(ROOT), **self.environment}
        if not self.environment:
            asked = [str(each) for each in words]
            return run_warm(asked, folder=self.folder, environment=environment, given=data)
        return subprocess.run(
            [sys.executable, "-m", "likeness", *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **environment},
            input=data,
            capture_output=True,
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

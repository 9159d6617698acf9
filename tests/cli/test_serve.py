"""`serve`: a version's disks for other programs, until somebody stops it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audit.conftest import Filled
from tests.cli.conftest import ROOT, Shell
from tests.cli.test_commands import key


@pytest.mark.needs("qemu-img")
def test_a_version_is_served_within_a_second_and_read_by_another_program(
    filled: Filled, tmp_path: Path
) -> None:
    version = filled.versions[-1]
    words = ["serve", version.version[:10], *key(filled), "--socket", tmp_path / "nbd"]
    serving = subprocess.Popen(
        [sys.executable, "-m", "likeness", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serving.stdout is not None
        uri = serving.stdout.readline().split()[0]
        copy = tmp_path / "copy.raw"
        done = subprocess.run(
            ["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(copy)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert copy.read_bytes() == filled.workshop.restore(version)
        serving.send_signal(signal.SIGINT)
        assert serving.wait(timeout=20) == 130
    finally:
        serving.kill()
        serving.communicate()
    assert list(tmp_path.glob("likeness-*")) == []


def test_a_disk_that_is_not_there_is_said(filled: Filled, shell: Shell) -> None:
    done = shell.run("serve", filled.versions[0].version, "--disk", "9", *key(filled))
    assert done.returncode == 2
    assert "has no disk '9'; it has 0 (disk 0)" in done.stderr


@pytest.mark.parametrize("port", ["-1", "65536", "many", "9" * 5000])
def test_a_port_that_cannot_be_is_said(filled: Filled, shell: Shell, port: str) -> None:
    done = shell.run("serve", filled.versions[0].version, f"--port={port}", *key(filled))
    assert done.returncode == 2
    assert "is no" in done.stderr

"""From Python without a server: as the README says, and nobody outside is called."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blocks.about_prefect import DEFAULTS

pytestmark = pytest.mark.lab
ROOT = Path(__file__).resolve().parents[2]
WHAT_PREFECT_GOES_BY = """
import importlib, json, os, sys
importlib.import_module(sys.argv[1])
from prefect.settings import get_current_settings
now = get_current_settings()
print(json.dumps([now.server.analytics_enabled, now.client.max_retries,
                  now.server.ephemeral.startup_timeout_seconds, now.server.database.timeout,
                  os.environ["DO_NOT_TRACK"]]))
"""


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """That of somebody who has just cloned the project."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "DO_NOT"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.timeout(400)
def test_the_sample_of_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    part = (ROOT / "README.md").read_text().split("## Back up a VM from Python")[1]
    shell, python = (
        re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL)[0] for kind in ("sh", "python")
    )
    (tmp_path / "sample.py").write_text(python)
    script = (
        f"{shell}\ntrap 'kill $!' EXIT\n"
        "until [ -s pool.json ]; do sleep 0.2; done\npython sample.py\n"
    )

    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.split()) == 24, "the recovery words"
    assert "1 VM backed up" in done.stderr
    assert list((tmp_path / "trial" / "ads" / "versions").rglob("*"))


@pytest.mark.parametrize("first", ["blocks", "tasks.retries", "flows.backup"])
def test_no_process_of_ours_calls_prefects_makers_and_a_busy_server_is_waited_for(
    first: str, tmp_path: Path
) -> None:
    def goes_by(**more: str) -> object:
        done = subprocess.run(
            [sys.executable, "-c", WHAT_PREFECT_GOES_BY, first],
            env=clean_environment(tmp_path, **more),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)

    assert goes_by() == [False, 10, 240, 60.0, "1"]
    if first == "blocks":
        assert goes_by(PREFECT_CLIENT_MAX_RETRIES="3") == [False, 3, 240, 60.0, "1"]


def test_every_deployment_hands_the_same_to_its_runs() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]

    given = [each["work_pool"]["job_variables"]["env"] for each in deployments]

    assert len(given) >= 7
    assert all(each.items() <= DEFAULTS.items() and "DO_NOT_TRACK" in each for each in given)

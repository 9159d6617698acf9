"""What docs/install.md says, typed on an empty machine: from nothing to green versions."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.installation import ROOT, Installation
from tests.flows.scene import MIB, QUICK, image, noise
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.torture, pytest.mark.prefect, pytest.mark.lab]
PAGE = (ROOT / "docs/install.md").read_text()


@pytest.fixture
def lab(tmp_path: Path) -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password="hunter2-of-the-pool"))
    images = tmp_path / "images"
    images.mkdir()
    for name in ("web", "db"):
        pool.add_vm(name, [image(images, name, noise(name, 2 * MIB))])
        pool.db.put("VM", pool.vm(name), tags=["gold"])
    with LabServer(pool) as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path) -> Generator[Installation, None, None]:
    """An empty machine with a server and a worker, as the page starts them."""
    (tmp_path / "owner").mkdir()
    made = Installation(tmp_path / "owner")
    try:
        made.start()
        made._start("worker", *shlex.split(_line("prefect worker start")))
        yield made
    finally:
        made.stop()
    assert made.errors_of_the_server() == []


def _line(begins: str) -> str:
    """A command of the page, without its comment."""
    lines = [line for line in PAGE.splitlines() if line.startswith(begins)]
    return lines[0].partition(" #")[0].strip()


def site_file(folder: Path, lab: LabServer) -> Path:
    """The page's file, with the addresses of this machine."""
    (text,) = re.findall(r"```yaml\n(site: .*?)```", PAGE, re.S)
    (folder / "store").mkdir()
    (folder / "vault").mkdir()
    for before, after in {
        "https://xen1.example": lab.url,
        "username: backup ": f"username: {lab.username} ",
        "smb://nas.example/backup/ads": str(folder / "store"),
        "smb://other.example/vault/ads": str(folder / "vault"),
        "/var/lib/likeness": str(folder / "here"),
    }.items():
        assert before in text
        text = text.replace(before, after)
    text = re.sub(r"^mail:\n(  .*\n)+", "", text, flags=re.M)
    text = re.sub(r"^  username: likeness.*\n  password: .*\n", "", text, flags=re.M)
    text = text.replace("  ping_url: https://watchman.example/a1b2c3\n", "")
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def test_from_nothing_to_green_versions_as_the_page_says(
    machine: Installation, lab: LabServer, tmp_path: Path
) -> None:
    file = site_file(tmp_path, lab)
    machine.environment["POOL_PASSWORD"] = lab.password

    def typed(begins: str, *more: str, code: int = 0) -> str:
        words = shlex.split(_line(begins).replace("site.yaml", str(file)))
        done = subprocess.run(
            [sys.executable, "-m", *words, *more],
            cwd=ROOT,
            env=machine.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        assert lab.password not in done.stdout + done.stderr
        return done.stdout

    assert "likeness" in typed("likeness --version")
    typed("likeness apply site.yaml --plan", code=1)
    assert "RECOVERY SHEET" in typed("likeness apply site.yaml  ")
    typed("likeness apply site.yaml --plan")
    doctor = json.loads(typed("likeness doctor", "--json", code=1))
    assert [each["about"] for each in doctor if each["state"] == "wrong"] == ["telling people"]
    assert "nightly" in typed("likeness jobs")

    typed("likeness backup nightly")
    wait_until(
        lambda: "all 2 protected" in said_by(machine, "status"),
        "the event starts a validation, and all is green",
        seconds=180,
        pause=2,
    )
    assert 'likeness_versions{site="main",verdict="good"} 2.0' in typed("likeness metrics ")
    start = machine.artifact("start")["data"]
    assert "/v2/artifacts/key/dashboard" in start
    assert "nightly" in start


def said_by(machine: Installation, command: str) -> str:
    """What a command says, however it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "likeness", command],
        cwd=ROOT,
        env=machine.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout

"""A job of twenty VMs under a real server, and days on which server, database or worker fail."""

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.figures import FIGURES
from tests.flows.browser import Browser, browser
from tests.flows.installation import ROOT, Installation
from tests.flows.scene import MIB, NOTHING_LEFT, QUICK, image, left_in, noise
from tests.flows.waiting import wait_until

pytestmark = [
    pytest.mark.torture,
    pytest.mark.prefect,
    pytest.mark.lab,
    pytest.mark.timeout(1200),
]
PASSWORD = "hunter2-of-the-pool"
PICTURES = ROOT / "build" / "screenshots"
MANY = 20
LOCKED_SECONDS = 20.0
SET_UP = """
import json, sys
from pathlib import Path
from pydantic import SecretStr
from blocks import DataStoreShare, Vault, XenPool
from flows.set_up import set_up_site
given = json.loads(sys.argv[1])
folder = Path(given["folder"])
set_up_site(
    "main",
    pool=XenPool(url=given["url"], username=given["user"], password=SecretStr(given["pool"])),
    data_store=DataStoreShare(place=str(folder / "store"),
                              key_file=str(folder / "here" / "store.key")),
    vault=Vault(place=str(folder / "vault")),
    folder=folder / "here",
)
print("{}")
"""
COUNTED = """
CREATE TABLE written (at REAL, key TEXT);
CREATE TRIGGER counted_new AFTER INSERT ON artifact
    BEGIN INSERT INTO written VALUES (julianday('now') * 86400, NEW.key); END;
CREATE TRIGGER counted_changed AFTER UPDATE ON artifact
    BEGIN INSERT INTO written VALUES (julianday('now') * 86400, NEW.key || ' changed'); END;
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("day")
    for name in ("images", "store", "vault", "here", "owner"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def lab(folder: Path) -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password=PASSWORD))
    for number in range(MANY):
        name = f"vm{number:02}"
        pool.add_vm(name, [image(folder / "images", name, noise(name, MIB))])
    for name in ("web", "db"):
        pool.add_vm(name, [image(folder / "images", name, noise(name, MIB))])
    for number in range(4):
        name = f"big{number}"
        pool.add_vm(name, [image(folder / "images", name, noise(name, 24 * MIB))])
    with LabServer(pool) as server:
        yield server


def start_deployed(made: Installation, lab: LabServer, *pools: str) -> None:
    """A server, with a site in the folder above and all that `prefect.yaml` deploys; no worker."""
    made.start()
    for name in pools or ("here",):
        made.command("work-pool", "create", name, "--type", "process")
    folder = str(made.folder.parent)
    given = {"url": lab.url, "user": lab.username, "pool": PASSWORD, "folder": folder}
    made.python(SET_UP, json.dumps(given))
    made.command("deploy", "--all", "--no-prompt")


@pytest.fixture(scope="module")
def installation(folder: Path, lab: LabServer) -> Generator[Installation, None, None]:
    made = Installation(folder / "owner")
    try:
        start_deployed(made, lab)
        made.start_worker()
        yield made
    finally:
        made.stop()


def database(installation: Installation) -> sqlite3.Connection:
    """The server's database, beside it."""
    path = installation.folder / "prefect" / "prefect.db"
    return sqlite3.connect(path, timeout=30, isolation_level=None)


def job(name: str, *vms: str, **more: object) -> dict[str, object]:
    return {"job": {"name": name, "vms": list(vms), **more}}


def in_mid_transfer(installation: Installation, lab: LabServer, name: str) -> str:
    """A job of four VMs, two of them in mid-transfer, for a while; its flow run."""
    names = [f"big{number}" for number in range(4)]
    before = sum(lab.pool.counters()["exported_bytes"].values())
    parameters = job(name, *names, concurrency=2, bandwidth_mib=2)
    run = installation.run("backup-job/nightly", parameters)
    wait_until(
        lambda: sum(lab.pool.counters()["exported_bytes"].values()) > before + 4 * MIB,
        "two VMs are in mid-transfer",
        seconds=180,
    )
    return run


def backed_up(installation: Installation, run: str) -> set[str]:
    """VMs of which a run has made a version, as the page says."""
    assert run
    table = json.loads(installation.artifact("versions")["data"])
    return {row["VM"] for row in table}


def all_four(installation: Installation, name: str) -> None:
    """The report of a job: each VM has a version, and none was left out silently."""
    report = json.loads(installation.artifact(f"job-{name}")["data"])
    assert [row["VM"] for row in report] == [f"big{number}" for number in range(4)]
    assert [row for row in report if "✅" not in str(row) and row.get("problem")] == []


def the_next_one_runs(installation: Installation) -> None:
    run = installation.run("backup-job/nightly", job("next", "vm00"))
    assert installation.ended(run, seconds=300)["name"] == "Completed"


def test_twenty_vms_in_one_job(installation: Installation, lab: LabServer) -> None:
    """Orchestration costs little, runs are few, and pages are not written all the time."""
    with closing(database(installation)) as counting:
        counting.executescript(COUNTED)
        run = installation.run(
            "backup-job/nightly", job("many", *(f"vm{n:02}" for n in range(MANY)), concurrency=4)
        )
        ended = installation.ended(run, seconds=600)
        found = installation.flow_run(run)
        begun, over = (
            datetime.fromisoformat(found[key]).timestamp() for key in ("start_time", "end_time")
        )
        epoch = 2440587.5 * 86400
        writes = [
            (round(at - epoch - begun, 2), key)
            for at, key in counting.execute("SELECT at, key FROM written")
            if begun - 1 <= at - epoch <= over + 1
        ]
    wait_until(
        lambda: (
            installation.post(
                "/task_runs/filter",
                {
                    "flow_runs": {"id": {"any_": [run]}},
                    "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
                    "limit": 1,
                },
            )
            == []
        ),
        "the server has heard of each task's end",
        seconds=120,
        pause=0.5,
    )
    runs = int(installation.post("/task_runs/count", {"flow_runs": {"id": {"any_": [run]}}}))
    seconds = over - begun
    FIGURES.append(
        f"{MANY} VMs in one job: {seconds:.1f} s, {seconds / MANY:.2f} s per VM, {runs} task runs,"
        f" {len(writes)} artifact writes"
    )
    assert ended["name"] == "Completed"
    assert runs <= 10 * MANY
    at_the_end = 4  # the job, the versions, the dashboard, the start page
    assert len(writes) <= max(seconds, at_the_end + seconds / 2)
    assert seconds / MANY < 1.5
    assert left_in(lab.pool) == NOTHING_LEFT


@pytest.mark.needs("chromium", "chromedriver")
def test_a_person_backs_up_looks_and_restores_in_the_browser(
    installation: Installation, lab: LabServer, tmp_path: Path
) -> None:
    """From the start page to a restored VM, with nothing but the UI; pictures stay in build."""
    pages = f"http://127.0.0.1:{installation.port}/v2"
    with browser(tmp_path) as window:
        window.open(f"{pages}/{form_of(installation, 'backup-job/nightly')}")
        window.find("//label[normalize-space()='Job']")
        window.keep_picture(PICTURES / "1-job-form.png")
        run = submitted(window, installation, "backup-job")
        assert installation.ended(run)["name"] == "Completed"
        wait_until(
            lambda: "| ✅ | web |" in str(installation.artifact("dashboard")["data"]),
            "the event starts a validation, and all is green",
            seconds=180,
            pause=0.5,
        )
        window.open(f"{pages}/runs/flow-run/{run}")
        wait_until(lambda: "Completed" in window.text(), "the run's page says so")
        window.keep_picture(PICTURES / "2-run.png")
        window.open(f"{pages}/artifacts/key/dashboard")
        window.click("(//a[contains(@href, '/artifacts/artifact/')])[1]")
        green = re.compile(r"✅ all \d+ protected")
        wait_until(lambda: green.search(window.text()), "the dashboard is green")
        window.find("(//*[name()='svg'][starts-with(@id, 'mermaid')])[3]")
        window.keep_picture(PICTURES / "3-dashboard.png")

        window.open(f"{pages}/{form_of(installation, 'restore-vm/restore-vm')}")
        window.write(field("VM"), "web")
        window.write(field("New name"), "web, restored")
        window.keep_picture(PICTURES / "4-restore-form.png")
        restored = submitted(window, installation, "restore-vm")
        assert installation.ended(restored)["name"] == "Completed"
        window.open(f"{pages}/runs/flow-run/{restored}")
        wait_until(lambda: "Completed" in window.text(), "the run's page says so")
        window.keep_picture(PICTURES / "5-restored.png")

    (made,) = lab.pool.db.where("VM", name_label="web, restored")
    assert lab.pool.db.get("VM", made, "blocked_operations") == {}
    back = content(lab, "web, restored")  # a storage rounds sizes up
    assert (
        back.rstrip(b"\0") == content(lab, "web").rstrip(b"\0") == noise("web", MIB).rstrip(b"\0")
    )


def form_of(installation: Installation, deployment: str) -> str:
    """Where the form of a deployment is."""
    return f"deployments/deployment/{installation.get(f'/deployments/name/{deployment}')['id']}/run"


def field(label: str) -> str:
    """The text field below a label of a form, which may say that it is optional."""
    text = f"normalize-space()='{label}' or normalize-space()='{label} (Optional)'"
    return f"//label[{text}]/following::textarea[1]"


def submitted(window: Browser, installation: Installation, flow: str) -> str:
    """Press the form's button; the run that it starts."""
    before = {each["id"] for each in installation.runs_of(flow)}
    window.click("//button[normalize-space()='Submit']")
    made: list[str] = []

    def look() -> bool:
        made[:] = [e["id"] for e in installation.runs_of(flow) if e["id"] not in before]
        return bool(made)

    wait_until(look, f"the form starts {flow}", pause=0.2)
    (run,) = made
    return run


def content(lab: LabServer, vm: str) -> bytes:
    """What a VM's first disk holds."""
    disk = lab.pool.disk_of(vm, 0)
    return bytes(disk.read(0, disk.size))


def test_a_job_outlives_its_server(installation: Installation, lab: LabServer) -> None:
    run = in_mid_transfer(installation, lab, "headless")

    installation.kill_server()
    exported = sum(lab.pool.counters()["exported_bytes"].values())
    wait_until(
        lambda: sum(lab.pool.counters()["exported_bytes"].values()) > exported,
        "the job goes on without a server",
    )
    installation.start()

    assert installation.ended(run, seconds=600)["name"] == "Completed"
    all_four(installation, "headless")
    assert left_in(lab.pool) == NOTHING_LEFT
    the_next_one_runs(installation)


def test_a_job_outlives_a_locked_database(installation: Installation, lab: LabServer) -> None:
    run = in_mid_transfer(installation, lab, "locked")

    with closing(database(installation)) as other:
        other.execute("BEGIN IMMEDIATE")
        time.sleep(LOCKED_SECONDS)
        other.execute("ROLLBACK")

    assert installation.ended(run, seconds=600)["name"] == "Completed"
    all_four(installation, "locked")
    assert left_in(lab.pool) == NOTHING_LEFT
    the_next_one_runs(installation)


def test_a_job_whose_worker_is_killed_ends_and_is_swept(
    installation: Installation, lab: LabServer
) -> None:
    orphan = in_mid_transfer(installation, lab, "orphan")
    installation.kill_worker()
    ended = installation.ended(orphan, seconds=600)
    installation.start_worker()
    swept = installation.run("sweep/sweep", {})
    assert installation.ended(swept)["type"] == "COMPLETED"
    assert left_in(lab.pool) == NOTHING_LEFT
    assert ended["type"] in ("COMPLETED", "CRASHED"), ended
    FIGURES.append(f"the run of a killed worker ends {ended['name']}: {ended['message']}")
    the_next_one_runs(installation)

    lost = in_mid_transfer(installation, lab, "lost")
    process = installation.process_of_run(lost)
    installation.kill_worker()
    os.kill(process, signal.SIGKILL)
    installation.start_worker()
    swept = installation.run("sweep/sweep", {})
    assert installation.ended(swept)["type"] == "COMPLETED"
    assert installation.ended(lost)["type"] == "CRASHED"
    assert left_in(lab.pool) == NOTHING_LEFT
    the_next_one_runs(installation)

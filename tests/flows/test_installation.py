"""A whole installation: server, worker, deployments; a job through its deployment, and cancelled.

The slowest test of the suite: everything here is a real process.
"""

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.installation import Installation
from tests.flows.scene import NOTHING_LEFT, QUICK, image, noise
from tests.flows.waiting import wait_until

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.timeout(900)]
MIB = 1 << 20
MARKERS = {"pool": "hunter2-of-the-pool", "store": "hunter3-of-the-store", "vault": "hunter4-vault"}
CANCELLED_WITHIN_SECONDS = 20
SET_UP = """
import json, sys
from pathlib import Path
from pydantic import SecretStr
from blocks import DataStoreShare, Vault, XenPool
from flows.set_up import set_up_site
given = json.loads(Path(sys.argv[1]).read_text())
folder = Path(given["folder"])
made = set_up_site(
    "main",
    pool=XenPool(url=given["url"], password=SecretStr(given["pool"])),
    data_store=DataStoreShare(place=str(folder / "store"), password=SecretStr(given["store"]),
                              key_file=str(folder / "here" / "store.key")),
    vault=Vault(place=str(folder / "vault"), password=SecretStr(given["vault"])),
    folder=folder / "here",
)
print(json.dumps({"words": made.recovery_words, "installation": made.site.installation}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("installation")
    for name in ("images", "store", "vault", "here", "owner", "prefect"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def lab(folder: Path) -> Generator[LabServer, None, None]:
    pool = Pool(Settings(**QUICK, password=MARKERS["pool"]))
    images = folder / "images"
    pool.add_vm("web", [image(images, "web", noise("web", 3 * MIB)), 2 * MIB])
    pool.add_vm("db", [image(images, "db", noise("db", 2 * MIB))])
    for number in range(4):
        name = f"big{number}"
        pool.add_vm(name, [image(images, name, noise(name, 8 * MIB))])
    with LabServer(pool) as server:
        yield server


@pytest.fixture(scope="module")
def installation(folder: Path, lab: LabServer) -> Generator[Installation, None, None]:
    """All that the head of prefect.yaml says to do once."""
    made = Installation(folder / "owner")
    try:
        made.start()
        made.command("work-pool", "create", "here", "--type", "process")
        made.command("block", "register", "-m", "blocks")
        given = folder / "given.json"
        given.write_text(json.dumps({"url": lab.url, "folder": str(folder), **MARKERS}))
        made.secrets = [*MARKERS.values(), made.python(SET_UP, str(given))["words"]]
        given.unlink()
        made.command("deploy", "--all", "--no-prompt")
        made.start_worker()
        yield made
    finally:
        made.stop()


def left_in_the_pool(lab: LabServer) -> dict[str, int]:
    db = lab.pool.db
    frozen = db.where("VDI", is_a_snapshot=True, managed=True)
    return {
        "snapshots": len(db.where("VM", is_a_snapshot=True)),
        "frozen disks": sum(db.get("VDI", each, "type") != "cbt_metadata" for each in frozen),
    }


def job(name: str, *vms: str, **more: object) -> dict[str, object]:
    return {"job": {"name": name, "vms": list(vms), **more}}


def test_a_deployed_job_is_validated_by_its_commit_event_and_its_versions_turn_green(
    installation: Installation, lab: LabServer
) -> None:
    run = installation.run("backup-job/nightly", job("nightly", "web", "db", concurrency=2))

    assert installation.ended(run)["name"] == "Completed"
    wait_until(lambda: installation.runs_of("validate"), "the event starts a validation")
    (validation,) = installation.runs_of("validate")
    assert validation["parameters"] == {"site": "main", "run": run.replace("-", "")}
    assert installation.ended(validation["id"])["name"] == "Completed"
    table = json.loads(installation.artifact("versions")["data"])
    assert sorted((row["VM"], row["verdict"]) for row in table) == [("db", "✅"), ("web", "✅")]
    assert [row["VM"] for row in json.loads(installation.artifact("job-nightly")["data"])] == [
        "web",
        "db",
    ]
    assert "good" in installation.artifact("validation-report")["data"]
    assert left_in_the_pool(lab) == NOTHING_LEFT


def test_cancelling_in_mid_transfer_drops_every_snapshot(
    installation: Installation, lab: LabServer
) -> None:
    names = [f"big{number}" for number in range(4)]
    parameters = job("long", *names, concurrency=2, bandwidth_mib=1)
    run = installation.run("backup-job/nightly", parameters)
    exported = lab.pool.counters()["exported_bytes"]
    wait_until(
        lambda: (
            left_in_the_pool(lab)["snapshots"] == 2
            and sum(lab.pool.counters()["exported_bytes"].values()) > sum(exported.values())
        ),
        "two VMs are in mid-transfer",
        seconds=180,
    )

    installation.post(
        f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    )
    wait_until(
        lambda: left_in_the_pool(lab) == NOTHING_LEFT,
        "no snapshot is left",
        seconds=CANCELLED_WITHIN_SECONDS,
    )

    assert installation.ended(run)["type"] == "CANCELLED"
    frozen = lab.pool.journal.entries("Async.VM.snapshot")
    assert len([entry for entry in frozen if "long" in str(entry.parameters[1])]) == 2
    table = json.loads(installation.artifact("versions")["data"])
    assert sorted(row["VM"] for row in table) == ["db", "web"]


def test_no_secret_is_written_down_anywhere(installation: Installation) -> None:
    secrets = [secret.encode() for secret in installation.secrets]

    written = installation.written()
    found = [path for path, data in written.items() if any(secret in data for secret in secrets)]

    assert found == []
    assert any(path.name == "prefect.db" for path in written)
    assert any(b"snapshot of" in data for data in written.values()), "logs are looked at, too"
    lines = installation.command_lines()
    assert any("worker" in line for line in lines)
    assert [line for line in lines if any(s.decode() in line for s in secrets)] == []

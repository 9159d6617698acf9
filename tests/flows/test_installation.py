"""A whole installation: server, worker, deployments; a job through its deployment, and cancelled.

The slowest test of the suite: everything here is a real process.
"""

import json
import os
import re
import signal
from collections.abc import Generator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.flows.browser import browser
from tests.flows.installation import ROOT, Installation
from tests.flows.scene import NOTHING_LEFT, QUICK, image, left_in, noise
from tests.flows.waiting import wait_until
from tests.validation.mail_server import ACCOUNT, PASSWORD, MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab, pytest.mark.timeout(900)]
MIB = 1 << 20
MARKERS = {
    "pool": "hunter2-of-the-pool",
    "store": "hunter3-of-the-store",
    "vault": "hunter4-vault",
    "mail": PASSWORD,
}
CANCELLED_WITHIN_SECONDS = 20
IN_ONE_PROCESS = """
import sys
from prefect.cli import app
def prefect(*words):
    given, sys.argv = sys.argv, ["prefect", *words]
    try:
        app()
    except SystemExit as ended:
        assert not ended.code, words
    finally:
        sys.argv = given
prefect("work-pool", "create", "here", "--type", "process")
prefect("block", "register", "-m", "blocks")
"""
"""Commands as their owner types them, without an interpreter for each."""

DEPLOY = """
words = json.dumps({"words": made.recovery_words, "installation": made.site.installation})
prefect("deploy", "--all", "--no-prompt")
print(words)
"""
SET_UP = """
import json, sys
from pathlib import Path
from pydantic import SecretStr
from blocks import DataStoreShare, Mail, Vault, XenPool
from prefect_email import EmailServerCredentials
from flows.set_up import set_up_site
from flows.settings import change_settings
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
server = EmailServerCredentials(
    smtp_server="127.0.0.1", smtp_port=given["mail_port"], smtp_type="STARTTLS",
    username=given["mail_account"], password=SecretStr(given["mail"]))
server.save("mail-server")
Mail(server="mail-server", sender="likeness@example.com",
     recipients=["ops@example.com"]).save("mail")
change_settings("main", mail="mail")
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
        pool.add_vm(name, [image(images, name, noise(name, 40 * MIB))])
    with LabServer(pool) as server:
        yield server


@pytest.fixture(scope="module")
def mail_server(folder: Path) -> Generator[MailServer, None, None]:
    server = MailServer(folder, "STARTTLS")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def installation(
    folder: Path, lab: LabServer, mail_server: MailServer
) -> Generator[Installation, None, None]:
    """All that the head of prefect.yaml says to do once."""
    made = Installation(folder / "owner")
    made.environment["SSL_CERT_FILE"] = str(folder / "mail.pem")
    try:
        made.start()
        given = folder / "given.json"
        mail = {"mail_port": mail_server.port, "mail_account": ACCOUNT}
        given.write_text(json.dumps({"url": lab.url, "folder": str(folder), **mail, **MARKERS}))
        told = made.python(IN_ONE_PROCESS + SET_UP + DEPLOY, str(given))
        made.secrets = [*MARKERS.values(), told["words"]]
        given.unlink()
        made.start_worker()
        yield made
    finally:
        made.stop()
    assert made.errors_of_the_server() == []


def job(name: str, *vms: str, **more: object) -> dict[str, object]:
    return {"job": {"name": name, "vms": list(vms), **more}}


def test_a_deployed_job_is_validated_by_its_commit_event_and_its_versions_turn_green(
    installation: Installation, lab: LabServer
) -> None:
    run = installation.run("backup-job/nightly", job("nightly", "web", "db", concurrency=2))

    assert installation.ended(run)["name"] == "Completed"
    wait_until(lambda: installation.runs_of("validate"), "the event starts a validation", pause=0.2)
    (validation,) = installation.runs_of("validate")
    assert validation["parameters"] == {"site": "main", "run": run.replace("-", "")}
    assert installation.ended(validation["id"])["name"] == "Completed"
    green = [("db", "✅"), ("web", "✅")]
    wait_until(  # it is written when a run is over
        lambda: sorted((row["VM"], row["verdict"]) for row in table(installation)) == green,
        "the table is green",
        pause=0.2,
    )
    assert [row["VM"] for row in json.loads(installation.artifact("job-nightly")["data"])] == [
        "web",
        "db",
    ]
    assert "good" in installation.artifact("validation-report")["data"]
    assert left_in(lab.pool) == NOTHING_LEFT


def in_mid_transfer(installation: Installation, lab: LabServer, name: str) -> str:
    """A job that has two VMs in mid-transfer, for a while; its flow run."""
    names = [f"big{number}" for number in range(4)]
    parameters = job(name, *names, concurrency=2, bandwidth_mib=1)
    run = installation.run("backup-job/nightly", parameters)
    exported = lab.pool.counters()["exported_bytes"]
    wait_until(
        lambda: (
            left_in(lab.pool)["snapshots"] == 2
            and sum(lab.pool.counters()["exported_bytes"].values()) > sum(exported.values())
        ),
        "two VMs are in mid-transfer",
        seconds=180,
    )
    return run


def table(installation: Installation) -> list[dict[str, str]]:
    """Of the versions, as people see it."""
    found: list[dict[str, str]] = json.loads(installation.artifact("versions")["data"])
    return found


def page(installation: Installation) -> str:
    return str(installation.artifact("dashboard")["data"])


def percents_shown(installation: Installation, label: str) -> list[float]:
    """How far the page says that an item of the commit queue is, with its speed beside."""
    row = rf"\| commit \| {re.escape(label)} \| transfer \| [0-9.]+ MB/s \| ([0-9.]+) % of "
    return [float(found) for found in re.findall(row, page(installation))]


def told_of(mail_server: MailServer, name: str) -> str:
    """The one mail about a job, once it is there; its subject."""

    def about() -> list[str]:
        return [m["Subject"] for m in mail_server.inbox if f"job {name}:" in m["Subject"]]

    wait_until(about, f"a mail about job {name}", seconds=180, pause=0.2)
    (subject,) = about()
    return subject


def test_cancelling_in_mid_transfer_drops_every_snapshot(
    installation: Installation, lab: LabServer, mail_server: MailServer
) -> None:
    run = in_mid_transfer(installation, lab, "long")
    wait_until(
        lambda: len(percents_shown(installation, "big0 (job long)")) == 1, "it is shown", pause=0.2
    )
    (shown,) = percents_shown(installation, "big0 (job long)")
    wait_until(
        lambda: any(p > shown for p in percents_shown(installation, "big0 (job long)")),
        "the page moves while a job runs",
        pause=0.2,
    )
    assert "2 VMs: big2 (job long), big3 (job long) | waiting" in page(installation)

    installation.post(
        f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    )
    wait_until(
        lambda: left_in(lab.pool) == NOTHING_LEFT,
        "no snapshot is left",
        seconds=CANCELLED_WITHIN_SECONDS,
    )

    assert installation.ended(run)["type"] == "CANCELLED"
    frozen = lab.pool.journal.entries("Async.VM.snapshot")
    assert len([entry for entry in frozen if "long" in str(entry.parameters[1])]) == 2
    assert sorted(row["VM"] for row in table(installation)) == ["db", "web"]
    assert told_of(mail_server, "long") == "Likeness: job long: Cancelled"


def test_a_job_whose_process_is_killed_is_told_by_mail_and_swept(
    installation: Installation, lab: LabServer, mail_server: MailServer
) -> None:
    run = in_mid_transfer(installation, lab, "orphan")

    os.kill(installation.process_of_run(run), signal.SIGKILL)

    assert installation.ended(run)["type"] == "CRASHED"
    assert told_of(mail_server, "orphan") == "Likeness: job orphan: Crashed"
    wait_until(lambda: left_in(lab.pool) == NOTHING_LEFT, "the sweep came", seconds=180)


def test_a_job_that_dies_with_its_worker_is_told_by_the_next_sweep(
    installation: Installation, lab: LabServer, mail_server: MailServer
) -> None:
    run = in_mid_transfer(installation, lab, "widow")
    process = installation.process_of_run(run)
    installation.kill_worker()  # as when the machine goes down: nobody is left to say so
    os.kill(process, signal.SIGKILL)
    installation.start_worker()
    assert installation.flow_run(run)["state"]["type"] == "RUNNING"

    swept = installation.run("sweep/sweep", {})

    assert installation.ended(swept)["type"] == "COMPLETED"
    assert told_of(mail_server, "widow") == "Likeness: job widow: Crashed"
    (mail,) = [m for m in mail_server.inbox if "job widow:" in m["Subject"]]
    assert run.replace("-", "") in mail.get_content()
    assert left_in(lab.pool) == NOTHING_LEFT
    assert installation.ended(run)["type"] == "CRASHED"


@pytest.mark.needs("chromium", "chromedriver")
def test_the_age_is_changed_in_the_form_of_the_site(
    installation: Installation, tmp_path: Path
) -> None:
    """Prefect's new editor and its old one save every field of the form."""
    documents = "/block_types/slug/likeness-site/block_documents/name/main"
    before = installation.get(documents)
    page = f"http://127.0.0.1:{installation.port}{{}}/blocks/block/{before['id']}/edit"
    field = "//label[contains(., 'validate data blocks older than')]/following::textarea[1]"

    with browser(tmp_path) as window:
        for place, age in (("", "3 weeks"), ("/v2", "2 weeks")):
            window.open(page.format(place))
            for _ in range(5):  # as a person does whose page says that the database is busy
                window.write(field, age)
                window.click("//button[normalize-space()='Save']")
                with suppress(AssertionError):
                    wait_until(lambda: "updated successfully" in window.text(), "", seconds=5)
                    break
            assert installation.get(documents)["data"]["revalidate_after"] == age, window.text()

    after = installation.get(documents)["data"]
    assert after == {**before["data"], "revalidate_after": "2 weeks"}


def test_every_schedule_starts_runs_and_a_job_that_one_started_ends_green(
    installation: Installation,
) -> None:
    """Behind jobs that were cancelled and killed, on a site that was changed in its form."""
    planned = installation.scheduled()
    sample = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert sorted(planned) == sorted(each["name"] for each in sample if each.get("schedules"))
    assert {"nightly", "revalidate", "sweep", "vault", "check-vault", "protect"} < set(planned)
    soon = (datetime.now(UTC) + timedelta(seconds=12)).isoformat()
    for name, deployment in planned.items():
        # As in prefect.yaml, but nobody waits until the evening for the job.
        when = {"interval": 60, "anchor_date": soon} if name == "nightly" else {}
        installation.switch(deployment, active=True, **when)

    for name, deployment in planned.items():
        wait_until(
            lambda each=deployment: installation.planned_runs(each),  # type: ignore[misc]
            f"the schedule of {name} makes runs",
            seconds=240,
            pause=0.5,
        )
        if name != "nightly":
            installation.switch(deployment, active=False)
    run = installation.planned_runs(planned["nightly"])[0]
    assert installation.ended(run["id"])["name"] == "Completed"
    installation.switch(planned["nightly"], active=False)
    wait_until(  # it is written when a run is over
        lambda: [row["VM"] for row in table(installation)].count("web") >= 2,
        "the table has what the job made",
        pause=0.2,
    )


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

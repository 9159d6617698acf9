"""V1, V4 and V5 as the flow does them: a run of its own, a step for each disk, one page."""

import json
import threading
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.objects import TaskRun

from catalog.values import Verdict
from flows.validate import validate
from tests.flows.scene import Scene, noise
from tests.validation.mail_server import MailServer, account_of, mail_of
from tests.validation.test_slow_share import newest_artifact

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


def steps_named(beginning: str, since: datetime) -> list[TaskRun]:
    """Task runs that began since then; the server is shared, and hears of them a little later."""
    named = TaskRunFilter(name=TaskRunFilterName(like_=beginning))
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(task_run_filter=named)
    return [each for each in found if each.start_time is not None and each.start_time > since]


def steps_once_heard(since: datetime, count: int) -> list[TaskRun]:
    for _ in range(120):
        found = steps_named("validate web", since) + steps_named("validate db", since)
        if len(found) >= count and all(each.state_name == "Validated" for each in found):
            break
        time.sleep(0.5)
    return found


def test_v1_every_disk_of_a_job_is_validated_by_a_run_of_its_own_after_the_job(
    new_site: Callable[..., Scene],
) -> None:
    size, begun = 200_000, datetime.now(UTC)
    site = new_site(
        {
            "web": [noise("w0", size), noise("w1", size)],
            "db": [noise("d0", size), noise("d1", size)],
        }
    )
    job = site.back_up("web", "db")
    assert job.is_completed()
    assert set(site.verdicts()) == {Verdict.UNCHECKED}
    assert steps_named("validate web", begun) == []
    (run,) = {row.run for row in site.listed()}

    ended = validate(site=site.name, run=run, return_state=True)

    assert ended.is_completed(), ended.message
    assert set(site.verdicts()) == {Verdict.GOOD}
    disks = steps_once_heard(begun, 4)
    assert len(disks) == 4
    for each in disks:
        assert each.state_name == "Validated"
        assert each.start_time is not None
        assert each.start_time > job.timestamp
    page = newest_artifact(f"dashboard-{site.name}")
    assert "| validate |" in page
    assert "## What another age would cost" in page


@pytest.fixture
def hook() -> Generator[tuple[str, list[Any]], None, None]:
    """A web server that keeps what it is told: its address, and what it was told."""
    told: list[Any] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_v4_damage_is_told_once_by_both_ways_and_a_mail_server_that_is_down_is_seen(
    new_site: Callable[..., Scene],
    hook: tuple[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, told = hook
    server = MailServer(tmp_path, "STARTTLS")
    server.start()  # makes its certificate
    server.stop()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))
    site = new_site({"web": [noise("w0", 200_000)]})
    webhook = CustomWebhookNotificationBlock(
        name="ops", url=address, json_data={"text": "{{subject}}", "body": "{{body}}"}
    )
    webhook.save("ops", overwrite=True)
    account_of(server).save("mail-server", overwrite=True)
    mail_of(server).save("mail", overwrite=True)
    site.set(mail="mail", webhook="custom-webhook/ops")
    site.back_up("web", validated=True)
    (pack,) = site.packs()
    pack.unlink()

    ended = site.validate()

    assert ended.is_failed()
    assert "damage found" in str(ended.message)
    assert "1 message could not be delivered yet (mail:" in str(ended.message)
    assert [each["text"] for each in told] == ["Likeness: damage found: 1 version of 1 VM (web)"]
    assert "WHAT HAPPENS NEXT" in told[0]["body"]
    assert "not yet" in newest_artifact(f"messages-{site.name}")

    server.start()
    try:
        site.validate()
        site.validate()
    finally:
        server.stop()
    assert [mail["Subject"] for mail in server.inbox] == [told[0]["text"]]
    assert len(told) == 1

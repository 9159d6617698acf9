"""What should have happened and has not is told, once a day; a ping says that all is well."""

import threading
from collections.abc import Callable, Generator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from blocks.site import SiteSettings
from catalog import versions
from flows.backup import backup_job
from flows.validate import validate
from flows.watch import watch
from likeness.clock import system_clock
from tasks import overdue_jobs, watching
from tests.flows.scene import Scene
from tests.flows.test_telling import page, subjects
from tests.validation.mail_server import MailServer

pytestmark = [pytest.mark.prefect, pytest.mark.lab]


class Watchman:
    """A real HTTP server that counts calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.status = 200
        self.hangs = threading.Event()
        self.hangs.set()
        watchman = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                watchman.calls.append(self.path)
                watchman.hangs.wait(60)
                self.send_response(watchman.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/a-secret"

    def stop(self) -> None:
        self.hangs.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def watchman() -> Generator[Watchman, None, None]:
    server = Watchman()
    yield server
    server.stop()


def deploy(
    site: Scene,
    name: str,
    *vms: str,
    on: bool | None = True,
    pool: str = "",
    flow: Any = backup_job,
) -> str:
    """Deploy a flow as `prefect deploy` does; without a schedule if `on` is none."""
    nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 22 * * *"), active=bool(on))
    job = {"job": {"name": name, "vms": vms or ["web", "db"]}} if flow is backup_job else {}
    with get_client(sync_client=True) as client:
        return str(
            client.create_deployment(
                client.create_flow(flow),
                f"{site.name}-{name}",
                schedules=[] if on is None else [nightly],
                parameters={**job, "site": site.name},
                work_pool_name=pool or None,
            )
        )


def look(site: Scene) -> Any:
    return watch(site=site.name, return_state=True)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the watch look so many hours from now."""

    def put(hours: float) -> None:
        moment = lambda: system_clock() + timedelta(hours=hours)  # noqa: E731
        monkeypatch.setattr(watching, "system_clock", moment)

    return put


def test_while_all_is_well_the_watchman_is_called_and_nobody_is_told(
    site: Scene, mailed: MailServer, watchman: Watchman, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(site, "nightly")
    site.back_up("web", "db", validated=True, vault=True)
    site.set(ping_url=watchman.url)

    ended = look(site)

    assert (ended.name, ended.message) == ("Completed", "nothing is overdue")
    assert watchman.calls == ["/a-secret"]
    assert subjects(mailed) == []
    watchman.status = 500
    unheard = look(site)
    assert (unheard.is_completed(), unheard.name) == (True, "CompletedWithWarnings")
    assert "its server answers with 500" in unheard.message
    assert "a-secret" not in unheard.message
    assert subjects(mailed) == [f"overdue in {site.name}: 1 alarm"]

    monkeypatch.setattr(watching, "_PING_SECONDS", 0.5)
    watchman.hangs.clear()
    ended = look(site)
    assert ended.is_completed(), "one that never answers holds up nothing"
    assert "the ping did not arrive" in ended.message


def test_what_grows_old_is_told_once_a_day_and_red_on_the_dashboard(
    site: Scene, mailed: MailServer, watchman: Watchman, later: Callable[[float], None]
) -> None:
    deploy(site, "nightly")
    site.back_up("db", validated=True, vault=True)
    site.back_up("db")
    site.set(ping_url=watchman.url)
    assert look(site).is_completed(), "a new VM has time until its first backup"
    watchman.calls.clear()
    later(40)

    ended = look(site)
    again = look(site)

    assert (ended.name, ended.is_failed(), again.name) == ("Overdue", True, "Overdue")
    for said in (
        "VM 'db': its last good version is",
        "a newer one is unchecked",
        "VM 'web' has no good version",
        "validation falls behind: 1 version not validated, the oldest of VM 'db'",
        f"the vault falls behind: 1 version not in {site.folder / 'vault'}",
        f"job nightly (deployment {site.name}-nightly) has not run yet",
    ):
        assert said in ended.message
        assert said in page(site, "dashboard")
    assert "❌ **Overdue**" in page(site, "dashboard")
    assert watchman.calls == []
    assert subjects(mailed) == [f"overdue in {site.name}: 5 alarms"]
    assert "VM 'web' has no good version" in mailed.inbox[0].get_content()
    later(65)  # the day after
    assert look(site).name == "Overdue"
    assert len(subjects(mailed)) == 2
    site.set(alarm_after_hours=0)
    assert look(site).is_completed()
    site.set(alarm_after_hours=30)
    _a_pool_that_is_away_is_an_alarm_and_hides_no_other(site)


def _a_pool_that_is_away_is_an_alarm_and_hides_no_other(site: Scene) -> None:
    site.save(xen_pool={"url": "https://127.0.0.1:9", "patience_seconds": 1})

    ended = look(site)

    assert ended.name == "Overdue"
    assert "nobody can say which VMs need a backup" in ended.message
    assert "VM 'db': its last good version is" in ended.message
    assert len(versions.list_vms(site.site.catalog.file)) == 1


def test_jobs_that_nothing_starts_and_pools_that_nobody_serves_are_told(site: Scene) -> None:
    name, gone = f"pool-{site.name}", f"gone-{site.name}"
    with get_client(sync_client=True) as client:
        for pool in (name, gone):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.send_worker_heartbeat(name, "worker", heartbeat_interval_seconds=600)
    deploy(site, "nightly", pool=name)
    assert look(site).is_completed()
    deploy(site, "paused", on=False, pool=name)
    deploy(site, "forgotten", on=None, pool=gone)
    deploy(site, "broken", "", pool=name)
    deploy(site, "revalidate", on=False, flow=validate)

    ended = look(site)

    causes = {each.sentence for each in ended.result(raise_on_failure=False).causes}
    assert causes == {
        f"a schedule of job paused (deployment {site.name}-paused) is paused; resume it, or delete"
        " it if that is meant",
        f"no schedule starts job forgotten (deployment {site.name}-forgotten); give it one, or the"
        f" tag '{overdue_jobs.BY_HAND}' if people do",
        f"job broken (deployment {site.name}-broken) has no job that can be run; correct its"
        " parameters",
        f"a schedule of validate (deployment {site.name}-revalidate) is paused; resume it, or"
        " delete it if that is meant",
        f"work pool '{gone}' has no live worker; start one with: prefect worker start --pool"
        f" {gone}",
    }


@pytest.mark.parametrize("url", ["ftp://x/y", "https://", "https://me:pw@x/", "x", "http://a b"])
def test_what_is_no_address_to_ping_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        SiteSettings(ping_url=url)

"""One Prefect server for all of these tests, and sites made in one line."""

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect import Task

from likeness.clock import system_clock
from likeness.xen.snapshots import take_snapshot
from tests.flows.scene import Scene, Vms, open_scene
from tests.validation.mail_server import MailServer, account_of, mail_of

OUR_TASKS = ("tasks.", "flows.")


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    """Tests that are marked so have the server; the others do not wait for it."""
    if request.node.get_closest_marker("prefect"):
        request.getfixturevalue("prefect_server")


@pytest.fixture(scope="session", autouse=True)
def _retries_do_not_wait() -> Generator[None, None, None]:
    """Steps, and snapshots after storage trouble, are tried again as often as ever, but at once."""
    with pytest.MonkeyPatch.context() as patch:
        defaults = take_snapshot.__kwdefaults__ or {}
        assert "storage_pause" in defaults
        patch.setitem(defaults, "storage_pause", 0.05)
        for step in _our_tasks():
            if step.retries:
                patch.setattr(step, "retry_delay_seconds", [0.0] * step.retries)
        yield


def _our_tasks() -> list[Task[..., Any]]:
    modules = [module for name, module in sys.modules.items() if name.startswith(OUR_TASKS)]
    found = {
        id(value): value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Task)
    }
    assert len(found) >= 10
    return list(found.values())


@pytest.fixture
def new_site(tmp_path: Path) -> Generator[Callable[..., Scene], None, None]:
    """Make a pool of the lab with some VMs, and a site that protects it."""
    with ExitStack() as held:

        def make(vms: Vms | None = None, **settings: Any) -> Scene:
            folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
            return held.enter_context(open_scene(folder, vms, **settings))

        yield make


@pytest.fixture
def site(new_site: Callable[..., Scene]) -> Scene:
    """Two VMs, web with two disks and db with one, and a vault."""
    return new_site()


@pytest.fixture
def mailed(
    site: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[MailServer, None, None]:
    """The site's mail goes to a real server."""
    server = MailServer(tmp_path, "STARTTLS")
    server.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.pem"))
    account_of(server).save("mail-server", overwrite=True)
    mail_of(server).save(f"mail-{site.name}", overwrite=True)
    site.set(mail=f"mail-{site.name}")
    yield server
    server.stop()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the clock of a reclaim stand so many days later."""

    def set_clock(days: int) -> None:
        def clock() -> datetime:
            return system_clock() + timedelta(days=days)

        monkeypatch.setattr("tasks.reclaim.system_clock", clock)

    return set_clock

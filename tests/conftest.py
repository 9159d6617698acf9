"""What every test stands on: a private Prefect home, hypothesis profiles, loud skips."""

import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from inspect import iscoroutine
from pathlib import Path
from typing import Any

import certifi

# Processes that tests start find modules compiled, and so does the next run of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def _use_memory_for_files() -> None:
    """Keep temporary files in memory where there is plenty: half of the time goes into files."""
    memory, wanted = Path("/dev/shm"), 10 << 30
    if "TMPDIR" in os.environ or not memory.is_dir():
        return
    free = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    if free and min(shutil.disk_usage(memory).free, int(free[1]) << 10) > wanted:
        os.environ["TMPDIR"] = str(memory)
        tempfile.tempdir = None


_use_memory_for_files()
# Prefect reads these when it is first imported, so they come before any other import of ours.
_PREFECT_HOME = tempfile.mkdtemp(prefix="likeness-tests-prefect-")
# A client of Prefect reads every authority anew, also where it speaks plain HTTP: 17 ms each time.
_ONE_AUTHORITY = Path(_PREFECT_HOME, "one-authority.pem")
_END = "-----END CERTIFICATE-----\n"
_ONE_AUTHORITY.write_text(Path(certifi.where()).read_text().partition(_END)[0] + _END)
os.environ.update(
    PREFECT_HOME=_PREFECT_HOME,
    PREFECT_API_SSL_CERT_FILE=str(_ONE_AUTHORITY),
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED="false",  # the tests' server asks for no token
    PREFECT_LOGGING_COLORS="false",
    PREFECT_LOGGING_TO_API_ENABLED="false",  # only the whole installation's logs are looked at
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_ENABLED="false",  # a flow called by accident fails at once
    # Only the whole installation, which has a server of its own, is moved by events.
    PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED="false",
    PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED="false",
    # A transaction for many steps instead of one for each of their states.
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE="100",
    PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL="1",
    DO_NOT_TRACK="1",
)
for _inherited in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
    os.environ.pop(_inherited, None)  # no test may reach a real installation

import hypothesis  # noqa: E402  # after the environment above
import pytest  # noqa: E402

from tests.figures import FIGURES  # noqa: E402

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")
ADMIN_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
NEEDED_BY_MARKER = {"smb": ("smbd",)}
MAY_NOT_SKIP_IN_CI = ("needs", "smb", "lab", "prefect")

hypothesis.settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, database=None
)
hypothesis.settings.register_profile("torture", deadline=None, max_examples=5_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def missing_programs(item: pytest.Item) -> list[str]:
    """Name the programs that a test's markers ask for and this machine lacks."""
    asked = [name for mark in item.iter_markers("needs") for name in mark.args]
    for marker, programs in NEEDED_BY_MARKER.items():
        if item.get_closest_marker(marker):
            asked.extend(programs)
    return [name for name in dict.fromkeys(asked) if not shutil.which(name, path=ADMIN_PATH)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_programs(item)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (tests/packages.sh names the packages)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, a test that could not run is a failure: nobody reads the list of skips there."""
    report = yield
    really_skipped = report.skipped and not hasattr(report, "wasxfail")
    if IN_CI and really_skipped and any(item.get_closest_marker(m) for m in MAY_NOT_SKIP_IN_CI):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must run in CI, but: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI, no whole file of tests may bow out either."""
    report = yield
    if IN_CI and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} must run in CI, but: {reason}"
    return report


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: no garbage collection looks at them again."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What was counted in this process goes to the one that reports."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = list(FIGURES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    FIGURES.extend(getattr(node, "workeroutput", {}).get("figures", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in FIGURES:
        terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def prefect_server() -> Generator[None, None, None]:
    """A real server with a database of its own; flows do not wait for a heartbeat thread to end.

    One for the whole process: Prefect's event client stays with the first server it meets.
    """
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from tests.support.prefect_server import remember_time_zones, running_server

    remember_time_zones()
    with (
        running_server(Path(_PREFECT_HOME)),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        _types_of_blocks_registered_once(),
    ):
        yield


@contextmanager
def _types_of_blocks_registered_once() -> Generator[None, None, None]:
    """By whoever saves the first block of a type; Prefect alone asks its server at every save."""
    from prefect.blocks.core import Block
    from prefect.settings import PREFECT_API_URL

    register = Block.__dict__["register_type_and_schema"].__func__
    known: set[tuple[type[Block], str | None]] = set()

    def register_once(kind: type[Block], *given: Any, **more: Any) -> Any:
        this = (kind, PREFECT_API_URL.value())
        if this in known:
            return None
        done = register(kind, *given, **more)
        if not iscoroutine(done):
            known.add(this)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "register_type_and_schema", classmethod(register_once))
        yield


@pytest.fixture(scope="session")
def prefect_home() -> Path:
    """The folder that Prefect keeps this session's files in; nobody else's."""
    return Path(_PREFECT_HOME)


def pytest_unconfigure() -> None:
    shutil.rmtree(_PREFECT_HOME, ignore_errors=True)

"""A whole installation as its owner runs it: server, worker, deployments; real processes.

Everything lies in one folder and listens on loopback. Processes are ended by their own pids.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.flows.waiting import wait_until
from tests.support.prefect_server import made_database

ROOT = Path(__file__).resolve().parents[2]
STATES_AT_END = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    """A port nobody listens on, outside the range that others are given by chance."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Installation:
    """A Prefect server with a process worker, and a client for its API."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.secrets: list[str] = []
        self.login = ""
        self._running: list[subprocess.Popen[bytes]] = []
        self._said: str | None = None  # the server's log until it was told to stop
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_SERVICES_TRIGGERS_PROACTIVE_SERVICE_INTERVAL": "2",
            "DO_NOT_TRACK": "1",
            "PYTHONTZPATH": "",  # one list of zones, not folders that the server reads each time
            "PYTHONPATH": str(ROOT),
        }

    # -- processes -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it answers; at first with what is made at its start."""
        self._said = None
        database = Path(self.environment["PREFECT_HOME"], "prefect.db")
        is_its_own = "PREFECT_API_DATABASE_CONNECTION_URL" not in self.environment
        if is_its_own and made_database().exists() and not database.exists():
            database.parent.mkdir(0o700, exist_ok=True)  # as Prefect makes it
            shutil.copyfile(made_database(), database)
        self._start("server", "prefect", "server", "start", "--host", "127.0.0.1")
        self._running.insert(0, self._running.pop())
        wait_until(self._answers, "the Prefect server answers", seconds=180, pause=0.2)

    def start_worker(
        self,
        pool: str = "here",
        name: str = "one",
        *,
        core: int | None = None,
        within: Sequence[str] = (),
        limit: int = 0,
    ) -> int:
        """Start what runs the deployments, and wait until the server knows it; its process.

        Args:
            pool: The work pool that it serves.
            name: Of the worker.
            core: The one that it and its runs may use; any if none.
            within: A command that it is started by.
            limit: How many runs it takes at once; any number if 0.
        """
        log = "worker" if name == "one" else f"worker-{name}"
        before = self._heard_of(pool, name)
        serve = ["prefect", "worker", "start", "--pool", pool, "--name", name]
        serve += ["--limit", str(limit)] if limit else []
        started = self._start(log, *serve, core=core, within=within)
        wait_until(
            lambda: self._heard_of(pool, name) != before,
            f"worker {name} is known",
            seconds=120,
            pause=0.2,
        )
        return started

    def _heard_of(self, pool: str, worker: str) -> object:
        """When the server last heard of a worker; nothing if it never did."""
        known = self.post(f"/work_pools/{pool}/workers/filter", {})
        return [each["last_heartbeat_time"] for each in known if each["name"] == worker]

    def _start(
        self, name: str, *module: str, core: int | None = None, within: Sequence[str] = ()
    ) -> int:
        pinned = [*within, *([] if core is None else ["taskset", "--cpu-list", str(core)])]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running.append(
                subprocess.Popen(
                    [*pinned, sys.executable, "-m", *module],
                    cwd=ROOT,
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return self._running[-1].pid

    def stop(self) -> None:
        """End the processes of this installation, the worker first and the server last."""
        for process in reversed(self._running[1:]):
            _end(process)
        self._said = self._log_of_the_server()
        for process in self._running[:1]:
            _end(process)

    def _log_of_the_server(self) -> str:
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop_process(self, pid: int) -> None:
        """End one of them."""
        (process,) = [each for each in self._running if each.pid == pid]
        self._running.remove(process)
        _end(process)

    def errors_of_the_server(self) -> list[str]:
        """What the server, or a service in its background, logged as an error.

        Not what a busy database refused: that is asked for again. Nor what it says of work that it
        breaks off because it is told to stop.
        """
        log = self._log_of_the_server() if self._said is None else self._said
        entries = re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \| |\[\d\d/)", log, flags=re.MULTILINE)
        wrong = [entry for entry in entries if re.search(r"\b(ERROR|CRITICAL)\b", entry[:80])]
        return [entry for entry in wrong if "database is locked" not in entry]

    def command(self, *arguments: str) -> str:
        """Run a command as the installation's owner would; what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"prefect {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def python(self, program: str, *arguments: str) -> Any:
        """Run a program beside the server; what it printed last, read as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    # -- the API ---------------------------------------------------------------------------------

    def _answers(self) -> bool:
        try:
            return bool(self.get("/health"))
        except OSError:
            return False

    def get(self, path: str) -> Any:
        """GET."""
        return _answer(Request(f"{self.api}{path}", headers=self._headers()))

    def post(self, path: str, content: object, *, method: str = "POST") -> Any:
        """POST, or another method with a body."""
        headers = {"content-type": "application/json", **self._headers()}
        data = json.dumps(content).encode()
        return _answer(Request(f"{self.api}{path}", data, headers, method=method))

    def _headers(self) -> dict[str, str]:
        code = b64encode(self.login.encode()).decode()
        return {"authorization": f"Basic {code}"} if self.login else {}

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a deployment as the UI does, with these parameters; the flow run's id."""
        known = self.get(f"/deployments/name/{deployment}")
        made = self.post(
            f"/deployments/{known['id']}/create_flow_run",
            {"parameters": {**known["parameters"], **parameters}, "state": {"type": "SCHEDULED"}},
        )
        return str(made["id"])

    def scheduled(self) -> dict[str, dict[str, Any]]:
        """The deployments that have a schedule, by name."""
        found = self.post("/deployments/filter", {})
        return {each["name"]: each for each in found if each["schedules"]}

    def switch(self, deployment: dict[str, Any], *, active: bool, **schedule: object) -> None:
        """Switch the schedule of a deployment on or off, or set another."""
        (planned,) = deployment["schedules"]
        changes = {"active": active, **({"schedule": schedule} if schedule else {})}
        path = f"/deployments/{deployment['id']}/schedules/{planned['id']}"
        self.post(path, changes, method="PATCH")

    def planned_runs(self, deployment: dict[str, Any]) -> list[dict[str, Any]]:
        """The runs of a deployment that its schedule made, the earliest first."""
        found: list[dict[str, Any]] = self.post(
            "/flow_runs/filter",
            {
                "deployments": {"id": {"any_": [deployment["id"]]}},
                "sort": "EXPECTED_START_TIME_ASC",
            },
        )
        return [run for run in found if run["auto_scheduled"]]

    def flow_run(self, run: str) -> dict[str, Any]:
        """A flow run as the server knows it."""
        found: dict[str, Any] = self.get(f"/flow_runs/{run}")
        return found

    def ended(self, run: str, *, seconds: float = 180) -> dict[str, Any]:
        """Wait for the end of a flow run and of its process, which writes pages last; its state."""
        wait_until(
            lambda: self.flow_run(run)["state"]["type"] in STATES_AT_END,
            f"flow run {run} ends",
            seconds=seconds,
            pause=0.5,
        )
        wait_until(lambda: not _processes_of(run), f"the process of flow run {run} ends", pause=0.1)
        state: dict[str, Any] = self.flow_run(run)["state"]
        return state

    def runs_of(self, flow: str) -> list[dict[str, Any]]:
        """Every run of a flow."""
        found: list[dict[str, Any]] = self.post(
            "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "limit": 100}
        )
        return found

    def artifact(self, key: str) -> dict[str, Any]:
        """The newest artifact with a key."""
        found: dict[str, Any] = self.get(f"/artifacts/{key}/latest")
        return found

    def process_of_run(self, run: str) -> int:
        """The process that a flow run is at work in."""
        (found,) = _processes_of(run)
        return found

    def kill_worker(self) -> None:
        """End the worker that was started last without a word; what it runs goes on."""
        worker = self._running.pop()
        worker.send_signal(signal.SIGKILL)
        worker.wait(timeout=20)

    def kill_server(self) -> None:
        """End the server, and all that it began, without a word."""
        server = self._running.pop(0)
        for each in processes_of(server.pid):
            os.kill(each, signal.SIGKILL)
        server.wait(timeout=20)

    # -- what is written down --------------------------------------------------------------------

    def written(self) -> dict[Path, bytes]:
        """Every file of Prefect, and every log."""
        return {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    def command_lines(self) -> list[str]:
        """The command line of every process of this installation."""
        pids = [pid for process in self._running for pid in processes_of(process.pid)]
        return [text for text in map(_command_line, pids) if text]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    for child in processes_of(process.pid):
        os.kill(child, signal.SIGKILL)
    process.wait(timeout=20)


def _answer(request: Request) -> Any:
    """The server's answer; when its database is locked it says 503 and has to be asked again.

    It says so after a minute, or not at all; what only asks may be asked again.
    """
    for pause in (0.5, 1.0, 2.0, 4.0, 8.0):
        try:
            with urlopen(request, timeout=90) as answer:
                return json.loads(answer.read() or b"null")
        except TimeoutError:
            if request.get_method() != "GET":
                raise
        except HTTPError as problem:
            if problem.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise AssertionError(f"{request.full_url}: {problem.read()!r}") from problem
        time.sleep(pause)
    raise AssertionError(f"{request.full_url} gives no answer again and again")


def processes_of(session: int) -> Sequence[int]:
    """The processes alive of a session, by its leader's pid."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _processes_of(run: str) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if f"PREFECT__FLOW_RUN_ID={run}" in _environment(pid)]


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""

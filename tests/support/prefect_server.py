"""A Prefect server for tests: the real one, at less of what it costs to start and to run.

As Prefect's own harness for tests, but this process does not import the server to start one. Its
database is made over a plain connection, by the very migrations, and once for all processes; what
stays for good is not looked at again by the garbage collector; and its own background tasks, which
no test here waits for, are looked for once in seconds. Only the whole installation runs as its
owner runs it.
"""

import fcntl
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zoneinfo
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 240.0
_LOOK_EVERY = timedelta(seconds=2)
_FOR_THE_SERVER = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",  # it is new
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # whoever saves one registers its type
}


@contextmanager
def running_server(home: Path) -> Generator[None, None, None]:
    """While it lasts, flows of this process run against a server with a database of its own.

    Args:
        home: For the database; it is the process's own.
    """
    from prefect.context import _temporary_global_settings_context, get_settings_context
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = int(door.getsockname()[1])
        process = _start(door, home)
    try:
        api = f"http://127.0.0.1:{port}/api"
        _wait_for(api, process)
        with (
            temporary_settings({PREFECT_API_URL: api}),
            _temporary_global_settings_context(get_settings_context()),  # for other threads
        ):
            yield
            _send_what_waits()
    finally:
        _end(process)


def _start(door: socket.socket, home: Path) -> subprocess.Popen[bytes]:
    database = home / "prefect-test.db"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    door.set_inheritable(True)
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(door.fileno()), str(database)],
        pass_fds=[door.fileno()],
        env={
            **os.environ,
            **_FOR_THE_SERVER,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PYTHONPATH": path,
        },
    )


def _wait_for(api: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{api}/health", timeout=10).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("Prefect's server did not start")


def _send_what_waits() -> None:
    from inspect import isawaitable

    from prefect.events.worker import EventsWorker
    from prefect.utilities.asyncutils import run_coro_as_sync

    async def drain() -> None:
        drained = EventsWorker.drain_all()
        if isawaitable(drained):
            await drained

    run_coro_as_sync(drain())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remember_time_zones() -> None:
    """Prefect reads the folders of all time zones anew for every schedule that it looks at."""
    from prefect.types import _datetime

    vars(_datetime)["available_timezones"] = cache(zoneinfo.available_timezones)


def made_database() -> Path:
    """Where an empty database of the Prefect that is installed lies, once one was made."""
    return Path(sys.prefix, f"prefect-{version('prefect')}.db")


def _put_database(path: Path) -> None:
    """Put an empty database where the settings in force want it."""
    made = made_database()
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            from lab.demo_prefect import make_database

            make_database()
            shutil.copyfile(path, made.with_suffix(".new"))
            made.with_suffix(".new").rename(made)
            return
    shutil.copyfile(made, path)


def serve(door: socket.socket, database: Path) -> None:
    """Serve whoever comes through a door until the process is told to end."""
    import uvicorn
    from docket import Worker
    from prefect.server.api import background_workers
    from prefect.server.api.server import create_app

    remember_time_zones()
    _put_database(database)
    vars(background_workers)["Worker"] = partial(
        Worker, minimum_check_interval=_LOOK_EVERY, scheduling_resolution=_LOOK_EVERY
    )
    app = create_app(ephemeral=True, final=True)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[door])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))

"""A Prefect server for the demo, at half of what it costs when Prefect starts one by itself.

It is forked once Prefect is imported, registers no types of blocks that nobody uses here, and
makes its database over a plain connection: the very migrations, without thirty thousand hops
between an event loop and a thread.
"""

import atexit
import logging
import multiprocessing
import os
import socket
import time
import urllib.request
from pathlib import Path

_START_SECONDS = 120.0


def start_server(home: Path) -> None:
    """Start a server of this process's own, which ends with it; its log and database lie in `home`.

    To be called before anybody imports Prefect.

    Raises:
        SystemExit: It does not answer.
    """
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = int(door.getsockname()[1])
        os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
        home.mkdir(mode=0o700)
        import prefect.main  # noqa: F401  # here, so that the server does not do it once more

        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=_serve, args=(door,), daemon=True)
        process.start()
    atexit.register(process.terminate)  # after Prefect's own: they still send what they know
    _wait_for(port, process, home)


def _serve(door: socket.socket) -> None:
    logging.getLogger().handlers.clear()
    os.environ["PREFECT_UI_ENABLED"] = "0"
    import uvicorn
    from prefect.server.api.server import create_app

    make_database()
    app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[door])


def make_database() -> None:
    """Make the database that the settings in force name."""
    import warnings

    import sqlalchemy
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory
    from prefect.server.database.alembic_commands import alembic_config
    from prefect.server.database.dependencies import provide_database_interface

    warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)  # as Prefect itself does
    prefects = provide_database_interface()
    url = sqlalchemy.make_url(prefects.database_config.connection_url)
    config = alembic_config()
    script = ScriptDirectory.from_config(config)
    script.version_locations = [str(prefects.orm.versions_dir)]
    engine = sqlalchemy.create_engine(url.set(drivername="sqlite"))
    with (
        engine.connect() as connection,
        EnvironmentContext(
            config, script, fn=lambda revision, _: script._upgrade_revs("heads", revision)
        ) as environment,
    ):
        environment.configure(
            connection=connection,
            target_metadata=prefects.Base.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
        )
        with environment.begin_transaction():
            environment.run_migrations()
    engine.dispose()


def _wait_for(port: int, process: multiprocessing.process.BaseProcess, home: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while process.is_alive() and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"Prefect's server did not start; what there is of it lies in {home}")

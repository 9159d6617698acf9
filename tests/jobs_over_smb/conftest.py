"""A Samba server of each test's own, since these tests hurt it."""

import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.jobs_over_smb.walk import Job
from tests.smb.server import SmbServer


@pytest.fixture
def quick_folder() -> Generator[Path, None, None]:
    """A folder in memory where there is one: jobs flush hundreds of files."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def server(quick_folder: Path) -> Generator[SmbServer, None, None]:
    made = SmbServer()
    share = quick_folder / "ads"
    share.mkdir()
    made.use_folder("ads", share)
    try:
        made.start()
        yield made
    finally:
        made.thaw()
        made.remove()


@pytest.fixture
def make_job(server: SmbServer, tmp_path: Path) -> Generator[Callable[..., Job], None, None]:
    jobs: list[Job] = []

    def make(**settings: object) -> Job:
        jobs.append(Job(server, tmp_path, **settings))  # type: ignore[arg-type]  # handed on
        return jobs[-1]

    yield make
    for job in jobs:
        job.transport.close()

"""A lab for each test, and clients that are logged in to it."""

from collections.abc import Iterator

import pytest

from lab.pool import Pool
from lab.serving import LabServer
from lab.settings import Settings
from tests.lab.clients import Both, JsonClient, Xen, close_sessions

MIB = 1 << 20


@pytest.fixture
def lab() -> Iterator[LabServer]:
    """Two running VMs; what takes seconds on a real server is shortened."""
    settings = Settings(
        wrong_password_seconds=0.0, coalesce_seconds=0.0, detach_seconds=0.05, conflict_seconds=10.0
    )
    pool = Pool(settings)
    pool.add_vm("web", [8 * MIB, 4 * MIB])
    pool.add_vm("db", [6 * MIB])
    with LabServer(pool) as server:
        yield server


@pytest.fixture(autouse=True)
def _sessions() -> Iterator[None]:
    yield
    close_sessions()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the tests of a module that asks for it speak both protocols, one after the other."""
    if "xen" in metafunc.fixturenames and getattr(metafunc.module, "BOTH_PROTOCOLS", False):
        metafunc.parametrize("xen", ["xml", "json"], indirect=True)


@pytest.fixture
def xen(request: pytest.FixtureRequest, lab: LabServer) -> Xen:
    return Xen(lab, getattr(request, "param", "xml"))


@pytest.fixture
def json_client(lab: LabServer) -> JsonClient:
    client = JsonClient(lab.url)
    client.log_in(lab.username, lab.password)
    return client


@pytest.fixture(params=["xml", "json"])
def api(request: pytest.FixtureRequest, lab: LabServer) -> Both:
    """One client that speaks either protocol."""
    return Both(lab, request.param)

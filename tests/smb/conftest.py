"""The Samba server that the tests of this folder share; those that hurt it start their own."""

from collections.abc import Generator

import pytest

from tests.smb.server import SmbServer


@pytest.fixture(scope="session")
def smb_server() -> Generator[SmbServer, None, None]:
    """A running server; leave it as it was."""
    server = SmbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_smb_server() -> Generator[SmbServer, None, None]:
    """A running server for one test, which may do to it what it likes."""
    server = SmbServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()
